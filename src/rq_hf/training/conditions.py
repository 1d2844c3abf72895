# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Stage 2 from its arguments: the frozen RQ-VAE, the condition (captions, labels or none), configuration and data."""

from dataclasses import dataclass, field
from typing import Any

import datasets
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ..caption_tokenizer import BPEDropoutEncoder
from ..configuration_rq_transformer import RQTransformerConfig
from ..modeling_rqvae import RQVAEModel
from ..pipeline_rq_image_generation import component_subfolder, load_component
from .arguments import ScriptArguments
from .data import CodeDataset, DataArguments, PictureDataset
from .trainer import initial_config
from .trainer_rq_transformer import cache_latents


@dataclass
class CodeDataArguments(DataArguments):
    """`DataArguments` of stage 2, with the models that stand before the transformer."""

    rqvae_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub id or folder of the RQ-VAE, or of a pipeline that has it."}
    )
    tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub id or folder of the caption tokenizer, or of a pipeline that has it."}
    )
    num_caption_variants: int | None = field(
        default=None, metadata={"help": "Draw among the first so many of a list of captions; all by default."}
    )


def load_rqvae(data: CodeDataArguments) -> RQVAEModel:
    """The trained RQ-VAE, in evaluation mode and fp32."""
    if data.rqvae_name_or_path is None:
        raise ValueError("`rqvae_name_or_path` must be a Hub id or a folder, got None.")
    return load_component(RQVAEModel, data.rqvae_name_or_path, "rqvae").float()


def load_tokenizer(data: CodeDataArguments) -> PreTrainedTokenizerFast | None:
    """The caption tokenizer, or `None` where no captions are used."""
    if data.caption_column is not None and data.label_column is not None:
        raise ValueError("`caption_column` and `label_column` exclude each other, got both.")
    if data.caption_column is None:
        return None
    if data.tokenizer_name_or_path is None:
        raise ValueError("`tokenizer_name_or_path` must be given with a `caption_column`, got None.")
    subfolder = component_subfolder(data.tokenizer_name_or_path, "tokenizer")
    return AutoTokenizer.from_pretrained(data.tokenizer_name_or_path, subfolder=subfolder)


def transformer_config(
    arguments: ScriptArguments,
    rqvae: RQVAEModel,
    tokenizer: PreTrainedTokenizerFast | None,
    rows: datasets.Dataset,
) -> RQTransformerConfig:
    """The transformer's configuration: the RQ-VAE gives the codes, the data the condition, `arguments.model` the rest.

    Captions: the tokenizer's size, length and padding id; the null condition is an empty caption. Labels: their number
    and names; the null condition is one id more. Neither: one start id. A null condition is only set with condition
    dropout. A pretrained transformer keeps what none of them says.
    """
    dropped = arguments.training.condition_dropout > 0
    label_column = arguments.data.label_column
    condition: dict[str, Any]
    if tokenizer is not None:
        condition = {
            "vocab_size": len(tokenizer),
            "condition_length": tokenizer.model_max_length,
            "pad_token_id": tokenizer.pad_token_id,
        }
        null_condition_ids = tokenizer("", padding="max_length").input_ids
    elif label_column is not None:
        names = _label_names(rows, label_column)
        condition = {
            "vocab_size": len(names) + dropped,
            "condition_length": 1,
            "id2label": dict(enumerate(names)),
        }
        null_condition_ids = [len(names)]
    else:
        if dropped:
            raise ValueError("`condition_dropout` must be 0 without captions and labels: there is nothing to drop.")
        condition, null_condition_ids = {"vocab_size": 1, "condition_length": 1}, None
    if dropped:
        condition["null_condition_ids"] = null_condition_ids
    fields = {**condition, **arguments.model}
    name_or_path = arguments.training.model_name_or_path
    if name_or_path is None:
        return RQTransformerConfig.from_rqvae_config(rqvae.config, **fields)
    return initial_config(RQTransformerConfig, fields, name_or_path, "transformer")


def _label_names(rows: datasets.Dataset, column: str) -> list[str]:
    feature = rows.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return feature.names
    return sorted({str(label) for label in rows[column]})


def code_datasets(
    arguments: ScriptArguments,
    splits: dict[str, datasets.Dataset],
    rqvae: RQVAEModel,
    config: RQTransformerConfig,
    tokenizer: PreTrainedTokenizerFast | None,
) -> dict[str, CodeDataset]:
    """The data sets of stage 2, by split; with `cache_latents` every picture is encoded here."""
    training, data = arguments.training, arguments.data
    encoder = BPEDropoutEncoder(tokenizer) if tokenizer is not None else None
    prepared = {}
    for name, rows in splits.items():
        is_training = name == "train"
        pictures = PictureDataset(
            rows,
            rqvae.config.image_size,
            num_channels=rqvae.config.num_channels,
            image_column=data.image_column,
            transform=data.transform,
            training=is_training and not training.cache_latents,
            seed=training.seed,
        )
        if training.cache_latents:
            with training.main_process_first(desc="Encoding pictures"):
                rqvae = rqvae.to(training.device).eval()
                pictures = cache_latents(pictures, rqvae, codes_only=training.hard_codes)
        prepared[name] = CodeDataset(
            pictures,
            _conditions(rows, data, config),
            encoder=encoder,
            bpe_dropout=training.bpe_dropout if is_training else 0.0,
            condition_dropout=training.condition_dropout if is_training else 0.0,
            null_condition_ids=config.null_condition_ids,
            training=is_training,
            seed=training.seed,
        )
    return prepared


def _conditions(rows: datasets.Dataset, data: CodeDataArguments, config: RQTransformerConfig) -> list[Any] | None:
    if data.caption_column is not None:
        captions = list(rows[data.caption_column])
        if data.num_caption_variants is not None and captions and not isinstance(captions[0], str):
            captions = [variants[: data.num_caption_variants] for variants in captions]
        return captions
    if data.label_column is not None:
        labels = list(rows[data.label_column])
        if isinstance(rows.features[data.label_column], datasets.ClassLabel):
            return labels
        return [config.label2id[str(label)] for label in labels]
    return None
