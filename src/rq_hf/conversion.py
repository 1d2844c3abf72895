# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Official checkpoints as folders that `from_pretrained` loads: names and layout of the weights, files, card."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelCardData, split_torch_state_dict_into_shards
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging

from .caption_tokenizer import convert_char_bpe_tokenizer
from .cards import NO_REPOSITORY, render_card, save_card
from .configuration_common import write_sampling
from .configuration_rq_transformer import RQTransformerConfig
from .configuration_rqvae import RQVAEConfig
from .conversion_config import rqvae_config, sampling_settings, tokenizer_name, transformer_config
from .conversion_source import OriginalStage, find_stages, finished_folder
from .modeling_rq_transformer import RQTransformerForImageGeneration
from .modeling_rqvae import RQVAEModel
from .pipeline_rq_image_generation import RQImageGenerationPipeline

logger = logging.get_logger(__name__)

LICENSE = "cc-by-nc-sa-4.0"
# Our names and the official ones, replaced in this order.
_RQVAE_NAMES = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "down_blocks": "down",
    "resnets": "block",
    "attentions": "attn",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_QUANTIZER_NAMES = {"codebook.weight": "weight", "cluster_size": "cluster_size_ema", "embedding_sum": "embed_ema"}
_TRANSFORMER_NAMES = {
    "condition_embedding": "cond_emb",
    "condition_positions.weight": "pos_emb_cond",
    "spatial_positions.weight": "pos_emb_hw",
    "depth_positions.weight": "pos_emb_d",
    "spatial_projection": "input_mlp",
    "depth_projection": "head_mlp",
    "spatial_transformer": "body_transformer",
    "depth_transformer": "head_transformer",
    "attention_norm": "ln1",
    "mlp_norm": "ln2",
    "attention.out_proj": "attn.proj",
    "code_head": "classifier",
    "text_head": "cond_classifier",
    "classifier.norm": "classifier.layer_norm",
}
# The official tokenizers' sizes by the names in a configuration, and their entries.
_TOKENIZER_SIZES = {"bpe16k_huggingface": "16k", "bpe30k_huggingface": "30k"}
_TOKENIZER_ENTRIES = {"16k": 16384, "30k": 30000}
# How one of our tensors is made: the names of the official tensors it needs, and a function of those.
Rule = tuple[list[str], Callable[..., torch.Tensor]]


def convert_checkpoint(
    checkpoint: str | Path,
    output: str | Path,
    *,
    ema: bool = False,
    dtype: torch.dtype = torch.float32,
    vocab_file: str | Path | None = None,
    merges_file: str | Path | None = None,
    license: str = LICENSE,
    allow_pickle: bool = False,
    cards: Mapping[str, Mapping[str, Any]] | None = None,
    repo_id: str | None = None,
    max_shard_size: int | str = "2GB",
) -> str:
    r"""Converts an official checkpoint to a folder that `from_pretrained` loads.

    Both stages give a pipeline, stage 1 alone an [`RQVAEModel`], stage 2 alone an [`RQTransformerForImageGeneration`].
    The official transformer has no codebook of its own: without stage 1 the codebook is NaN until
    [`~RQTransformerForImageGeneration.set_codebook`] is given the RQ-VAE's, so that `generate` and a pipeline with
    some RQ-VAE are errors. Weights are moved one file of the result at a time.

    Args:
        checkpoint (`str` or `Path`): folder or `.tar.gz` archive with `stage1/` and/or `stage2/`.
        output (`str` or `Path`): folder to write; it must be new or empty, and appears only when all is written.
        ema (`bool`, defaults to `False`):
            Take the averaged weights of the transformer, or of an RQ-VAE that comes alone. The RQ-VAE beside a
            transformer keeps its plain weights, whose codes the transformer was trained on.
        dtype (`torch.dtype`, defaults to `torch.float32`): of the weights; the quantizer of the RQ-VAE stays fp32.
        vocab_file, merges_file (`str` or `Path`, *optional*): the files of the caption tokenizer, for text models.
        license (`str`, defaults to `"cc-by-nc-sa-4.0"`): licence of the weights, for the card.
        allow_pickle (`bool`, defaults to `False`):
            Load checkpoints with objects other than tensors too. They can execute code.
        cards (`dict`, *optional*):
            What the card says about `"rqvae"` and `"transformer"`, as in the `card` section of scripts/configs/*.json:
            `language`, `dataset`, `paper`, `published` (with a `paper`), `summary`, `training_data`.
        repo_id (`str`, *optional*): repository that the usage snippet of the card loads.
        max_shard_size (`int` or `str`, defaults to `"2GB"`): of a file of weights.

    Returns:
        `str`: `"pipeline"`, `"rqvae"` or `"rq_transformer"`, what `output` holds.

    Raises:
        `ValueError`: bad arguments, or a checkpoint that is damaged, not trusted, not complete, or of a form that
            these models do not have. The message names the file.
    """
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"`dtype` must be torch.float32, torch.float16 or torch.bfloat16, got {dtype}.")
    if (vocab_file is None) != (merges_file is None):
        raise ValueError("`vocab_file` and `merges_file` must be given together, got only one.")
    for name, card in (cards or {}).items():
        if "published" in card and "paper" not in card:
            raise ValueError(f"`cards` must name the `paper` of figures that are `published`, got none for {name!r}.")
    with finished_folder(output) as (folder, workspace):
        stages = find_stages(checkpoint, workspace)
        models, weights, sampling, tokenizer = {}, {}, {}, None
        if "stage1" in stages:
            stage = stages["stage1"]
            models["rqvae"] = _empty_model(RQVAEModel, rqvae_config(stage), dtype)
            state_dict = stage.read_weights(ema and "stage2" not in stages, allow_pickle)
            weights["rqvae"] = _plan(stage, state_dict, models["rqvae"], rqvae_rule)
            _check_copies(stage, state_dict, models["rqvae"].config)
        if "stage2" in stages:
            stage = stages["stage2"]
            config = transformer_config(stage, models["rqvae"].config if "rqvae" in models else None)
            tokenizer = _tokenizer(stage, config, vocab_file, merges_file)
            sampling = sampling_settings(stage)
            models["transformer"] = _empty_model(RQTransformerForImageGeneration, config, dtype)
            try:
                models["transformer"].check_sampling(**sampling)
            except ValueError as error:
                raise ValueError(f"{stage.config_name} must have settings of sampling in range: {error}") from error
            models["transformer"].generation_config.update(**sampling)
            state_dict = stage.read_weights(ema, allow_pickle)
            weights["transformer"] = _plan(stage, state_dict, models["transformer"], transformer_rule)
            weights["transformer"]["codebook.weight"] = (
                weights["rqvae"]["quantizer.codebook.weight"] if "rqvae" in weights else _missing_codebook(config)
            )
        elif vocab_file is not None:
            raise ValueError(f"`vocab_file` must be None: {checkpoint} has no transformer.")
        kind = "pipeline" if len(models) == 2 else "rqvae" if "rqvae" in models else "rq_transformer"
        for name, model in models.items():
            _save_model(folder / name if kind == "pipeline" else folder, model, weights[name], max_shard_size)
        if kind == "pipeline":
            RQImageGenerationPipeline(**models, tokenizer=tokenizer).save_config(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder / "tokenizer" if kind == "pipeline" else folder)
        if kind == "rq_transformer":
            logger.warning(
                f"{checkpoint} has no stage1: the transformer is written without the codebook of its RQ-VAE, which "
                "`set_codebook` must be given before use, and without a pipeline."
            )
        card = _card(
            kind,
            models,
            tokenizer=tokenizer,
            sampling=sampling,
            origin=Path(checkpoint).resolve().name,
            name=Path(output).resolve().name,
            license=license,
            released=(cards or {}).get("rqvae" if kind == "rqvae" else "transformer", {}),
            repo_id=repo_id,
        )
        save_card(card, folder)
    return kind


def rqvae_rule(name: str, config: RQVAEConfig) -> Rule:
    """How a tensor of an [`RQVAEModel`] is made of those of the official RQ-VAE."""
    copies = 1 if config.shared_codebook else config.code_depth
    if name == "quantizer.num_updates":
        # So many updates that the `per_step` rule goes on with averages as slow as those of the official rule.
        settled = max(0, math.ceil((10 * config.codebook_decay - 1) / (1 - config.codebook_decay)))
        return [], lambda: torch.full((copies,), float(settled))
    if name.startswith("quantizer."):
        buffer = _QUANTIZER_NAMES[name.removeprefix("quantizer.")]
        sources = [f"quantizer.codebooks.{depth}.{buffer}" for depth in range(config.code_depth)]
        end = -1 if buffer == "weight" else None  # the last row is padding
        return sources, lambda *tensors: torch.stack([tensor[:end] for tensor in tensors[:copies]])
    levels = len(config.channel_multiplier)
    up_blocks = {f"up_blocks.{level}.": f"up.{levels - 1 - level}." for level in range(levels)}
    is_linear = ".to_" in name and name.endswith(".weight")  # a 1x1 convolution in the official code
    return [_replace(name, up_blocks | _RQVAE_NAMES)], (lambda tensor: tensor.flatten(1) if is_linear else tensor)


def transformer_rule(name: str, config: RQTransformerConfig) -> Rule:
    """How a tensor of an [`RQTransformerForImageGeneration`] is made of those of the official RQ-Transformer."""
    source = _replace(name, _TRANSFORMER_NAMES)
    if ".attention.query_key_value." in source:
        parts = ("query", "key", "value")
        return [source.replace("attention.query_key_value", f"attn.{part}") for part in parts], (
            lambda *tensors: torch.cat(tensors)
        )
    if name == "spatial_projection.bias":  # the official code projects each depth and then sums them
        return [source], lambda tensor: tensor * config.code_shape[2]
    if name.endswith("_positions.weight"):
        return [source], lambda tensor: tensor.squeeze(0)
    return [source], lambda tensor: tensor


def _replace(name: str, names: Mapping[str, str]) -> str:
    for ours, theirs in names.items():
        name = name.replace(ours, theirs)
    return name


def _plan(
    stage: OriginalStage,
    state_dict: Mapping[str, torch.Tensor],
    model: PreTrainedModel,
    rule: Callable[[str, Any], Rule],
) -> dict[str, Callable[[], torch.Tensor]]:
    """For each tensor of `model` a function that makes it, once names and shapes are known to fit.

    The official transformer has no codebook, so that of our transformer is left to the caller.
    """
    expected = model.state_dict()
    rules = {name: rule(name, model.config) for name in expected if name != "codebook.weight"}
    used = {source for sources, _ in rules.values() for source in sources}
    missing, unknown = sorted(used - state_dict.keys()), sorted(state_dict.keys() - used)
    if missing or unknown:
        raise ValueError(
            f"{stage.weights_name} must hold the weights that its config.yaml describes; missing: {missing}; unknown: "
            f"{unknown}."
        )
    wrong = []
    for name, (sources, combine) in rules.items():
        shape, shapes = tuple(expected[name].shape), [tuple(state_dict[source].shape) for source in sources]
        try:
            fits = tuple(combine(*(state_dict[source].to("meta") for source in sources)).shape) == shape
        except (RuntimeError, IndexError):  # shapes that do not go together
            fits = False
        if not fits:
            wrong.append(f"{', '.join(sources)} of {shapes} for {name} of {shape}")
    if wrong:
        raise ValueError(f"{stage.weights_name} must hold the shapes that its config.yaml describes, got {wrong}.")

    def maker(sources: list[str], combine: Callable[..., torch.Tensor]) -> Callable[[], torch.Tensor]:
        return lambda: combine(*(state_dict[source] for source in sources))

    return {name: maker(*each) for name, each in rules.items()}


def _check_copies(stage: OriginalStage, state_dict: Mapping[str, torch.Tensor], config: RQVAEConfig) -> None:
    """A shared codebook is stored once for each depth: the copies must be equal."""
    for buffer in _QUANTIZER_NAMES.values() if config.shared_codebook else ():
        first, *others = (f"quantizer.codebooks.{depth}.{buffer}" for depth in range(config.code_depth))
        unequal = [name for name in others if not torch.equal(state_dict[name], state_dict[first])]
        if unequal:
            raise ValueError(
                f"{stage.weights_name} must hold equal copies of its shared codebook, but {unequal} differ from "
                f"{first}."
            )


def _missing_codebook(config: RQTransformerConfig) -> Callable[[], torch.Tensor]:
    return lambda: torch.full((1, config.codebook_size, config.codebook_dim), float("nan"))


def _empty_model(model_class: type[PreTrainedModel], config: Any, dtype: torch.dtype) -> PreTrainedModel:
    with torch.device("meta"):
        model = model_class(config).to(dtype)
    model.config.architectures, model.config.dtype = [model_class.__name__], dtype
    return model


def _save_model(
    folder: Path, model: PreTrainedModel, weights: Mapping[str, Callable[[], torch.Tensor]], max_shard_size: int | str
) -> None:
    """Writes what `save_pretrained` would, with one file of weights at a time in memory."""
    folder.mkdir(exist_ok=True)
    expected = model.state_dict()
    split = split_torch_state_dict_into_shards(
        expected, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_size
    )
    for file, names in split.filename_to_tensors.items():
        save_file(
            {name: weights[name]().to(expected[name].dtype).contiguous() for name in names},
            folder / file,
            metadata={"format": "pt"},
        )
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
        write_sampling(folder)


def _tokenizer(
    stage: OriginalStage, config: RQTransformerConfig, vocab_file: str | Path | None, merges_file: str | Path | None
) -> PreTrainedTokenizerFast | None:
    """The caption tokenizer of a text model, if its files are given."""
    if config.condition_length == 1:
        if vocab_file is not None:
            raise ValueError(f"`vocab_file` must be None: the model of {stage.name} is not conditioned on text.")
        return None
    name = tokenizer_name(stage)
    size = _TOKENIZER_SIZES.get(str(name))
    if size is None:
        if vocab_file is not None:
            raise ValueError(f"`vocab_file` must be None: {stage.config_name} names the tokenizer {name!r}.")
        logger.warning(f"The text model of {stage.name} is written without a tokenizer: {name!r} is not converted.")
        return None
    if vocab_file is None:
        logger.warning(
            f"The text model of {stage.name} is written without a tokenizer. It needs bpe-{size}-vocab.json and "
            f"bpe-{size}-merges.txt, which lie in rqvae/txtimg_datasets/tokenizers/pretrained/ of the official code."
        )
        return None
    tokenizer = convert_char_bpe_tokenizer(vocab_file, merges_file, config.condition_length)
    of_another = [other for other, number in _TOKENIZER_ENTRIES.items() if number == len(tokenizer) and other != size]
    if len(tokenizer) > config.vocab_size or of_another:
        raise ValueError(
            f"`vocab_file` must be bpe-{size}-vocab.json, for a model of {config.vocab_size} tokens, got a vocabulary "
            f"of {len(tokenizer)}."
        )
    return tokenizer


def _card(
    kind: str,
    models: Mapping[str, PreTrainedModel],
    *,
    tokenizer: PreTrainedTokenizerFast | None,
    sampling: Mapping[str, Any],
    origin: str,
    name: str,
    license: str,
    released: Mapping[str, Any],
    repo_id: str | None,
) -> ModelCard:
    """The card of a converted model, with the published figures of a `released` one."""
    configs = {part: model.config for part, model in models.items()}
    summary = [
        f"The weights of `{origin}`, an official checkpoint of "
        "[kakaobrain/rq-vae-transformer](https://github.com/kakaobrain/rq-vae-transformer), in another layout."
    ]
    evaluations = []
    published = {key: value for key, value in released.get("published", {}).items() if not isinstance(value, Mapping)}
    if published:
        dataset = released.get("dataset", origin.split(".")[0])
        evaluations.append({"dataset": {"name": dataset}, "metrics": published})
        summary.append(f"The figures under Evaluation are the published ones ({released['paper']}).")
    if "summary" in released:
        summary.append(released["summary"])
    limitations = []
    if kind == "rq_transformer":
        limitations.append(
            "- The codebook, which is its RQ-VAE's, is not in the folder but NaN: call "
            "`transformer.set_codebook(rqvae.codebook)` before anything else."
        )
    if "transformer" in configs and configs["transformer"].condition_length > 1 and tokenizer is None:
        limitations.append("- The caption tokenizer is not in the folder: `convert_char_bpe_tokenizer` makes it.")
    attribution = "Trained and released by Kakao Brain."
    if license == LICENSE:
        attribution += " No commercial use; what is made from the weights must be shared under the same licence."
    return render_card(
        kind,
        ModelCardData(
            license=license, language=released.get("language"), datasets=released.get("dataset"), model_name=name
        ),
        repo_id=repo_id,
        summary=" ".join(summary),
        architecture=configs if kind == "pipeline" else next(iter(configs.values())),
        num_parameters={part: model.num_parameters() for part, model in models.items()},
        sampling=sampling,
        tokenizer=(repo_id or NO_REPOSITORY) if tokenizer is not None else None,
        training_data=released.get("training_data"),
        attribution=attribution,
        evaluations=evaluations,
        limitations="\n".join(limitations) or None,
    )
