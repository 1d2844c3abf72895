# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
r"""Draw icons in looks that training never showed, and measure how many show the thing, the form and the ink.

    python research/icons/look_accuracy.py MODEL --dataset data/icons-64 --num_prompts 300 --output looks.json

Prompts are those of `held_out` that ask for a colour, such as "a yellow abacus, outline", of the things that four sets
or more draw. Thing and form are those of the nearest training icons of these things, in black on white and in features
of EfficientNet-Lite0. The ink is the colour that is nearest to the mean of the pixels off white. `of_real` judges the
icons of `test_styles` likewise: what a perfect model would reach. Needs `pip install ".[eval]"` in a clone.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from colour_icons import INKS, Look, contrast, count_styles, paint_icon, rgb
from datasets import load_dataset
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "emoji"))
from prompt_accuracy import judge_prompts, prompt_accuracy, shares

from rq_hf.evaluation.features import build_extractor, extract_features
from rq_hf.evaluation.generation import generate_images, used_sampling
from rq_hf.evaluation.report import write_report
from rq_hf.images import image_grid
from rq_hf.pipelines import RQImageGenerationPipeline


def darkness(picture: Image.Image) -> np.ndarray:
    """How far each pixel is from white, `(h, w)` from 0 to 1, where 1 is the farthest of the picture."""
    off_white = 255.0 - np.asarray(picture.convert("RGB")).min(-1)
    return off_white / max(off_white.max(), 64)  # the faint ripples of an empty picture stay faint


def named_ink(picture: Image.Image) -> str:
    """The ink that is nearest to the mean of the pixels off white, without the white in their edges."""
    dark = darkness(picture)
    pixels = np.asarray(picture.convert("RGB"))[dark > 0.5]
    if len(pixels) == 0:
        return "white"
    mean = 255 - (255 - pixels.mean(0)) / dark[dark > 0.5].mean()
    return min(INKS, key=lambda ink: contrast(tuple(mean), rgb(ink)))


def black_on_white(pictures: Sequence[Image.Image], **columns: list[str]) -> list[dict[str, Any]]:
    """Samples for [`extract_features`]: pictures without their colours, and what they show."""
    samples = []
    for picture, *values in zip(pictures, *columns.values(), strict=True):
        gray = torch.from_numpy(1 - 2 * darkness(picture)).float()
        samples.append({"pixel_values": gray.expand(3, -1, -1), **dict(zip(columns, values, strict=True))})
    return samples


def judge(pictures: Sequence[Image.Image], asked: Sequence[Mapping[str, str]], real: Mapping[str, Any], net) -> dict:
    """Shares of pictures that show what was asked for; each is followed by its standard error."""
    features = extract_features(net, black_on_white(pictures), 64, "cpu")["features"]
    prompts = [{"concept": row["thing"], "style": row["form"]} for row in asked]
    figures = prompt_accuracy(judge_prompts(features, prompts, real))
    figures = {name.replace("style", "form"): value for name, value in figures.items() if "in_style" not in name}
    named = [named_ink(picture) == row["ink"] for picture, row in zip(pictures, asked, strict=True)]
    return figures | shares({"ink": named})


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", help="folder of a pipeline")
    add("--dataset", required=True, help="folder that prepare_icons.py wrote")
    add("--num_prompts", type=int, default=300, help="a random sample of the held-out looks (%(default)s)")
    add("--seed", type=int, default=0, help="of the pictures (%(default)s)")
    add("--output", type=Path, required=True, metavar="FILE.json", help="a folder of pictures is made beside it")
    options = parser.parse_args(argv)
    icons, tests = (load_dataset(options.dataset, split=split) for split in ("train", "test_styles"))
    num_styles = count_styles(icons)
    icons = icons.filter(lambda thing: num_styles[thing] >= 4, input_columns=["thing"])
    looks = load_dataset(options.dataset, "held_out", split="train").shuffle(seed=0)
    looks = [row for row in looks if row["held_out"] == "colour" and row["ink"] != "white"]
    asked = [row for row in looks if num_styles[row["thing"]] >= 4][: options.num_prompts]

    net = build_extractor("lite0")
    painted = [paint_icon(mask, Look("black", "white")) for mask in icons["image"]]
    real = extract_features(net, black_on_white(painted, concept=icons["thing"], style=icons["form"]), 64, "cpu")
    forms = set(zip(icons["thing"], icons["form"], strict=True))
    tests = [row | {"ink": "black"} for row in tests if row["form"] and (row["thing"], row["form"]) in forms]
    of_real = judge([paint_icon(row["image"], Look("black", "white")) for row in tests], tests, real, net)

    pipe = RQImageGenerationPipeline.from_pretrained(options.model)
    texts = [row["prompt"] for row in asked]
    paths = generate_images(pipe, texts, options.output.with_suffix(""), seed=options.seed)
    pictures = [Image.open(path) for path in paths]
    results = {"num_pictures": len(pictures), "metrics": judge(pictures, asked, real, net), "of_real": of_real}
    results["sampling"] = used_sampling(pipe, {})
    write_report(results, options.output, sheet=image_grid(pictures[:24], texts[:24], 6))
    print(results["metrics"], of_real, sep="\n")


if __name__ == "__main__":
    main()
