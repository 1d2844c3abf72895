# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
r"""Measures an RQ-VAE or a pipeline on a data set, prints a table and writes a JSON file that model cards can read.

    python scripts/evaluate.py rqvae MODEL --dataset_name data/emoji-64 --split test_combos \
        --filter tone=default --output rqvae.json
    python scripts/evaluate.py prompts MODEL --dataset_name data/emoji-64 --split train --num_prompts 512 \
        --output prompts.json

MODEL is a Hub id or folder. `rqvae` takes an RQ-VAE or a pipeline and gives PSNR, SSIM, losses, Frechet distance and
the use of the codes, for all depths and depth by depth; beside rqvae.json it leaves rqvae-reconstructions.png, some
pictures coarse to fine, and rqvae-code-norms.png, the codes of each depth by the norm of their vectors. rFID needs
`--feature_extractor inception` and LPIPS `--lpips`, as their weights are downloaded. `prompts` takes a pipeline of
captions, draws one picture per prompt and gives prompt accuracy (see rq_hf.metrics.PromptAccuracy) with the floors to
compare it with; every split gives real pictures. Both need `pip install "rq_hf[train,eval]"`.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import functional as TF
from tqdm.auto import tqdm

from rq_hf import RQImageGenerationPipeline, RQVAEModel, __version__, metrics
from rq_hf.command_line import add_sampling_arguments, sampling_settings
from rq_hf.features import PerceptualLoss
from rq_hf.metrics.drawing import SHEET_PICTURES
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
    rqvae = commands.add_parser("rqvae", parents=[common], help="measure an RQ-VAE")
    rqvae.add_argument("--filter", default="", help=filter_help + "all by default")
    rqvae.add_argument(
        "--feature_extractor", nargs="+", default=["efficientnet_lite0"],
        choices=[*metrics.FEATURE_EXTRACTORS, "none"],
        help="features of the Frechet distance, one or several: inception gives rFID; efficientnet_lite0, the "
        "default, a distance of its own scale, which flatters models trained with that net as `perceptual_backbone`",
    )  # fmt: skip
    rqvae.add_argument("--inception_weights", type=Path, metavar="FILE", help="instead of a download")
    rqvae.add_argument("--lpips", action="store_true", help="measure LPIPS (VGG16) as well")
    rqvae.add_argument("--lpips_weights", type=Path, metavar="FILE", help="of VGG16, instead of a download")
    rqvae.add_argument("--num_pictures", type=int, default=6, help="rows of the sheet of pictures")
    rqvae.add_argument("--seed", type=int, default=0, help="of the pictures on the sheet and of the distance's floor")
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
    for name in ("batch_size", "num_prompts", "num_pictures"):
        number = getattr(arguments, name, None)
        if number is not None and number < 1:
            raise ValueError(f"`--{name}` must be at least 1, got {number}.")
    if arguments.command == "rqvae":
        extractors = arguments.feature_extractor
        if "none" in extractors and len(extractors) > 1:
            raise ValueError(f"`--feature_extractor` must be none or the names of nets, got {extractors}.")
        if arguments.inception_weights is not None and "inception" not in extractors:
            raise ValueError(f"`--inception_weights` needs `--feature_extractor inception`, got {extractors}.")
        if arguments.lpips_weights is not None and not arguments.lpips:
            raise ValueError("`--lpips_weights` needs `--lpips`, which was not given.")
    elif (folder := arguments.save_pictures) is not None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
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


def picture_dataset(rows: datasets.Dataset, rqvae: RQVAEModel, arguments: argparse.Namespace) -> PictureDataset:
    """Pictures of the model's size."""
    config, column = rqvae.config, arguments.image_column
    return PictureDataset(rows, config.image_size, config.num_channels, column, arguments.transform, training=False)


def picture_batches(pictures: PictureDataset, arguments: argparse.Namespace) -> Iterator[torch.Tensor]:
    """Pixels `(B, C, height, width)` in [-1, 1]."""
    for batch in tqdm(DataLoader(pictures, batch_size=arguments.batch_size), desc="Reading pictures", unit="batch"):
        yield batch["pixel_values"]


def evaluate_rqvae(arguments: argparse.Namespace) -> dict[str, Any]:
    dtype = getattr(torch, arguments.dtype)
    rqvae = load_component(RQVAEModel, arguments.model, "rqvae", revision=arguments.revision, dtype=dtype)
    rqvae.to(arguments.device).eval()
    lpips = PerceptualLoss("vgg16", arguments.lpips_weights).to(arguments.device) if arguments.lpips else None
    rows = filtered(load_splits(arguments, "image_column")[arguments.split], arguments)
    extractors = [name for name in dict.fromkeys(arguments.feature_extractor) if name != "none"]
    distances = metrics.reconstruction_distances(
        rqvae, len(rows), extractors, arguments.inception_weights, arguments.seed
    )
    pictures = picture_dataset(rows, rqvae, arguments)
    report = metrics.measure_reconstruction(rqvae, picture_batches(pictures, arguments), distances, lpips)
    results = {
        "num_pictures": report.num_pictures,
        "metrics": report.metrics,
        "depths": report.depths,
        "halves": report.halves,
        "code_norms": {"edges": report.norms.edges, "shares": report.norms.shares},
    }
    if arguments.output is not None:
        chosen = choose_rows(len(rows), min(len(rows), arguments.num_pictures), arguments.seed)
        pixel_values = torch.stack([pictures[index]["pixel_values"] for index in chosen])
        figures = {
            "reconstructions": metrics.coarse_to_fine_sheet(rqvae, pixel_values),
            "code-norms": metrics.code_norm_chart(report.norms),
        }
        for name, figure in figures.items():
            figure.save(arguments.output.with_name(f"{arguments.output.stem}-{name}.png"))
    return results


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
        pixels = picture_batches(picture_dataset(rows, pipe.rqvae, arguments), arguments)
        batches = (metrics.to_uint8((batch + 1) / 2) for batch in pixels)
        return torch.cat([metrics.pooled_pixels(change(pictures)) for pictures in batches])

    groups = arguments.style_group or STYLE_GROUPS
    accuracy = metrics.PromptAccuracy(features(gallery), concepts, styles, groups)
    floors = {
        **accuracy.floors(*asked, seed=arguments.seed),
        "shifted": accuracy.score(features(rows, lambda pictures: metrics.shift_down(pictures, SHIFT)), *asked),
    }
    sampling, drawn = sampling_settings(arguments), []
    with tqdm(total=len(prompts), desc="Drawing prompts", unit="picture") as progress:
        for batch in metrics.drawn_batches(pipe, prompts, indices, arguments.batch_size, arguments.seed, **sampling):
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
        "sampling": {
            name: getattr(pipe.transformer.generation_config, name, None) if given is None else given
            for name, given in sampling.items()
        },
    }


def choose_rows(count: int, number: int | None, seed: int) -> list[int]:
    """All rows, or a random sample of `number`; a larger sample begins with the smaller one."""
    if number is None:
        return list(range(count))
    if number > count:
        raise ValueError(f"`--num_prompts` must be at most {count}, the rows of the split, got {number}.")
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:number].tolist()


def tables(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    if "depths" not in results:
        lines = [("model", results["dataset"]["num_pictures"], *results["metrics"].values())]
        lines += [(FLOOR_NAMES[name], *floor.values()) for name, floor in results["floors"].items()]
        return metrics.markdown_table(["", "pictures", *HIT_NAMES.values()], lines)
    parts = [metrics.markdown_table(["metric", "all depths"], list(results["metrics"].items()))]
    halves = dict(results["halves"])
    if halves:
        header = [
            f"halves of {halves.pop('num_pictures')} pictures",
            "real from real: the floor",
            "reconstructed from real",
        ]
        parts.append(metrics.markdown_table(header, [(name, *values.values()) for name, values in halves.items()]))
    depths = [list(row.values()) for row in results["depths"]]
    parts.append(metrics.markdown_table(list(results["depths"][0]), depths))
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = parse_arguments(argv)
    check_arguments(arguments)
    evaluate = {"rqvae": evaluate_rqvae, "prompts": evaluate_prompts}[arguments.command]
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
        metrics.write_json(arguments.output, results)
    print(tables(results))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
