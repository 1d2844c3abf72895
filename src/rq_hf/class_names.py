# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Names of classes, which may be several between commas, as those of ImageNet: "tench, Tinca tinca"."""

import re
from collections.abc import Sequence

# Part of the places at which two lists of the same classes have a name in common: so have those of ImageNet that
# torchvision and the data set itself have, and at the others a word ("crane bird" and "crane"). Fewer than 100 classes
# must have one everywhere.
MIN_COMMON = 0.99


def alternatives(name: str) -> set[str]:
    """The names between the commas, in lower case."""
    return {part.strip().lower() for part in name.split(",")}


def are_same_classes(names: Sequence[str], others: Sequence[str]) -> bool:
    """Whether two lists name the same classes in the same order, if not by the same words everywhere: a class that has
    another one in its place has no word in common with it, or makes too large a part of the list."""
    if len(names) != len(others) or not names:
        return False
    differing = [
        (name, other)
        for name, other in zip(names, others, strict=True)
        if alternatives(name).isdisjoint(alternatives(other))
    ]
    are_alike = all(_words(name) & _words(other) for name, other in differing)
    return are_alike and len(differing) <= (1 - MIN_COMMON) * len(names)


def _words(name: str) -> set[str]:
    return set(re.findall(r"\w+", name.lower()))
