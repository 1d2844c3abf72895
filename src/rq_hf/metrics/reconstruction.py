# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""How well pictures survive an RQ-VAE, depth by depth (Table 6, Figure 6).

Symbols: B pictures, D code depth, K codebook size. z latents, z-hat^(d) sum of the first d code vectors.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..features import PerceptualLoss
from ..modeling_rqvae import RQVAEModel
from .codes import CodeNorms, code_norms, code_usage
from .extractors import FEATURE_EXTRACTORS, distance_name, feature_extractors
from .frechet import ReconstructionDistance
from .pictures import picture_errors, psnr_from_mse, stored_pictures, structural_similarity, to_rgb


@dataclass(frozen=True)
class ReconstructionReport:
    """
    What [`measure_reconstruction`] finds.

    Args:
        metrics (`dict[str, float | int]`):
            Of all D depths: `psnr` in dB, `ssim`, `mse`, `reconstruction_loss` (Eq. 6), `commitment_loss` (Eq. 7: the
            mean over depths), the distances and `lpips` where asked for, and the figures of [`code_usage`] over all
            depths.
        depths (`list[dict[str, float | int]]`):
            A row for each d from 1 to D: `depth`; `psnr`, `mse`, `reconstruction_loss`, distances and `lpips` of the
            picture decoded from the first d codes; `commitment_loss` ||z - z-hat^(d)||^2, the mean over vector
            components; [`code_usage`] of the d-th codes and `code_norm`, the mean norm of their vectors.
        halves (`dict`):
            `num_pictures` in each of two random halves, and by distance `real`, the floor, and `reconstructed`, see
            [`ReconstructionDistance`]; empty without distances.
        norms ([`CodeNorms`]): the distribution of the codes over the norm of their vectors.
        num_pictures (`int`): how many pictures there were.
    """

    metrics: dict[str, float | int]
    depths: list[dict[str, float | int]]
    halves: dict[str, Any]
    norms: CodeNorms
    num_pictures: int


def reconstruction_distances(
    rqvae: RQVAEModel,
    num_pictures: int,
    extractors: Iterable[str] = FEATURE_EXTRACTORS,
    inception_weights: Any = None,
    seed: int = 0,
) -> dict[str, ReconstructionDistance]:
    """Frechet distances for [`measure_reconstruction`], by the names of their figures.

    The figure is `rfid` in the features of Inception v3, in others it is named after them, such as
    `frechet_distance_efficientnet_lite0`, which needs no download but flatters a model that was trained with the
    perceptual loss of the same net.

    Args:
        rqvae ([`RQVAEModel`]): the model, on its device.
        num_pictures (`int`): how many pictures will be measured, at least 4.
        extractors (`Iterable[str]`): what [`feature_extractors`] takes.
        inception_weights (`str` or `Path`, *optional*): file of Inception's weights; `None` downloads them.
        seed (`int`, defaults to 0): of the halves for the floor.

    Raises:
        As [`feature_extractors`] and [`ReconstructionDistance`].
    """
    distances = {}
    for net in feature_extractors(extractors, inception_weights):
        distances[distance_name(net.name, "rfid")] = ReconstructionDistance(
            net.to(rqvae.device), num_pictures, rqvae.config.code_depth, seed
        )
    return distances


@torch.no_grad()
def measure_reconstruction(
    rqvae: RQVAEModel,
    batches: Iterable[torch.Tensor],
    distances: Mapping[str, ReconstructionDistance] | None = None,
    lpips: PerceptualLoss | None = None,
) -> ReconstructionReport:
    r"""How well pictures survive an RQ-VAE, as a whole and by the number of depths decoded (Table 6, Figure 6).

    `psnr`, `ssim`, `mse`, `lpips` and distances are those of pictures rounded to uint8, errors with pixels in [0, 1].
    `reconstruction_loss` is that of training: pixels in [-1, 1], neither clamped nor rounded. All are means over
    pictures.

    Args:
        rqvae ([`RQVAEModel`]): the model, in evaluation mode.
        batches (`Iterable[torch.Tensor]`): pixels `(B, C, height, width)` in [-1, 1].
        distances (`Mapping[str, ReconstructionDistance]`, *optional*): see [`reconstruction_distances`].
        lpips ([`PerceptualLoss`], *optional*): `PerceptualLoss("vgg16")` on the model's device.

    Returns:
        [`ReconstructionReport`].

    Raises:
        `ValueError`: no pictures, or latents or reconstructions that are not finite.
        `ImportError`: torchmetrics is not installed.
    """
    depths = range(1, rqvae.config.code_depth + 1)
    distances = distances or {}
    similarity = structural_similarity().to(rqvae.device)
    counts = torch.zeros(rqvae.config.code_depth, rqvae.config.codebook_size, dtype=torch.long)
    errors: dict[str, list[torch.Tensor]] = {}  # figure: (D, B) of each batch
    for pixel_values in batches:
        pixel_values = pixel_values.to(rqvae.device)
        originals = stored_pictures(pixel_values)
        latents = rqvae.encode_latents(pixel_values)
        codes, _ = rqvae.quantize(latents)
        measured: dict[str, list[torch.Tensor]] = {}  # figure: (B,) of each depth
        reconstructions = []
        for depth in depths:
            decoded = rqvae.decode(codes[..., :depth]).float()
            reconstructions.append(stored_pictures(decoded))
            partial_sum = rqvae.quantizer.embed(codes[..., :depth])  # z-hat^(d), Eq. 4
            figures = {
                "mse": picture_errors(reconstructions[-1], originals),
                "reconstruction_loss": (decoded - pixel_values.float()).square().mean((1, 2, 3)),
                "commitment_loss": (latents.float() - partial_sum).square().mean((1, 2, 3)),
            }
            if lpips is not None:
                pair = [to_rgb(pictures).float() / 127.5 - 1 for pictures in (reconstructions[-1], originals)]
                figures["lpips"] = lpips(*pair).expand(len(originals))  # a mean over the batch
            for name, value in figures.items():
                measured.setdefault(name, []).append(value.cpu().double())
            flat = codes[..., depth - 1].flatten().cpu()
            counts[depth - 1] += torch.bincount(flat, minlength=rqvae.config.codebook_size)
        for name, values in measured.items():
            errors.setdefault(name, []).append(torch.stack(values))
        similarity.update(reconstructions[-1].float() / 255, originals.float() / 255)
        for distance in distances.values():
            distance.update(to_rgb(originals), [to_rgb(pictures) for pictures in reconstructions])
    if not errors:
        raise ValueError("`batches` must hold at least one picture, got none.")

    of_depths = {name: torch.cat(values, dim=1).mean(1).tolist() for name, values in errors.items()}
    of_depths = {"psnr": [psnr_from_mse(mse) for mse in of_depths["mse"]], **of_depths}
    halves: dict[str, Any] = {}
    for name, distance in distances.items():
        of_depths[name], real, reconstructed = distance.compute()
        halves["num_pictures"] = distance.half_size
        halves[name] = {"real": real, "reconstructed": reconstructed}
    norms = code_norms(rqvae.codebook, counts)
    rows = [
        {
            "depth": depth,
            **{name: values[depth - 1] for name, values in of_depths.items()},
            **code_usage(counts[depth - 1]),
            "code_norm": norms.means[depth - 1],
        }
        for depth in depths
    ]
    metrics = {name: values[-1] for name, values in of_depths.items()}
    metrics["commitment_loss"] = sum(of_depths["commitment_loss"]) / len(rows)
    return ReconstructionReport(
        metrics={
            "psnr": metrics.pop("psnr"),
            "ssim": similarity.compute().item(),
            **metrics,
            **code_usage(counts.sum(0) if rqvae.config.shared_codebook else counts.flatten()),
        },
        depths=rows,
        halves=halves,
        norms=norms,
        num_pictures=sum(values.shape[1] for values in errors["mse"]),
    )
