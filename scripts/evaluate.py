# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Measures an RQ-VAE or a pipeline on a data set, prints a table and writes a JSON file that model cards can read.

    python scripts/evaluate.py reconstruction MODEL --dataset_name data/emoji-64 --split test_combos --filter tone=default
    python scripts/evaluate.py prompts MODEL --dataset_name data/emoji-64 --split train --num_prompts 512 --seed 0

MODEL is a Hub id or folder. `reconstruction` takes an RQ-VAE or a pipeline and gives PSNR, SSIM, losses and the use of
the codes, for all depths and depth by depth. `prompts` takes a pipeline of captions, draws one picture per prompt and
gives prompt accuracy (see rq_hf.metrics.PromptAccuracy) with the floors to compare it with; every split gives real
pictures. Both need `pip install "rq_hf[train,eval]"`.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import httpx
import torch
from huggingface_hub.utils import validate_repo_id
from PIL import Image
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

import rq_hf
from rq_hf import RQImageGenerationPipeline, RQVAEModel, metrics
from rq_hf.picture_grid import picture_grid
from rq_hf.pipeline_rq_image_generation import component_subfolder
from rq_hf.training.data import (
    TRANSFORMS,
    PictureDataset,
    check_column,
    parse_filter,
    sample_generator,
    select_rows,
)

SAMPLING_OPTIONS = ("temperature", "top_k", "top_p", "guidance_scale")
STYLE_GROUPS = [["3d", "fluent", "flat"]]  # one artist's drawings in three materials
SHIFT = 2  # pixels
SHEET_PICTURES, SHEET_COLUMNS = 64, 4
FLOOR_NAMES = {
    "other_style_copy": "copy of another style",
    "other_styles_mean": "mean of the other styles",
    "shifted": f"real picture, {SHIFT} px lower",
    "chance": "chance",
}


def one_or_more(kind):
    """Parses "0.9" as a number and "0.9,0.8" as one per depth."""

    def parse(text: str):
        values = [kind(part) for part in text.split(",")]
        return values[0] if len(values) == 1 else values

    parse.__name__ = f"{kind.__name__} or comma-separated list"
    return parse


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("model", metavar="MODEL", help="Hub id or folder")
    common.add_argument("--revision", help="the model's revision on the Hub")
    common.add_argument("--dataset_name", required=True, help="Hub id or folder of a data set")
    common.add_argument("--dataset_config_name", help="its configuration")
    common.add_argument("--split", required=True, help="split to measure")
    common.add_argument("--image_column", default="image")
    common.add_argument("--transform", choices=sorted(TRANSFORMS), default="center_crop", help="its evaluation part")
    common.add_argument("--batch_size", type=int, default=32)
    common.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    common.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    common.add_argument("--output", type=Path, metavar="FILE.json", help="where to write the results")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    filter_help = "keep only rows with COLUMN=VALUE, several separated by commas; "
    reconstruction = commands.add_parser("reconstruction", parents=[common], help="measure an RQ-VAE")
    reconstruction.add_argument("--filter", default="", help=filter_help + "all by default")
    prompts = commands.add_parser("prompts", parents=[common], help="measure a pipeline")
    prompts.add_argument("--filter", default="tone=default", help=filter_help + "%(default)s by default, '' for all")
    prompts.add_argument("--caption_column", default="text", help="strings, or lists of which the first is taken")
    prompts.add_argument("--concept_column", default="concept")
    prompts.add_argument("--style_column", default="style")
    prompts.add_argument(
        "--style_group", nargs="+", action="append", metavar="STYLE",
        help="styles that count as one; may be repeated; by default: 3d fluent flat",
    )  # fmt: skip
    prompts.add_argument("--num_prompts", type=int, help="a random sample of the rows; all by default")
    prompts.add_argument("--seed", type=int, default=0, help="of the sample of rows, the pictures and the floors")
    prompts.add_argument("--temperature", type=one_or_more(float), help="one number, or one per depth: 1,1,0.9,0.8")
    prompts.add_argument("--top_k", type=one_or_more(int), help="one number, or one per depth")
    prompts.add_argument("--top_p", type=one_or_more(float), help="one number, or one per depth")
    prompts.add_argument("--guidance_scale", type=float, help="classifier-free guidance, 1: off")
    prompts.add_argument(
        "--save_pictures", type=Path, metavar="DIR",
        help="new folder for the pictures, their scores and a sheet of the first ones beside the nearest real ones",
    )  # fmt: skip
    return parser.parse_args(argv)


def check_arguments(arguments: argparse.Namespace) -> None:
    if arguments.batch_size < 1:
        raise ValueError(f"`--batch_size` must be at least 1, got {arguments.batch_size}.")
    if not Path(arguments.model).is_dir():
        try:
            validate_repo_id(arguments.model)
        except ValueError as error:
            raise ValueError(f"`MODEL` must be a folder or a Hub id, got {arguments.model!r}.") from error
    if arguments.command == "prompts":
        if arguments.num_prompts is not None and arguments.num_prompts < 1:
            raise ValueError(f"`--num_prompts` must be at least 1, got {arguments.num_prompts}.")
        folder = arguments.save_pictures
        if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"`--save_pictures` must be a new or empty folder, got {str(folder)!r}.")
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)


def load_splits(arguments: argparse.Namespace, columns: Sequence[str]) -> datasets.DatasetDict:
    """All splits of the data set, of which `--split` is one and has these columns."""
    splits = datasets.load_dataset(arguments.dataset_name, arguments.dataset_config_name)
    if arguments.split not in splits:
        raise ValueError(f"`--split` must be one of {list(splits)}, got {arguments.split!r}.")
    for name in columns:
        check_column(splits[arguments.split], getattr(arguments, name), name)
    return splits


def filtered(rows: datasets.Dataset, arguments: argparse.Namespace) -> datasets.Dataset:
    return select_rows(rows, parse_filter(arguments.filter)) if arguments.filter else rows


def column_texts(rows: datasets.Dataset, column: str) -> list[str]:
    """A column as texts: the names of class labels, the first of lists."""
    values, feature = list(rows[column]), rows.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return feature.int2str(values)
    return [str(value[0] if isinstance(value, (list, tuple)) else value) for value in values]


def picture_batches(
    rows: datasets.Dataset, rqvae: RQVAEModel, arguments: argparse.Namespace, description: str
) -> Iterator[torch.Tensor]:
    """Pixels `(B, C, height, width)` in [-1, 1] of the pictures, sized as the model's."""
    config = rqvae.config
    pictures = PictureDataset(
        rows, config.image_size, config.num_channels, arguments.image_column, arguments.transform, training=False
    )
    for batch in tqdm(DataLoader(pictures, batch_size=arguments.batch_size), desc=description, unit="batch"):
        yield batch["pixel_values"]


def evaluate_reconstruction(arguments: argparse.Namespace) -> dict[str, Any]:
    rqvae = RQVAEModel.from_pretrained(
        arguments.model,
        subfolder=component_subfolder(arguments.model, "rqvae"),
        revision=arguments.revision,
        use_safetensors=True,
        dtype=getattr(torch, arguments.dtype),
    )
    rqvae.to(arguments.device).eval()
    rows = filtered(load_splits(arguments, ["image_column"])[arguments.split], arguments)
    batches = picture_batches(rows, rqvae, arguments, "Reconstructing")
    results, depths = metrics.measure_reconstruction(rqvae, batches)
    return {"num_pictures": len(rows), "metrics": results, "depths": depths}


def evaluate_prompts(arguments: argparse.Namespace) -> dict[str, Any]:
    pipe = load_pipeline(arguments)
    splits = load_splits(arguments, ["image_column", "caption_column", "concept_column", "style_column"])
    split = filtered(splits[arguments.split], arguments)
    number = len(split) if arguments.num_prompts is None else arguments.num_prompts
    if number > len(split):
        raise ValueError(f"`--num_prompts` must be at most the {len(split)} rows of the split, got {number}.")
    indices = list(range(len(split)))
    if number < len(split):
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(arguments.seed))
        indices = order[:number].tolist()
    rows = split.select(indices)
    prompts = column_texts(rows, arguments.caption_column)
    pipe.encode_prompt(prompts)  # Refuses what it cannot draw before anything is drawn.
    asked = column_texts(rows, arguments.concept_column), column_texts(rows, arguments.style_column)

    gallery = filtered(datasets.concatenate_datasets(list(splits.values())), arguments)
    styles = column_texts(gallery, arguments.style_column)
    unknown = {style for group in arguments.style_group or [] for style in group}.difference(styles)
    if unknown:
        raise ValueError(f"`--style_group` must name styles of the data set, {sorted(set(styles))}, got {unknown}.")
    accuracy = metrics.PromptAccuracy(
        torch.cat([metrics.pooled_pixels(batch) for batch in real_pictures(gallery, pipe, arguments, "Real pictures")]),
        column_texts(gallery, arguments.concept_column),
        styles,
        arguments.style_group or STYLE_GROUPS,
    )
    shifted = [
        metrics.pooled_pixels(metrics.shift_down(batch, SHIFT))
        for batch in real_pictures(rows, pipe, arguments, "Floors")
    ]
    floors = {**accuracy.floors(*asked, seed=arguments.seed), "shifted": accuracy.score(torch.cat(shifted), *asked)}
    floors = {name: {"num_pictures": len(scores), **scores.summary()} for name, scores in floors.items()}
    floors["chance"] = {"num_pictures": number, **accuracy.chance(*asked)}

    folder = arguments.save_pictures
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    features, shown = [], []
    for picture in generated_pictures(pipe, prompts, indices, arguments):
        if folder is not None:
            shown.append(Image.fromarray(picture.permute(1, 2, 0).squeeze(-1).numpy()))
            shown[-1].save(folder / f"{len(shown) - 1:05d}.png")
            del shown[-1].tmp
        features.append(metrics.pooled_pixels(picture[None]))
    scores = accuracy.score(torch.cat(features), *asked)
    return {"num_pictures": number, "metrics": scores.summary(), "floors": floors}
