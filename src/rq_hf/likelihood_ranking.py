# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Re-ranking without another model: a transformer is surer of its good pictures than of its bad ones.

Symbols: N prompts, B pictures, S condition tokens, H, W, D positions and depth of a code map.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

Score = Callable[[torch.LongTensor, Sequence[int]], torch.Tensor]
LIKELIHOOD = "likelihood"  # what `ranker` is called that is no other model


def is_likelihood(ranker: Any) -> bool:
    """Whether a `ranker` of the pipeline, of any type, is no other model but the transformer itself."""
    return isinstance(ranker, str) and ranker == LIKELIHOOD


def likelihood_scorer(
    transformer: PreTrainedModel, input_ids: torch.LongTensor, known_mask: torch.BoolTensor | None
) -> Score:
    """`score(codes, rows)` of pictures that the transformer drew, for [`select_codes`].

    Args:
        transformer ([`RQTransformerForImageGeneration`]): the model.
        input_ids (`torch.LongTensor` of shape `(N, S)`): the conditions of all prompts, on the model's device.
        known_mask (`torch.BoolTensor` of shape `(H, W)`, `(H, W, D)` or `(N or 1, H, W, D)`, *optional*):
            What is given.

    Returns:
        A function that gives `(B,)` log-likelihoods per position, on the CPU: of the first codes, or where all of them
        are given for a prompt, of the next that are not.
    """

    def score(codes: torch.LongTensor, rows: Sequence[int]) -> torch.Tensor:
        masks = [known_mask] if known_mask is None or known_mask.ndim < 4 else known_mask  # `generate` has checked it
        rows = torch.tensor(rows, device="cpu")
        depths = [first_drawn_depth(mask, codes.shape[-1]) for mask in masks]
        of_row = torch.tensor(depths, device="cpu")[rows if len(depths) > 1 else torch.zeros_like(rows)]  # (B,)
        scores = torch.empty(len(rows), dtype=torch.float32, device="cpu")
        for depth in of_row.unique().tolist():
            places = (of_row == depth).nonzero()[:, 0]
            scores[places] = transformer.log_likelihood(input_ids[rows[places]], codes[places], depth).cpu()
        return scores

    return score


def with_likelihood(score: Score, likelihoods: Score, weight: float | None) -> Score:
    """`score(codes, rows)` plus so many times what [`likelihood_scorer`] gives; without a weight the score itself."""
    return (lambda codes, rows: score(codes, rows) + float(weight) * likelihoods(codes, rows)) if weight else score


def first_drawn_depth(known_mask: torch.BoolTensor | None, code_depth: int) -> int:
    """The first depth, from 1, of which a mask `(H, W)` or `(H, W, D)` does not give all codes, or the last one."""
    if known_mask is None or known_mask.ndim < 3:
        return 1
    all_known = known_mask.flatten(0, -2).all(0)  # (D,)
    return min(int(all_known.int().cumprod(0).sum()) + 1, code_depth)
