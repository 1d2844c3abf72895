# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Measures RQ-VAEs on held-out photographs, depth by depth, and writes one list of rows.

    python research/photographs/stage1.py runs/photo-rqvae-64 runs/depth-8 --dataset_name data/photographs \
        --output stage1.json

A row is the picture from the first d codes of each position: PSNR, SSIM, Fréchet and kernel distance to the originals
in EfficientNet-Lite0 features, and the share of the codebook that the d-th codes use. Sheets show no photograph but
reconstructions, from coarse to fine.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchmetrics.functional.image import structural_similarity_index_measure

from rq_hf import RQVAEModel
from rq_hf.evaluation.features import EfficientNetLite0
from rq_hf.evaluation.generation import generation_metrics
from rq_hf.evaluation.reconstruction import code_usage, psnr, squared_errors
from rq_hf.images import image_grid, to_pil, to_rgb, to_uint8
from rq_hf.training import CodeDataArguments
from rq_hf.training.conditions import evaluation_samples

SHOWN = 6  # rows of a sheet


def coarse_to_fine(rqvae: RQVAEModel, pixel_values: torch.Tensor) -> Image.Image:
    """Reconstructions of pictures, a row each, from the codes of the first 1, 2, ..., D depths."""
    codes = rqvae.encode(pixel_values)
    depths = range(1, codes.shape[-1] + 1)
    columns = [to_pil(rqvae.decode(codes[..., :depth])) for depth in depths]
    images = [image for row in zip(*columns, strict=True) for image in row]
    return image_grid(images, [f"depth {depth}" for depth in depths] * len(pixel_values), columns=len(columns))


@torch.no_grad()
def measure(rqvae: RQVAEModel, pixel_values: torch.Tensor, extractor: torch.nn.Module) -> list[dict[str, Any]]:
    """A row for each depth of an RQ-VAE, on pictures `(N, C, h, w)` in [-1, 1]."""
    codes = torch.cat([rqvae.encode(part) for part in pixel_values.split(50)])  # (N, H, W, D)
    height, width, depths = codes.shape[1:]
    originals = to_rgb(to_uint8(pixel_values))
    real, rows = torch.cat([extractor(part) for part in originals.split(50)]), []
    for depth in range(1, depths + 1):
        decoded = torch.cat([rqvae.decode(part[..., :depth]) for part in codes.split(50)])
        rounded = to_rgb(to_uint8(decoded))
        features = torch.cat([extractor(part) for part in rounded.split(50)])
        counts = codes[..., depth - 1].flatten().bincount(minlength=rqvae.config.codebook_size)
        row = {"positions": f"{height} x {width}", "depth": depth}
        row["psnr"] = psnr(squared_errors(pixel_values, decoded).mean().item())
        row["ssim"] = structural_similarity_index_measure(rounded / 255, originals / 255, data_range=1.0).item()
        row |= generation_metrics(features, real, extractor)
        rows.append(row | {"code_usage": code_usage(counts)["code_usage"]})
    return rows


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="folders of RQ-VAEs")
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--output", type=Path, required=True, help="JSON; a sheet for each model is written beside it")
    options = parser.parse_args()
    rows, extractor = [], EfficientNetLite0()
    for name in options.models:
        rqvae = RQVAEModel.from_pretrained(name)
        data = CodeDataArguments(options.dataset_name)
        samples = evaluation_samples(data, [options.split], rqvae.config)[options.split]
        pixel_values = torch.stack([samples[index]["pixel_values"] for index in range(len(samples))])
        rows += [{"model": Path(name).name, **row} for row in measure(rqvae, pixel_values, extractor)]
        options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        chosen = torch.linspace(0, len(samples) - 1, SHOWN).long()
        sheet = options.output.with_name(f"{options.output.stem}-{Path(name).name}.png")
        coarse_to_fine(rqvae, pixel_values[chosen]).save(sheet)


if __name__ == "__main__":
    main()
