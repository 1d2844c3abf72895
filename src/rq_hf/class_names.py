# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Names of classes, which may be several between commas, as those of ImageNet: "tench, Tinca tinca"."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Part of the places at which two lists of the same classes have a name in common: so have those of ImageNet that
# torchvision and the data set itself have, and at the others a word ("crane bird" and "crane"). Fewer than 100 classes
# must have one everywhere.
MIN_COMMON = 0.99


def alternatives(name: str) -> set[str]:
    """The names between the commas, in lower case."""
    return {part.strip().lower() for part in name.split(",")}


def ids_of_labels(labels: Any, id2label: Mapping[int, str], known: list[int]) -> list[int]:
    """Class ids of names (whole, or one of the alternatives between commas; case does not matter) or of ids.

    Args:
        labels: a name or id, or several in a list, an array or a tensor.
        id2label: names of classes.
        known: ids of the classes.

    Raises:
        `ValueError`: no labels, or a name or id that there is not.
    """
    labels = labels.tolist() if hasattr(labels, "tolist") else labels  # arrays, tensors and their numbers
    labels = labels if isinstance(labels, (list, tuple)) else [labels]
    if not labels:
        raise ValueError("`class_labels` must hold at least one label, got an empty list.")
    names, wholes, ids = {}, {}, []
    for index, label in id2label.items():
        wholes.setdefault(label.strip().lower(), []).append(index)
        for name in alternatives(label):
            names.setdefault(name, []).append(index)
    names |= wholes  # which go before alternatives
    among = f"[0, {len(known)})" if known == list(range(len(known))) else known
    for label in labels:
        label = label.item() if isinstance(label, np.integer) else label
        if isinstance(label, str):
            if not names:
                raise ValueError(f"`class_labels` must be ids in {among}: the classes have no names, got {label!r}.")
            if label.strip().lower() not in names:
                close = difflib.get_close_matches(label.lower(), list(names), n=3, cutoff=0.0)
                raise ValueError(f"`class_labels` must be labels of this model, such as {close}, got {label!r}.")
            indexes = names[label.strip().lower()]
            if len(indexes) > 1:
                raise ValueError(f"`class_labels` must be one class each, got {label!r}, a name of {indexes}.")
            label = indexes[0]
        if isinstance(label, bool) or not isinstance(label, int) or label not in known:
            raise ValueError(f"`class_labels` must be ids in {among} or names, got {label!r}.")
        ids.append(label)
    return ids


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
