# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Base classes of both models: strict configurations, and weights from safetensors files by default."""

import difflib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file, find_adapter_config_file, logging

from .sampling import SAMPLING_FIELDS

logger = logging.get_logger(__name__)

# Keys that `PreTrainedConfig` takes beside its dataclass fields, from callers or from a saved config.json.
_BASE_KEYS = {
    "attn_implementation", "auto_map", "experts_implementation", "model_type", "name_or_path", "num_labels",
    "output_attentions", "output_hidden_states", "per_layer_config", "quantization_config", "torch_dtype", "use_cache",
}  # fmt: skip
# Keywords of `from_pretrained` that tell how and from where to load.
_LOADING_KEYS = {
    "cache_dir", "code_revision", "force_download", "gguf_file", "local_files_only", "proxies", "return_unused_kwargs",
    "revision", "subfolder", "token", "trust_remote_code", "user_agent",
}  # fmt: skip


class RQConfig(PreTrainedConfig):
    """A `PreTrainedConfig` that refuses unknown fields from a caller and warns about them in a saved file."""

    @classmethod
    def _unknown_field(cls, name: str) -> str:
        closest = difflib.get_close_matches(name, [field.name for field in fields(cls)], n=1, cutoff=0.0)[0]
        return f"{cls.__name__} has no field `{name}`; the closest known one is `{closest}`."

    def __post_init__(self, **kwargs):
        for name in kwargs:
            if name not in _BASE_KEYS and not name.startswith("_"):
                raise ValueError(self._unknown_field(name))
        if not isinstance(self.id2label, dict | None):
            raise ValueError(f"`id2label` must be a dictionary of class names by id, got {self.id2label!r:.80}.")
        has_labels = self.id2label is not None or kwargs.get("num_labels") is not None
        super().__post_init__(**kwargs)
        if not has_labels:  # the base class invents two labels
            self.id2label = self.label2id = None
        elif self.id2label is not None:
            self.label2id = {label: index for index, label in self.id2label.items()}

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        """Reads a config.json; raises an `OSError` where there is none, which the base class takes for defaults."""
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if not config_dict:
            raise OSError(f"`{pretrained_model_name_or_path}` must hold a file config.json; there is none.")
        return config_dict, kwargs

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Builds a configuration from a config.json, whose unknown fields are ignored with a warning.

        Raises:
            `ValueError`: an unknown field in `kwargs`.
        """
        own = [field.name for field in fields(cls)]
        known = {*own, *_BASE_KEYS}
        for name in config_dict:
            if name not in known and name not in SAMPLING_FIELDS and not name.startswith("_"):
                logger.warning(f"{cls._unknown_field(name)} It is ignored.")
        config_dict = {name: value for name, value in config_dict.items() if name in known or name.startswith("_")}
        # Given fields are validated together with those of the file; `dtype` is the model loader's as well.
        given = [name for name in own if name in kwargs and name != "dtype"]
        config_dict |= {name: kwargs.pop(name) for name in given}
        if not kwargs.get("return_unused_kwargs"):
            for name in kwargs:
                if name not in known | _LOADING_KEYS and not name.startswith("_"):
                    raise ValueError(cls._unknown_field(name))
        return super().from_dict(config_dict, **kwargs)

    def _require(self, condition: bool, name: str, expected: str) -> None:
        if not condition:
            raise ValueError(f"`{name}` must be {expected}, got {getattr(self, name)}.")


class RQPreTrainedModel(PreTrainedModel):
    """A `PreTrainedModel` whose weights come from safetensors files."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Loads a model; see [`PreTrainedModel.from_pretrained`]. `use_safetensors` is `True` unless given.

        Raises:
            `OSError`: files that are not there or damaged.
            `ValueError`:
                weights that are missing (unless `output_loading_info=True` returns their names) or have other shapes,
                an index of weights that names anything but plain `*.safetensors` files, or an adapter.
        """
        name, tells = pretrained_model_name_or_path, kwargs.pop("output_loading_info", False)
        if kwargs.get("use_safetensors") is None:  # diffusers passes None on
            kwargs["use_safetensors"] = True
        options = {**kwargs, "ignore_mismatched_sizes": True}  # the base class only logs which do not fit
        with named_errors(name):
            if name is not None:
                _check_files(name, kwargs)
            model, info = super().from_pretrained(name, *args, output_loading_info=True, **options)
        if info["mismatched_keys"] and not kwargs.get("ignore_mismatched_sizes"):
            key, found, expected = min(info["mismatched_keys"])
            raise ValueError(f"`{key}` in {name} must have shape {tuple(expected)}, got {tuple(found)}.")
        if name is not None and not tells:
            check_whole(name, model, info)
        return (model, info) if tells else model


@contextmanager
def named_errors(name_or_path: str | Path) -> Iterator[None]:
    """Turns the many kinds of errors of damaged files into an `OSError` that names the folder or repository."""
    try:
        yield
    except Exception as error:
        is_named = isinstance(error, (OSError, ValueError, RuntimeError, ImportError))
        if is_named and not isinstance(error, (json.JSONDecodeError, UnicodeError, RecursionError)):
            raise
        what = f"{type(error).__name__}: {error!s:.300}"
        raise OSError(f"{str(name_or_path)!r} cannot be loaded: {what}") from error


def check_whole(name_or_path: str | Path, model: PreTrainedModel, info: dict[str, Any]) -> None:
    """Raises a `ValueError` where weights are missing; transformers gives these random values."""
    missing = sorted(name for name in info["missing_keys"] if not name.endswith(".num_batches_tracked"))
    if missing:
        raise ValueError(
            f"{str(name_or_path)!r} must hold all weights of {type(model).__name__}, but {len(missing)} are missing, "
            f"such as `{missing[0]}`."
        )


def _check_files(name_or_path: str | Path, options: dict[str, Any]) -> None:
    """Refuses an adapter, whose base could be any repository, and an index through which a repository could read other
    files of the machine."""
    variant = f".{options['variant']}" if options.get("variant") else ""
    names = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
    options = {name: options[name] for name in names if options.get(name) is not None}
    if find_adapter_config_file(str(name_or_path), **options) is not None:
        raise ValueError(f"{name_or_path} holds an adapter: load its base, then call `pipe.load_lora_weights`.")
    try:
        index = cached_file(name_or_path, f"model.safetensors.index{variant}.json", **options)
    except OSError:  # there is no index; the base class reports what else is missing
        return
    for name in json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values():
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+\.safetensors", name):
            raise ValueError(f"{index} must name plain *.safetensors files, got {name!r}.")
