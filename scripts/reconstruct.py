# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Shows what an RQ-VAE keeps of a picture: the original, and what the first 1, 2, ..., D codes per position give.

    python scripts/reconstruct.py picture.png [more.png ...] --model checkpoints/emoji-64

Pictures are put on white, cropped to a centred square and resized to the model's size.
"""

import argparse
import sys
from pathlib import Path

import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageOps

from rq_hf import RQVAEModel
from rq_hf.command_line import INPUT_ERRORS, picture_file, positive
from rq_hf.picture_decoding import decode_picture
from rq_hf.picture_grid import picture_grid, unused_path
from rq_hf.pipeline_rq_image_generation import load_component


def read_picture(path: Path, size: int, mode: str) -> Image.Image:
    """A square picture of `size` pixels, "RGB" or grey ("L"), transparent parts white."""
    try:
        picture = decode_picture(str(path), mode)
    except ValueError as error:
        raise ValueError(f"'{path}': {error}") from error
    return ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", type=Path, help="picture files")
    parser.add_argument("--model", default="checkpoints/emoji-64", help="Hub id or folder of an RQ-VAE or a pipeline")
    parser.add_argument("--tile_size", type=positive, default=160, help="pixels per picture on the sheet")
    parser.add_argument("--output", type=picture_file, help="PNG to write; by default a new file in out/")
    arguments = parser.parse_args(argv)

    rqvae = load_component(RQVAEModel, arguments.model, "rqvae").eval()
    mode = "L" if rqvae.config.num_channels == 1 else "RGB"
    processor = VaeImageProcessor(do_resize=False, do_convert_grayscale=mode == "L")
    pictures = [read_picture(path, rqvae.config.image_size, mode) for path in arguments.pictures]
    codes = rqvae.encode(processor.preprocess(pictures))
    columns = [pictures]
    for depth in range(1, rqvae.config.code_depth + 1):
        decoded = rqvae.decode(codes[..., :depth])
        columns.append(processor.postprocess(decoded, output_type="pil"))
    rows = [list(row) for row in zip(*columns, strict=True)]
    texts = [f"depth {depth}" for depth in range(1, rqvae.config.code_depth + 1)]
    captions = [[path.name, *texts] for path in arguments.pictures]
    path = arguments.output or unused_path(Path("out") / f"{arguments.pictures[0].stem}-reconstruction.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture_grid(rows, captions, tile_size=arguments.tile_size).save(path)
    print(path)


if __name__ == "__main__":
    try:
        with torch.inference_mode():
            main()
    except INPUT_ERRORS as error:
        sys.exit(f"{type(error).__name__}: {error}")
