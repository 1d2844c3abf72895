# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Figures of merit: how well an RQ-VAE reconstructs, and whether generated pictures show what the prompt asked for.

Symbols: B pictures, C channels, H x W positions, D code depth, K codebook size, N real pictures, F features of each.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .modeling_rqvae import RQVAEModel


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


def picture_errors(pictures: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean squared error of each picture, of pixels in [0, 1].

    Args:
        pictures, targets (`torch.ByteTensor` of shape `(B, C, height, width)`): pixels from 0 to 255.

    Returns:
        `torch.DoubleTensor` of shape `(B,)`, in [0, 1], on the CPU.
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


def code_usage(counts: torch.Tensor) -> dict[str, float | int]:
    """How many codes of a codebook are used, and how evenly.

    Args:
        counts (`torch.LongTensor` of shape `(K,)`): how often each code occurs.

    Returns:
        `dict` with `codes_used`, the number of codes that occur; `code_usage`, their part of K; and
        `code_perplexity`, exp(-sum_k p_k log p_k) of the frequencies p, from 1 (one code) to K (all alike).
    """
    total = counts.sum()
    if total == 0:
        raise ValueError("`counts` must hold at least one code, got only zeros.")
    used = int((counts > 0).sum())
    entropy = torch.special.entr(counts.double() / total).sum().item()
    return {"codes_used": used, "code_usage": used / len(counts), "code_perplexity": math.exp(entropy)}


@torch.no_grad()
def measure_reconstruction(
    rqvae: RQVAEModel, batches: Iterable[torch.Tensor]
) -> tuple[dict[str, float | int], list[dict[str, float | int]]]:
    r"""How well pictures survive an RQ-VAE, as a whole and by the number of depths decoded (Table 6).

    Errors are those of pictures rounded to uint8, with pixels in [0, 1], averaged over all pictures.

    Args:
        rqvae ([`RQVAEModel`]): the model, in evaluation mode.
        batches (`Iterable[torch.Tensor]`): pixels `(B, C, height, width)` in [-1, 1].

    Returns:
        Two results. The first is of all D depths: `psnr` in dB, `ssim`, `mse`, `commitment_loss` (Eq. 7: the mean over
        depths), and the three figures of [`code_usage`] over all depths. The second has a row for each d from 1 to D:
        `depth`, `psnr` and `mse` of the picture decoded from the first d codes, `commitment_loss` ||z - z-hat^(d)||^2
        (the mean over vector components), and [`code_usage`] of the d-th codes.

    Raises:
        `ValueError`: no pictures, or reconstructions that are not finite.
        `ImportError`: torchmetrics is not installed.
    """
    depths = range(1, rqvae.config.code_depth + 1)
    similarity = structural_similarity().to(rqvae.device)
    counts = torch.zeros(rqvae.config.code_depth, rqvae.config.codebook_size, dtype=torch.long)
    errors, commitments = [], []
    for pixel_values in batches:
        pixel_values = pixel_values.to(rqvae.device)
        originals = to_uint8((pixel_values + 1) / 2)
        latents = rqvae.encode_latents(pixel_values)
        codes, _ = rqvae.quantize(latents)
        batch_errors, batch_commitments = [], []
        for depth in depths:
            reconstruction = to_uint8((rqvae.decode(codes[..., :depth]).float() + 1) / 2)
            batch_errors.append(picture_errors(reconstruction, originals))
            partial_sum = rqvae.quantizer.embed(codes[..., :depth])  # z-hat^(d), Eq. 4
            batch_commitments.append((latents.float() - partial_sum).square().mean((1, 2, 3)).cpu().double())
            flat = codes[..., depth - 1].flatten().cpu()
            counts[depth - 1] += torch.bincount(flat, minlength=rqvae.config.codebook_size)
        similarity.update(reconstruction.float() / 255, originals.float() / 255)
        errors.append(torch.stack(batch_errors))  # (D, B)
        commitments.append(torch.stack(batch_commitments))
    if not errors:
        raise ValueError("`batches` must hold at least one picture, got none.")

    mse = torch.cat(errors, dim=1).mean(1).tolist()  # one per depth
    commitment = torch.cat(commitments, dim=1).mean(1).tolist()
    rows = [
        {
            "depth": depth,
            "psnr": psnr_from_mse(mse[depth - 1]),
            "mse": mse[depth - 1],
            "commitment_loss": commitment[depth - 1],
            **code_usage(counts[depth - 1]),
        }
        for depth in depths
    ]
    metrics = {
        "psnr": rows[-1]["psnr"],
        "ssim": similarity.compute().item(),
        "mse": mse[-1],
        "commitment_loss": sum(commitment) / len(commitment),
        **code_usage(counts.sum(0) if rqvae.config.shared_codebook else counts.flatten()),
    }
    return metrics, rows


def pooled_pixels(pictures: torch.Tensor, side: int = 16) -> torch.Tensor:
    """Average colours of a `side` x `side` grid of cells: what is left of a picture when details are ignored.

    Args:
        pictures (`torch.ByteTensor` of shape `(B, C, height, width)`): at least `side` pixels each way.
        side (`int`, defaults to 16): cells each way.

    Returns:
        `torch.FloatTensor` of shape `(B, C * side * side)`, in [0, 1], on the CPU.
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


@dataclass(frozen=True)
class PromptScores:
    """
    What [`PromptAccuracy`] says of each of B pictures.

    Args:
        concept_rank (`torch.LongTensor` of shape `(B,)`):
            How many real pictures of the prompted style are nearer than the nearest that shows the prompted concept;
            0 is a hit of the first.
        style_hit (`torch.BoolTensor` of shape `(B,)`):
            Whether the nearest real picture of the prompted concept has the prompted style.
        nearest (`torch.LongTensor` of shape `(B,)`):
            Which real picture of the prompted style is nearest.
    """

    concept_rank: torch.LongTensor
    style_hit: torch.BoolTensor
    nearest: torch.LongTensor

    def __len__(self) -> int:
        return len(self.concept_rank)

    def summary(self) -> dict[str, float]:
        """Parts of the pictures in [0, 1]: `concept_top1`, `concept_top5` and `style_accuracy`."""
        return {
            "concept_top1": (self.concept_rank < 1).double().mean().item(),
            "concept_top5": (self.concept_rank < 5).double().mean().item(),
            "style_accuracy": self.style_hit.double().mean().item(),
        }


class PromptAccuracy:
    r"""
    Whether pictures show the prompted concept in the prompted style, judged by the nearest real pictures.

    *Concept*: among the real pictures of the prompted style, one of the prompted concept is the nearest (top-1), or
    one of the five nearest (top-5). *Style*: among the real pictures of the prompted concept, the nearest has the
    prompted style, or one of its group. Distances are Euclidean; of pictures that are equally near, the one that
    makes a hit counts.

    Args:
        features (`torch.Tensor` of shape `(N, F)`):
            Features of the real pictures, such as [`pooled_pixels`]; held-out pictures belong among them.
        concepts (`Sequence[str]`): what each real picture shows.
        styles (`Sequence[str]`): the style of each.
        style_groups (`Iterable[Sequence[str]]`, defaults to none):
            Styles that count as one for the style's accuracy; in the concept's accuracy every style stands alone.

    Raises:
        `ValueError`: numbers of pictures, concepts and styles that differ, or no pictures.

    Example:

    ```python
    >>> import torch
    >>> from rq_hf.metrics import PromptAccuracy, pooled_pixels
    >>> pictures = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    >>> concepts, styles = ["cat", "cat", "dog", "dog"], ["noto", "blob", "noto", "blob"]
    >>> accuracy = PromptAccuracy(pooled_pixels(pictures), concepts, styles)
    >>> accuracy.score(pooled_pixels(pictures), concepts, styles).summary()
    {'concept_top1': 1.0, 'concept_top5': 1.0, 'style_accuracy': 1.0}
    ```
    """

    def __init__(
        self,
        features: torch.Tensor,
        concepts: Sequence[str],
        styles: Sequence[str],
        style_groups: Iterable[Sequence[str]] = (),
    ):
        if not len(features) == len(concepts) == len(styles) or len(features) == 0:
            raise ValueError(
                "`features`, `concepts` and `styles` must be of one length above 0, got "
                f"{len(features)}, {len(concepts)} and {len(styles)}."
            )
        self.features = features.cpu()
        self._group_of = {style: group[0] for group in style_groups for style in group}
        self._concepts = _Labels("concepts", concepts)
        self._styles = _Labels("styles", styles)
        self._groups = _Labels("styles", [self._group(style) for style in styles])

    def score(self, features: torch.Tensor, concepts: Sequence[str], styles: Sequence[str]) -> PromptScores:
        """Scores of generated pictures.

        Args:
            features (`torch.Tensor` of shape `(B, F)`): their features, made as those of the real pictures.
            concepts, styles (`Sequence[str]`): what each prompt asked for.

        Returns:
            [`PromptScores`].

        Raises:
            `ValueError`: features that are not finite, or a concept and style of which there is no real picture.
        """
        if not features.isfinite().all():
            raise ValueError("`features` must be finite, got NaN or infinite ones.")
        ranks, hits, nearest = [], [], []
        for feature, concept, style in zip(features.cpu(), concepts, styles, strict=True):
            of_style, shows_concept, of_concept, has_style = self._candidates(concept, style)
            distances = self._distances(feature, of_style)
            ranks.append((distances < distances[shows_concept].min()).sum())
            nearest.append(of_style[distances.argmin()])
            distances = self._distances(feature, of_concept)
            hits.append(distances[has_style].min() <= distances.min())
        return PromptScores(torch.stack(ranks), torch.stack(hits), torch.stack(nearest))

    def floors(self, concepts: Sequence[str], styles: Sequence[str], seed: int = 0) -> dict[str, PromptScores]:
        """Scores of what needs no model, to compare with: anything useful must be above them.

        Args:
            concepts, styles (`Sequence[str]`): what each prompt asked for.
            seed (`int`, defaults to 0): of the choice of copies.

        Returns:
            `dict` with `other_style_copy`: a real picture of the prompted concept in another style, drawn at random;
            and `other_styles_mean`: the mean of all those. Prompts whose concept exists in no other style are left
            out; if that is all of them, the dictionary is empty.
        """
        generator = torch.Generator().manual_seed(seed)
        kept, copies, means = [], [], []
        for index, (concept, style) in enumerate(zip(concepts, styles, strict=True)):
            of_concept = self._concepts.where(concept)
            others = of_concept[self._styles.ids[of_concept] != self._styles.id_of(style)]
            if len(others) == 0:
                continue
            drawn = torch.randint(len(others), (), generator=generator)
            kept.append(index)
            copies.append(self.features[others[drawn]])
            means.append(self.features[others].mean(0))
        if not kept:
            return {}
        prompts = [concepts[index] for index in kept], [styles[index] for index in kept]
        return {
            "other_style_copy": self.score(torch.stack(copies), *prompts),
            "other_styles_mean": self.score(torch.stack(means), *prompts),
        }

    def chance(self, concepts: Sequence[str], styles: Sequence[str]) -> dict[str, float]:
        """What pictures in random order would score on average, as [`PromptScores.summary`]."""
        totals = dict.fromkeys(("concept_top1", "concept_top5", "style_accuracy"), 0.0)
        for concept, style in zip(concepts, styles, strict=True):
            _, shows_concept, _, has_style = self._candidates(concept, style)
            size, hits = len(shows_concept), int(shows_concept.sum())
            for name, drawn in (("concept_top1", 1), ("concept_top5", min(5, size))):
                totals[name] += 1 - math.comb(size - hits, drawn) / math.comb(size, drawn)
            totals["style_accuracy"] += has_style.double().mean().item()
        return {name: total / len(concepts) for name, total in totals.items()}

    def _group(self, style: str) -> str:
        return self._group_of.get(style, style)

    def _candidates(self, concept: str, style: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Real pictures of the style, which of them show the concept, those of the concept, which have the style."""
        of_style, of_concept = self._styles.where(style), self._concepts.where(concept)
        shows_concept = self._concepts.ids[of_style] == self._concepts.id_of(concept)
        has_style = self._groups.ids[of_concept] == self._groups.id_of(self._group(style))
        if not shows_concept.any():
            raise ValueError(f"`concepts` and `styles` must be pairs with a real picture, got {concept!r}, {style!r}.")
        return of_style, shows_concept, of_concept, has_style

    def _distances(self, feature: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Squared distances, by differences: equal pictures are exactly equally near."""
        return (self.features[indices] - feature).square().sum(-1)


class _Labels:
    """Labels of the real pictures as integers, and the pictures of each label."""

    def __init__(self, name: str, labels: Sequence[Any]):
        self.name = name
        self._id_of = {label: index for index, label in enumerate(dict.fromkeys(labels))}
        self.ids = torch.tensor([self._id_of[label] for label in labels])  # (N,)
        self._where = [(self.ids == index).nonzero()[:, 0] for index in range(len(self._id_of))]

    def id_of(self, label: str) -> int:
        if label not in self._id_of:
            raise ValueError(f"`{self.name}` must be among those of the real pictures, got {label!r}.")
        return self._id_of[label]

    def where(self, label: str) -> torch.LongTensor:
        return self._where[self.id_of(label)]
