# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Configurations of official checkpoints as those of our models."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers.utils import logging

from .configuration_rq_transformer import RQTransformerConfig
from .configuration_rqvae import RQVAEConfig
from .conversion_source import OriginalStage

logger = logging.get_logger(__name__)

# What these models have in one form only: the official key, that form, and what a missing key stands for.
Form = Sequence[tuple[str, Any, Any]]
_RQVAE_FORM: Form = (
    ("arch.hparams.bottleneck_type", "rq", "rq"),
    ("arch.hparams.loss_type", "mse", "l1"),
    ("arch.ddconfig.double_z", False, True),
    ("arch.ddconfig.resamp_with_conv", True, True),
    ("arch.ddconfig.give_pre_end", False, False),
    ("arch.ddconfig.dropout", 0.0, 0.0),
)
_TRANSFORMER_FORM: Form = (
    ("arch.input_emb_vqvae", True, False),
    ("arch.head_emb_vqvae", True, False),
    ("arch.cumsum_depth_ctx", True, False),
    ("arch.shared_cls_emb", True, False),
    *(
        (f"arch.{stack}.block.{name}", value, value)
        for stack in ("body", "head")
        for name, value in (("attn_bias", True), ("mlp_bias", True))
    ),
)
# The two forms of GELU: exact, and x * sigmoid(1.702 x).
_ACTIVATIONS = {"v1": "gelu", "v2": "quick_gelu"}
# Every key that the official code knows in the `arch` of an RQ-Transformer; it refuses others too.
_ARCH_KEYS = (
    "type ema ar_hierarchy vocab_size block_size vocab_size_cond block_size_cond embed_dim input_embed_dim "
    "use_padding_emb input_emb_vqvae head_emb_vqvae scaled_head_emb_vqvae cumsum_depth_ctx shared_tok_emb embd_pdrop "
    "body head shared_cls_emb"
).split()
_BLOCK_KEYS = "embed_dim n_head mlp_bias attn_bias attn_pdrop resid_pdrop gelu".split()


def rqvae_config(stage: OriginalStage) -> RQVAEConfig:
    """The configuration of an official RQ-VAE.

    Raises:
        `ValueError`: a key is missing, or has a value that [`RQVAEModel`] cannot have.
    """
    config, where = stage.read_config(), stage.config_name
    _require_form(where, config, _RQVAE_FORM)

    def get(key: str, *default, kind: str = "a value") -> Any:
        return _get(where, config, f"arch.{key}", *default, kind=kind)

    resolution = get("ddconfig.resolution", kind="an integer")
    multiplier = get("ddconfig.ch_mult", kind="a list of integers")
    attention = get("ddconfig.attn_resolutions", kind="a list of integers")
    depth = get("hparams.code_shape", kind="a list of three integers")[-1]
    result = _build(
        where,
        RQVAEConfig,
        image_size=resolution,
        num_channels=get("ddconfig.in_channels"),
        base_channels=get("ddconfig.ch"),
        channel_multiplier=multiplier,
        num_res_blocks=get("ddconfig.num_res_blocks"),
        attention_levels=[level for level in range(len(multiplier)) if resolution // 2**level in attention],
        latent_channels=get("ddconfig.z_channels"),
        codebook_size=_one_value(where, "arch.hparams.n_embed", get("hparams.n_embed")),
        codebook_dim=get("hparams.embed_dim"),
        code_depth=depth,
        shared_codebook=get("hparams.shared_codebook"),
        codebook_decay=_one_value(where, "arch.hparams.decay", get("hparams.decay", 0.99)),
        restart_unused_codes=get("hparams.restart_unused_codes", False),
        commitment_weight=get("hparams.latent_loss_weight", 0.25),
    )
    side = result.code_shape[0]
    # A `latent_shape` larger than `code_shape` would join blocks of latents to one vector.
    shapes = (
        ("arch.hparams.code_shape", [side, side, depth], None),
        ("arch.hparams.latent_shape", [side, side, result.codebook_dim], None),
        ("arch.ddconfig.out_ch", result.num_channels, None),
    )
    _require_form(where, config, shapes)
    return result


def transformer_config(stage: OriginalStage, rqvae: RQVAEConfig | None = None) -> RQTransformerConfig:
    """The configuration of an official RQ-Transformer.

    Args:
        stage: stage 2.
        rqvae: the RQ-VAE beside it. Without one, it is taken to have one codebook for all depths, which the official
            configuration of a transformer does not say.

    Raises:
        `ValueError`: a key is missing or unknown, has a value that [`RQTransformerForImageGeneration`] cannot have, or
            contradicts the RQ-VAE.
    """
    config, where = stage.read_config(), stage.config_name

    def get(key: str, *default, kind: str = "a value") -> Any:
        return _get(where, config, key, *default, kind=kind)

    known = {"arch": _ARCH_KEYS}
    for stack in ("body", "head"):
        known |= {f"arch.{stack}": ["n_layer", "block"], f"arch.{stack}.block": _BLOCK_KEYS}
    unknown = [
        f"{section}.{key}"
        for section, keys in known.items()
        for key in get(section, kind="a section")
        if key not in keys
    ]
    if unknown:
        raise ValueError(f"{where} must have no keys that the official code does not know, got {unknown}.")
    _require_form(where, config, _TRANSFORMER_FORM)

    def block(name: str, *default) -> Any:
        values = [get(f"arch.{stack}.block.{name}", *default) for stack in ("body", "head")]
        return _one_value(where, f"arch.body.block.{name} and arch.head.block.{name}", values)

    classes, length = (max(get(f"arch.{name}_cond", 0, kind="an integer"), 1) for name in ("vocab_size", "block_size"))
    size = get("arch.vocab_size", None)
    fields = dict(
        code_shape=tuple(get("arch.block_size", kind="a list of three integers")),
        codebook_size=_one_value(where, "vocab_size", size if size is not None else get("dataset.vocab_size")),
        codebook_dim=get("arch.input_embed_dim"),
        vocab_size=classes,
        condition_length=length,
        hidden_size=get("arch.embed_dim"),
        num_spatial_layers=get("arch.body.n_layer"),
        num_depth_layers=get("arch.head.n_layer"),
        num_attention_heads=block("n_head"),
        dropout=block("resid_pdrop", 0.1),
        attention_dropout=block("attn_pdrop", 0.0),
        hidden_act=_activation(where, block("gelu", "v1")),
        embedding_dropout=get("arch.embd_pdrop", 0.0),
    )
    if length > 1 and get("loss.txt_weight", None) is not None:
        text = get("loss.txt_weight", kind="a number")
        both = text + get("loss.img_weight", 1 - text, kind="a number")
        if not 0 <= text <= both or both == 0:
            raise ValueError(f"{where} must have weights of losses of at least 0, not both 0, got {text} of {both}.")
        fields["text_loss_weight"] = text / both
    if classes == 1000 and length == 1 and str(get("dataset.type", "")).lower().startswith("imagenet"):
        fields["id2label"] = imagenet_labels()
    if rqvae is not None:
        for name in ("code_shape", "codebook_size", "codebook_dim"):
            if fields[name] != getattr(rqvae, name):
                raise ValueError(
                    f"{where} must fit the RQ-VAE of stage1, but `{name}` is {fields[name]} here and "
                    f"{getattr(rqvae, name)} there: the two do not belong together."
                )
        fields["shared_codebook"] = rqvae.shared_codebook
    return _build(where, RQTransformerConfig, **fields)


def _activation(where: str, gelu: Any) -> str:
    if not isinstance(gelu, str) or gelu not in _ACTIVATIONS:
        raise ValueError(f"{where} must have the `gelu` of its blocks in {sorted(_ACTIVATIONS)}, got {gelu!r}.")
    return _ACTIVATIONS[gelu]


def sampling_settings(stage: OriginalStage) -> dict[str, Any]:
    """`temperature`, `top_k` and `top_p` of an official RQ-Transformer, as far as its configuration states them."""
    config, where = stage.read_config(), stage.config_name
    places = ("experiment.sample", "sampling")  # the latter is of released checkpoints, and what their scripts read
    given = {}
    for place in places:
        if _get(where, config, place, None) is not None:
            given |= _get(where, config, place, kind="a section")
    settings = {}
    for ours, theirs in (("temperature", "temp"), ("top_k", "top_k"), ("top_p", "top_p")):
        value = given.get(theirs)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if value is not None:
            settings[ours] = value
    return settings


def tokenizer_name(stage: OriginalStage) -> str | None:
    """What an official RQ-Transformer calls its caption tokenizer."""
    return _get(stage.config_name, stage.read_config(), "dataset.txt_tok_name", None)


def imagenet_labels() -> dict[int, str] | None:
    """Names of the 1,000 ImageNet classes, from torchvision; without it `None` and a warning.

    Class ids work without names, so a missing package is no error.
    """
    try:
        from torchvision.models import ResNet50_Weights
    except ImportError:
        logger.warning(
            "The names of the ImageNet classes come from torchvision, which is not installed: the model is written "
            "without `id2label`, and its classes must be given by their ids."
        )
        return None
    return dict(enumerate(ResNet50_Weights.DEFAULT.meta["categories"]))


# What a key can be asked to hold.
_KINDS: dict[str, Callable[[Any], bool]] = {
    "a value": lambda value: True,
    "an integer": lambda value: type(value) is int,
    "a number": lambda value: type(value) in (int, float),
    "a list of integers": lambda value: isinstance(value, list) and all(type(each) is int for each in value),
    "a list of three integers": lambda value: _KINDS["a list of integers"](value) and len(value) == 3,
    "a section": lambda value: isinstance(value, Mapping),
}


def _get(where: str, config: Mapping[str, Any], key: str, *default, kind: str = "a value") -> Any:
    """`config["a"]["b"]` for the key "a.b", which must be of that kind, or the default if there is one."""
    value = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            if default:
                return default[0]
            raise ValueError(f"{where} must have a key `{key}`.")
        value = value[part]
    if not _KINDS[kind](value):
        raise ValueError(f"{where} must have {kind} as `{key}`, got {value!r}.")
    return value


def _require_form(where: str, config: Mapping[str, Any], form: Form) -> None:
    missing = object()
    for key, supported, default in form:
        value = _get(where, config, key, missing)
        given = f"nothing, which stands for {default!r}" if value is missing else repr(value)
        if (default if value is missing else value) != supported:
            raise ValueError(f"{where} must have `{key}` {supported!r}, the only form supported, got {given}.")


def _one_value(where: str, key: str, value: Any) -> Any:
    """The value, or that of a list of equal ones."""
    values = value if isinstance(value, list) else [value]
    if not values or any(each != values[0] for each in values):
        raise ValueError(f"{where} must have one value of {key} for all, got {value}.")
    return values[0]


def _build(where: str, config_class: type, **fields) -> Any:
    try:
        return config_class(**fields)
    except StrictDataclassError as error:
        raise ValueError(f"{where} describes no model: {error}") from error
