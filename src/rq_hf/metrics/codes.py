# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""How codes are used: how many of them, how evenly, and how long their vectors are at each depth (Figure 6).

Symbols: D code depth, K codebook size, n_z codebook width.
"""

import math
from dataclasses import dataclass

import torch


def code_usage(counts: torch.Tensor) -> dict[str, float | int]:
    """How many codes of a codebook are used, and how evenly.

    Args:
        counts (`torch.LongTensor` of shape `(K,)`): how often each code occurs.

    Returns:
        `dict` with `codes_used`, the number of codes that occur; `code_usage`, their part of K; `code_entropy`,
        -sum_k p_k log p_k of the frequencies p in nats, from 0 (one code) to log K (all alike); and
        `code_perplexity`, its exponential.

    Raises:
        `ValueError`: no code occurs.
    """
    total = counts.sum()
    if total == 0:
        raise ValueError("`counts` must hold at least one code, got only zeros.")
    used = int((counts > 0).sum())
    entropy = torch.special.entr(counts.double() / total).sum().item()
    return {
        "codes_used": used,
        "code_usage": used / len(counts),
        "code_entropy": entropy,
        "code_perplexity": math.exp(entropy),
    }


@dataclass(frozen=True)
class CodeNorms:
    """
    How the codes of each depth are distributed over the Euclidean norm of their vectors.

    Args:
        means (`list[float]`): D mean norms, each code counted as often as it occurs.
        edges (`list[float]`): the limits of the bins, ascending, one more than bins.
        shares (`list[list[float]]`): for each depth the part of its codes in each bin; a depth's parts sum to 1.
    """

    means: list[float]
    edges: list[float]
    shares: list[list[float]]


def code_norms(codebook: torch.Tensor, counts: torch.Tensor, num_bins: int = 60) -> CodeNorms:
    """Distribution of the codes of each depth over the norm of their vectors, the data of Figure 6.

    Args:
        codebook (`torch.Tensor` of shape `(1, K, n_z)` or `(D, K, n_z)`): code vectors, shared or of each depth.
        counts (`torch.LongTensor` of shape `(D, K)`): how often each code occurs at each depth, at least once in all.
        num_bins (`int`, defaults to 60): equally wide bins from the least to the greatest norm of a code that occurs.

    Returns:
        [`CodeNorms`].
    """
    counts = counts.cpu()
    norms = codebook.detach().cpu().double().norm(dim=-1).expand(counts.shape)  # (D, K)
    shares = counts.double() / counts.sum(-1, keepdim=True)
    low, high = norms[counts > 0].aminmax()
    width = (high - low).clamp(min=1e-6) / num_bins  # one code alone gets a narrow range of its own
    bins = ((norms - low) / width).long().clamp(0, num_bins - 1)
    histogram = torch.zeros(len(counts), num_bins, dtype=torch.double).scatter_add_(1, bins, shares)
    edges = low + width * torch.arange(num_bins + 1)
    return CodeNorms((norms * shares).sum(-1).tolist(), edges.tolist(), histogram.tolist())
