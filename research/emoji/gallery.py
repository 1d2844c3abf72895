# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Draws the pictures of the documentation with a pipeline of emoji.

    python research/emoji/gallery.py --output_dir docs/images

gallery-styles.png: concepts in all styles. gallery-depths.png: pictures coarse to fine. gallery-completion.png:
completions. These show the likeliest of 16 candidates, completions the four likeliest. editing.png: completions and
variations at temperature 0.7, none of them chosen. Seeds are 0, 1, ...

No training picture shows lobster or ringed planet in blob, emojione, firefox and cartoon style.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from rq_hf import RQImageGenerationPipeline, RQInpaintPipeline
from rq_hf.images import image_grid, to_pil

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "tests" / "fixtures" / "emoji" / "train"
UNKNOWN = (224, 224, 224)  # fills positions that are drawn anew
NUM_IMAGES = 4
LIKELIEST = {"num_candidates": 16, "ranker": "likelihood"}

STYLES = ("3d", "fluent", "flat", "noto", "blob", "twemoji", "emojione", "firefox", "cartoon")
CONCEPTS = ("red heart", "pizza", "cat face", "rocket", "castle", "lobster", "ringed planet")
COARSE_TO_FINE = ("strawberry, noto style", "alarm clock, fluent style", "penguin, fluent style")
VARIATIONS = (("noto/castle", 1), ("noto/rose", 1), ("twemoji/pizza", 1), ("noto/penguin", 2))

Row = tuple[list[Image.Image], list[str]]


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


COMPLETIONS = (
    ("noto/cat-face", upper_half),
    ("twemoji/alarm-clock", upper_half),
    ("noto/strawberry", left_half),
    ("noto/soccer-ball", all_but_a_hole),
)


def read_picture(name: str) -> tuple[Image.Image, str]:
    """A real picture `STYLE/CONCEPT` and its caption."""
    style, concept = name.split("/")
    with Image.open(PICTURES / f"{name}.png") as picture:
        return picture.convert("RGB"), f"{concept.replace('-', ' ')}, {style} style"


def show_kept(picture: Image.Image, mask: torch.BoolTensor) -> Image.Image:
    """The picture with grey at the positions that are drawn anew."""
    cells = Image.fromarray(mask.numpy().astype("uint8") * 255).resize(picture.size, Image.Resampling.NEAREST)
    return Image.composite(picture, Image.new("RGB", picture.size, UNKNOWN), cells)


def seeds(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def completion_row(
    pipe: RQImageGenerationPipeline, name: str, region: Callable[[int, int], torch.BoolTensor], **options: Any
) -> Row:
    """A real picture, what is kept of it, and completions."""
    picture, prompt = read_picture(name)
    mask = region(*pipe.transformer.config.code_shape[:2])
    kept = show_kept(pipe.reconstruct(picture).images[0], mask)
    options |= {"num_images_per_prompt": NUM_IMAGES, "generator": seeds(NUM_IMAGES)}
    white = Image.fromarray((~mask).numpy().astype("uint8") * 255).resize(picture.size, Image.Resampling.NEAREST)
    completed = RQInpaintPipeline(**pipe.components)(prompt, picture, white, **options).images
    return [picture, kept, *completed], [prompt, "kept", *(f"completion {seed}" for seed in range(NUM_IMAGES))]


def variation_row(pipe: RQImageGenerationPipeline, name: str, depths: int, **options: Any) -> Row:
    """A real picture, its first depths, and variations that keep them."""
    picture, prompt = read_picture(name)
    kept = pipe.reconstruct(picture, depths).images[0]
    options |= {"num_images_per_prompt": NUM_IMAGES, "generator": seeds(NUM_IMAGES)}
    varied = pipe.vary(picture, prompt, depths, **options).images
    text = "depth 1 kept" if depths == 1 else f"depths 1 to {depths} kept"
    return [picture, kept, *varied], [prompt, text, *(f"variation {seed}" for seed in range(NUM_IMAGES))]


def sheet(rows: list[Row], tile_size: int) -> Image.Image:
    pictures = [picture for row, _ in rows for picture in row]
    captions = [caption for _, row in rows for caption in row]
    return image_grid(pictures, captions, columns=len(rows[0][0]), tile_size=tile_size)


def draw_styles(pipe: RQImageGenerationPipeline) -> Image.Image:
    """A row for each concept, a column for each style, all with seed 0."""
    rows = []
    for concept in CONCEPTS:
        prompts = [f"{concept}, {style} style" for style in STYLES]
        generators = [torch.Generator().manual_seed(0) for _ in prompts]
        captions = [f"{concept}, {style}" for style in STYLES]
        rows.append((pipe(prompts, generator=generators, **LIKELIEST).images, captions))
    return sheet(rows, tile_size=136)


@torch.no_grad()
def draw_depths(pipe: RQImageGenerationPipeline) -> Image.Image:
    """For each prompt one picture, decoded from its first 1, 2, ..., D codes."""
    rows = []
    for prompt in COARSE_TO_FINE:
        codes = pipe(prompt, generator=seeds(1), output_type="latent", **LIKELIEST).images
        depths = range(1, codes.shape[-1] + 1)
        decoded = torch.cat([pipe.rqvae.decode(codes[..., :depth]) for depth in depths])
        rows.append((to_pil(decoded), [prompt if depth == 1 else f"depths 1 to {depth}" for depth in depths]))
    return sheet(rows, tile_size=192)


def draw_completions(pipe: RQImageGenerationPipeline) -> Image.Image:
    return sheet([completion_row(pipe, *each, **LIKELIEST) for each in COMPLETIONS[:2]], tile_size=168)


def draw_editing(pipe: RQImageGenerationPipeline) -> Image.Image:
    rows = [completion_row(pipe, *each, temperature=0.7) for each in COMPLETIONS]
    return sheet(rows + [variation_row(pipe, *each, temperature=0.7) for each in VARIATIONS], tile_size=168)


SHEETS = {
    "gallery-styles": draw_styles, "gallery-depths": draw_depths, "gallery-completion": draw_completions,
    "editing": draw_editing,
}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "checkpoints" / "emoji-64"), help="a pipeline of emoji")
    parser.add_argument("--sheets", nargs="+", choices=SHEETS, default=list(SHEETS), help="(all)")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the PNG files")
    arguments = parser.parse_args(argv)
    pipe = RQImageGenerationPipeline.from_pretrained(arguments.model)
    pipe.set_progress_bar_config(disable=True)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    for name in arguments.sheets:
        path = arguments.output_dir / f"{name}.png"
        SHEETS[name](pipe).save(path, optimize=True)
        print(path)


if __name__ == "__main__":
    main()
