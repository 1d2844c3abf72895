# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What an RQ-VAE does, as pictures: reconstructions coarse to fine (Figure 23), codes by norm and depth (Figure 6)."""

import io
import math
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..modeling_rqvae import RQVAEModel
from ..picture_grid import picture_grid
from .codes import CodeNorms
from .pictures import picture_errors, psnr_from_mse, stored_pictures, to_rgb

TILE_SIZES = 128, 256  # smaller pictures are enlarged to at least the first, larger ones reduced to the second


@torch.no_grad()
def coarse_to_fine_sheet(rqvae: RQVAEModel, pixel_values: torch.Tensor) -> Image.Image:
    """A row for each picture: the original, and what its first 1, 2, ..., D codes decode to, with PSNR (Figure 23).

    Args:
        rqvae ([`RQVAEModel`]): the model, in evaluation mode.
        pixel_values (`torch.Tensor` of shape `(B, C, height, width)`): pixels in [-1, 1] of a few pictures.

    Returns:
        `PIL.Image.Image` of B rows and D + 1 columns.

    Raises:
        `ValueError`: reconstructions that are not finite.
    """
    pixel_values = pixel_values.to(rqvae.device)
    originals = stored_pictures(pixel_values)
    codes = rqvae.encode(pixel_values)
    columns, captions = [originals], [["original"] * len(originals)]
    for depth in range(1, rqvae.config.code_depth + 1):
        columns.append(stored_pictures(rqvae.decode(codes[..., :depth])))
        errors = picture_errors(columns[-1], originals).tolist()
        captions.append([f"depth {depth}, {psnr_from_mse(error):.1f} dB" for error in errors])
    side = max(pixel_values.shape[2:])
    least, most = TILE_SIZES
    tile_size = min(most, side * math.ceil(least / side))
    rows = [[_enlarged(picture, tile_size) for picture in row] for row in zip(*columns, strict=True)]
    return picture_grid(rows, list(zip(*captions, strict=True)), tile_size=tile_size)


def _enlarged(picture: torch.Tensor, side: int) -> Image.Image:
    """A uint8 picture `(C, height, width)`, its pixels repeated so that it is at most `side` each way."""
    factor = max(1, side // max(picture.shape[1:]))
    pixels = to_rgb(picture[None])[0].permute(1, 2, 0).repeat_interleave(factor, 0).repeat_interleave(factor, 1)
    return Image.fromarray(pixels.cpu().numpy())


def code_norm_chart(norms: CodeNorms) -> Image.Image:
    """Distribution of the codes of each depth over the norm of their vectors, one line a depth (Figure 6).

    Args:
        norms ([`CodeNorms`]): from [`code_norms`].

    Returns:
        `PIL.Image.Image`.

    Raises:
        `ImportError`: matplotlib is not installed.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
        from matplotlib.ticker import PercentFormatter
    except ImportError as error:
        raise ImportError('The chart needs matplotlib, which `pip install "rq_hf[eval]"` installs.') from error
    figure = Figure(figsize=(9.6, 5.6), layout="constrained")
    axes = figure.subplots()
    colours = colormaps["turbo"](np.linspace(0.1, 0.9, len(norms.shares)))
    for index, (shares, colour) in enumerate(zip(norms.shares, colours, strict=True)):
        label = f"depth {index + 1}, mean {norms.means[index]:.3g}"
        axes.stairs(shares, norms.edges, color=colour, label=label, linewidth=1.5)
    axes.set(xlabel="norm of the code vector", ylabel="share of the depth's codes")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    return figure_picture(figure)


def figure_picture(figure: Any) -> Image.Image:
    """A figure of matplotlib as an RGB picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    with Image.open(buffer) as picture:
        return picture.convert("RGB")
