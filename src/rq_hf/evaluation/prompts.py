# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`evaluate.py prompts`: whether pictures show what captions ask for."""

import argparse
from collections.abc import Callable
from typing import Any

import datasets
import torch
from torchvision.transforms import functional as TF
from tqdm.auto import tqdm

from .. import metrics
from ..command_line import sampling_settings, selection_settings
from ..metrics.drawing import SHEET_PICTURES
from .models import load_pipeline, used_sampling
from .rows import choose_rows, column_texts, filtered, load_splits, picture_batches, picture_dataset

STYLE_GROUPS = [["3d", "fluent", "flat"]]  # one artist's drawings in three materials
SHIFT = 2  # pixels


def evaluate_prompts(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prompt accuracy of a pipeline, with its floors."""
    pipe = load_pipeline(arguments)
    if pipe.tokenizer is None:
        raise ValueError(f"`MODEL` must draw captions, got {arguments.model!r}, a pipeline without a tokenizer.")
    splits = load_splits(arguments, "image_column", "caption_column", "concept_column", "style_column")
    split = filtered(splits[arguments.split], arguments)
    gallery = filtered(datasets.concatenate_datasets(list(splits.values())), arguments, "gallery_filter")
    indices = choose_rows(len(split), arguments.num_prompts, arguments.seed)
    rows = split.select(indices)
    prompts = column_texts(rows, arguments.caption_column)
    pipe.encode_prompt(prompts)  # refuses here, before hours of drawing, what it cannot draw
    asked = column_texts(rows, arguments.concept_column), column_texts(rows, arguments.style_column)
    concepts, styles = (column_texts(gallery, column) for column in (arguments.concept_column, arguments.style_column))
    unknown = {style for group in arguments.style_group or [] for style in group}.difference(styles)
    if unknown:
        raise ValueError(f"`--style_group` must name styles of {sorted(set(styles))}, got {sorted(unknown)}.")

    def features(rows: datasets.Dataset, change: Callable[[torch.Tensor], torch.Tensor] = lambda same: same):
        pixels = picture_batches(picture_dataset(rows, pipe.rqvae, arguments), arguments)
        batches = (metrics.to_uint8((batch + 1) / 2) for batch in pixels)
        return torch.cat([metrics.pooled_pixels(change(pictures)) for pictures in batches])

    groups = arguments.style_group or STYLE_GROUPS
    accuracy = metrics.PromptAccuracy(features(gallery), concepts, styles, groups)
    floors = {
        **accuracy.floors(*asked, seed=arguments.seed),
        "shifted": accuracy.score(features(rows, lambda pictures: metrics.shift_down(pictures, SHIFT)), *asked),
    }
    sampling, selection, drawn = sampling_settings(arguments), selection_settings(arguments), []
    settings = {**sampling, **selection}
    with tqdm(total=len(prompts), desc="Drawing prompts", unit="picture") as progress:
        for batch in metrics.drawn_batches(pipe, prompts, indices, arguments.batch_size, arguments.seed, **settings):
            drawn.append(batch)
            progress.update(len(batch))
    drawn = torch.cat(drawn)
    scores = accuracy.score(metrics.pooled_pixels(drawn), *asked)
    if arguments.save_pictures is not None:
        nearest = gallery.select(scores.nearest.tolist())
        metrics.save_drawn_pictures(
            arguments.save_pictures,
            [TF.to_pil_image(picture) for picture in drawn],
            prompts,
            scores,
            nearest.select(range(min(len(nearest), SHEET_PICTURES)))[arguments.image_column],
            column_texts(nearest, arguments.concept_column),
        )
    return {
        "num_pictures": len(rows),
        "metrics": scores.summary(),
        "floors": {
            **{name: {"num_pictures": len(floor), **floor.summary()} for name, floor in floors.items()},
            "chance": {"num_pictures": len(rows), **accuracy.chance(*asked)},
        },
        "sampling": used_sampling(pipe, sampling, arguments),
    }
