# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""How well pictures survive an RQ-VAE, depth by depth (Tables 4 and 6, Figures 5 and 6).

Symbols: B pictures, C channels, h x w pixels, H x W positions, D code depth, K codebook size. z latents, z-hat^(d) sum
of the first d code vectors.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from ..images import image_grid, to_pil, to_rgb, to_uint8
from ..models import RQVAEModel
from .features import build_extractor, distance_name, frechet_distance, load_lpips, sample_batches
from .report import write_report


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error of pixels in [0, 1]; infinite for 0."""
    return -10 * math.log10(mse) if mse else math.inf


def code_usage(counts: torch.Tensor) -> dict[str, float | int]:
    """
    Returns `codes_used`, their share of K (`code_usage`) and `code_perplexity`, which is 1 for one code and K for
    equally frequent ones, from the counts `(K,)` of the codes.
    """
    used = int((counts > 0).sum())
    perplexity = torch.special.entr(counts.double() / counts.sum()).sum().exp().item()  # exp(-sum_k p_k log p_k)
    return {"codes_used": used, "code_usage": used / len(counts), "code_perplexity": perplexity}


def squared_errors(pixel_values: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    """Mean squared error `(B,)` of each picture, from pixels in [-1, 1] that are rounded to 8 bits, as of [0, 1]."""
    difference = to_uint8(reconstruction) / 255 - to_uint8(pixel_values) / 255
    return difference.square().mean((1, 2, 3))


class ReconstructionMetrics:
    """PSNR and use of the codes over the batches of an evaluation. All depths may share one codebook."""

    def __init__(self, codebook_size: int, code_depth: int, shared_codebook: bool = True):
        self.shared_codebook = shared_codebook
        self.errors: list[torch.Tensor] = []  # (B,) of each batch
        self.counts = torch.zeros(code_depth, codebook_size, dtype=torch.long)  # (D, K)

    def update(self, errors: torch.Tensor, codes: torch.Tensor) -> None:
        """Adds the [`squared_errors`] `(B,)` of pictures and their codes `(B, H, W, D)`."""
        self.errors.append(errors)
        of_depths = codes.flatten(0, 2).T  # (D, B * H * W)
        self.counts = self.counts.to(codes.device).scatter_add(1, of_depths, torch.ones_like(of_depths))

    def compute(self) -> dict[str, float | int]:
        """
        Returns `psnr` in dB, `mse` of pixels in [0, 1], the metrics of [`code_usage`] over all depths, and
        `code_usage_depth_d` and `code_perplexity_depth_d` of each depth d. Empty without pictures.
        """
        if not self.errors:
            return {}
        mse = torch.cat(self.errors).mean().item()
        counts = self.counts.cpu()
        metrics = {"psnr": psnr(mse), "mse": mse}
        metrics |= code_usage(counts.sum(0) if self.shared_codebook else counts.flatten())
        for depth, of_depth in enumerate(counts, start=1):
            usage = code_usage(of_depth)
            metrics |= {f"{name}_depth_{depth}": usage[name] for name in ("code_usage", "code_perplexity")}
        return metrics


@torch.no_grad()
def coarse_to_fine_sheet(rqvae: RQVAEModel, pixel_values: torch.Tensor) -> Image.Image:
    """
    Shows pictures `(B, C, h, w)` in [-1, 1] as an RQ-VAE in evaluation mode reconstructs them from the codes of the
    first 1, 2, ..., D depths (Figure 5): one row per picture, the original, then depth 1 to D.
    """
    codes = rqvae.encode(pixel_values)  # (B, H, W, D)
    depths = range(1, codes.shape[-1] + 1)
    columns = [to_pil(pixel_values)] + [to_pil(rqvae.decode(codes[..., :depth])) for depth in depths]
    images = [image for row in zip(*columns, strict=True) for image in row]
    captions = ["original", *(f"depth {depth}" for depth in depths)] * len(pixel_values)
    return image_grid(images, captions, columns=len(columns))


def depth_errors(
    rqvae: RQVAEModel, pixel_values: torch.Tensor, latents: torch.Tensor, codes: torch.Tensor, lpips: nn.Module | None
) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """
    Compares pictures and latents with those of their first 1, 2, ..., D codes: yields for each depth the errors `(B,)`
    by the name of their metric, and the reconstructions `(B, 3, h, w)` in 8 bits.
    """
    original = to_rgb(to_uint8(pixel_values))  # (B, 3, h, w)
    for depth in range(1, codes.shape[-1] + 1):
        first = codes[..., :depth]
        decoded, partial_sum = rqvae.decode(first).float(), rqvae.quantizer.embed(first)  # z-hat^(d)
        rounded = to_rgb(to_uint8(decoded))
        errors = {
            "mse": squared_errors(pixel_values, decoded),
            "reconstruction_loss": (decoded - pixel_values).square().mean((1, 2, 3)),
            "commitment_loss": (partial_sum - latents).square().mean((1, 2, 3)),
        }
        if lpips is not None:
            errors["lpips"] = lpips(rounded / 127.5 - 1, original / 127.5 - 1).flatten()
        yield errors, rounded


@torch.no_grad()
def measure_reconstruction(
    rqvae: RQVAEModel,
    samples: Dataset,
    extractor: nn.Module | None = None,
    lpips: nn.Module | None = None,
    batch_size: int = 32,
) -> dict[str, Any]:
    """The results of [`evaluate_rqvae`]; modules must be on the device of the model."""
    from torchmetrics.image import StructuralSimilarityIndexMeasure

    config, device = rqvae.config, rqvae.device
    of_codes = ReconstructionMetrics(config.codebook_size, config.code_depth, config.shared_codebook)
    ssim = StructuralSimilarityIndexMeasure(data_range=1.0).to(device)
    errors = [defaultdict(list) for _ in range(config.code_depth)]  # by metric, (B,) of each batch
    distances = [frechet_distance(extractor.num_features).to(device) for _ in errors] if extractor else []
    for batch in sample_batches(samples, batch_size):
        pixel_values = batch["pixel_values"].to(device)
        latents = rqvae.encode_latents(pixel_values).float()  # (B, H, W, n_z)
        codes, _ = rqvae.quantize(latents)  # (B, H, W, D)
        original = to_rgb(to_uint8(pixel_values))  # (B, 3, h, w)
        real_features = extractor(original) if extractor else None
        for depth, (of_batch, rounded) in enumerate(depth_errors(rqvae, pixel_values, latents, codes, lpips)):
            for name, values in of_batch.items():
                errors[depth][name].append(values.cpu().double())
            if extractor:
                distances[depth].update(real_features, real=True)
                distances[depth].update(extractor(rounded), real=False)
        of_codes.update(of_batch["mse"], codes)
        ssim.update(rounded / 255, original / 255)

    norms, counts = rqvae.codebook.float().norm(dim=-1), of_codes.counts  # (1 or D, K), (D, K)
    code_norms = ((norms * counts).sum(1) / counts.sum(1)).tolist()
    rows = []
    for depth, of_depth in enumerate(errors):
        means = {name: torch.cat(values).mean().item() for name, values in of_depth.items()}
        row = {"depth": depth + 1, "psnr": psnr(means["mse"]), **means}
        if extractor:
            row[distance_name(extractor, "rfid")] = distances[depth].compute().item()
        rows.append(row | {"code_norm": code_norms[depth], **code_usage(counts[depth].cpu())})
    metrics = {"ssim": ssim.compute().item(), **rows[-1]}
    metrics |= {name: value for name, value in of_codes.compute().items() if "_depth_" not in name}
    metrics["commitment_loss"] = sum(row["commitment_loss"] for row in rows) / len(rows)
    del metrics["depth"], metrics["code_norm"]
    return {"num_pictures": len(samples), "metrics": metrics, "depths": rows}


def evaluate_rqvae(
    rqvae: RQVAEModel,
    samples: Dataset,
    *,
    extractor: str | nn.Module | None = None,
    lpips: bool | nn.Module = False,
    batch_size: int = 32,
    output: str | Path | None = None,
) -> dict[str, Any]:
    """
    Measures reconstructions from the codes of the first 1, 2, ..., D depths.

    Args:
        rqvae ([`RQVAEModel`]): The model, in evaluation mode.
        samples (`Dataset`): Items are `{"pixel_values": (C, h, w)}` in [-1, 1].
        extractor (`str` or `nn.Module`, *optional*): Adds the Fréchet distance to the originals, rFID with
            `"inception"`; see [`build_extractor`].
        lpips (`bool` or `nn.Module`, *optional*, defaults to `False`): Adds LPIPS, by VGG16 whose weights are
            downloaded, or by an `lpips.LPIPS` module.
        output (`str` or `Path`, *optional*): See [`write_report`]; the sheet has six pictures from coarse to fine.

    Returns:
        `dict` with `num_pictures`, `metrics` of all depths and `depths`, a row for each d.

        - `metrics`: `psnr` in dB, `ssim` and `mse` of pictures rounded to 8 bits, `reconstruction_loss` (Eq. 6),
          `commitment_loss` (Eq. 7), `lpips`, `rfid` and the metrics of [`code_usage`].
        - A row has the metrics of the first d codes; its `commitment_loss` is ||z - z-hat^(d)||^2. [`code_usage`] and
          `code_norm`, the mean norm of the code vectors, are those of the d-th codes alone (Figure 6).
    """
    if extractor is not None:
        if len(samples) < 2:
            raise ValueError("`samples` must hold two pictures or more for a Fréchet distance, got one.")
        extractor = build_extractor(extractor).to(rqvae.device)
    if lpips is True:
        lpips = load_lpips()
    lpips = lpips.to(rqvae.device) if lpips else None
    results = measure_reconstruction(rqvae, samples, extractor, lpips, batch_size)
    if output is not None:
        chosen = torch.linspace(0, len(samples) - 1, min(6, len(samples))).long()
        shown = torch.stack([samples[index]["pixel_values"] for index in chosen.tolist()])
        write_report(results, output, sheet=coarse_to_fine_sheet(rqvae, shown.to(rqvae.device)))
    return results
