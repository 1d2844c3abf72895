# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
r"""Measures an RQ-VAE or a pipeline on a data set, prints a table and writes a JSON file that model cards can read.

    python scripts/evaluate.py reconstruction MODEL --dataset_name data/emoji-64 --split test_combos \
        --filter tone=default --output reconstruction.json
    python scripts/evaluate.py prompts MODEL --dataset_name data/emoji-64 --split train --num_prompts 512 \
        --output prompts.json

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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import functional as TF
from tqdm.auto import tqdm

from rq_hf import RQImageGenerationPipeline, RQVAEModel, __version__, metrics
from rq_hf.command_line import add_sampling_arguments, sampling_settings
from rq_hf.picture_grid import picture_grid
from rq_hf.pipeline_rq_image_generation import component_subfolder, load_component
from rq_hf.training.data import (
    TRANSFORMS,
    PictureDataset,
    check_column,
    parse_filter,
    select_rows,
)

STYLE_GROUPS = [["3d", "fluent", "flat"]]  # one artist's drawings in three materials
SHIFT = 2  # pixels
SHEET_PICTURES, SHEET_COLUMNS, TILE_SIZE = 48, 3, 256
HIT_NAMES = {"concept_top1": "concept top-1", "concept_top5": "concept top-5", "style_accuracy": "style"}
FLOOR_NAMES = {
    "other_style_copy": "copy of another style",
    "other_styles_mean": "mean of the other styles",
    "shifted": f"real picture, {SHIFT} px lower",
    "chance": "chance",
}


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
    add_sampling_arguments(prompts)
    prompts.add_argument(
        "--save_pictures", type=Path, metavar="DIR",
        help="new folder for the pictures, their scores and a sheet of the first ones beside the nearest real ones",
    )  # fmt: skip
    return parser.parse_args(argv)


def check_arguments(arguments: argparse.Namespace) -> None:
    if arguments.batch_size < 1:
        raise ValueError(f"`--batch_size` must be at least 1, got {arguments.batch_size}.")
    if arguments.command == "prompts":
        if arguments.num_prompts is not None and arguments.num_prompts < 1:
            raise ValueError(f"`--num_prompts` must be at least 1, got {arguments.num_prompts}.")
        folder = arguments.save_pictures
        if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"`--save_pictures` must be a new or empty folder, got {str(folder)!r}.")
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)


def load_splits(arguments: argparse.Namespace, *columns: str) -> datasets.DatasetDict:
    """All splits; the one to measure has these columns."""
    splits = datasets.load_dataset(arguments.dataset_name, arguments.dataset_config_name)
    if arguments.split not in splits:
        raise ValueError(f"`--split` must be one of {list(splits)}, got {arguments.split!r}.")
    for name in columns:
        check_column(splits[arguments.split], getattr(arguments, name), f"--{name}")
    return splits


def filtered(rows: datasets.Dataset, arguments: argparse.Namespace) -> datasets.Dataset:
    return select_rows(rows, parse_filter(arguments.filter)) if arguments.filter else rows


def column_texts(rows: datasets.Dataset, column: str) -> list[str]:
    """A column as texts: the names of class labels, the first of lists."""
    values, feature = list(rows[column]), rows.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return feature.int2str(values)
    return [str(value[0] if isinstance(value, list) else value) for value in values]


def picture_batches(
    rows: datasets.Dataset, rqvae: RQVAEModel, arguments: argparse.Namespace
) -> Iterator[torch.Tensor]:
    """Pixels `(B, C, height, width)` in [-1, 1] of pictures of the model's size."""
    config, column = rqvae.config, arguments.image_column
    pictures = PictureDataset(
        rows, config.image_size, config.num_channels, column, arguments.transform, training=False
    )
    for batch in tqdm(DataLoader(pictures, batch_size=arguments.batch_size), desc="Reading pictures", unit="batch"):
        yield batch["pixel_values"]


def evaluate_reconstruction(arguments: argparse.Namespace) -> dict[str, Any]:
    dtype = getattr(torch, arguments.dtype)
    rqvae = load_component(RQVAEModel, arguments.model, "rqvae", revision=arguments.revision, dtype=dtype)
    rqvae.to(arguments.device).eval()
    rows = filtered(load_splits(arguments, "image_column")[arguments.split], arguments)
    totals, depths = metrics.measure_reconstruction(rqvae, picture_batches(rows, rqvae, arguments))
    return {"num_pictures": len(rows), "metrics": totals, "depths": depths}


def load_pipeline(arguments: argparse.Namespace) -> RQImageGenerationPipeline:
    """A pipeline that draws captions, on its device."""
    if not component_subfolder(arguments.model, "transformer"):
        raise ValueError(f"`MODEL` must be a pipeline (with a model_index.json), got {arguments.model!r}.")
    pipe = RQImageGenerationPipeline.from_pretrained(
        arguments.model, revision=arguments.revision, dtype=getattr(torch, arguments.dtype)
    )
    if pipe.tokenizer is None:
        raise ValueError(f"`MODEL` must draw captions, got {arguments.model!r}, a pipeline without a tokenizer.")
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(arguments.device)


def evaluate_prompts(arguments: argparse.Namespace) -> dict[str, Any]:
    pipe = load_pipeline(arguments)
    splits = load_splits(arguments, "image_column", "caption_column", "concept_column", "style_column")
    split = filtered(splits[arguments.split], arguments)
    gallery = filtered(datasets.concatenate_datasets(list(splits.values())), arguments)
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
        batches = (metrics.to_uint8((pixels + 1) / 2) for pixels in picture_batches(rows, pipe.rqvae, arguments))
        return torch.cat([metrics.pooled_pixels(change(pictures)) for pictures in batches])

    groups = arguments.style_group or STYLE_GROUPS
    accuracy = metrics.PromptAccuracy(features(gallery), concepts, styles, groups)
    floors = {
        **accuracy.floors(*asked, seed=arguments.seed),
        "shifted": accuracy.score(features(rows, lambda pictures: metrics.shift_down(pictures, SHIFT)), *asked),
    }
    drawn = torch.cat(list(generated_batches(pipe, prompts, indices, arguments)))
    scores = accuracy.score(metrics.pooled_pixels(drawn), *asked)
    if arguments.save_pictures is not None:
        save_pictures(drawn, scores, rows, gallery, arguments)
    return {
        "num_pictures": len(rows),
        "metrics": scores.summary(),
        "floors": {
            **{name: {"num_pictures": len(floor), **floor.summary()} for name, floor in floors.items()},
            "chance": {"num_pictures": len(rows), **accuracy.chance(*asked)},
        },
        "sampling": {
            name: getattr(pipe.transformer.generation_config, name, None) if given is None else given
            for name, given in sampling_settings(arguments).items()
        },
    }


def choose_rows(count: int, number: int | None, seed: int) -> list[int]:
    """All rows, or a random sample of `number`; a larger sample begins with the smaller one."""
    if number is None:
        return list(range(count))
    if number > count:
        raise ValueError(f"`--num_prompts` must be at most {count}, the rows of the split, got {number}.")
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:number].tolist()


def picture_generator(seed: int, index: int) -> torch.Generator:
    """A generator that depends on nothing but its two numbers."""
    words = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0]) >> 1)


def generated_batches(
    pipe: RQImageGenerationPipeline, prompts: list[str], indices: list[int], arguments: argparse.Namespace
) -> Iterator[torch.Tensor]:
    """Pictures `(B, C, height, width)`, uint8, one per prompt, each seeded by the seed and its row in the split."""
    sampling = sampling_settings(arguments)
    with tqdm(total=len(prompts), desc="Drawing prompts", unit="picture") as progress:
        for start in range(0, len(prompts), arguments.batch_size):
            part = slice(start, start + arguments.batch_size)
            generators = [picture_generator(arguments.seed, index) for index in indices[part]]
            pictures = pipe(prompts[part], generator=generators, output_type="pt", **sampling).images
            progress.update(len(pictures))
            yield metrics.to_uint8(pictures).cpu()


def save_pictures(
    pictures: torch.Tensor,
    scores: metrics.PromptScores,
    rows: datasets.Dataset,
    gallery: datasets.Dataset,
    arguments: argparse.Namespace,
) -> None:
    """The pictures as PNG files, metadata.jsonl with their prompts and scores, and sheet.png of the first ones."""
    folder = arguments.save_pictures
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [TF.to_pil_image(picture) for picture in pictures]
    prompts = column_texts(rows, arguments.caption_column)
    nearest = column_texts(gallery.select(scores.nearest.tolist()), arguments.concept_column)
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as file:
        for index, picture in enumerate(drawn):
            picture.save(folder / f"{index:05d}.png")
            entry = {
                "file_name": f"{index:05d}.png",
                "prompt": prompts[index],
                "concept_rank": scores.concept_rank[index].item(),
                "style_hit": scores.style_hit[index].item(),
                "nearest_concept": nearest[index],
            }
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    rows_of_tiles, captions = [], []
    for start in range(0, min(len(drawn), SHEET_PICTURES), SHEET_COLUMNS):
        part = range(start, min(len(drawn), start + SHEET_COLUMNS))
        real = [gallery[scores.nearest[index].item()][arguments.image_column] for index in part]
        rows_of_tiles.append([tile for index, each in zip(part, real, strict=True) for tile in (drawn[index], each)])
        captions.append([text for index in part for text in (prompts[index], f"nearest: {nearest[index]}")])
    picture_grid(rows_of_tiles, captions, tile_size=TILE_SIZE).save(folder / "sheet.png")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    texts = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *texts])


def tables(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    if "depths" in results:
        depths = [list(row.values()) for row in results["depths"]]
        totals = markdown_table(["metric", "all depths"], list(results["metrics"].items()))
        return totals + "\n\n" + markdown_table(list(results["depths"][0]), depths)
    lines = [("model", results["dataset"]["num_pictures"], *results["metrics"].values())]
    lines += [(FLOOR_NAMES[name], *floor.values()) for name, floor in results["floors"].items()]
    return markdown_table(["", "pictures", *HIT_NAMES.values()], lines)


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Writes the file as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = parse_arguments(argv)
    check_arguments(arguments)
    evaluate = {"reconstruction": evaluate_reconstruction, "prompts": evaluate_prompts}[arguments.command]
    measured = evaluate(arguments)
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    results = {
        "dataset": {
            "name": arguments.dataset_name,
            "config": arguments.dataset_config_name,
            "split": arguments.split,
            "filter": arguments.filter,
            "num_pictures": measured.pop("num_pictures"),
        },
        "model": arguments.model,
        **measured,
        "command": shlex.join(["python", "scripts/evaluate.py", *argv]),
        "settings": {**settings, "rq_hf_version": __version__, "torch_version": torch.__version__},
    }
    if arguments.output is not None:
        write_json(arguments.output, results)
    print(tables(results))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
