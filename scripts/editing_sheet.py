# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
r"""Draws the sheet of docs/editing.md: sixteen completions and sixteen variations of real pictures.

    python scripts/editing_sheet.py --output docs/images/editing.png

Each row begins with a real picture of the tests' fixture and what is kept of it, parts of the code map or the first
depths; four pictures with seeds 0 to 3 follow. They are what a call gives: none was chosen.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from rq_hf import RQImageGenerationPipeline
from rq_hf.command_line import INPUT_ERRORS, picture_file
from rq_hf.picture_grid import picture_grid

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "tests" / "fixtures" / "emoji" / "train"
COUNT = 4
UNKNOWN = (224, 224, 224)  # of positions that are drawn anew


def upper_half(height: int, width: int) -> torch.BoolTensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[: height // 2] = True
    return mask


def left_half(height: int, width: int) -> torch.BoolTensor:
    return upper_half(width, height).T


def all_but_a_hole(height: int, width: int) -> torch.BoolTensor:
    mask = torch.ones(height, width, dtype=torch.bool)
    mask[height * 3 // 8 : height * 3 // 4, width * 3 // 8 : width * 3 // 4] = False
    return mask


COMPLETIONS = [
    ("noto/cat-face", upper_half),
    ("twemoji/alarm-clock", upper_half),
    ("noto/strawberry", left_half),
    ("noto/soccer-ball", all_but_a_hole),
]
VARIATIONS = [("noto/castle", 1), ("noto/rose", 1), ("twemoji/pizza", 1), ("noto/penguin", 2)]


def read(name: str) -> tuple[Image.Image, str]:
    """A real picture and its caption."""
    style, concept = name.split("/")
    with Image.open(PICTURES / f"{name}.png") as picture:
        return picture.convert("RGB"), f"{concept.replace('-', ' ')}, {style} style"


def shown(picture: Image.Image, mask: torch.BoolTensor) -> Image.Image:
    """The kept part of a picture."""
    cells = Image.fromarray(mask.numpy().astype("uint8") * 255).resize(picture.size, Image.Resampling.NEAREST)
    return Image.composite(picture, Image.new("RGB", picture.size, UNKNOWN), cells)


def seeds() -> dict[str, Any]:
    """Arguments of a call that draws pictures with seeds 0, 1, ..."""
    generators = [torch.Generator().manual_seed(index) for index in range(COUNT)]
    return {"num_images_per_prompt": COUNT, "generator": generators}


def completion_row(
    pipe: RQImageGenerationPipeline,
    name: str,
    region: Callable[[int, int], torch.BoolTensor],
    **options: Any,
) -> tuple[list[Image.Image], list[str]]:
    """A real picture, what is kept of it and completions, with captions.

    Args:
        pipe ([`RQImageGenerationPipeline`]): of captions.
        name (`str`): of the picture, `STYLE/CONCEPT`.
        region: gives the mask of the codes to keep for a height and width of the code map.
        options: arguments of the call.
    """
    picture, prompt = read(name)
    mask = region(*pipe.transformer.config.code_shape[:2])
    kept = shown(pipe.reconstruct(picture).images[0], mask)
    completed = pipe.complete(picture, prompt, mask, **seeds(), **options).images
    return [picture, kept, *completed], [prompt, "kept", *(f"completion {index}" for index in range(COUNT))]


def variation_row(
    pipe: RQImageGenerationPipeline, name: str, depths: int, **sampling: float | None
) -> tuple[list[Image.Image], list[str]]:
    """A real picture, its first `depths` codes and variations, with captions; arguments as above."""
    picture, prompt = read(name)
    kept = pipe.reconstruct(picture, depths).images[0]
    varied = pipe.vary(picture, prompt, depths, **seeds(), **sampling).images
    text = "depth 1 kept" if depths == 1 else f"depths 1 to {depths} kept"
    return [picture, kept, *varied], [prompt, text, *(f"variation {index}" for index in range(COUNT))]


def editing_sheet(pipe: RQImageGenerationPipeline, **sampling: float | None) -> Image.Image:
    """Completions above, variations below.

    Args:
        pipe ([`RQImageGenerationPipeline`]): of captions.
        sampling: arguments of its calls.
    """
    rows = [completion_row(pipe, *completion, **sampling) for completion in COMPLETIONS]
    rows += [variation_row(pipe, *variation, **sampling) for variation in VARIATIONS]
    tiles, captions = zip(*rows, strict=True)
    return picture_grid(tiles, captions, tile_size=168)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "checkpoints" / "emoji-64"), help="pipeline of captions")
    parser.add_argument("--temperature", type=float, default=0.7, help="of both (%(default)s)")
    parser.add_argument("--output", type=picture_file, required=True, help="PNG to write")
    arguments = parser.parse_args(argv)
    pipe = RQImageGenerationPipeline.from_pretrained(arguments.model)
    pipe.set_progress_bar_config(disable=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    editing_sheet(pipe, temperature=arguments.temperature).save(arguments.output, optimize=True)
    print(arguments.output)


if __name__ == "__main__":
    try:
        main()
    except INPUT_ERRORS as error:
        sys.exit(f"{type(error).__name__}: {error}")
