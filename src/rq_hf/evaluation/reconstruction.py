# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""How well pictures survive an RQ-VAE, depth by depth (Tables 4 and 6, Figures 5 and 6).

Symbols: B pictures, C channels, h x w pixels, H x W positions, D code depth, K codebook size. z latents, z-hat^(d) sum
of the first d code vectors.
"""

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from ..images import coarse_to_fine_sheet, to_rgb, to_uint8
from ..models import RQVAEModel
from .features import build_extractor, distance_name, frechet_distance, pixel_batches
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


class ReconstructionFigures:
    """
    PSNR and use of the codes over the batches of an evaluation.

    Args:
        codebook_size (`int`): K.
        code_depth (`int`): D.
        shared_codebook (`bool`, *optional*, defaults to `True`): Whether all depths share one codebook.
    """

    def __init__(self, codebook_size: int, code_depth: int, shared_codebook: bool = True):
        self.shared_codebook = shared_codebook
        self.errors: list[torch.Tensor] = []  # (B,) of each batch
        self.counts = torch.zeros(code_depth, codebook_size, dtype=torch.long)

    def update(self, pixel_values: torch.Tensor, reconstruction: torch.Tensor, codes: torch.Tensor) -> None:
        """Adds pixels `(B, C, h, w)` in [-1, 1], their reconstruction and their codes `(B, H, W, D)`."""
        difference = to_uint8(reconstruction) / 255 - to_uint8(pixel_values) / 255
        self.errors.append(difference.square().mean((1, 2, 3)))
        of_depths = codes.flatten(0, 2).T  # (D, B * H * W)
        self.counts = self.counts.to(codes.device).scatter_add(1, of_depths, torch.ones_like(of_depths))

    def compute(self) -> dict[str, float | int]:
        """
        Returns `psnr` in dB, `mse` of pixels in [0, 1], the figures of [`code_usage`] over all depths, and
        `code_usage_depth_d` and `code_perplexity_depth_d` of each depth d. Empty without pictures.
        """
        if not self.errors:
            return {}
        mse = torch.cat(self.errors).mean().item()
        counts = self.counts.cpu()
        figures = {"psnr": psnr(mse), "mse": mse}
        figures |= code_usage(counts.sum(0) if self.shared_codebook else counts.flatten())
        for depth, of_depth in enumerate(counts, start=1):
            usage = code_usage(of_depth)
            figures |= {f"{name}_depth_{depth}": usage[name] for name in ("code_usage", "code_perplexity")}
        return figures


@torch.no_grad()
def evaluate_rqvae(
    rqvae: RQVAEModel,
    pictures: Dataset,
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
        pictures (`Dataset`): Items are `{"pixel_values": (C, h, w)}` in [-1, 1].
        extractor (`str` or `nn.Module`, *optional*): Adds the Fréchet distance to the originals, rFID with
            `"inception"`; see [`build_extractor`].
        lpips (`bool` or `nn.Module`, *optional*, defaults to `False`): Adds LPIPS, by VGG16 whose weights are
            downloaded, or by an `lpips.LPIPS` module.
        batch_size (`int`, *optional*, defaults to 32): Pictures at once.
        output (`str` or `Path`, *optional*): Writes the results (`.json`), tables (`.md`) and a sheet of six pictures
            from coarse to fine (`.png`).

    Returns:
        `dict` with `num_pictures`, `metrics` of all depths and `depths`, a row for each d.

        - `metrics`: `psnr` in dB, `ssim` and `mse` of pictures rounded to 8 bits, `reconstruction_loss` (Eq. 6),
          `commitment_loss` (Eq. 7), `lpips`, `rfid` and the figures of [`code_usage`].
        - A row has the figures of the first d codes; its `commitment_loss` is ||z - z-hat^(d)||^2. [`code_usage`] and
          `code_norm`, the mean norm of the code vectors, are those of the d-th codes alone (Figure 6).
    """
    from torchmetrics.image import StructuralSimilarityIndexMeasure

    config, device = rqvae.config, rqvae.device
    figures = ReconstructionFigures(config.codebook_size, config.code_depth, config.shared_codebook)
    ssim = StructuralSimilarityIndexMeasure(data_range=1.0).to(device)
    depths = range(config.code_depth)
    sums = [defaultdict(float) for _ in depths]  # of each depth, over the pictures
    if extractor is not None:
        extractor = build_extractor(extractor).to(device)
        distances = [frechet_distance(extractor.num_features).to(device) for _ in depths]
    if lpips is True:
        from lpips import LPIPS

        lpips = LPIPS(net="vgg", verbose=False).to(device)
    for pixel_values in pixel_batches(pictures, batch_size):
        pixel_values = pixel_values.to(device)
        latents = rqvae.encode_latents(pixel_values).float()  # (B, H, W, n_z)
        codes, _ = rqvae.quantize(latents)  # (B, H, W, D)
        original = to_rgb(to_uint8(pixel_values))  # (B, 3, h, w)
        if extractor is not None:
            real_features = extractor(original)
        for depth in depths:
            partial_sum = rqvae.quantizer.embed(codes[..., : depth + 1])  # z-hat^(d)
            decoded = rqvae.decode(codes[..., : depth + 1]).float()
            rounded = to_rgb(to_uint8(decoded))
            errors = {
                "mse": (rounded / 255 - original / 255).square().mean((1, 2, 3)),
                "reconstruction_loss": (decoded - pixel_values).square().mean((1, 2, 3)),
                "commitment_loss": (partial_sum - latents).square().mean((1, 2, 3)),
            }
            if lpips:
                errors["lpips"] = lpips(rounded / 127.5 - 1, original / 127.5 - 1)
            for name, values in errors.items():
                sums[depth][name] += values.double().sum().item()
            if extractor is not None:
                distances[depth].update(real_features, real=True)
                distances[depth].update(extractor(rounded), real=False)
        figures.update(pixel_values, decoded, codes)
        ssim.update(rounded / 255, original / 255)

    norms, counts = rqvae.codebook.float().norm(dim=-1), figures.counts  # (1 or D, K), (D, K)
    code_norms = ((norms * counts).sum(1) / counts.sum(1)).tolist()
    rows = []
    for depth in depths:
        means = {name: total / len(pictures) for name, total in sums[depth].items()}
        row = {"depth": depth + 1, "psnr": psnr(means["mse"]), **means}
        if extractor is not None:
            row[distance_name(extractor, "rfid")] = distances[depth].compute().item()
        rows.append({**row, "code_norm": code_norms[depth], **code_usage(counts[depth].cpu())})
    metrics = {"ssim": ssim.compute().item(), **rows[-1]}
    metrics |= {name: value for name, value in figures.compute().items() if "_depth_" not in name}
    metrics["commitment_loss"] = sum(row["commitment_loss"] for row in rows) / len(rows)
    del metrics["depth"], metrics["code_norm"]
    results = {"num_pictures": len(pictures), "metrics": metrics, "depths": rows}
    if output is not None:
        write_report(results, output)
        chosen = torch.linspace(0, len(pictures) - 1, min(6, len(pictures))).long()
        shown = torch.stack([pictures[index]["pixel_values"] for index in chosen.tolist()])
        coarse_to_fine_sheet(rqvae, shown.to(device)).save(Path(output).with_suffix(".png"))
    return results
