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
    storage = between.untyped_storage().data_ptr()

    def pack(saved: torch.Tensor):
        is_between = saved.untyped_storage().data_ptr() == storage  # it or a view of it
        return (saved.shape, saved.stride(), saved.storage_offset()) if is_between else saved

    def unpack(packed):
        if isinstance(packed, torch.Tensor):
            return packed
        with torch.no_grad():
            return first(source).as_strided(*packed)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return second(between)


class Dropout(nn.Dropout):
    """As in the base class; on a CPU a byte for each number is kept for the backward pass, instead of four."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training and self.p > 0 and inputs.device.type == "cpu":
            return torch.native_dropout(inputs, self.p, True)[0]
        return super().forward(inputs)
