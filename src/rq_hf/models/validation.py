# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Checks of integers and tensors."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch


def check_integer(name: str, value: Any, low: int, high: int) -> None:
    """Raises a `ValueError` unless a value is an integer from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= value <= high:
        raise ValueError(f"`{name}` must be an integer from {low} to {high}, got {value!r:.80}.")


def check_integers(name: str, values: torch.Tensor, size: int, shapes: Sequence[tuple[int, ...]]) -> None:
    """Raises a `ValueError` unless `values` is a tensor of integers in [0, `size`) with one of the shapes, in which -1
    is any length but 0."""
    check_shape(name, values, shapes)
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise ValueError(f"{name} must be integers in [0, {size}), got {values.dtype}.")
    smallest, largest = values.long().aminmax()
    if not (0 <= smallest and largest < size):
        raise ValueError(f"{name} must be integers in [0, {size}), got values from {smallest} to {largest}.")


def check_vectors(name: str, values: torch.Tensor, shapes: Sequence[tuple[int, ...]]) -> None:
    """Raises a `ValueError` unless `values` is a tensor of finite floats with one of the shapes."""
    check_shape(name, values, shapes)
    if not values.is_floating_point() or not values.isfinite().all():
        raise ValueError(f"{name} must be finite floats, got {values.dtype} or values that are not finite.")


def check_shape(name: str, values: torch.Tensor, shapes: Sequence[tuple[int, ...]]) -> None:
    """Raises a `ValueError` unless `values` is a tensor with one of the shapes."""
    if not isinstance(values, torch.Tensor):
        raise ValueError(f"{name} must be a tensor, got {type(values).__name__}.")
    found = tuple(values.shape)
    fits = [
        len(shape) == len(found) and all(n == m if m >= 0 else n > 0 for n, m in zip(found, shape, strict=True))
        for shape in shapes
    ]
    if not any(fits):
        expected = " or ".join(dict.fromkeys(str(shape).replace("-1", "batch_size") for shape in shapes))
        raise ValueError(f"{name} must have shape {expected}, got {found}.")
