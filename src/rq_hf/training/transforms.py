# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Crops, flips and colour changes of training pictures, by name."""

from functools import partial

import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

BICUBIC = v2.InterpolationMode.BICUBIC


def _dalle_crop(size: int, picture: Image.Image) -> Image.Image:
    """The crop of DALL-E, used for CC-3M: a square near the centre, scaled to up to 9/8 of the size and cropped."""
    side = min(picture.size)
    top, left = (int((length - side) * _uniform(3 / 8, 5 / 8)) for length in (picture.height, picture.width))
    scaled = int(_uniform(size, max(size, min(side, size * 9 // 8)) + 1))
    picture = TF.resized_crop(picture, top, left, side, side, [scaled, scaled], BICUBIC)
    return v2.RandomCrop(size)(picture)


def _uniform(low: float, high: float) -> torch.Tensor:
    return torch.empty(()).uniform_(low, high)


def _center_crop(size: int) -> v2.Transform:
    return v2.Compose([v2.Resize(size, BICUBIC), v2.CenterCrop(size)])


def _pad(size: int, picture: Image.Image) -> Image.Image:
    side = max(picture.size)
    return ImageOps.pad(picture, (side, side), color="white").resize((size, size), Image.Resampling.BICUBIC)


def _imagenet(size: int) -> v2.Transform:
    return v2.Compose([v2.Resize(size, BICUBIC), v2.RandomCrop(size), v2.RandomHorizontalFlip()])


def _ffhq(size: int) -> v2.Transform:
    crop = v2.RandomResizedCrop(size, scale=(0.75, 1.0), ratio=(1.0, 1.0), interpolation=BICUBIC)
    return v2.Compose([crop, v2.RandomHorizontalFlip()])


# name: (training, evaluation), each made for a size. A transform maps an RGB or grey picture to one of that size, and
# draws from torch's global generator only.
TRANSFORMS = {
    "center_crop": (_center_crop, _center_crop),
    "pad": (lambda size: partial(_pad, size), lambda size: partial(_pad, size)),
    "imagenet": (_imagenet, _center_crop),
    "ffhq": (_ffhq, _center_crop),
    "lsun": (_center_crop, _center_crop),
    "cc3m": (lambda size: partial(_dalle_crop, size), lambda size: v2.Resize((size, size), BICUBIC)),
}


class PictureTransform:
    """
    Turns a decoded picture into the pixels `(num_channels, image_size, image_size)` that a model is trained on.

    Args:
        image_size (`int`): Height and width of the pixels.
        num_channels (`int`, *optional*, defaults to 3): 3, or 1 for grey.
        name (`str`, *optional*, defaults to `"center_crop"`): A key of `TRANSFORMS`.
        training (`bool`, *optional*, defaults to `True`): Whether pictures are cropped and flipped at random,
            where the transform has that.
    """

    def __init__(self, image_size: int, num_channels: int = 3, name: str = "center_crop", training: bool = True):
        if num_channels not in (1, 3):
            raise ValueError(f"`num_channels` must be 1 or 3 for picture files, got {num_channels}.")
        self.mode = "RGB" if num_channels == 3 else "L"
        self.transform = TRANSFORMS[name][0 if training else 1](image_size)

    def __call__(self, picture: Image.Image, generator: torch.Generator | None = None) -> torch.Tensor:
        """Pixels in [-1, 1] of a picture in `self.mode`. A `generator` decides what is random, and stays as it is."""
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            if generator is not None:
                torch.set_rng_state(generator.get_state())  # unlike `manual_seed` it leaves CUDA's generators alone
            picture = self.transform(picture)
        return TF.pil_to_tensor(picture).float() / 127.5 - 1
