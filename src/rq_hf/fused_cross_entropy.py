# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Cross-entropy of a linear map's outputs, which are never held for more than a block of rows."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

# Rows, and what gives their targets: classes `(rows,)`, or distributions `(rows, K)` in fp32.
Block = tuple[slice, Callable[[], torch.Tensor]]


class FusedCrossEntropy(torch.autograd.Function):
    """Gradients are computed together with the loss, while the logits of a block are at hand: nothing is computed
    twice, and what is kept for the backward pass has the size of the rows and the weight."""

    @staticmethod
    def forward(
        ctx, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, blocks: Sequence[Block]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            rows: `(N, n_e)`, what the linear map gets.
            weight, bias: `(K, n_e)` and `(K,)`.
            blocks: all rows, in order.

        Returns:
            The mean cross-entropy `()`, and that of each row, `(N,)`, which has no gradient.
        """
        device = rows.device.type
        is_autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if is_autocast else rows.dtype
        inputs, matrix, offset = rows.to(dtype), weight.to(dtype), bias.to(dtype)
        losses = rows.new_empty(len(rows), dtype=torch.float32)
        gradients = [
            torch.zeros_like(each, dtype=torch.float32) if is_needed else None
            for each, is_needed in zip((rows, weight, bias), ctx.needs_input_grad, strict=False)
        ]
        with torch.autocast(device, enabled=False):
            for block, make_targets in blocks:
                logits = F.linear(inputs[block], matrix, offset).float()
                losses[block] = _losses_and_slopes(logits, make_targets())
                _add_gradients(gradients, logits, inputs[block], matrix, block)
        ctx.save_for_backward(*gradients)
        ctx.num_rows = len(rows)
        ctx.dtypes = [each.dtype for each in (rows, weight, bias)]
        ctx.mark_non_differentiable(losses)
        return losses.mean(), losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: torch.Tensor, _):
        scaled = [
            each.mul_(gradient / ctx.num_rows).to(dtype) if each is not None else None
            for each, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *scaled, None


def _losses_and_slopes(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy `(rows,)`; `logits` become its derivatives by them, probability minus target."""
    logits -= logits.amax(-1, keepdim=True)
    is_soft = targets.is_floating_point()
    if is_soft:
        at_targets = torch.bmm(logits[:, None], targets[:, :, None]).view(-1)
        mass = targets.sum(-1)
    else:
        at_targets = logits.gather(1, targets[:, None])[:, 0]
        mass = 1
    totals = logits.exp_().sum(-1, keepdim=True)
    logits /= totals
    if is_soft:
        logits -= targets
    else:
        logits.scatter_add_(1, targets[:, None], logits.new_full((1, 1), -1.0).expand(len(logits), 1))
    return totals[:, 0].log() * mass - at_targets


def _add_gradients(gradients, slopes: torch.Tensor, inputs: torch.Tensor, matrix: torch.Tensor, block: slice) -> None:
    """By the rows of a block, the weight and the bias, where they are wanted."""
    of_rows, of_weight, of_bias = gradients
    cast = slopes.to(matrix.dtype)
    if of_rows is not None:
        of_rows[block] = cast @ matrix
    if of_weight is not None and cast.dtype == of_weight.dtype:
        of_weight.addmm_(cast.t(), inputs)
    elif of_weight is not None:
        of_weight += cast.t() @ inputs
    if of_bias is not None:
        of_bias += slopes.sum(0)
