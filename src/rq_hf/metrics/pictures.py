# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Errors and colours of pictures of integers from 0 to 255.

Symbols: B pictures, C channels.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


def to_uint8(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures as they would be stored: `(..., height, width)` floats to integers from 0 to 255.

    Args:
        pictures (`torch.Tensor`): pixels in [0, 1]; what lies outside is clamped.

    Returns:
        `torch.ByteTensor` of the same shape.

    Raises:
        `ValueError`: pixels that are not finite.
    """
    if not pictures.isfinite().all():
        raise ValueError("`pictures` must be finite, got NaN or infinite pixels; a wider `dtype` may mend it.")
    return pictures.float().clamp(0, 1).mul(255).round().to(torch.uint8)


def stored_pictures(pixel_values: torch.Tensor) -> torch.Tensor:
    """What models read and decode, in [-1, 1] and any dtype, as it would be stored: integers from 0 to 255.

    Args:
        pixel_values (`torch.Tensor` of shape `(..., height, width)`): pixels; otherwise as in [`to_uint8`].
    """
    return to_uint8((pixel_values.float() + 1) / 2)  # half precision would round the sum


def to_rgb(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures `(B, C, height, width)` with three channels, as feature nets want them: grey is repeated."""
    return pictures.expand(-1, 3, -1, -1) if pictures.shape[1] == 1 else pictures


def picture_errors(pictures: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean squared error of each picture, of pixels in [0, 1].

    Args:
        pictures, targets (`torch.ByteTensor` of shape `(B, C, height, width)`): pixels from 0 to 255.

    Returns:
        `torch.DoubleTensor` of shape `(B,)`, in [0, 1], on the CPU.

    Raises:
        `ValueError`: pictures of other types or of two shapes.
    """
    if pictures.shape != targets.shape or pictures.dtype != torch.uint8 or targets.dtype != torch.uint8:
        raise ValueError(
            "`pictures` and `targets` must be uint8 of one shape, got "
            f"{pictures.dtype} {tuple(pictures.shape)} and {targets.dtype} {tuple(targets.shape)}."
        )
    difference = (pictures.int() - targets.int()).flatten(1)
    return difference.square().sum(-1).cpu().double() / (difference.shape[-1] * 255**2)


def psnr_from_mse(mse: float) -> float:
    """Peak signal-to-noise ratio 10 log10(1 / MSE) in dB of pixels in [0, 1].

    The ratio of a set of pictures is that of their mean error, not the mean of their ratios.

    Args:
        mse (`float`): mean squared error in [0, 1]; 0 gives infinity.

    Raises:
        `ValueError`: an error outside that range.
    """
    if not 0 <= mse <= 1:
        raise ValueError(f"`mse` must be in [0, 1], got {mse}.")
    return math.inf if mse == 0 else -10 * math.log10(mse)


def structural_similarity() -> nn.Module:
    """SSIM of pixels in [0, 1] by torchmetrics: a Gaussian window of 11 pixels and sigma 1.5, the mean over pictures.

    Raises:
        `ImportError`: torchmetrics is not installed.
    """
    try:
        from torchmetrics.image import StructuralSimilarityIndexMeasure
    except ImportError as error:
        raise ImportError('SSIM needs torchmetrics, which `pip install "rq_hf[eval]"` installs.') from error
    return StructuralSimilarityIndexMeasure(data_range=1.0)


def pooled_pixels(pictures: torch.Tensor, side: int = 16) -> torch.Tensor:
    """Average colours of a `side` x `side` grid of cells: what is left of a picture when details are ignored.

    Args:
        pictures (`torch.ByteTensor` of shape `(B, C, height, width)`): at least `side` pixels each way.
        side (`int`, defaults to 16): cells each way.

    Returns:
        `torch.FloatTensor` of shape `(B, C * side * side)`, in [0, 1], on the CPU.

    Raises:
        `ValueError`: pictures of another type or shape, or smaller ones.
    """
    if pictures.ndim != 4 or pictures.dtype != torch.uint8 or min(pictures.shape[2:]) < side:
        raise ValueError(
            f"`pictures` must be uint8 of shape (batch_size, channels, height, width), at least {side} x {side} "
            f"pixels, got {pictures.dtype} {tuple(pictures.shape)}."
        )
    return F.adaptive_avg_pool2d(pictures.cpu().float() / 255, side).flatten(1)


def shift_down(pictures: torch.Tensor, pixels: int = 2) -> torch.Tensor:
    """Pictures `(B, C, height, width)`, uint8, moved down by some pixels; white comes in at the top."""
    return F.pad(pictures, (0, 0, pixels, 0), value=255)[..., : pictures.shape[-2], :]
