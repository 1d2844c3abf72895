# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Cross-entropy of a linear map's outputs, which are never held for more than a block of rows."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

# The class of rows without a target, as in torch.
IGNORED = -100
# Rows, and what gives their targets: classes `(rows,)`, or distributions `(rows, K)` in fp32.
Block = tuple[slice, Callable[[], torch.Tensor]]
# Elements of the largest block of logits or targets that is held at once, but for a CPU: 32 MiB in fp32.
LOSS_BLOCK_ELEMENTS = 2**23


def loss_block_elements(device_type: str, num_classes: int) -> int:
    """The same of a kind of device. On a CPU as little as its caches hold, 2 MiB, but 128 rows, since each block reads
    the whole weight, and 8 MiB at most; these in a compiled program, which has every block written out."""
    if device_type != "cpu":
        return LOSS_BLOCK_ELEMENTS
    return 2**21 if torch.compiler.is_compiling() else min(2**21, max(2**19, 128 * num_classes))


class FusedCrossEntropy(torch.autograd.Function):
    """Gradients are computed together with the loss, while the logits of a block are at hand: nothing is computed
    twice, and what is kept for the backward pass has the size of the rows and the weight."""

    @staticmethod
    def forward(
        ctx,
        rows: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        blocks: Sequence[Block],
        count: int | torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            rows: `(N, n_e)`, what the linear map gets.
            weight, bias: `(K, n_e)` and `(K,)`.
            blocks: all rows, in order.
            count: how many rows have a target.

        Returns:
            The mean cross-entropy of these `()`, and that of each row, `(N,)`, which has no gradient.
        """
        device = rows.device.type
        # Compilers of older versions of torch cannot ask for what is available.
        has_autocast = torch.compiler.is_compiling() or torch.amp.is_autocast_available(device)
        is_autocast = has_autocast and torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if is_autocast else rows.dtype
        inputs, matrix, offset = rows.to(dtype), weight.to(dtype), bias.to(dtype)
        losses = rows.new_empty(len(rows), dtype=torch.float32)
        gradients = [
            torch.zeros_like(each, dtype=torch.float32) if is_needed else None
            for each, is_needed in zip((rows, weight, bias), ctx.needs_input_grad[:3], strict=True)
        ]
        # Gradients of fp16 would overflow or vanish: no loss scale has reached them yet.
        factors = (inputs.float(), matrix.float()) if dtype == torch.float16 else (inputs, matrix)
        with torch.autocast(device, enabled=False):
            for block, make_targets in blocks:
                logits = F.linear(inputs[block], matrix, offset).float()
                losses[block] = _losses_and_slopes(logits, make_targets())
                if any(ctx.needs_input_grad):
                    _add_gradients(gradients, logits, factors[0][block], factors[1], block)
        ctx.save_for_backward(*gradients)
        ctx.count, ctx.is_used = count, False
        ctx.dtypes = [each.dtype for each in (rows, weight, bias)]
        ctx.mark_non_differentiable(losses)
        return losses.sum() / count, losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: torch.Tensor, _):
        if ctx.is_used:  # the kept gradients have been scaled
            raise RuntimeError("The loss of the codes must go backward once, got a second backward pass.")
        ctx.is_used = True
        scaled = [
            each.mul_(gradient / ctx.count).to(dtype) if each is not None else None
            for each, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *scaled, None, None


def _losses_and_slopes(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy `(rows,)`; `logits` become its derivatives by them, probability minus target.

    Rows of class -100 have neither.
    """
    logits -= logits.amax(-1, keepdim=True)
    if targets.is_floating_point():
        at_targets = (logits * targets).sum(-1, keepdim=True)
        mass = targets.sum(-1, keepdim=True)
    else:
        targets = targets[:, None]
        mass = (targets != IGNORED).to(logits.dtype)
        targets = targets.where(mass > 0, 0)
        at_targets = logits.gather(1, targets) * mass
    totals = logits.exp_().sum(-1, keepdim=True)
    logits *= mass / totals
    if targets.is_floating_point():
        logits -= targets
    else:
        logits.scatter_add_(1, targets, -mass)
    return (totals.log() * mass - at_targets)[:, 0]


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
