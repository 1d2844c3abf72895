# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Frechet distances of pictures in the features of a frozen classifier.

In the features of Inception v3 such a distance is called FID, or rFID if the pictures are reconstructions. In other
features it has another scale and other preferences, and must not be compared with published FIDs.

Symbols: B pictures, N all pictures, F features of each, D code depth.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import torch

from ..features import EfficientNetLite0, FrozenModule, read_state_dict

FEATURE_EXTRACTORS = ("efficientnet_lite0", "inception")


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
        """Adds features `(B, F)`."""
        features = features.detach().cpu().double()
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
        reference ([`FeatureStatistics`]): of at least two pictures.
        others (`Sequence[FeatureStatistics]`): likewise.

    Returns:
        `list[float]`, the distance of each from the reference.

    Raises:
        `ValueError`: statistics of fewer than two pictures.
    """
    counts = [statistics.count for statistics in (reference, *others)]
    if min(counts) < 2:
        raise ValueError(f"Each of `reference` and `others` must be of at least 2 pictures, got {counts}.")
    mean, covariance = reference.mean, reference.covariance
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


class InceptionFeatures(FrozenModule):
    """The 2,048 features of Inception v3 in which FID is measured: torch-fidelity's, with TensorFlow's resizing.

    Args:
        weights (`str` or `Path`, *optional*):
            File of torch-fidelity's weights (`weights-inception-2015-12-05-6726825d.pth`), or of a state dict with
            their names; `None` downloads them.

    Raises:
        `ImportError`: torch-fidelity is not installed.
        `ValueError`: `weights` does not exist or does not fit.
        `OSError`: the download failed.
    """

    def __init__(self, weights: str | Path | None = None):
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
        except ImportError as error:
            raise ImportError('rFID needs torch-fidelity, which `pip install "rq_hf[eval]"` installs.') from error
        file = None
        if weights is not None:
            file = io.BytesIO()  # torch-fidelity would unpickle whatever the file holds; this holds tensors alone
            torch.save(read_state_dict(weights), file)
            file.seek(0)
        try:
            self.net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], file)
        except OSError as error:
            message = f"{URL_INCEPTION_V3} cannot be downloaded ({error})"
            raise OSError(f"{message}; `weights` (`--inception_weights`) takes a file of it.") from error
        except RuntimeError as error:
            raise ValueError(f"`weights` must fit Inception v3, '{weights}' does not: {str(error)[:300]}") from error
        self.requires_grad_(False).eval()

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Features `(B, 2048)` of uint8 pictures `(B, 3, height, width)`."""
        return self.net(pictures)[0]


class EfficientNetFeatures(FrozenModule):
    """The 1,280 features of [`EfficientNetLite0`], whose weights a package of the registry has."""

    def __init__(self):
        super().__init__()
        self.net = EfficientNetLite0()

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Features `(B, 1280)` of uint8 pictures `(B, 3, height, width)`."""
        return self.net.features(pictures.float() / 127.5 - 1)


def feature_extractor(name: str, weights: str | Path | None = None) -> FrozenModule:
    """The net that turns uint8 pictures `(B, 3, height, width)` into features `(B, F)`.

    Args:
        name (`str`): `"inception"` or `"efficientnet_lite0"`.
        weights (`str` or `Path`, *optional*): file of Inception's weights, see [`InceptionFeatures`].

    Raises:
        `ValueError`: an unknown name, or weights for another net than Inception; further as there.
    """
    if name not in FEATURE_EXTRACTORS:
        raise ValueError(f"`name` must be one of {FEATURE_EXTRACTORS}, got {name!r}.")
    if name == "inception":
        return InceptionFeatures(weights)
    if weights is not None:
        raise ValueError(f"`weights` must be None for {name!r}, whose own come in a package, got '{weights}'.")
    return EfficientNetFeatures()


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
