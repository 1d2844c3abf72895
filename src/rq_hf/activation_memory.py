# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a training step keeps for its backward pass, made small where that costs next to no time."""

from collections.abc import Callable

import torch
from torch import nn

Map = Callable[[torch.Tensor], torch.Tensor]


def keeping_source(first: Map, second: Map, source: torch.Tensor) -> torch.Tensor:
    """`second(first(source))`, for whose backward pass `source` is kept, but not what lies between.

    `first` is computed once more there, so it should be cheap and without random numbers. Results are the same.
    """
    between = first(source)
    storage = between.untyped_storage()._cdata  # also of tensors without data

    def pack(saved: torch.Tensor):
        is_between = saved.untyped_storage()._cdata == storage  # it or a view of it
        return (saved.shape, saved.stride(), saved.storage_offset()) if is_between else saved

    def unpack(packed):
        if isinstance(packed, torch.Tensor):
            return packed
        with torch.no_grad():
            return first(source).as_strided(*packed)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return second(between)


class Dropout(nn.Dropout):
    """As in the base class, but faster on a CPU, where a byte for each number is kept instead of four."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        is_plain = inputs.device.type != "cpu" or torch.compiler.is_compiling()
        if not self.training or self.p == 0 or self.p == 1 or is_plain:
            return super().forward(inputs)
        # A random integer takes a third of the time of a draw of `bernoulli_`, and one of 64 bits holds two.
        integers = torch.empty((inputs.numel() + 1) // 2, dtype=torch.int64).random_(-(2**63), None)
        uniform = integers.view(torch.int32)[: inputs.numel()].view(inputs.shape)
        is_kept = uniform >= round(self.p * 2**32) - 2**31  # the share 1 - p of all 32-bit integers
        return _ScaledWhereKept.apply(inputs, is_kept, 1 / (1 - self.p))


class _ScaledWhereKept(torch.autograd.Function):
    """`inputs * is_kept * scale`; products with a bool tensor itself are slow."""

    @staticmethod
    def forward(ctx, inputs: torch.Tensor, is_kept: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(is_kept)
        ctx.scale = scale
        return is_kept.to(inputs.dtype).mul_(inputs).mul_(scale)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        (is_kept,) = ctx.saved_tensors
        return is_kept.to(gradient.dtype).mul_(gradient).mul_(ctx.scale), None, None
