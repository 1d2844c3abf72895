# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Ranges of numbers, declared with the fields of a dataclass: `field(default=4, metadata={"range": at_least(1)})`."""

import math
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, NamedTuple


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
