# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Show what an RQ-VAE keeps of pictures: the original, then what the first 1, 2, ..., D codes per position give.

    rq-hf reconstruct checkpoints/emoji-64 picture.png [more.png ...]

Pictures are cropped to a centred square and resized to the model's size; transparent parts become white.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageOps

from ..evaluation.reconstruction import coarse_to_fine_sheet
from ..images import decode_image
from ..models import RQVAEModel
from ..pipelines import load_component
from .options import CommandParser, picture_path, write_sheet


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `rq-hf reconstruct`."""
    parser = CommandParser(prog="rq-hf reconstruct", description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="Hub id or folder of an RQ-VAE or of a pipeline")
    parser.add_argument("pictures", metavar="PICTURE", nargs="+", type=Path)
    parser.add_argument("--output", type=picture_path, help="file to write; by default a new one in out/")
    arguments = parser.parse_args(argv)
    rqvae = load_component(RQVAEModel, arguments.model, "rqvae")
    size, is_grey, pictures = rqvae.config.image_size, rqvae.config.num_channels == 1, []
    for path in arguments.pictures:
        picture = decode_image(path, "L" if is_grey else "RGB")
        pictures.append(ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC))
    processor = VaeImageProcessor(do_resize=False, do_convert_grayscale=is_grey)
    with torch.inference_mode():
        sheet = coarse_to_fine_sheet(rqvae, processor.preprocess(pictures))
    write_sheet(sheet, arguments.output, f"{arguments.pictures[0].stem}-reconstruction")
