# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Names of classes: their ids in the transformer, and the same classes of a classifier."""

import difflib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any


def ids_by_name(id2label: Mapping[int, str]) -> dict[str, list[int]]:
    """Class ids of each label, such as "tench, Tinca tinca", and of its parts between commas, all in lower case."""
    labels, parts = defaultdict(list), defaultdict(list)
    for index, label in id2label.items():
        labels[label.strip().lower()].append(index)
        for part in {part.strip().lower() for part in label.split(",")}:
            parts[part].append(index)
    return {**parts, **labels}  # a label goes before an equal part of another label


def ids_of_labels(labels: Any, id2label: Mapping[int, str] | None, class_ids: Sequence[int]) -> list[int]:
    """Class ids of one or several labels, each a name or one of `class_ids`; tensors and arrays count as lists."""
    labels = labels.tolist() if hasattr(labels, "tolist") else labels
    labels = labels if isinstance(labels, (list, tuple)) else [labels]
    if not labels:
        raise ValueError("`class_labels` must hold at least one label, got an empty list.")
    names, ids = ids_by_name(id2label or {}), []
    for label in labels:
        label = label.tolist() if hasattr(label, "tolist") else label  # a number of an array
        if isinstance(label, str):
            found = names.get(label.strip().lower(), [])
        else:
            found = [label] if isinstance(label, int) and not isinstance(label, bool) else []
        if len(found) > 1:
            raise ValueError(f"`class_labels` must name one class each, got {label!r}, a name of {found}.")
        if not found or found[0] not in class_ids:
            raise ValueError(
                f"`class_labels` must be names or ids of the model's {len(class_ids)} classes, {class_ids[0]} to "
                f"{class_ids[-1]}, got {label!r:.80}. Similar: {difflib.get_close_matches(str(label).lower(), names)}."
            )
        ids += found
    return ids


def match_classes(
    id2label: Mapping[int, str] | None, class_ids: Sequence[int], classifier_id2label: Mapping[int, str]
) -> dict[int, int]:
    """The classifier's class for each of the model's `class_ids`.

    They are matched by name if the classifier has exactly one class of each name, and else by position.
    """
    names, ours = ids_by_name(classifier_id2label), id2label or {}
    found = {index: names.get(ours.get(index, "").strip().lower(), []) for index in class_ids}
    if all(len(ids) == 1 for ids in found.values()):
        return {index: ids[0] for index, ids in found.items()}
    if len(classifier_id2label) != len(class_ids):
        raise ValueError(
            f"`classifier` must have the model's {len(class_ids)} classes, got {len(classifier_id2label)}."
        )
    return dict(zip(class_ids, sorted(classifier_id2label), strict=True))
