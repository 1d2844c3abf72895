# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Muon for the matrices of the transformer blocks beside another optimizer for all other weights."""

import torch
from torch import nn

from ..transformer_blocks import TransformerBlock


class JoinedOptimizer(torch.optim.Optimizer):
    """Optimizers of different parameters as one: schedules, `Trainer` and its checkpoints see all parameter groups.

    Args:
        optimizers: whose parameter groups follow each other in this order. They keep no state of their own.
    """

    def __init__(self, *optimizers: torch.optim.Optimizer):
        self.optimizers = optimizers
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})

    def step(self, closure=None):
        """A step of each, with the groups and states of this one: loading a checkpoint replaces them here alone."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        first = 0
        for optimizer in self.optimizers:
            last = first + len(optimizer.param_groups)
            optimizer.param_groups, optimizer.state = self.param_groups[first:last], self.state
            optimizer.step()
            first = last
        return loss


def block_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The trained weights `(out, in)` of the linear maps inside the spatial and depth transformers' blocks."""
    blocks = [module for module in model.modules() if isinstance(module, TransformerBlock)]
    return [weight for block in blocks for weight in block.parameters() if weight.ndim == 2 and weight.requires_grad]


def with_muon(
    optimizer: torch.optim.Optimizer, model: nn.Module, learning_rate: float, weight_decay: float
) -> JoinedOptimizer:
    """Leaves the matrices of the blocks to [`torch.optim.Muon`](https://arxiv.org/abs/2502.16982).

    Args:
        optimizer: new, of all parameters; the matrices are taken out of its groups.
        model: the transformer.
        learning_rate: of Muon, whose steps are scaled to the size that AdamW's have at this rate.
        weight_decay: of Muon, decoupled.
    """
    matrices = block_matrices(model)
    taken = {id(matrix) for matrix in matrices}
    for group in optimizer.param_groups:
        group["params"] = [weight for weight in group["params"] if id(weight) not in taken]
    muon = torch.optim.Muon(matrices, learning_rate, weight_decay, adjust_lr_fn="match_rms_adamw")
    return JoinedOptimizer(optimizer, muon)
