# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Data of both stages; stage 2 from its arguments: frozen RQ-VAE, condition (captions, labels or none), and config."""

from dataclasses import dataclass, field
from typing import Any

import datasets
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ..caption_tokenizer import BPEDropoutEncoder
from ..configuration_rq_transformer import RQTransformerConfig, code_fields
from ..data_sources import Rows
from ..modeling_rqvae import RQVAEModel
from ..pipeline_rq_image_generation import component_subfolder, load_component
from .arguments import ScriptArguments
from .condition_reader import ConditionReader, are_ids
from .data import CodeDataset, DataArguments, sorted_names
from .pictures import PictureDataset, decodable_rows
from .starting_point import initial_config
from .streaming import CodeStream, PictureStream, training_stream
from .trainer import RQTrainingArguments
from .trainer_rq_transformer import cache_latents
from .transforms import PictureTransform
from .vocabulary import REPLACE, caption_vocabulary, class_vocabulary

# Tokens: a tokenizer without a limit has 1e30.
LONGEST_CONDITION = 10**6


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
    replace_condition_vocabulary: bool = field(
        default=False,
        metadata={
            "help": "Give the model of --model_name_or_path a new condition, of captions, labels or none, with new "
            "embeddings, where its own ids are not to be kept."
        },
    )
    replace_codebook: bool = field(
        default=False,
        metadata={
            "help": "Train the model of --model_name_or_path on the codes of another RQ-VAE than its own, of another "
            "codebook, size, width, depth or map; weights that depend on these begin anew where they do not fit."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.num_caption_variants is not None and self.num_caption_variants < 1:
            raise ValueError(f"`num_caption_variants` must be at least 1, got {self.num_caption_variants}.")


def load_rqvae(data: CodeDataArguments) -> RQVAEModel:
    """The trained RQ-VAE, in evaluation mode and fp32.

    Raises:
        `ValueError`: none named, nothing there, or weights that are missing.
    """
    if data.rqvae_name_or_path is None:
        raise ValueError("`rqvae_name_or_path` must be a Hub id or a folder, got None.")
    return load_component(RQVAEModel, data.rqvae_name_or_path, "rqvae").float()


def load_tokenizer(data: CodeDataArguments) -> PreTrainedTokenizerFast | None:
    """The caption tokenizer, or `None` where no captions are used.

    Raises:
        `ValueError`: captions and labels at once, captions without a tokenizer, or one without a length.
    """
    if data.caption_column is not None and data.label_column is not None:
        raise ValueError("`caption_column` and `label_column` exclude each other, got both.")
    if data.caption_column is None:
        return None
    if data.tokenizer_name_or_path is None:
        raise ValueError("`tokenizer_name_or_path` must be given with a `caption_column`, got None.")
    subfolder = component_subfolder(data.tokenizer_name_or_path, "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(data.tokenizer_name_or_path, subfolder=subfolder)
    if tokenizer.model_max_length > LONGEST_CONDITION:  # transformers' number for none
        raise ValueError(
            "`tokenizer_name_or_path` must have a `model_max_length`, the tokens of every condition, got "
            f"{data.tokenizer_name_or_path!r} without one."
        )
    return tokenizer


def transformer_config(
    arguments: ScriptArguments,
    rqvae: RQVAEModel,
    tokenizer: PreTrainedTokenizerFast | None,
    rows: Rows,
) -> RQTransformerConfig:
    """The transformer's configuration: the RQ-VAE gives the codes, the data the condition, `arguments.model` the rest.

    Captions: the tokenizer's size, length and padding id; the null condition is an empty caption. Labels: their number
    and names; the null condition is one id more. Neither: one start id. A null condition is only set with condition
    dropout. A `vocab_size` of `arguments.model` holds where labels and null condition need no more.

    A pretrained transformer keeps what none of them says, and the ids that it has: a larger tokenizer must begin with
    the ids of its own, and classes are those of the same name, with unknown ones behind them.

    Raises:
        `ValueError`: a pretrained transformer whose ids cannot be kept, and no `replace_condition_vocabulary`, or a
            field that contradicts the RQ-VAE.
    """
    training, data = arguments.training, arguments.data
    dropped, name_or_path = training.condition_dropout > 0, training.model_name_or_path
    if dropped and tokenizer is None and data.label_column is None:
        raise ValueError("`condition_dropout` must be 0 without captions and labels: there is nothing to drop.")
    for name in ("replace_condition_vocabulary", "replace_codebook"):
        if getattr(data, name) and name_or_path is None:
            raise ValueError(f"`{name}` needs a `model_name_or_path`, got None.")
        if getattr(data, name) and training.lora_rank is not None:
            raise ValueError(f"`{name}` must be false with `lora_rank`: new weights would not train.")
    if name_or_path is None or data.replace_condition_vocabulary:
        condition = _new_condition(arguments, tokenizer, rows)
    else:
        condition = _pretrained_condition(arguments, tokenizer, rows)
    if dropped and tokenizer is not None:
        condition["null_condition_ids"] = tokenizer("", padding="max_length").input_ids
    fields = {**condition, **arguments.model}
    if name_or_path is None and tokenizer is not None and len(tokenizer) > fields["vocab_size"]:
        raise ValueError(
            f"`vocab_size` must be at least the tokenizer's {len(tokenizer)}, got {fields['vocab_size']}."
        )
    # A recipe's size is that of its own data: this one's, or a null condition, may need more.
    fields["vocab_size"] = max(fields["vocab_size"], condition["vocab_size"])
    if condition.get("id2label") is not None:  # that of `arguments.model`, and what the data add
        fields["id2label"] = condition["id2label"]
    if name_or_path is None:
        config = RQTransformerConfig.from_rqvae_config(rqvae.config, **fields)
    else:
        if data.replace_codebook:
            fields |= code_fields(rqvae.config, fields)
        config = initial_config(RQTransformerConfig, fields, name_or_path, "transformer")
    if config.condition_length != condition.get("condition_length", config.condition_length):
        raise ValueError(
            f"`condition_length` must be that of the data's conditions, {condition['condition_length']}"
            f"{' (the `model_max_length` of the tokenizer)' if tokenizer is not None else ''}, got "
            f"{config.condition_length}."
        )
    return config


def _new_condition(
    arguments: ScriptArguments, tokenizer: PreTrainedTokenizerFast | None, rows: Rows
) -> dict[str, Any]:
    """Condition fields where nothing is kept of an earlier vocabulary."""
    condition = dict.fromkeys(("pad_token_id", "null_condition_ids", "id2label", "label2id"))
    if tokenizer is not None:
        return {
            **condition,
            "vocab_size": len(tokenizer),
            "condition_length": tokenizer.model_max_length,
            "pad_token_id": tokenizer.pad_token_id,
        }
    if arguments.data.label_column is None:
        return {**condition, "vocab_size": 1, "condition_length": 1}
    given = arguments.model.get("id2label")
    names = _label_names(rows, arguments.data.label_column, given)
    id2label = dict(enumerate(names)) if given is None else {int(index): name for index, name in given.items()}
    classes = max(len(names), max(id2label, default=-1) + 1)
    dropped = arguments.training.condition_dropout > 0
    return {
        **condition,
        "vocab_size": classes + dropped,
        "condition_length": 1,
        "null_condition_ids": [classes] if dropped else None,
        "id2label": id2label,
        "label2id": {name: index for index, name in id2label.items()},
    }


def _pretrained_condition(
    arguments: ScriptArguments, tokenizer: PreTrainedTokenizerFast | None, rows: Rows
) -> dict[str, Any]:
    """Condition fields of a pretrained transformer whose old ids are kept."""
    name_or_path, data = arguments.training.model_name_or_path, arguments.data
    own_names = {name: value for name, value in arguments.model.items() if name == "id2label"}
    own = initial_config(RQTransformerConfig, own_names, name_or_path, "transformer")
    if tokenizer is not None:
        return caption_vocabulary(own, tokenizer, name_or_path)
    if data.label_column is not None:
        names = _label_names(rows, data.label_column, own.id2label)
        if own_names and are_ids(rows.features[data.label_column], own.id2label.values()):
            names = list(own.id2label.values())  # they name the ids of the data
        return class_vocabulary(own, names, arguments.training.condition_dropout > 0)
    if own.vocab_size > 1:
        raise ValueError(
            f"`caption_column` or `label_column` must be given for a `model_name_or_path` of {own.vocab_size} "
            f"condition ids, got neither. {REPLACE}."
        )
    return {"vocab_size": 1, "condition_length": 1}


def _label_names(rows: Rows, column: str, id2label: dict[Any, str] | None) -> list[str]:
    feature = rows.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return feature.names
    if isinstance(rows, datasets.Dataset):
        return sorted_names(rows[column])
    if id2label is None:  # reading the whole stream for its labels would take as long as an epoch
        raise ValueError(
            f"`label_column` must be of class labels with `streaming`, or `id2label` be given, got {column!r} of "
            f"{feature}."
        )
    return list(id2label.values())


def training_pictures(
    rows: Rows,
    data: DataArguments,
    training: RQTrainingArguments,
    image_size: int,
    num_channels: int,
    augment: bool = True,
) -> PictureDataset | PictureStream:
    """The pictures of a split, or the stream of it that belongs to this process.

    Args:
        rows (`datasets.Dataset` or `datasets.IterableDataset`): the split.
        data ([`DataArguments`]): its column of pictures and the transform.
        training ([`RQTrainingArguments`]): the seed and, for a stream, the number of steps, processes and workers.
        image_size (`int`): height and width for the model.
        num_channels (`int`): 3, or 1 for grey.
        augment (`bool`): random crops and flips, or the evaluation transform.
    """
    if isinstance(rows, datasets.IterableDataset):
        transform = PictureTransform(image_size, num_channels, data.transform, augment)
        return training_stream(rows, data, training, transform)
    return PictureDataset(
        rows,
        image_size,
        num_channels=num_channels,
        image_column=data.image_column,
        transform=data.transform,
        training=augment,
        seed=training.seed,
        max_corrupt_fraction=data.max_corrupt_fraction,
    )


def code_datasets(
    arguments: ScriptArguments,
    splits: dict[str, Rows],
    rqvae: RQVAEModel,
    config: RQTransformerConfig,
    tokenizer: PreTrainedTokenizerFast | None,
) -> dict[str, CodeDataset | CodeStream]:
    """The data sets of stage 2, by split; with `cache_latents` every picture that can be decoded is encoded here.

    Raises:
        `ValueError`: `cache_latents` of a stream.
    """
    training, data = arguments.training, arguments.data
    if data.streaming and training.cache_latents:
        raise ValueError("`cache_latents` must be false with `streaming`: a stream is not encoded beforehand.")
    training.check_code_depth(rqvae.config.code_depth)  # before all is encoded
    encoder = BPEDropoutEncoder(tokenizer) if tokenizer is not None else None
    prepared = {}
    for name, rows in splits.items():
        is_training = name == "train"
        encoding = {
            "encoder": encoder,
            "bpe_dropout": training.bpe_dropout if is_training else 0.0,
            "condition_dropout": training.condition_dropout if is_training else 0.0,
            "null_condition_ids": config.null_condition_ids,
            "training": is_training,
        }
        if training.cache_latents:
            with training.main_process_first(desc="Decoding pictures"):
                rows = decodable_rows(rows, data.image_column, data.max_corrupt_fraction)
        pictures = training_pictures(
            rows,
            data,
            training,
            rqvae.config.image_size,
            rqvae.config.num_channels,
            augment=is_training and not training.cache_latents,
        )
        feature = rows.features[data.label_column] if data.label_column is not None else None
        reader = ConditionReader(data, config, tokenizer, feature, "id2label" in arguments.model)
        if isinstance(pictures, PictureStream):
            prepared[name] = CodeStream(pictures, reader, **encoding)
            continue
        if training.cache_latents:
            with training.main_process_first(desc="Encoding pictures"):
                rqvae = rqvae.to(training.device).eval()
                pictures = cache_latents(pictures, rqvae, codes_only=training.hard_codes)
        conditions = reader.read_all(rows)
        prepared[name] = CodeDataset(pictures, conditions, seed=training.seed, **encoding)
    return prepared
