# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
r"""Draws what a pipeline of emoji can do: concepts in all styles, pictures coarse to fine, completions.

    python scripts/gallery.py --output_dir docs/images

Writes gallery-styles.png, gallery-depths.png and gallery-completion.png. All is drawn with the checkpoint's own
sampling settings and seed 0, or seeds 0, 1, ...; the likeliest of 16 candidates, of completions the likeliest four. No
training picture shows some of the pairs: lobster and ringed planet were never drawn in blob, emojione, firefox and
cartoon style.
"""

import argparse
import sys
from pathlib import Path

import torch
from editing_sheet import COMPLETIONS, ROOT, completion_row
from PIL import Image

from rq_hf import RQImageGenerationPipeline
from rq_hf.command_line import INPUT_ERRORS
from rq_hf.likelihood_ranking import LIKELIHOOD
from rq_hf.picture_grid import picture_grid

STYLES = ("3d", "fluent", "flat", "noto", "blob", "twemoji", "emojione", "firefox", "cartoon")
CONCEPTS = ("red heart", "pizza", "cat face", "rocket", "castle", "lobster", "ringed planet")
LIKELIEST = {"num_candidates": 16, "ranker": LIKELIHOOD}
COARSE_TO_FINE = ("strawberry, noto style", "alarm clock, fluent style", "penguin, fluent style")


def style_grid(pipe: RQImageGenerationPipeline) -> Image.Image:
    """A row for each concept, a column for each style, all drawn with seed 0."""
    rows, captions = [], []
    for concept in CONCEPTS:
        prompts = [f"{concept}, {style} style" for style in STYLES]
        generators = [torch.Generator().manual_seed(0) for _ in prompts]
        rows.append(pipe(prompts, generator=generators, **LIKELIEST).images)
        captions.append([f"{concept}, {style}" for style in STYLES])
    return picture_grid(rows, captions, tile_size=136)


def depth_strip(pipe: RQImageGenerationPipeline) -> Image.Image:
    """For each prompt a drawn picture as its first 1, 2, ..., D codes show it."""
    rows, captions = [], []
    depths = range(1, pipe.rqvae.config.code_depth + 1)
    for prompt in COARSE_TO_FINE:
        generator = torch.Generator().manual_seed(0)
        codes = pipe(prompt, generator=generator, output_type="latent", **LIKELIEST).images
        decoded = [pipe.rqvae.decode(codes[..., :depth]) for depth in depths]
        rows.append([pipe.image_processor.postprocess(pixels.detach())[0] for pixels in decoded])
        captions.append([prompt if depth == 1 else f"depths 1 to {depth}" for depth in depths])
    return picture_grid(rows, captions, tile_size=192)


def completions(pipe: RQImageGenerationPipeline) -> Image.Image:
    """The first pictures of editing_sheet.py, at the checkpoint's own settings."""
    rows = (completion_row(pipe, *completion, **LIKELIEST) for completion in COMPLETIONS[:2])
    tiles, captions = zip(*rows, strict=True)
    return picture_grid(tiles, captions, tile_size=168)


PICTURES = {"styles": style_grid, "depths": depth_strip, "completion": completions}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "checkpoints" / "emoji-64"), help="pipeline of emoji captions")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the PNG files")
    arguments = parser.parse_args(argv)
    pipe = RQImageGenerationPipeline.from_pretrained(arguments.model)
    pipe.set_progress_bar_config(disable=True)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        path = arguments.output_dir / f"gallery-{name}.png"
        draw(pipe).save(path, optimize=True)
        print(path)


if __name__ == "__main__":
    try:
        main()
    except INPUT_ERRORS as error:
        sys.exit(f"{type(error).__name__}: {error}")
