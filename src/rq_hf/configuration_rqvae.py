# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Configuration of the RQ-VAE, and the field check both configurations share."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict
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

# Of generation_config.json. A saved config.json has them, too: of a pipeline's models diffusers downloads config.json
# and weights alone, and transformers looks there for what it finds no generation_config.json to tell.
SAMPLING_DEFAULTS = ("do_sample", "temperature", "top_k", "top_p", "guidance_scale")


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


@strict
class RQVAEConfig(RQConfig):
    r"""
    Configuration of an [`RQVAEModel`] (section 3.1). The defaults are the ImageNet RQ-VAE with 8x8x4 codes.

    Args:
        image_size (`int`, defaults to 256):
            Height and width in pixels of the pictures it is trained on; it fixes `code_shape`. The model itself takes
            any height and width that `downsample_factor` divides.
        num_channels (`int`, defaults to 3):
            Colour channels of a picture.
        base_channels (`int`, defaults to 128):
            Width of the first convolution; level i is `base_channels * channel_multiplier[i]` wide.
        channel_multiplier (`list[int]`, defaults to `(1, 1, 2, 2, 4, 4)`):
            One factor per resolution level; each level but the last halves height and width.
        num_res_blocks (`int`, defaults to 2):
            Residual blocks per level of the encoder (the decoder has one more).
        attention_levels (`list[int]`, defaults to `(5,)`):
            Indexes into `channel_multiplier` of the levels with self-attention: `(5,)` for ImageNet and LSUN, `(4,)`
            for FFHQ.
        latent_channels (`int`, defaults to 256):
            Channels at the end of the encoder, before the 1x1 convolution to `codebook_dim`.
        norm_num_groups (`int`, defaults to 32):
            Groups of every group normalization; must divide the width of each level.
        codebook_size (`int`, defaults to 16384):
            Codes in a codebook, K.
        codebook_dim (`int`, defaults to 256):
            Width of a code vector, n_z.
        code_depth (`int`, defaults to 4):
            Codes per position, D.
        shared_codebook (`bool`, defaults to `True`):
            One codebook for all depths, or one for each (ablation C.3).
        codebook_decay (`float`, defaults to 0.99):
            Decay of the exponential moving averages of the codebook, in [0, 1).
        codebook_epsilon (`float`, defaults to 1e-5):
            Laplace smoothing of the cluster sizes, > 0.
        restart_unused_codes (`bool`, defaults to `True`):
            Replace codes that are hardly used by random residuals of the batch.
        commitment_weight (`float`, defaults to 0.25):
            Weight beta of the commitment loss (Eq. 7).

    Example:

    ```python
    >>> from rq_hf import RQVAEConfig
    >>> RQVAEConfig(image_size=64, channel_multiplier=[1, 2, 4, 4], attention_levels=[3], code_depth=8).code_shape
    (8, 8, 8)
    ```
    """

    model_type = "rqvae"

    image_size: int = 256
    num_channels: int = 3
    base_channels: int = 128
    channel_multiplier: list[int] | tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    num_res_blocks: int = 2
    attention_levels: list[int] | tuple[int, ...] = (5,)
    latent_channels: int = 256
    norm_num_groups: int = 32
    codebook_size: int = 16384
    codebook_dim: int = 256
    code_depth: int = 4
    shared_codebook: bool = True
    codebook_decay: float | int = 0.99
    codebook_epsilon: float | int = 1e-5
    restart_unused_codes: bool = True
    commitment_weight: float | int = 0.25

    def __post_init__(self, **kwargs):
        self.channel_multiplier = tuple(self.channel_multiplier)
        self.attention_levels = tuple(self.attention_levels)
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of the `@strict` validation: fields that do not fit together are a `ValueError`."""
        super().validate_architecture()
        counts = "image_size num_channels base_channels latent_channels norm_num_groups codebook_size codebook_dim"
        for name in f"{counts} code_depth num_res_blocks".split():
            self._require(getattr(self, name) >= 1, name, "at least 1")
        levels = len(self.channel_multiplier)
        self._require(
            levels >= 1 and all(factor >= 1 for factor in self.channel_multiplier),
            "channel_multiplier",
            "a non-empty list of positive integers",
        )
        self._require(
            all(0 <= level < levels for level in self.attention_levels),
            "attention_levels",
            f"indexes into `channel_multiplier`, which has {levels} levels",
        )
        factor = self.downsample_factor
        self._require(
            self.image_size % factor == 0,
            "image_size",
            f"a multiple of the downsample factor 2**{levels - 1} = {factor}",
        )
        for multiplier in self.channel_multiplier:
            width = self.base_channels * multiplier
            self._require(
                width % self.norm_num_groups == 0,
                "norm_num_groups",
                f"a divisor of each level's width, {width} among them",
            )
        self._require(0 <= self.codebook_decay < 1, "codebook_decay", "in [0, 1)")
        self._require(self.codebook_epsilon > 0, "codebook_epsilon", "greater than 0")
        self._require(self.commitment_weight >= 0, "commitment_weight", "at least 0")

    @property
    def downsample_factor(self) -> int:
        """Pixels per code position along each side."""
        return 2 ** (len(self.channel_multiplier) - 1)

    @property
    def code_shape(self) -> tuple[int, int, int]:
        """(H, W, D) of the codes of an `image_size` picture."""
        side = self.image_size // self.downsample_factor
        return side, side, self.code_depth
