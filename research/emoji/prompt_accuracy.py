# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Draw a picture for each prompt and measure how many show what was asked for, judged by the nearest real pictures.

    python research/emoji/prompt_accuracy.py MODEL --dataset_name data/emoji-64 --split train --output prompts.json

The data set has the columns `concept` and `style`, which say what a caption asks for. Real pictures of all its splits
judge. Pictures are drawn into a folder; one that is there is not drawn again. `accelerate launch` runs this in any
number of processes. Needs `pip install ".[eval]"` in a clone.
"""

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import ConcatDataset, Dataset

from rq_hf.cli import errors_in_one_line, options
from rq_hf.cli.evaluate import (
    COUNT,
    EXTRACTORS,
    add_arguments,
    captions,
    evaluate,
    given,
    random_rows,
    read_samples,
)
from rq_hf.evaluation.features import ImageFiles, build_extractor, extract_features, sample_batches
from rq_hf.evaluation.generation import generate_images, process_state, used_sampling
from rq_hf.evaluation.report import write_report
from rq_hf.files import write_whole
from rq_hf.images import image_grid, to_pil, to_rgb, to_uint8
from rq_hf.models import RQVAEModel
from rq_hf.pipelines import RQImageGenerationPipeline
from rq_hf.training.data import read_dataset


def read_prompts(path: str | Path) -> list[dict[str, str | None]]:
    """Reads a JSON Lines file of prompts, see [`evaluate_prompts`]. An error names the line."""
    prompts = []
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), start=1):
        try:
            prompts += [dict(json.loads(line))] if line.strip() else []
        except (ValueError, TypeError) as error:
            raise ValueError(f"`prompts` {str(path)!r}, line {number}, must be a JSON object: {error}.") from error
    return prompts


def judge_prompts(
    features: torch.Tensor,
    prompts: Sequence[Mapping[str, str | None]],
    real: Mapping[str, Any],
    style_groups: Sequence[Sequence[str]] = (),
) -> list[dict[str, Any]]:
    """
    Compares each drawn picture with all real ones by the Euclidean distance of features.

    Args:
        features (`torch.Tensor` of shape `(N, F)`): Of the drawn pictures.
        prompts (`Sequence[Mapping]`): Their prompts, see [`evaluate_prompts`].
        real (`Mapping`): `features` `(R, F)`, `concept` and `style` of the real pictures, see [`extract_features`].
        style_groups (`Sequence[Sequence[str]]`, *optional*): For `style_hit` the styles of a group count as one.

    Returns:
        `list[dict]` of N rows: the prompt, the index `nearest` of the nearest real picture, its `nearest_concept`, and
        `rank`, the number of real pictures that are nearer than the nearest of the concept. For a prompt with a style
        also `style_hit`, whether the nearest picture of the concept has the style, and `rank_in_style`, the rank among
        the pictures of the style, or `None` if none of them shows the concept. Ties count as hits.
    """
    concepts, styles = np.array(real["concept"]), np.array(real["style"])
    rows = []
    for prompt, feature in zip(prompts, features, strict=True):
        # Not by matrix products: equal pictures must be equally near.
        distances = torch.cdist(feature[None], real["features"], compute_mode="donot_use_mm_for_euclid_dist")[0]
        distances = distances.numpy()
        nearest, shows_concept = int(distances.argmin()), concepts == prompt["concept"]
        least = distances[shows_concept].min()
        row = {"rank": int((distances < least).sum()), "nearest": nearest, "nearest_concept": real["concept"][nearest]}
        style = prompt.get("style")
        if style is not None:
            in_style = styles == style
            in_group = np.isin(styles, next((group for group in style_groups if style in group), [style]))
            row["style_hit"] = bool((distances[shows_concept & in_group] <= least).any())
            of_both = distances[shows_concept & in_style]
            row["rank_in_style"] = int((distances[in_style] < of_both.min()).sum()) if len(of_both) else None
        rows.append({**prompt, **row})
    return rows


def prompt_accuracy(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """
    Summarizes the rows of [`judge_prompts`] as shares of hits, each followed by its standard error (`top1_error`).

    - `top1`, `top5`: the nearest real picture of any style, or one of the five nearest, shows the concept;
    - `style` (of the prompts with a style): the nearest real picture of the concept has the style;
    - `top1_in_style`, `top5_in_style`: as `top1` and `top5`, among the real pictures of the style.
    """
    ranks = [row["rank_in_style"] for row in rows if row.get("rank_in_style") is not None]
    hits = {f"top{count}": [row["rank"] < count for row in rows] for count in (1, 5)}
    hits["style"] = [row["style_hit"] for row in rows if "style_hit" in row]
    hits |= {f"top{count}_in_style": [rank < count for rank in ranks] for count in (1, 5)}
    return shares({name: values for name, values in hits.items() if values})


def shares(hits: Mapping[str, Sequence[bool]]) -> dict[str, float]:
    """The share of hits under each name, followed by its standard error (`name_error`)."""
    figures = {}
    for name, values in hits.items():
        figures[name] = sum(values) / len(values)
        figures[f"{name}_error"] = (figures[name] * (1 - figures[name]) / len(values)) ** 0.5
    return figures


@torch.no_grad()
def copy_rates(drawn: Dataset, originals: Dataset, rqvae: RQVAEModel, batch_size: int = 32) -> dict[str, float]:
    """
    Measures how many drawn pictures are copies of a training picture as the RQ-VAE reconstructs it (App. B.2).

    Items of both sets are `{"pixel_values": (C, h, w)}` in [-1, 1].

    Returns:
        `dict` with the shares `exact_copies` (at least 60 dB, equal up to rounding) and `near_copies` (at least 30
        dB, hardly different to the eye; exact ones included), each followed by its standard error.
    """
    batches = (to_rgb(batch["pixel_values"]) for batch in sample_batches(drawn, batch_size))
    flat = torch.cat([to_uint8(pixel_values).flatten(1) for pixel_values in batches]).double()
    least = torch.full((len(flat),), torch.inf, dtype=torch.float64)  # squared distance to the nearest original
    for batch in sample_batches(originals, batch_size):
        decoded = rqvae.decode(rqvae.encode(batch["pixel_values"].to(rqvae.device)))
        real = to_uint8(to_rgb(decoded)).cpu().flatten(1).double()  # products of integers are exact in fp64
        squares = flat.square().sum(1)[:, None] + real.square().sum(1) - 2 * flat @ real.T  # (N, B)
        least = torch.minimum(least, squares.min(1).values)
    mse = least / (flat.shape[1] * 255**2)  # of pixels in [0, 1]: 1e-6 is 60 dB, 1e-3 is 30 dB
    return shares({"exact_copies": (mse <= 1e-6).tolist(), "near_copies": (mse <= 1e-3).tolist()})


def evaluate_prompts(
    pipe: RQImageGenerationPipeline,
    prompts: Sequence[Mapping[str, str | None]] | str | Path,
    samples: Dataset,
    folder: str | Path,
    *,
    numbers: Sequence[int] | None = None,
    extractor: str | nn.Module = "lite0",
    style_groups: Sequence[Sequence[str]] = (),
    originals: Dataset | None = None,
    batch_size: int = 32,
    seed: int = 0,
    output: str | Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """
    Draws a picture for each prompt and measures how many show what was asked for.

    Args:
        pipe, folder, numbers, batch_size, seed, options: See [`generate_images`].
        prompts (`Sequence[Mapping]`, `str` or `Path`): `prompt`, `concept` and optionally `style` of each, or a JSON
            Lines file of such objects. Real pictures must have these concepts and styles.
        samples (`Dataset`): The real pictures, those held out included: `pixel_values` `(C, h, w)` in [-1, 1],
            `concept` and `style`.
        extractor (`str` or `nn.Module`, *optional*, defaults to `"lite0"`): See [`build_extractor`].
        style_groups (`Sequence[Sequence[str]]`, *optional*): Styles that count as one, see [`judge_prompts`].
        originals (`Dataset`, *optional*): Training pictures; adds the shares of copies, see [`copy_rates`].
        output (`str` or `Path`, *optional*): Writes the results (`.json`), a table (`.md`), what was found for each
            prompt (`.jsonl`) and a sheet of the first 24 pictures beside the nearest real ones (`.png`).

    Returns:
        `dict` with `num_pictures`, `metrics` (see [`prompt_accuracy`]) and `sampling`; empty on all processes but the
        main one.
    """
    if isinstance(prompts, (str, Path)):
        prompts = read_prompts(prompts)
    net = build_extractor(extractor)
    real = extract_features(net, samples, batch_size, pipe.device)  # first: no picture is drawn for an unknown concept
    known = {"concept": list(set(real["concept"])), "style": [None, *set(real["style"])]}
    for prompt in prompts or [{}]:
        if not prompt.get("prompt") or any(prompt.get(name) not in values for name, values in known.items()):
            raise ValueError(f"`prompts` must hold a prompt and a concept and style of `samples`, got {prompt}.")
    texts = [prompt["prompt"] for prompt in prompts]
    paths = generate_images(pipe, texts, folder, numbers=numbers, batch_size=batch_size, seed=seed, **options)
    if not process_state().is_main_process:
        return {}
    drawn = ImageFiles(paths)
    features = extract_features(net, drawn, batch_size, pipe.device)["features"]
    rows = judge_prompts(features, prompts, real, style_groups)
    metrics = prompt_accuracy(rows)
    if originals is not None:
        metrics |= copy_rates(drawn, originals, pipe.rqvae, batch_size)
    results = {"num_pictures": len(rows), "metrics": metrics, "sampling": used_sampling(pipe, options)}
    if output is not None:
        write_report(results, output, sheet=nearest_sheet(rows[:24], drawn, samples))
        with write_whole(Path(output).with_suffix(".jsonl")) as unfinished:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            unfinished.write_text("".join(lines), encoding="utf-8")
    return results


def nearest_sheet(rows: Sequence[Mapping[str, Any]], drawn: Dataset, samples: Dataset) -> Image.Image:
    """Shows drawn pictures beside the nearest real ones, by rows of [`judge_prompts`]."""
    pairs = [(drawn[index], samples[row["nearest"]]) for index, row in enumerate(rows)]
    images = [to_pil(picture["pixel_values"][None])[0] for pair in pairs for picture in pair]
    captions = [text for row in rows for text in (row["prompt"], f"nearest: {row['nearest_concept']}")]
    return image_grid(images, captions, columns=6)


def prompts(arguments: Namespace) -> dict[str, Any]:
    """Draws prompts of a file or of a split, and judges the pictures by the real ones of all splits."""
    if arguments.prompts is None and arguments.split is None:
        raise ValueError("`--split` must be given without `--prompts`, got None.")
    splits = ["train", "validation"] if arguments.hold_out else list(read_dataset(arguments.dataset_name))
    for flag in ("split", "copies_of"):
        if getattr(arguments, flag) not in (None, *splits):
            raise ValueError(f"`--{flag}` must be one of {splits}, got {getattr(arguments, flag)!r}.")
    pipe, asked, numbers, configs = options.load_pipeline(arguments), arguments.prompts, None, []
    if asked is None:
        configs = [pipe.transformer.config, pipe.tokenizer]
    else:
        arguments.caption_column = None
    real = read_samples(arguments, splits, pipe.rqvae.config, *configs, columns=("concept", "style"))
    if asked is None:
        own = real[arguments.split]
        numbers = random_rows(own, arguments.num_prompts or len(own), arguments.seed)
        columns = {"prompt": captions(own), "concept": own.rows["concept"], "style": own.rows["style"]}
        asked = [{name: values[number] for name, values in columns.items()} for number in numbers]
    return evaluate_prompts(
        pipe, asked, ConcatDataset(real.values()), arguments.output.with_suffix(""), numbers=numbers,
        extractor=arguments.feature_extractor, style_groups=arguments.style_group,
        originals=real.get(arguments.copies_of),
        **given(arguments, "batch_size", "seed", "output"), **options.drawing_options(arguments),
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = options.CommandParser(usage="%(prog)s MODEL [options]", description=__doc__)
    add_arguments(parser, draws=True)
    parser.add_argument("--caption_column", default="text", help="column of prompts (default: %(default)s)")
    parser.add_argument("--feature_extractor", default="lite0", help=f"{EXTRACTORS} (default: %(default)s)")
    parser.add_argument("--prompts", type=Path, metavar="FILE.jsonl", help="instead of those of the split")
    parser.add_argument("--num_prompts", type=COUNT, help="a random sample of the rows; all by default")
    parser.add_argument("--style_group", nargs="+", action="append", default=[], help="styles that are one")
    parser.add_argument("--copies_of", metavar="SPLIT", help="add how many are copies of this split's")
    arguments = parser.parse_args(argv)
    if arguments.dataset_name is None:
        parser.error("--dataset_name must be given")
    with errors_in_one_line():
        evaluate(prompts, arguments)


if __name__ == "__main__":
    main()
