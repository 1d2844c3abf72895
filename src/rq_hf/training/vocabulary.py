# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The transformer that stage 2 starts from; a pretrained one's condition vocabulary is kept, grown or replaced."""

import copy
import logging
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..class_names import are_same_classes
from ..configuration_rq_transformer import CODE_FIELDS, RQTransformerConfig
from ..modeling_rq_transformer import RQTransformerForImageGeneration
from ..modeling_rqvae import RQVAEModel
from ..pipeline_rq_image_generation import check_pair, component_subfolder
from .arguments import ScriptArguments
from .code_replacement import REPLACE_CODEBOOK, with_codes_of
from .starting_point import initial_config, initial_model, with_kept_weights

logger = logging.getLogger(__name__)

CONDITION_FIELDS = ("vocab_size", "condition_length", "pad_token_id", "null_condition_ids", "id2label")
REPLACE = "`--replace_condition_vocabulary true` gives all ids new embeddings"


def caption_vocabulary(
    config: RQTransformerConfig, tokenizer: PreTrainedTokenizerBase, name_or_path: str
) -> dict[str, Any]:
    """Condition fields of a pretrained model that is to be trained on captions, its old ids kept.

    Args:
        config ([`RQTransformerConfig`]): the pretrained model's.
        tokenizer (`PreTrainedTokenizerBase`): of the captions.
        name_or_path (`str`): where the pretrained model is, and in a pipeline its tokenizer.

    Raises:
        `ValueError`: a model of no captions or of another length, or ids that stand for other tokens in its own
            tokenizer, or that cannot be compared though there are more of them.
    """
    length = tokenizer.model_max_length
    if config.condition_length != length:
        raise ValueError(
            f"`tokenizer_name_or_path` must have `model_max_length` {config.condition_length}, the `condition_length` "
            f"of `model_name_or_path`, got {length}. {REPLACE}."
        )
    own = _own_tokenizer(name_or_path)
    if own is None and len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"`model_name_or_path` must be a pipeline with its tokenizer where the captions have more ids than its "
            f"{config.vocab_size}, got {len(tokenizer)} ids and no tokenizer to compare them with. {REPLACE}."
        )
    if own is None:
        logger.warning(
            "%s has no tokenizer to compare that of the captions with: their ids are taken for the same words.",
            name_or_path,
        )
    else:
        old_tokens = {index: token for token, index in own.get_vocab().items()}
        for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
            if old_tokens.get(index, token) != token:
                raise ValueError(
                    "`tokenizer_name_or_path` must have the ids of the tokenizer of `model_name_or_path`, and then "
                    f"new ones, got {token!r} for id {index}, which is {old_tokens[index]!r} there. {REPLACE}."
                )
    if len(tokenizer) > config.vocab_size:
        logger.warning("The vocabulary grows from %d to %d caption ids.", config.vocab_size, len(tokenizer))
    return {
        "vocab_size": max(config.vocab_size, len(tokenizer)),
        "condition_length": length,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _own_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase | None:
    subfolder = component_subfolder(name_or_path, "tokenizer")
    try:
        return AutoTokenizer.from_pretrained(name_or_path, subfolder=subfolder)
    except (OSError, ValueError):  # a transformer alone
        return None


def class_vocabulary(config: RQTransformerConfig, names: list[str], dropped: bool) -> dict[str, Any]:
    """Condition fields of a pretrained model that is to be trained on labels: its classes, then those new to it.

    The same classes under other names, as ImageNet's are, take the names of the data.

    Args:
        config ([`RQTransformerConfig`]): the pretrained model's.
        names (`list[str]`): of the data's classes.
        dropped (`bool`): whether there has to be a null condition.

    Raises:
        `ValueError`: the model has no classes, or as many nameless ones as the data have not.
    """
    if config.condition_length != 1 or config.vocab_size == 1:
        raise ValueError(
            "`label_column` needs a `model_name_or_path` with classes, got one with `condition_length` "
            f"{config.condition_length} and {config.vocab_size} ids. {REPLACE}."
        )
    config = copy.deepcopy(config)
    if config.id2label is None:
        if len(names) != config.num_classes:
            raise ValueError(
                f"`label_column` must have the {config.num_classes} classes of `model_name_or_path`, whose names are "
                f"not known, got {len(names)}. Give their names as `--id2label`, or {REPLACE}."
            )
        config.id2label = dict(zip(config.class_ids, names, strict=True))
    elif are_same_classes([config.id2label[index] for index in config.class_ids], names):
        config.id2label = dict(zip(config.class_ids, names, strict=True))
    known = set(config.id2label.values())
    new = [name for name in names if name not in known]
    if new:
        logger.warning("%d new classes beside %d: %s", len(new), len(known), ", ".join(new[:20]))
    config.add_classes(new)
    if dropped and config.null_condition_ids is None:
        config.null_condition_ids = (max(config.id2label) + 1,)
        config.vocab_size = max(config.vocab_size, max(config.id2label) + 2)
    fields = {name: getattr(config, name) for name in CONDITION_FIELDS}
    return {**fields, "label2id": {name: index for index, name in config.id2label.items()}}


def initial_transformer(
    arguments: ScriptArguments,
    config: RQTransformerConfig,
    rqvae: RQVAEModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> tuple[RQTransformerForImageGeneration, list[int]]:
    """The transformer that a training starts from, new or pretrained, with the condition of `config`.

    A pretrained one keeps the rows of its old ids. With `replace_condition_vocabulary` embedding, positions of another
    number and text head are new, and all else is kept. With `replace_codebook` it has the codes of `rqvae`, see
    [`with_codes_of`].

    Args:
        arguments ([`ScriptArguments`]): of the training script.
        config ([`RQTransformerConfig`]): of [`transformer_config`].
        rqvae ([`RQVAEModel`]): whose codes it draws.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): of the captions.

    Returns:
        The model with the codebook of `rqvae`, and its condition ids that have no trained embedding yet.

    Raises:
        `ValueError`: the pretrained weights are not those of a model with this configuration, or belong to another
            RQ-VAE and `replace_codebook` is not set.
    """
    name_or_path = arguments.training.model_name_or_path
    if name_or_path is None:
        model = RQTransformerForImageGeneration(config)
        model.set_codebook(rqvae.codebook)
        return model, list(range(config.vocab_size))
    replaced = arguments.data.replace_condition_vocabulary
    from_data = set(CONDITION_FIELDS) - (set() if replaced else {"id2label"})  # other names for the model's classes
    if arguments.data.replace_codebook:
        from_data |= set(CODE_FIELDS)
    fields = {name: value for name, value in arguments.model.items() if name not in from_data}
    own_config = initial_config(RQTransformerConfig, fields, name_or_path, "transformer")
    model = initial_model(RQTransformerForImageGeneration, own_config, name_or_path)
    if arguments.data.replace_codebook:
        model = with_codes_of(rqvae, model)
    try:
        check_pair(rqvae, model)
    except ValueError as error:
        raise ValueError(f"{error} {REPLACE_CODEBOOK}.") from error
    model.set_codebook(rqvae.codebook)  # which may have been rounded in the transformer's file
    if replaced:
        new_weights = ("condition_embedding.", "text_head.linear.")
        model = with_kept_weights(model, config, new_weights, ("condition_positions.", "text_head."))
        return model, list(range(config.vocab_size))
    new_ids = _start_in_reserve(model, config, tokenizer, name_or_path)
    if own_config.id2label is not None:
        new = {index: name for index, name in config.id2label.items() if index not in own_config.id2label}
        new_ids += model.add_classes(list(new.values()))
    size = model.config.vocab_size
    if config.vocab_size != size:
        model.resize_token_embeddings(config.vocab_size)
        new_ids += range(size, config.vocab_size)
    for name in (*CONDITION_FIELDS, "label2id"):
        setattr(model.config, name, getattr(config, name))
    return model, new_ids


@torch.no_grad()
def _start_in_reserve(
    model: RQTransformerForImageGeneration,
    config: RQTransformerConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    name_or_path: str,
) -> list[int]:
    """Ids of tokens and of the null condition for which a pretrained model has rows that it did not train, and which
    begin as the mean of the trained ones."""
    own_config, old_ids, new_ids = model.config, set(), []
    if tokenizer is not None:
        own = _own_tokenizer(name_or_path)
        old_ids = set(own.get_vocab().values()) if own is not None else set(range(own_config.vocab_size))
        new_ids = sorted(set(tokenizer.get_vocab().values()) - old_ids)
    elif own_config.null_condition_ids is None and config.null_condition_ids is not None:
        old_ids, new_ids = set(own_config.class_ids), list(config.null_condition_ids)
    new_ids = [index for index in new_ids if index < own_config.vocab_size]
    layers = [model.condition_embedding, *([model.text_head.linear] if model.text_head is not None else [])]
    for rows in (values for layer in layers for values in layer.parameters() if new_ids):
        rows[new_ids] = rows[sorted(old_ids)].mean(0)
    return new_ids
