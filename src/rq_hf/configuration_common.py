# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What both configurations share: the check of their fields, and sampling settings beside them."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.utils import logging

from .hub_cache import DOWNLOAD_OPTIONS, checked_downloads

logger = logging.get_logger(__name__)

# Keys that `PreTrainedConfig` takes beside its dataclass fields, from callers or from a saved config.json.
_PASSED_ON = {
    "attn_implementation",
    "auto_map",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "per_layer_config",
    "quantization_config",
    "torch_dtype",
    "use_cache",  # `Trainer` sets it on every model
}

# Of `from_pretrained`, which say how and from where to load.
_LOADING = {
    *DOWNLOAD_OPTIONS, "code_revision", "gguf_file", "proxies", "return_unused_kwargs", "subfolder",
    "trust_remote_code", "user_agent",
}  # fmt: skip

# Settings of sampling that have a place on the command line and in cards.
SAMPLING = ("temperature", "top_k", "top_p", "guidance_scale")
# Those of generation_config.json. A saved config.json has them, too: of a pipeline's models diffusers downloads
# config.json and weights alone, where transformers looks for what no generation_config.json tells.
SAMPLING_DEFAULTS = ("do_sample", *SAMPLING)


def unknown_field_message(owner: str, name: str, known: list[str] | set[str]) -> str:
    """Says that `owner` has no field `name`, and which of `known` is closest."""
    closest = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)
    return f"{owner} has no field `{name}`" + (f"; the closest known one is `{closest[0]}`." if closest else ".")


def add_sampling(config: dict[str, Any], generation_config: dict[str, Any]) -> dict[str, Any]:
    """The contents of a model's config.json with the sampling settings of its generation_config.json."""
    kept = {name: value for name, value in config.items() if name not in SAMPLING_DEFAULTS}
    settings = {name: generation_config[name] for name in SAMPLING_DEFAULTS if generation_config.get(name) is not None}
    return dict(sorted((kept | settings).items()))


def write_sampling(folder: str | Path) -> None:
    """Completes the config.json of a saved model, where there is a generation_config.json beside it."""
    config, generation_config = (Path(folder, name) for name in ("config.json", "generation_config.json"))
    if config.is_file() and generation_config.is_file():
        texts = [json.loads(path.read_text(encoding="utf-8")) for path in (config, generation_config)]
        config.write_text(json.dumps(add_sampling(*texts), indent=2) + "\n", encoding="utf-8")


class RQConfig(PreTrainedConfig):
    """A `PreTrainedConfig` that refuses unknown fields from a caller and warns about them in a saved file."""

    @classmethod
    def known_fields(cls) -> list[str]:
        """Names of all fields that a caller may give."""
        return [field.name for field in fields(cls)]

    def __post_init__(self, **kwargs):
        for name in kwargs:
            if name not in _PASSED_ON and not name.startswith("_"):
                raise ValueError(unknown_field_message(type(self).__name__, name, self.known_fields()))
        if self.id2label is None and self.label2id is not None:
            if wrong := _no_ids(self.label2id):
                raise ValueError(wrong)
            self.id2label = {index: label for label, index in self.label2id.items()}
        if contradiction := _contradiction(self.id2label, self.label2id):
            raise ValueError(contradiction)
        has_labels = self.id2label is not None or kwargs.get("num_labels") is not None
        super().__post_init__(**kwargs)
        if not has_labels:  # the base class invents two labels
            self.id2label = self.label2id = None
        elif self.label2id is None:
            self.label2id = {label: index for index, label in self.id2label.items()}

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        """As in the base class, to which a missing config.json is an empty one.

        Raises:
            `OSError`: there is no config.json, or one that arrived corrupt from the Hub.
        """
        with checked_downloads(pretrained_model_name_or_path, kwargs, weights=False):
            config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if not config_dict:
            raise OSError(f"`{pretrained_model_name_or_path}` must hold a file config.json; there is none.")
        return config_dict, kwargs

    @classmethod
    def from_json_file(cls, json_file):
        """As in the base class, also of the config.json of a saved model, which has sampling settings."""
        return cls.from_dict(cls._dict_from_json_file(json_file))

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """As in the base class; a field that this version does not know is left out with a warning.

        Raises:
            `ValueError`: such a field in `kwargs`, which come from a caller.
        """
        known = {*cls.known_fields(), *_PASSED_ON}
        for name in config_dict:
            if name not in known and name not in SAMPLING_DEFAULTS and not name.startswith("_"):
                logger.warning(unknown_field_message(cls.__name__, name, cls.known_fields()) + " It is ignored.")
        config_dict = {name: value for name, value in config_dict.items() if name in known or name.startswith("_")}
        if cls.__module__.startswith("rq_hf."):  # it is of code that a repository brings along, which is not saved
            config_dict.pop("auto_map", None)
        # Fields given beside the file are checked with it; `dtype` is the loader's too.
        given = [name for name in cls.known_fields() if name in kwargs and name != "dtype"]
        config_dict |= {name: kwargs.pop(name) for name in given}
        if "label2id" not in given and config_dict.get("label2id") is not None:
            names = config_dict.get("id2label")
            contradiction = None if _contradiction(names, None) else _contradiction(names, config_dict["label2id"])
            if contradiction and "id2label" not in given:  # a file that somebody changed half of
                logger.warning(f"{contradiction} It is ignored.")
            if contradiction or names is None:  # names that were taken away
                config_dict["label2id"] = None
        if not kwargs.get("return_unused_kwargs"):  # nobody else looks at them
            for name in kwargs:
                if name not in known | _LOADING and not name.startswith("_"):
                    raise ValueError(unknown_field_message(cls.__name__, name, cls.known_fields()))
        return super().from_dict(config_dict, **kwargs)

    def _require(self, condition: bool, name: str, expected: str) -> None:
        if not condition:
            raise ValueError(f"`{name}` must be {expected}, got {getattr(self, name)}.")


def _no_ids(label2id: Any) -> str | None:
    """That these are no ids of names, if so."""
    if isinstance(label2id, Mapping) and all(isinstance(index, int) for index in label2id.values()):
        return None
    return f"`label2id` must map texts to integers, got {label2id!r:.200}."


def _contradiction(id2label: Any, label2id: Any) -> str | None:
    """What is wrong with names of classes, if anything is."""
    if id2label is None:
        return None
    wrong = f"`id2label` must map ids to texts, got {id2label!r:.200}."
    if not isinstance(id2label, Mapping) or not all(isinstance(name, str) for name in id2label.values()):
        return wrong
    try:
        names = {int(index): name for index, name in id2label.items()}  # texts in a file
    except (TypeError, ValueError):
        return wrong
    if label2id is not None and (wrong := _no_ids(label2id)):
        return wrong
    for name, index in (label2id or {}).items():
        if names.get(index) != name:
            there = f"which is {names[index]!r}" if index in names else "which has none"
            return f"`label2id` must name the classes as `id2label` does, got {name!r} for {index}, {there} there."
    return None
