# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Names of classes, which may be several between commas, as those of ImageNet: "tench, Tinca tinca"."""

from collections.abc import Sequence

# Part of the places at which two lists of the same classes have a name in common: those of ImageNet that torchvision
# and `ILSVRC/imagenet-1k` have do at 99 of 100.
MIN_COMMON = 0.9


def alternatives(name: str) -> set[str]:
    """The names between the commas, in lower case."""
    return {part.strip().lower() for part in name.split(",")}


def are_same_classes(names: Sequence[str], others: Sequence[str]) -> bool:
    """Whether two lists name the same classes in the same order, if not by the same words everywhere."""
    if len(names) != len(others) or not names:
        return False
    pairs = zip(names, others, strict=True)
    common = sum(not alternatives(name).isdisjoint(alternatives(other)) for name, other in pairs)
    return common >= MIN_COMMON * len(names)
