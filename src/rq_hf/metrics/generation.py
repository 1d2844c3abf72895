# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What is said of generated pictures as a set: Inception score, precision and recall, nearest real pictures (B.2).

Symbols: N generated pictures, R real ones, F features of each, C classes.
"""

from collections.abc import Iterable

import torch

from .extractors import FeatureExtractor

INSTALL = 'which `pip install "rq_hf[eval]"` installs'
# k of improved precision and recall.
NEIGHBOURHOOD = 3


def inception_score(logits: torch.Tensor, splits: int = 10) -> tuple[float, float]:
    """Inception score of shuffled pictures, by torch-fidelity: mean and deviation over equal parts of the set.

    Args:
        logits (`torch.Tensor` of shape `(N, C)`): of [`InceptionFeatures.features_and_logits`].
        splits (`int`, defaults to 10): parts.

    Raises:
        `ValueError`: fewer pictures than parts, NaN or infinite logits.
        `ImportError`: torch-fidelity is not installed.
    """
    if len(logits) < splits:
        raise ValueError(f"`logits` must be of at least `splits` ({splits}) pictures, got {len(logits)}.")
    _check_finite("logits", logits)
    try:
        from torch_fidelity.metric_isc import isc_features_to_metric
    except ImportError as error:
        raise ImportError(f"The Inception score needs torch-fidelity, {INSTALL}.") from error
    score = isc_features_to_metric(logits, splits=splits)
    return score["inception_score_mean"], score["inception_score_std"]


def precision_recall(features: torch.Tensor, real_features: torch.Tensor, block: int = 1000) -> tuple[float, float]:
    """Improved precision and recall, by torch-fidelity.

    Precision is the part of the generated pictures that lie nearer to some real picture than its third nearest real
    one; recall the part of the real ones likewise among the generated. It falls where pictures lose variety.

    Args:
        features (`torch.Tensor` of shape `(N, F)`): of generated pictures.
        real_features (`torch.Tensor` of shape `(R, F)`): of real ones; both figures depend on N and R.
        block (`int`, defaults to 1000): pictures whose distances are in memory at once.

    Raises:
        `ValueError`: not more than three pictures, features of different widths, NaN or infinite ones.
        `ImportError`: torch-fidelity is not installed.
    """
    if min(len(features), len(real_features)) <= NEIGHBOURHOOD:
        raise ValueError(
            f"Precision and recall need more than {NEIGHBOURHOOD} pictures of each kind, got {len(features)} and "
            f"{len(real_features)}."
        )
    if features.shape[1:] != real_features.shape[1:]:
        widths = f"{tuple(features.shape[1:])} and {tuple(real_features.shape[1:])}"
        raise ValueError(f"`features` and `real_features` must be of one width, got {widths}.")
    _check_finite("features", features)
    _check_finite("real_features", real_features)
    try:
        from torch_fidelity.metric_prc import prc_features_to_metric
    except ImportError as error:
        raise ImportError(f"Precision and recall need torch-fidelity 0.4 or newer, {INSTALL}.") from error
    found = prc_features_to_metric(
        features.float(),
        real_features.float(),
        prc_neighborhood=NEIGHBOURHOOD,
        prc_batch_size=block,
        save_cpu_ram=True,
        verbose=False,
    )
    return found["precision"], found["recall"]


def _check_finite(name: str, values: torch.Tensor) -> None:
    if not values.isfinite().all():
        raise ValueError(f"`{name}` must be finite, got NaN or infinite ones.")


def nearest_pictures(
    features: torch.Tensor, real_features: torch.Tensor, count: int = 1, block: int = 10_000
) -> tuple[torch.Tensor, torch.LongTensor]:
    """The nearest real pictures of generated ones in feature space, to see whether they are copies (App. B.2).

    Args:
        features (`torch.Tensor` of shape `(N, F)`): of generated pictures.
        real_features (`torch.Tensor` of shape `(R, F)`): of real ones.
        count (`int`, defaults to 1): neighbours of each, at most R.
        block (`int`, defaults to 10,000): real pictures whose distances are in memory at once.

    Returns:
        Euclidean distances `(N, count)`, ascending, and the places `(N, count)` of the neighbours.

    Raises:
        `ValueError`: more neighbours than pictures.
    """
    if not 1 <= count <= len(real_features):
        raise ValueError(f"`count` must be from 1 to the {len(real_features)} real pictures, got {count}.")
    features = features.double()
    best = features.new_empty(len(features), 0)
    places = torch.empty(len(features), 0, dtype=torch.long)
    for start in range(0, len(real_features), block):
        part = real_features[start : start + block].double()
        distances = torch.cdist(
            features, part, compute_mode="donot_use_mm_for_euclid_dist"
        )  # exact where pictures agree
        best = torch.cat([best, distances], dim=1)
        places = torch.cat([places, torch.arange(start, start + len(part)).expand(len(features), -1)], dim=1)
        best, order = best.sort(dim=1, stable=True)
        best, places = best[:, :count], places.gather(1, order)[:, :count]
    return best, places


def nearest_errors(
    pictures: torch.Tensor, real_batches: Iterable[torch.Tensor], block: int = 256
) -> torch.DoubleTensor:
    """The least mean squared error of generated pictures to any real one, to see whether they are copies (App. B.2).

    As [`nearest_pictures`] of the pixels, exact and by products.

    Args:
        pictures (`torch.ByteTensor` of shape `(N, C, height, width)`): generated ones, on the CPU.
        real_batches (`Iterable[torch.ByteTensor]`): real ones `(R, C, height, width)`, some at a time.
        block (`int`, defaults to 256): generated pictures that are compared at once.

    Returns:
        `torch.DoubleTensor` of shape `(N,)`, errors of pixels in [0, 1], 0 of equal pictures.

    Raises:
        `ValueError`: no real pictures, or pictures of other types or shapes.
    """
    flat = pictures.flatten(1)
    least = torch.full((len(pictures),), float("inf"), dtype=torch.float64)
    for batch in real_batches:
        if not pictures.dtype == batch.dtype == torch.uint8 or pictures.shape[1:] != batch.shape[1:]:
            raise ValueError(
                "`pictures` and `real_batches` must be uint8 of one shape, got "
                f"{pictures.dtype} {tuple(pictures.shape)} and {batch.dtype} {tuple(batch.shape)}."
            )
        real = batch.flatten(1).double()  # of which products of integers are exact
        for start in range(0, len(flat), block):
            own = flat[start : start + block].double()
            squares = own.square().sum(1)[:, None] + real.square().sum(1) - 2 * (own @ real.T)  # (block, R)
            part = least[start : start + block]
            torch.minimum(part, squares.min(1).values, out=part)
    if least.isinf().any():
        raise ValueError("`real_batches` must hold a real picture, got none.")
    return least / (flat.shape[1] * 255**2)


def extract(extractor: FeatureExtractor, pictures: torch.Tensor, logits: bool = False) -> dict[str, torch.Tensor]:
    """Features, and logits if wanted, of uint8 pictures `(B, 3, height, width)`, on the CPU.

    Args:
        extractor ([`FeatureExtractor`]): the net.
        pictures (`torch.ByteTensor`): the pictures.
        logits (`bool`): whether the Inception score will be asked for; the net must be Inception then.
    """
    if logits:
        features, scores = extractor.features_and_logits(pictures)
        return {"features": features.float().cpu(), "logits": scores.float().cpu()}
    return {"features": extractor(pictures).float().cpu()}
