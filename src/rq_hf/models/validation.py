# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Checks of numbers and tensors. Ranges of numbers are declared with the fields of a dataclass:
`field(default=4, metadata={"range": at_least(1)})`."""

import math
from collections.abc import Sequence
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch


class Range(NamedTuple):
    """Finite numbers from `low` to `high`. A square bracket includes its end: `"[)"` is low <= number < high."""

    low: float
    high: float
    brackets: str

    def check(self, name: str, value: Any) -> None:
        """Raises a `ValueError` for a number outside, or a list with one. `None` passes."""
        numbers = value if isinstance(value, list | tuple) else [value]
        for number in (each for each in numbers if each is not None):
            if not isinstance(number, Real) or isinstance(number, bool) or not -math.inf < number < math.inf:
                raise ValueError(f"`{name}` must be a finite number, got {value!r:.80}.")
            is_end = (number == self.low and "[" in self.brackets) or (number == self.high and "]" in self.brackets)
            if not (self.low < number < self.high or is_end):
                raise ValueError(f"`{name}` must be {self}, got {value!r:.80}.")

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"at least {self.low}" if "[" in self.brackets else f"greater than {self.low}"
        return f"in {self.brackets[0]}{self.low}, {self.high}{self.brackets[1]}"


def at_least(low: float) -> Range:
    return Range(low, math.inf, "[)")


def greater_than(low: float) -> Range:
    return Range(low, math.inf, "()")


def between(low: float, high: float, brackets: str = "[]") -> Range:
    return Range(low, high, brackets)


def check_integer(name: str, value: Any, low: int, high: int) -> None:
    """Raises a `ValueError` unless a value is an integer from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= value <= high:
        raise ValueError(f"`{name}` must be an integer from {low} to {high}, got {value!r:.80}.")


def check_ranges(instance: Any) -> None:
    """Checks all fields of a dataclass that declare a range. Call it in `__post_init__`."""
    for field in fields(instance):
        if "range" in field.metadata:
            field.metadata["range"].check(field.name, getattr(instance, field.name))


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
