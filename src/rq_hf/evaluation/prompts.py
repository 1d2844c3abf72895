# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`evaluate.py prompts`: whether pictures show what captions ask for, and whether they are copies."""

import argparse
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import datasets
import torch
from torchvision.transforms import functional as TF
from tqdm.auto import tqdm

from .. import metrics
from ..command_line import sampling_settings, selection_settings
from ..metrics.drawing import SHEET_PICTURES
from ..modeling_rqvae import RQVAEModel
from ..selection import candidates_per_prompt
from .models import load_pipeline, used_sampling
from .rows import choose_rows, column_texts, filtered, load_splits, picture_batches, picture_dataset

STYLE_GROUPS = [["3d", "fluent", "flat"]]  # one artist's drawings in three materials
SHIFT = 2  # pixels
# From how many dB on a drawn picture is a copy, compared with what the RQ-VAE makes of a training picture: "exact" is
# the same but for rounding (one level off in one pixel of sixteen is 60 dB), "near" hardly differs to the eye.
COPY_PSNR = {"exact": 60, "near": 30}
PIXELS = "pixels"  # the features that `metrics` and `floors` are of
Features = Callable[[torch.Tensor], torch.Tensor]  # of uint8 pictures `(B, C, height, width)`


def evaluate_prompts(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prompt accuracy of a pipeline, with its floors, and the share of copies."""
    pipe = load_pipeline(arguments)
    if pipe.tokenizer is None:
        raise ValueError(f"`MODEL` must draw captions, got {arguments.model!r}, a pipeline without a tokenizer.")
    sampling = sampling_settings(arguments)
    pipe.transformer.check_sampling(**sampling)
    if arguments.classifier is not None:
        raise ValueError("`--classifier` needs a model of classes, got one of captions.")
    settings = {**sampling, **selection_settings(arguments)}
    candidates_per_prompt(
        1, settings.get("num_candidates"), settings.get("ranker"), None, arguments.acceptance_rate,
        arguments.likelihood_weight,
    )  # fmt: skip
    used = used_sampling(pipe, sampling, arguments)
    splits = load_splits(arguments, "image_column", "caption_column", "concept_column", "style_column")
    originals = None
    if arguments.copies_of is not None:
        if arguments.copies_of not in splits:
            raise ValueError(f"`--copies_of` must be one of {list(splits)}, got {arguments.copies_of!r}.")
        originals = filtered(splits[arguments.copies_of], arguments, "gallery_filter")
    split = filtered(splits[arguments.split], arguments)
    gallery = filtered(datasets.concatenate_datasets(list(splits.values())), arguments, "gallery_filter")
    indices = choose_rows(len(split), arguments.num_prompts, arguments.seed)
    rows = split.select(indices)
    prompts = column_texts(rows, arguments.caption_column)
    asked = column_texts(rows, arguments.concept_column), column_texts(rows, arguments.style_column)
    concepts, styles = (column_texts(gallery, column) for column in (arguments.concept_column, arguments.style_column))
    unknown = {style for group in arguments.style_group or [] for style in group}.difference(styles)
    if unknown:
        raise ValueError(f"`--style_group` must name styles of {sorted(set(styles))}, got {sorted(unknown)}.")

    kinds = feature_kinds(arguments)
    groups = arguments.style_group or STYLE_GROUPS
    shifted = (metrics.shift_down(pictures, SHIFT) for pictures in real_pictures(rows, pipe.rqvae, arguments))
    of_shifted, judges, floors = describe(shifted, kinds), {}, {}
    for name, features in describe(real_pictures(gallery, pipe.rqvae, arguments), kinds).items():
        judges[name] = metrics.PromptAccuracy(features, concepts, styles, groups)
        found = judges[name].floors(*asked, seed=arguments.seed)
        found["shifted"] = judges[name].score(of_shifted[name], *asked)
        floors[name] = {key: {"num_pictures": len(floor), **floor.summary()} for key, floor in found.items()}
        floors[name]["chance"] = {"num_pictures": len(rows), **judges[name].chance(*asked)}

    drawn = []
    with tqdm(total=len(prompts), desc="Drawing prompts", unit="picture") as progress:
        for batch in metrics.drawn_batches(pipe, prompts, indices, arguments.batch_size, arguments.seed, **settings):
            drawn.append(batch)
            progress.update(len(batch))
    scores = {name: judges[name].score(found, *asked) for name, found in describe(drawn, kinds).items()}
    drawn = torch.cat(drawn)
    if arguments.save_pictures is not None:
        nearest = gallery.select(scores[PIXELS].nearest.tolist())
        shown = real_pictures(nearest.select(range(min(len(nearest), SHEET_PICTURES))), pipe.rqvae, arguments)
        metrics.save_drawn_pictures(
            arguments.save_pictures,
            [TF.to_pil_image(picture) for picture in drawn],
            prompts,
            scores[PIXELS],
            [TF.to_pil_image(picture) for batch in shown for picture in batch],
            column_texts(nearest, arguments.concept_column),
        )
    judged = {name: {"metrics": scores[name].summary(), "floors": floors[name]} for name in kinds}
    results = {"num_pictures": len(rows), **judged.pop(PIXELS), "features": judged}
    if originals is not None:
        results["copies"] = copies(drawn, originals, pipe.rqvae, arguments)
    return {**results, "sampling": used}


def feature_kinds(arguments: argparse.Namespace) -> dict[str, Features]:
    """What pictures are compared by: pixels, and the nets that are asked for."""

    def features_of(net: metrics.FeatureExtractor) -> Features:
        net.to(arguments.device)
        return lambda pictures: metrics.extract(net, metrics.to_rgb(pictures).to(arguments.device))["features"]

    nets = metrics.feature_extractors(arguments.feature_extractor, arguments.inception_weights)
    if PIXELS in [net.name for net in nets]:
        raise ValueError(f"`--feature_extractor` must not be called {PIXELS!r}, the name of what needs no net.")
    return {PIXELS: metrics.pooled_pixels, **{net.name: features_of(net) for net in nets}}


def describe(batches: Iterable[torch.Tensor], kinds: dict[str, Features]) -> dict[str, torch.Tensor]:
    """All features of the pictures, `(B, F)` of each kind."""
    found: dict[str, list[torch.Tensor]] = {name: [] for name in kinds}
    for pictures in batches:
        for name, features in kinds.items():
            found[name].append(features(pictures))
    return {name: torch.cat(parts) for name, parts in found.items()}


def real_pictures(rows: datasets.Dataset, rqvae: RQVAEModel, arguments: argparse.Namespace) -> Iterator[torch.Tensor]:
    """Batches of uint8 pictures `(B, C, height, width)`."""
    for batch in picture_batches(picture_dataset(rows, rqvae, arguments), arguments):
        yield metrics.stored_pictures(batch)


@torch.no_grad()
def copies(
    drawn: torch.Tensor, rows: datasets.Dataset, rqvae: RQVAEModel, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Parts of the drawn pictures that are what the RQ-VAE makes of one of these pictures, exactly or nearly."""
    batches = picture_batches(picture_dataset(rows, rqvae, arguments), arguments)
    codes = (rqvae.encode(batch.to(rqvae.device, rqvae.dtype)) for batch in batches)
    errors = metrics.nearest_errors(drawn, (metrics.stored_pictures(rqvae.decode(each)).cpu() for each in codes))
    shares = {name: (errors <= 10 ** (-psnr / 10)).double().mean().item() for name, psnr in COPY_PSNR.items()}
    return {"split": arguments.copies_of, "num_pictures": len(rows), **shares}
