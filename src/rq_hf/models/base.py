# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Base classes of both models: strict configurations, and weights from safetensors files by default."""

import difflib
import inspect
import json
import re
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file, logging
from transformers.utils.hub import cached_files

logger = logging.get_logger(__name__)


class RQConfig(PreTrainedConfig):
    """A `PreTrainedConfig` that refuses unknown fields from a caller and warns about them in a saved file."""

    @classmethod
    def _is_known(cls, name: str) -> bool:
        """Whether a name is a field, or an attribute or property that the base class sets from a keyword."""
        return name.startswith("_") or name in cls.attribute_map or hasattr(cls, name) or hasattr(cls, f"_{name}")

    @classmethod
    def _unknown_field(cls, name: str) -> str:
        closest = difflib.get_close_matches(name, [field.name for field in fields(cls)], n=1, cutoff=0.0)[0]
        return f"{cls.__name__} has no field `{name}`; the closest known one is `{closest}`."

    def __post_init__(self, **kwargs):
        for name in kwargs:
            if not self._is_known(name):
                raise ValueError(self._unknown_field(name))
        has_labels = self.id2label is not None
        super().__post_init__(**kwargs)
        if not has_labels and kwargs.get("num_labels") is None:  # the base class invents two labels
            self.id2label = None
        self.label2id = None if self.id2label is None else {label: index for index, label in self.id2label.items()}

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        """Reads a config.json. None is an `OSError`, another kind of model a `ValueError`."""
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        name = str(pretrained_model_name_or_path)
        if not config_dict:
            raise OSError(f"{name!r} must hold a config.json, got none. A model of a pipeline needs its `subfolder`.")
        found = config_dict.get("model_type", cls.model_type)
        if found != cls.model_type:
            raise ValueError(f"{name!r} must hold a model of `model_type` {cls.model_type!r}, got {found!r}.")
        return config_dict, kwargs

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Builds a configuration from a config.json. Its unknown fields are ignored with a warning, those of `kwargs`
        are a `ValueError`."""
        returns_unused = kwargs.pop("return_unused_kwargs", False)
        known = {name: value for name, value in config_dict.items() if cls._is_known(name)}
        # Given fields are validated together with those of the file; `dtype` is the model loader's as well.
        given = [field.name for field in fields(cls) if field.name in kwargs and field.name != "dtype"]
        known |= {name: kwargs.pop(name) for name in given}
        config, unused = super().from_dict(known, return_unused_kwargs=True, **kwargs)
        for name in [name for name in config_dict if name not in known]:
            if isinstance(config_dict[name], dict):  # of other libraries, such as `quantization_config`
                setattr(config, name, config_dict[name])
            elif not hasattr(GenerationConfig(), name):  # the base class moves these there
                logger.warning(f"{cls._unknown_field(name)} It is ignored.")
        if returns_unused:
            return config, unused
        for name in unused:
            if not cls._is_known(name):
                raise ValueError(cls._unknown_field(name))
        return config

    def _require(self, condition: bool, name: str, expected: str) -> None:
        if not condition:
            raise ValueError(f"`{name}` must be {expected}, got {getattr(self, name)}.")


class RQPreTrainedModel(PreTrainedModel):
    """A `PreTrainedModel` whose weights come from safetensors files."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Loads a model; see [`PreTrainedModel.from_pretrained`]. `use_safetensors` is `True` unless given.

        Raises:
            `OSError`: missing files.
            `ValueError`: another kind of model, an adapter, missing weights (unless `output_loading_info=True` returns
                their names), or an index that names other than `*.safetensors`.
        """
        name, tells = pretrained_model_name_or_path, kwargs.pop("output_loading_info", False)
        if kwargs.get("use_safetensors") is None:  # diffusers passes None on
            kwargs["use_safetensors"] = True
        if name is not None:
            _check_files(name, kwargs)
        model, info = super().from_pretrained(name, *args, output_loading_info=True, **kwargs)
        if name is not None and not tells:
            check_whole(name, model, info)
        return (model, info) if tells else model


def check_whole(name_or_path: str | Path, model: PreTrainedModel, info: dict[str, Any]) -> None:
    """Raises a `ValueError` where weights are missing; transformers gives these random values."""
    missing = sorted(name for name in info["missing_keys"] if not name.endswith(".num_batches_tracked"))
    if missing:
        raise ValueError(
            f"{str(name_or_path)!r} must hold all weights of {type(model).__name__}, but {len(missing)} are missing, "
            f"such as `{missing[0]}`."
        )


def _check_files(name_or_path: str | Path, options: dict[str, Any]) -> None:
    """Refuses an adapter, since its base could be any repository, and an index that names files outside the folder."""
    variant = f".{options['variant']}" if options.get("variant") else ""
    options = {name: options[name] for name in inspect.signature(cached_files).parameters if name in options}
    with suppress(OSError):
        cached_file(name_or_path, "adapter_config.json", **options)
        raise ValueError(f"{name_or_path} holds an adapter: load its base, then call `pipe.load_lora_weights`.")
    with suppress(OSError):
        index = cached_file(name_or_path, f"model.safetensors.index{variant}.json", **options)
        for name in json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values():
            if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+\.safetensors", name):
                raise ValueError(f"{index} must name plain *.safetensors files, got {name!r}.")
