# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""`rq-hf train-rqvae` with one more transform, `altered_emoji`.

python research/emoji/train_rqvae.py research/emoji/recipes/emoji-rqvae-8x8x3-4M.json [--flag value ...]
"""

import sys

import torch
from PIL import Image
from torchvision.transforms import v2

from rq_hf.cli import main
from rq_hf.training.transforms import TRANSFORMS

BICUBIC = v2.InterpolationMode.BICUBIC


def random_gamma(image: Image.Image) -> Image.Image:
    """Raises each channel to a random power in [exp(-0.4), exp(0.4)]; black and white stay."""
    levels = torch.linspace(0, 1, 256)
    powers = [levels ** torch.empty(()).uniform_(-0.4, 0.4).exp() for _ in image.getbands()]
    return image.point((torch.cat(powers) * 255).round().int().tolist())


def altered_emoji(size: int) -> v2.Transform:
    """Mirrors, shrinks to 4/5 or more, shifts by up to 1/8 and recolours an image; white stays white."""
    return v2.Compose(
        [
            TRANSFORMS["center_crop"][0](size),
            v2.RandomHorizontalFlip(),
            v2.RandomZoomOut(fill=255, side_range=(1.0, 1.25), p=0.5),
            v2.Resize((size, size), BICUBIC),
            v2.RandomCrop(size, padding=size // 8, fill=255),
            v2.RandomApply([v2.RandomChannelPermutation()], p=0.15),
            v2.RandomApply([random_gamma], p=0.3),
        ]
    )


if __name__ == "__main__":
    TRANSFORMS["altered_emoji"] = (altered_emoji, TRANSFORMS["center_crop"][1])
    main(["train-rqvae", *sys.argv[1:]])
