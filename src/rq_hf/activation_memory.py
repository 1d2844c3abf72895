# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a training step keeps for its backward pass, made small where that costs next to no time."""

from collections.abc import Callable

import torch
from torch import nn

Map = Callable[[torch.Tensor], torch.Tensor]


def keeping_source(first: Map, second: Map, source: torch.Tensor) -> torch.Tensor:
    """`second(first(source))`, for whose backward pass `source` is kept where `second` would keep `first(source)`.

    `first` is computed once more there, so it should be cheap and without random numbers. Results are the same. Within
    checkpointing, which keeps less still, and compiled, where the compiler decides, nothing is done.
    """
    between = first(source)
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or _are_hooks_taken():
        return second(between)
    storage = between.untyped_storage()._cdata  # also of tensors without data
    device, version = source.device.type, source._version
    is_autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if is_autocast else None

    def pack(saved: torch.Tensor):
        if saved.untyped_storage()._cdata == storage:  # `between` or a view of it
            return saved.shape, saved.stride(), saved.storage_offset()
        # Not the tensor itself: as the output of the node that keeps it, it would keep that node, and itself, alive.
        return saved.detach(), saved._version  # which autograd itself no longer looks at

    def unpack(packed):
        if isinstance(packed[0], torch.Tensor):
            saved, expected = packed
            _check_version(saved, expected)
            return saved
        _check_version(source, version)
        with torch.no_grad(), torch.autocast(device, dtype, enabled=is_autocast):
            return first(source).as_strided(*packed)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return second(between)


def _are_hooks_taken() -> bool:
    """Whether something else, such as checkpointing, decides what is kept, or hooks are forbidden, or old versions of
    torch do not tell."""
    autograd = torch._C._autograd
    top_hooks = getattr(autograd, "_top_saved_tensors_default_hooks", None)
    return top_hooks is None or not autograd._saved_tensors_hooks_is_enabled() or top_hooks(True) is not None


def _check_version(tensor: torch.Tensor, version: int) -> None:
    if tensor._version != version:
        raise RuntimeError(
            "One of the tensors needed for the gradient has been modified by an inplace operation: a tensor of shape "
            f"{tuple(tensor.shape)} is at version {tensor._version}, expected {version}."
        )


class Dropout(nn.Dropout):
    """As in the base class, but faster on a CPU, where a byte for each number is kept instead of four."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        is_plain = inputs.device.type != "cpu" or torch.compiler.is_compiling()
        if not self.training or self.p == 0 or self.p == 1 or is_plain:
            return super().forward(inputs)
        # A random integer takes a third of the time of a draw of `bernoulli_`, and one of 64 bits holds two.
        integers = torch.empty((inputs.numel() + 1) // 2, dtype=torch.int64, device=inputs.device)
        uniform = integers.random_(-(2**63), None).view(torch.int32)[: inputs.numel()].view(inputs.shape)
        is_kept = uniform >= round(self.p * 2**32) - 2**31  # the share 1 - p of all 32-bit integers
        return _ScaledWhereKept.apply(inputs, is_kept, 1 / (1 - self.p))


class _ScaledWhereKept(torch.autograd.Function):
    """`inputs * is_kept * scale`; products with a bool tensor itself are slow."""

    @staticmethod
    def forward(inputs: torch.Tensor, is_kept: torch.Tensor, scale: float) -> torch.Tensor:
        return is_kept.to(inputs.dtype).mul_(inputs).mul_(scale)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.scale = inputs[2]

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        (is_kept,) = ctx.saved_tensors
        return is_kept.to(gradient.dtype).mul_(gradient).mul_(ctx.scale), None, None
