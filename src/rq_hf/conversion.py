# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Converts official checkpoints of kakaobrain/rq-vae-transformer to folders that `from_pretrained` loads."""

import math
import pickle
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedModel
from transformers.utils import logging

from .caption_tokenizer import convert_char_bpe_tokenizer
from .files import write_whole
from .hub import write_card
from .models import RQTransformerConfig, RQTransformerForImageGeneration, RQVAEConfig, RQVAEModel
from .pipelines import RQImageGenerationPipeline

logger = logging.get_logger(__name__)

# Parts of our names and of the official names, replaced in this order.
_RQVAE_NAMES = {
    "mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2", "mid_block.attentions.0": "mid.attn_1",
    "down_blocks": "down", "resnets": "block", "attentions": "attn", "downsamplers.0": "downsample",
    "upsamplers.0": "upsample", "conv_shortcut": "nin_shortcut", "conv_norm_out": "norm_out", "group_norm": "norm",
    "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
}  # fmt: skip
_QUANTIZER_NAMES = {"codebook.weight": "weight", "cluster_size": "cluster_size_ema", "embedding_sum": "embed_ema"}
_TRANSFORMER_NAMES = {
    "condition_embedding": "cond_emb", "condition_positions.weight": "pos_emb_cond",
    "spatial_positions.weight": "pos_emb_hw", "depth_decoder.positions.weight": "pos_emb_d",
    "spatial_projection": "input_mlp", "depth_decoder.projection": "head_mlp",
    "spatial_transformer": "body_transformer", "depth_decoder.transformer": "head_transformer",
    "attention_norm": "ln1", "mlp_norm": "ln2", "attention.out_proj": "attn.proj",
    "depth_decoder.head": "classifier", "text_head": "cond_classifier", "classifier.norm": "classifier.layer_norm",
}  # fmt: skip
# Names of official tensors, and the function that makes our tensor of them.
Rule = tuple[list[str], Callable[..., torch.Tensor]]


def convert_checkpoint(
    checkpoint: str | Path,
    output: str | Path,
    *,
    ema: bool = False,
    dtype: torch.dtype = torch.float32,
    vocab_file: str | Path | None = None,
    merges_file: str | Path | None = None,
    license: str = "cc-by-nc-sa-4.0",
    allow_pickle: bool = False,
    repo_id: str | None = None,
) -> str:
    r"""Converts an official checkpoint to a folder that `from_pretrained` loads.

    Both stages give a pipeline, stage 1 alone an [`RQVAEModel`], stage 2 alone an [`RQTransformerForImageGeneration`].
    An official stage 2 holds no codebook. A transformer that is converted alone has a codebook of NaN until you call
    [`~RQTransformerForImageGeneration.set_codebook`] with the codebook of its RQ-VAE.

    Args:
        checkpoint (`str` or `Path`): a published `.tar.gz` archive, or a folder with `stage1/` and/or `stage2/`, each
            of `model.pt` and `config.yaml`.
        output (`str` or `Path`): a new or empty folder. An archive is unpacked beside it.
        ema (`bool`, defaults to `False`): whether to take the averaged weights of the transformer, or of an RQ-VAE
            without transformer.
        dtype (`torch.dtype`, defaults to `torch.float32`): of the weights; the quantizer stays in fp32.
        vocab_file, merges_file (`str` or `Path`, *optional*): the files of the caption tokenizer, for text models.
        license (`str`, defaults to `"cc-by-nc-sa-4.0"`): licence of the weights, for the card.
        allow_pickle (`bool`, defaults to `False`): whether to load a `model.pt` that holds more than tensors and plain
            containers. Such a file can execute code.
        repo_id (`str`, *optional*): repository that the snippet of the card loads.

    Returns:
        `str`: what `output` holds, `"pipeline"`, `"rqvae"` or `"rq_transformer"`.

    Raises:
        `ValueError`: bad arguments, or a checkpoint that is incomplete or able to execute code.
    """
    checkpoint, models = Path(checkpoint), {}
    origin = "[kakaobrain/rq-vae-transformer](https://github.com/kakaobrain/rq-vae-transformer)"
    facts = {
        "model_name": Path(output).resolve().name,
        "license": license,
        "repo_id": repo_id,
        "summary": f"The weights of `{checkpoint.resolve().name}`, an official checkpoint of {origin}.",
        "attribution": "Trained and released by Kakao Brain.",
    }
    with write_whole(output, new_folder=True) as unfinished:
        stages = _find_stages(checkpoint, unfinished.with_name("unpacked"))  # removed with the temporary folder
        if "stage1" in stages:
            config = _read_config(stages["stage1"], rqvae_config)
            # The transformer was trained on codes of the plain weights.
            weights = _read_weights(stages["stage1"], ema and "stage2" not in stages, allow_pickle)
            models["rqvae"] = _build(RQVAEModel, config, weights, rqvae_rule, {}).to(dtype)
        if "stage2" in stages:
            rqvae = models.get("rqvae")
            config = _read_config(stages["stage2"], transformer_config, rqvae and rqvae.config)
            weights = _read_weights(stages["stage2"], ema, allow_pickle)
            missing = torch.full((1, config.codebook_size, config.codebook_dim), float("nan"))
            given = {"depth_decoder.codebook.weight": rqvae.codebook if rqvae else missing}
            transformer = _build(RQTransformerForImageGeneration, config, weights, transformer_rule, given).to(dtype)
            facts["sampling"] = _read_config(stages["stage2"], sampling_settings)
            transformer.generation_config = transformer.settings_of_call(**facts["sampling"])
            models["transformer"] = transformer
        if len(models) == 2:
            tokenizer = None
            if vocab_file or merges_file:
                tokenizer = convert_char_bpe_tokenizer(vocab_file, merges_file, config.condition_length)
                if (got := len(tokenizer)) != (size := config.vocab_size):
                    raise ValueError(f"`vocab_file` must have the transformer's {size} tokens, got {got}.")
            elif config.condition_length > 1:
                logger.warning("The pipeline has no caption tokenizer: give `vocab_file` and `merges_file`.")
            kind, saved = "pipeline", RQImageGenerationPipeline(**models, tokenizer=tokenizer)
        elif vocab_file or merges_file:
            raise ValueError("`vocab_file` must be None for a checkpoint without stage1 or stage2.")
        else:
            (saved,) = models.values()
            kind = saved.config.model_type
        saved.save_pretrained(unfinished)
        facts["configs"] = {name: model.config for name, model in models.items()}
        facts["num_parameters"] = {name: model.num_parameters() for name, model in models.items()}
        if kind == "rq_transformer":
            facts["limitations"] = "- The codebook is missing: call `transformer.set_codebook(rqvae.codebook)` first."
        write_card(unfinished, kind, facts)
    return kind


def rqvae_rule(name: str, config: RQVAEConfig) -> Rule:
    """Maps a tensor of [`RQVAEModel`] to tensors of the official RQ-VAE."""
    if name == "quantizer.num_updates":
        # With so many updates, the "per_step" rule goes on with the official decay.
        updates = max(0, math.ceil((10 * config.codebook_decay - 1) / (1 - config.codebook_decay)))
        return [], lambda: torch.full((1 if config.shared_codebook else config.code_depth,), float(updates))
    if name.startswith("quantizer."):
        buffer = _QUANTIZER_NAMES[name.removeprefix("quantizer.")]
        sources = [f"quantizer.codebooks.{depth}.{buffer}" for depth in range(config.code_depth)]
        # The official code stores a shared codebook once per depth, and a row of padding after the code vectors.
        num_codebooks = 1 if config.shared_codebook else config.code_depth
        return sources, lambda *copies: torch.stack([copy[: config.codebook_size] for copy in copies[:num_codebooks]])
    levels = len(config.channel_multiplier)
    up_blocks = {f"up_blocks.{level}.": f"up.{levels - 1 - level}." for level in range(levels)}
    is_linear = ".to_" in name and name.endswith(".weight")  # a 1x1 convolution in the official code
    return [_replace(name, up_blocks | _RQVAE_NAMES)], (lambda tensor: tensor.flatten(1) if is_linear else tensor)


def transformer_rule(name: str, config: RQTransformerConfig) -> Rule:
    """Maps a tensor of [`RQTransformerForImageGeneration`] to tensors of the official RQ-Transformer."""
    source = _replace(name, _TRANSFORMER_NAMES)
    if ".attention.query_key_value." in source:
        parts = [source.replace("attention.query_key_value", f"attn.{part}") for part in ("query", "key", "value")]
        return parts, lambda *tensors: torch.cat(tensors)
    if name == "spatial_projection.bias":  # the official code projects each depth and then sums the projections
        return [source], lambda tensor: tensor * config.code_shape[2]
    return [source], lambda tensor: tensor.squeeze(0) if name.endswith("positions.weight") else tensor


def rqvae_config(official: Mapping[str, Any]) -> RQVAEConfig:
    """Translates the config.yaml of an official RQ-VAE."""
    towers, quantizer = official["arch"]["ddconfig"], official["arch"]["hparams"]
    resolutions = [towers["resolution"] // 2**level for level in range(len(towers["ch_mult"]))]
    return RQVAEConfig(
        image_size=towers["resolution"],
        num_channels=towers["in_channels"],
        base_channels=towers["ch"],
        channel_multiplier=towers["ch_mult"],
        num_res_blocks=towers["num_res_blocks"],
        attention_levels=[level for level, size in enumerate(resolutions) if size in towers["attn_resolutions"]],
        latent_channels=towers["z_channels"],
        codebook_size=quantizer["n_embed"],
        codebook_dim=quantizer["embed_dim"],
        code_depth=quantizer["code_shape"][-1],
        shared_codebook=quantizer["shared_codebook"],
        codebook_decay=quantizer.get("decay", 0.99),
        restart_unused_codes=quantizer.get("restart_unused_codes", False),
        commitment_weight=quantizer.get("latent_loss_weight", 0.25),
    )


def transformer_config(official: Mapping[str, Any], rqvae: RQVAEConfig | None = None) -> RQTransformerConfig:
    """Translates the config.yaml of an official RQ-Transformer."""
    arch, dataset, loss = official["arch"], official["dataset"], official.get("loss", {})
    body, head = arch["body"], arch["head"]
    fields = {
        "code_shape": tuple(arch["block_size"]),
        "codebook_size": arch.get("vocab_size") or dataset["vocab_size"],
        "codebook_dim": arch["input_embed_dim"],
        "vocab_size": max(arch.get("vocab_size_cond", 0), 1),
        "condition_length": max(arch.get("block_size_cond", 0), 1),
        "hidden_size": arch["embed_dim"],
        "num_spatial_layers": body["n_layer"],
        "num_depth_layers": head["n_layer"],
        "num_attention_heads": body["block"]["n_head"],
        "hidden_act": "quick_gelu" if body["block"].get("gelu") == "v2" else "gelu",
        "dropout": body["block"].get("resid_pdrop", 0.1),
        "attention_dropout": body["block"].get("attn_pdrop", 0.0),
        "embedding_dropout": arch.get("embd_pdrop", 0.0),
    }
    if fields["condition_length"] > 1 and "txt_weight" in loss:
        text_weight = loss["txt_weight"]
        fields["text_loss_weight"] = text_weight / (text_weight + loss.get("img_weight", 1 - text_weight))
    if fields["vocab_size"] == 1000 and dataset.get("type", "").lower().startswith("imagenet"):
        try:
            from torchvision.models import ResNet50_Weights

            fields["id2label"] = dict(enumerate(ResNet50_Weights.DEFAULT.meta["categories"]))
        except ImportError:
            logger.warning("torchvision has the names of the ImageNet classes and is not installed: no `id2label`.")
    return RQTransformerConfig(**fields) if rqvae is None else RQTransformerConfig.from_rqvae_config(rqvae, **fields)


def sampling_settings(official: Mapping[str, Any]) -> dict[str, Any]:
    """Reads `temperature`, `top_k` and `top_p` from stage2/config.yaml, if they are there."""
    # Official training recipes have `experiment.sample`, released checkpoints have `sampling`.
    given = official.get("experiment", {}).get("sample", {}) | official.get("sampling", {})
    settings = {}
    for ours, theirs in {"temperature": "temp", "top_k": "top_k", "top_p": "top_p"}.items():
        if (value := given.get(theirs)) is not None:
            settings[ours] = value[0] if isinstance(value, list) and len(value) == 1 else value
    return settings


def _find_stages(checkpoint: Path, unpacked: Path) -> dict[str, Path]:
    """Finds stage1/ and stage2/. An archive is first unpacked to `unpacked`."""
    root = checkpoint
    if checkpoint.is_file():
        root = unpacked
        with tarfile.open(checkpoint) as archive:
            archive.extractall(root, filter="data")  # refuses paths and links out of the folder
    folders = [folder for pattern in ("stage[12]", "*/stage[12]") for folder in root.glob(pattern)]
    if not folders or len(folders) != len({folder.name for folder in folders}):
        raise ValueError(
            "`checkpoint` must be a folder or a .tar.gz archive with one stage1/ and/or one stage2/, got "
            f"{checkpoint} with {[folder.relative_to(root).as_posix() for folder in folders]}."
        )
    return {folder.name: folder for folder in folders}


def _read_config(folder: Path, translate: Callable[..., Any], *args: Any) -> Any:
    """Calls `translate` with the contents of a config.yaml."""
    try:
        return translate(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")), *args)
    except Exception as error:  # no such file, no YAML, missing keys, fields that do not fit together
        what = f"{type(error).__name__}: {error!s:.300}"
        raise ValueError(f"{folder.name}/config.yaml must be an official one, but cannot be read: {what}") from error


def _read_weights(folder: Path, ema: bool, allow_pickle: bool) -> dict[str, torch.Tensor]:
    """Maps the weights of a stage into memory."""
    name, key = f"{folder.name}/model.pt", "state_dict_ema" if ema else "state_dict"
    try:
        checkpoint = torch.load(folder / "model.pt", map_location="cpu", weights_only=not allow_pickle, mmap=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{name} must hold tensors and plain containers only: other objects could execute code. If you trust its "
            "origin, load it with `allow_pickle=True`."
        ) from error
    except RuntimeError as error:
        raise ValueError(f"{name} must be a file of torch.save, but cannot be read: {error}") from error
    if key not in checkpoint:
        raise ValueError(f"{name} must hold `{key}`, got {list(checkpoint)!s:.200}.")
    return checkpoint[key]


def _build(
    model_class: type[PreTrainedModel],
    config: Any,
    official: Mapping[str, torch.Tensor],
    rule: Callable[[str, Any], Rule],
    given: Mapping[str, torch.Tensor],
) -> PreTrainedModel:
    """Builds a model of the official weights and of the `given` ones, which the official model does not have."""
    with torch.device("meta"):
        model = model_class(config)
    rules = {name: rule(name, config) for name in model.state_dict() if name not in given}
    used = {source for sources, _ in rules.values() for source in sources}
    missing, unknown = sorted(used - official.keys()), sorted(official.keys() - used)
    if missing or unknown:
        raise ValueError(
            f"model.pt must hold the weights that its config.yaml describes for an official {model_class.__name__}; "
            f"missing: {missing!s:.200}; unknown: {unknown!s:.200}."
        )
    weights = {name: combine(*(official[source] for source in sources)) for name, (sources, combine) in rules.items()}
    model.load_state_dict({**weights, **given}, assign=True)
    return model


def _replace(name: str, names: Mapping[str, str]) -> str:
    for ours, theirs in names.items():
        name = name.replace(ours, theirs)
    return name
