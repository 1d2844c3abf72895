# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`evaluate.py likelihood`: how well a transformer predicts the codes of pictures, in several dtypes.

Symbols: B pictures of a batch, H, W, D positions and depth of a code map, K code vectors.
"""

import argparse
from typing import Any

import datasets
import torch

from ..modeling_rq_transformer import RQTransformerForImageGeneration
from ..pipeline_rq_image_generation import RQImageGenerationPipeline
from .models import load_pipeline, load_transformer
from .rows import choose_rows, column_texts, filtered, load_splits, picture_batches, picture_dataset


@torch.no_grad()
def evaluate_likelihood(arguments: argparse.Namespace) -> dict[str, Any]:
    """Of each dtype the nats that a code costs where the true codes come before it, as a mean and by depth; how much
    more that is than in the first dtype, and the part of the likeliest codes that are the same."""
    pipe = load_pipeline(arguments, "float32")
    if arguments.label_column is not None and pipe.tokenizer is not None:
        raise ValueError(
            f"`--label_column` must not be given for a model of captions, got {arguments.label_column!r}."
        )
    columns = ["image_column"]
    columns += ["caption_column"] if pipe.tokenizer is not None else []
    columns += ["label_column"] if arguments.label_column is not None else []
    split = filtered(load_splits(arguments, *columns)[arguments.split], arguments)
    rows = split.select(choose_rows(len(split), arguments.num_pictures, arguments.seed, "--num_pictures"))
    conditions = condition_ids(pipe, rows, arguments).split(arguments.batch_size)
    batches = picture_batches(picture_dataset(rows, pipe.rqvae, arguments), arguments)
    codes = [pipe.rqvae.encode(batch.to(pipe.rqvae.device)) for batch in batches]
    measured: list[dict[str, Any]] = []
    likeliest: list[torch.Tensor] = []  # of the first dtype
    for dtype in arguments.dtype:
        transformer = load_transformer(arguments, dtype)
        costs, found = [], []
        for input_ids, of_pictures in zip(conditions, codes, strict=True):
            cost, best = predicted(transformer, input_ids.to(transformer.device), of_pictures)
            costs.append(cost)
            found.append(best)
        by_depth = torch.cat(costs).mean((0, 1, 2))
        loss = by_depth.mean().item()
        likeliest = likeliest or found
        first = measured[0]["loss"] if measured else loss
        equal = torch.cat([ours == theirs for ours, theirs in zip(found, likeliest, strict=True)])
        measured.append(
            {
                "dtype": dtype,
                "loss": loss,
                "relative difference": loss / first - 1,
                "same likeliest codes": equal.double().mean().item(),
                **{f"loss_depth_{depth}": value.item() for depth, value in enumerate(by_depth, start=1)},
            }
        )
    return {"num_pictures": len(rows), "metrics": {"loss": measured[0]["loss"]}, "rows": measured}


def condition_ids(
    pipe: RQImageGenerationPipeline, rows: datasets.Dataset, arguments: argparse.Namespace
) -> torch.LongTensor:
    """`(N, S)` of all rows: captions, class labels where there is no tokenizer, or nothing."""
    if pipe.tokenizer is not None:
        return pipe.encode_prompt(column_texts(rows, arguments.caption_column))
    if arguments.label_column is not None:
        column = arguments.label_column
        is_named = isinstance(rows.features[column], datasets.ClassLabel)
        labels = column_texts(rows, column) if is_named else list(rows[column])
        names = (pipe.transformer.config.id2label or {}).values()
        labels = [str(label) if str(label) in names else label for label in labels]  # names may be whole numbers
        return torch.tensor(pipe.get_label_ids(labels))[:, None]
    if pipe.transformer.config.vocab_size > 1:
        raise ValueError("`--label_column` must be given for a model of classes, got none.")
    return torch.zeros(len(rows), 1, dtype=torch.long)


def predicted(
    transformer: RQTransformerForImageGeneration, input_ids: torch.LongTensor, codes: torch.LongTensor
) -> tuple[torch.Tensor, torch.LongTensor]:
    """Nats of each code `(B, H, W, D)` where the codes before it are known, in fp64, and the likeliest codes."""
    log_probabilities = transformer(input_ids, codes).logits.double().log_softmax(-1)
    costs = -log_probabilities.gather(-1, codes[..., None])[..., 0]
    return costs.cpu(), log_probabilities.argmax(-1).cpu()
