# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Pictures made into training pixels: transforms by name."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from ..picture_decoding import decode_picture


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """A number drawn from [low, high)."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def _resize_short_side(picture: Image.Image, size: int) -> Image.Image:
    return TF.resize(picture, [size], interpolation=v2.InterpolationMode.BICUBIC, antialias=True)


def _random_crop(picture: Image.Image, size: int, generator: torch.Generator) -> Image.Image:
    top = int(uniform(generator, 0, picture.height - size + 1))
    left = int(uniform(generator, 0, picture.width - size + 1))
    return TF.crop(picture, top, left, size, size)


def _random_flip(picture: Image.Image, generator: torch.Generator) -> Image.Image:
    return TF.horizontal_flip(picture) if torch.rand((), generator=generator) < 0.5 else picture


def _center_crop(picture: Image.Image, size: int, generator: torch.Generator | None = None) -> Image.Image:
    return TF.center_crop(_resize_short_side(picture, size), [size, size])


def _squash(picture: Image.Image, size: int, generator: torch.Generator | None = None) -> Image.Image:
    return TF.resize(picture, [size, size], interpolation=v2.InterpolationMode.BICUBIC, antialias=True)


def _imagenet(picture: Image.Image, size: int, generator: torch.Generator) -> Image.Image:
    return _random_flip(_random_crop(_resize_short_side(picture, size), size, generator), generator)


def _ffhq(picture: Image.Image, size: int, generator: torch.Generator) -> Image.Image:
    side = max(1, int(min(picture.size) * uniform(generator, 0.75, 1.0) ** 0.5))  # the scale is one of area
    return _random_flip(_squash(_random_crop(picture, side, generator), size), generator)


def _cc3m(picture: Image.Image, size: int, generator: torch.Generator) -> Image.Image:
    side = min(picture.size)
    slack = [length - side for length in (picture.height, picture.width)]
    top, left = (int(part * uniform(generator, 3 / 8, 5 / 8)) for part in slack)
    square = TF.crop(picture, top, left, side, side)
    target = int(uniform(generator, size, max(size, min(side, size * 9 // 8)) + 1))
    return _random_crop(_squash(square, target), size, generator)


def _altered_emoji(picture: Image.Image, size: int, generator: torch.Generator) -> Image.Image:
    """Mirrored, down to 4/5 as large, shifted by up to 1/8 of the size, and of other colours; white stays white."""
    picture = _random_flip(_center_crop(picture, size), generator)
    if uniform(generator, 0, 1) < 0.5:
        picture = _squash(picture, round(size * uniform(generator, 0.8, 1.0)))
    reach = (size - picture.width) // 2 + size // 8
    left, top = ((size - picture.width) // 2 + int(uniform(generator, -reach, reach + 1)) for _ in range(2))
    pixels = torch.from_numpy(np.array(picture)).float() / 255
    if picture.mode == "RGB" and uniform(generator, 0, 1) < 0.15:
        pixels = pixels[..., torch.randperm(3, generator=generator)]
    if uniform(generator, 0, 1) < 0.3:
        channels = pixels.shape[2:]
        pixels = pixels ** (0.8 * torch.rand(channels, generator=generator) - 0.4).exp()
    ground = Image.new(picture.mode, (size, size), "white")
    ground.paste(Image.fromarray((pixels * 255).round().byte().numpy()), (left, top))
    return ground


# name: (training, evaluation); each takes a picture, the size and, in training, a generator.
# "emoji" and "lsun" draw nothing at random; emoji that have the model's size already stay as they are.
TRANSFORMS = {
    "center_crop": (_center_crop, _center_crop),
    "emoji": (_center_crop, _center_crop),
    "altered_emoji": (_altered_emoji, _center_crop),
    "imagenet": (_imagenet, _center_crop),
    "ffhq": (_ffhq, _squash),
    "lsun": (_center_crop, _center_crop),
    "cc3m": (_cc3m, _squash),
}


class PictureTransform:
    """Turns a picture of any kind into the pixels that a model is trained on.

    Args:
        image_size (`int`): height and width.
        num_channels (`int`, *optional*, defaults to 3): 3, or 1 for grey.
        transform (`str`, *optional*, defaults to `"center_crop"`): a key of `TRANSFORMS`.
        training (`bool`, *optional*, defaults to `True`): random crops and flips, or the evaluation transform.
    """

    def __init__(self, image_size: int, num_channels: int = 3, transform: str = "center_crop", training: bool = True):
        self.image_size = image_size
        if num_channels not in (1, 3):
            raise ValueError(f"`num_channels` must be 1 or 3 for pictures of files, got {num_channels}.")
        self.mode = "L" if num_channels == 1 else "RGB"
        self.transform = TRANSFORMS[transform][0 if training else 1]

    def decode(self, value: Any) -> Image.Image:
        """[`decode_picture`] to the model's channels."""
        return decode_picture(value, self.mode)

    def __call__(self, picture: Image.Image, generator: torch.Generator | None = None) -> torch.Tensor:
        """Pixels `(channels, size, size)` in [-1, 1] of a decoded picture; training draws from the generator."""
        return to_pixel_values(self.transform(picture, self.image_size, generator))


def to_pixel_values(picture: Image.Image) -> torch.Tensor:
    """An RGB or grey picture as `(channels, height, width)` fp32 in [-1, 1]."""
    pixels = torch.from_numpy(np.array(picture))
    pixels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
    return pixels.float() / 127.5 - 1
