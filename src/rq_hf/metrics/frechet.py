# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Frechet distances of pictures in the features of a frozen classifier.

In the features of Inception v3 such a distance is called FID, or rFID if the pictures are reconstructions. In other
features it has another scale and other preferences, and must not be compared with published FIDs.

Symbols: B pictures, N all pictures, F features of each, D code depth.
"""

from collections.abc import Sequence

import torch

# Features of a large set that are copied and summed at once.
ROWS_AT_ONCE = 10_000


class FeatureStatistics:
    """Mean and covariance of features that come in batches, summed in float64 on the CPU.

    Example:

    ```python
    >>> import torch
    >>> from rq_hf.metrics import FeatureStatistics
    >>> statistics = FeatureStatistics()
    >>> statistics.update(torch.tensor([[0.0, 1.0], [2.0, 1.0]]))
    >>> statistics.count, statistics.mean.tolist(), statistics.covariance.tolist()
    (2, [1.0, 1.0], [[2.0, 0.0], [0.0, 0.0]])
    ```
    """

    def __init__(self):
        self.count = 0
        self._sum, self._products = 0.0, 0.0

    def update(self, features: torch.Tensor) -> None:
        """Adds features `(B, F)`.

        Raises:
            `ValueError`: NaN or infinite ones, or of another width than those before.
        """
        features = features.detach().cpu().double()
        if not features.isfinite().all():
            raise ValueError("Features must be finite, got NaN or infinite ones.")
        if self.count and features.shape[1:] != self._sum.shape:
            shapes = f"{tuple(features.shape[1:])} after {tuple(self._sum.shape)}"
            raise ValueError(f"Features must have the width of those before, got {shapes}.")
        self.count += len(features)
        self._sum = self._sum + features.sum(0)
        self._products = self._products + features.T @ features  # (F, F)

    @property
    def mean(self) -> torch.Tensor:
        """`(F,)`."""
        return self._sum / self.count

    @property
    def covariance(self) -> torch.Tensor:
        """`(F, F)`, the unbiased estimate."""
        return (self._products - self.count * torch.outer(self.mean, self.mean)) / (self.count - 1)


def frechet_distances(reference: FeatureStatistics, others: Sequence[FeatureStatistics]) -> list[float]:
    r"""Squared Frechet distance of normal distributions, ||m - m'||^2 + tr(S + S' - 2 (S S')^(1/2)).

    With S = A A^T the trace of the root is that of (A^T S' A)^(1/2), a symmetric matrix with real eigenvalues. A has a
    column for each eigenvalue of S above rounding errors: where pictures are few, fewer columns than features.

    The distance of samples is biased: it is too large by an amount that goes as 1 over their size, so only distances
    of equally many pictures can be compared.

    Args:
        reference ([`FeatureStatistics`] or [`ReferenceStatistics`]):
            Of at least two pictures, or of an unknown number of them (`count` `None`).
        others (`Sequence[FeatureStatistics]`): likewise.

    Returns:
        `list[float]`, the distance of each from the reference.

    Raises:
        `ValueError`: statistics of fewer than two pictures, or of features of different widths.
    """
    counts = [statistics.count for statistics in (reference, *others)]
    if any(count is not None and count < 2 for count in counts):
        raise ValueError(f"Each of `reference` and `others` must be of at least 2 pictures, got {counts}.")
    mean, covariance = reference.mean, reference.covariance
    widths = [len(statistics.mean) for statistics in (reference, *others)]
    if len(set(widths)) > 1:
        raise ValueError(f"`reference` and `others` must be of features of one width, got {widths}.")
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
    factor = vectors[:, kept] * values[kept].sqrt()  # A
    distances = []
    for other in others:
        other_covariance = other.covariance
        product = factor.T @ other_covariance @ factor
        trace_of_root = torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()
        distance = (mean - other.mean).square().sum() + covariance.trace() + other_covariance.trace()
        distances.append((distance - 2 * trace_of_root).clamp(min=0).item())
    return distances


def distance_between_real_pictures(features: torch.Tensor, count: int, seed: int = 0) -> float:
    """Squared Frechet distance of pictures of a set, drawn at random, from the others of the set.

    It is a floor for `count` generated pictures: there is no difference but chance in it. The others are fewer than
    the set, which makes it a little larger; copies of the set's pictures can be below it.

    Args:
        features (`torch.Tensor` of shape `(N, F)`): of the set.
        count (`int`): number of pictures drawn, of 2..N-2.
        seed (`int`, defaults to 0): of the draw.

    Returns:
        `float`.

    Raises:
        `ValueError`: `count` leaves fewer than two pictures on a side.
    """
    if not 2 <= count <= len(features) - 2:
        raise ValueError(f"`count` must be in 2..{len(features) - 2}, got {count}.")
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    drawn, others = FeatureStatistics(), FeatureStatistics()
    drawn.update(features[order[:count]])
    for part in order[count:].split(ROWS_AT_ONCE):  # never the whole set once more, in float64
        others.update(features[part])
    (distance,) = frechet_distances(others, [drawn])
    return distance


class ReconstructionDistance:
    r"""
    Frechet distance between pictures and their reconstructions from the first 1..D codes, and a floor for it.

    A perfect reconstruction has the distance 0, as both sets are the same pictures; how much of another distance is
    chance does not show. So the pictures are split into two random halves A and B besides. The distance of real A from
    real B is the *floor*: what a perfect reconstruction of A would have from B. The reconstruction of A, all D codes,
    from real B is as biased and can be compared with it. Both are much larger than the distance of all pictures, most
    of it bias.

    Args:
        extractor (`torch.nn.Module`): turns uint8 pictures `(B, 3, height, width)` into features `(B, F)`.
        num_pictures (`int`): how many pictures will come, at least 4.
        code_depth (`int`): D.
        seed (`int`, defaults to 0): of the halves.

    Raises:
        `ValueError`: fewer than 4 pictures.
    """

    def __init__(self, extractor: torch.nn.Module, num_pictures: int, code_depth: int, seed: int = 0):
        if num_pictures < 4:
            raise ValueError(f"`num_pictures` must be at least 4 for a Frechet distance, got {num_pictures}.")
        self.extractor = extractor
        self.half_size = num_pictures // 2
        order = torch.randperm(num_pictures, generator=torch.Generator().manual_seed(seed))
        self._half = torch.full((num_pictures,), -1)  # an odd picture is in no half
        self._half[order[: self.half_size]] = 0
        self._half[order[self.half_size : 2 * self.half_size]] = 1
        self._seen = 0
        self._real, self._real_halves = FeatureStatistics(), (FeatureStatistics(), FeatureStatistics())
        self._reconstructed = [FeatureStatistics() for _ in range(code_depth)]
        self._reconstructed_half = FeatureStatistics()

    @torch.no_grad()
    def update(self, originals: torch.Tensor, reconstructions: Sequence[torch.Tensor]) -> None:
        """Adds pictures.

        Args:
            originals (`torch.ByteTensor` of shape `(B, 3, height, width)`): real pictures.
            reconstructions (`Sequence[torch.ByteTensor]`): D times the same shape, from the first 1, 2, ..., D codes.

        Raises:
            `ValueError`: more pictures than were said.
        """
        half = self._half[self._seen : self._seen + len(originals)]
        self._seen += len(originals)
        if self._seen > len(self._half):
            raise ValueError(f"`num_pictures` must be that of all pictures, got {len(self._half)} and more pictures.")
        features = self.extractor(originals).cpu()  # (B, F)
        self._real.update(features)
        for index, statistics in enumerate(self._real_halves):
            statistics.update(features[half == index])
        for statistics, pictures in zip(self._reconstructed, reconstructions, strict=True):
            features = self.extractor(pictures).cpu()
            statistics.update(features)
        self._reconstructed_half.update(features[half == 0])

    def compute(self) -> tuple[list[float], float, float]:
        """The distance of each depth from all pictures; of real half A, and of reconstructed half A, from real B.

        Raises:
            `ValueError`: fewer pictures than were said.
        """
        if self._seen < len(self._half):
            raise ValueError(f"`num_pictures` must be that of all pictures, {self._seen}, got {len(self._half)}.")
        first, second = self._real_halves
        real, reconstructed = frechet_distances(second, [first, self._reconstructed_half])
        return frechet_distances(self._real, self._reconstructed), real, reconstructed
