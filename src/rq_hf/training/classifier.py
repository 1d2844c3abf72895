# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Small image classifiers, which select pictures or judge the selection: the two must not share pictures or nets."""

from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    EvalPrediction,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessor,
)

from .data import plain_label, sorted_names
from .field_types import check_field_types
from .pictures import PictureDataset
from .trainer import RQTrainer

ARCHITECTURES = ("resnet", "convnext")


@dataclass
class ClassifierArguments:
    """Which net, of which size, and which part of the pictures it sees."""

    architecture: str = field(default="resnet", metadata={"help": "The net.", "choices": ARCHITECTURES})
    image_size: int = field(default=32, metadata={"help": "Height and width of its pictures."})
    width: int = field(default=32, metadata={"help": "Channels of the first of three stages, doubled at each next."})
    half: int | None = field(
        default=None,
        metadata={"help": "Train on this half of the pictures, 0 or 1, the same for any seed; on all by default."},
    )

    def __post_init__(self):
        check_field_types(self)
        for name in ("image_size", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.half not in (None, 0, 1):
            raise ValueError(f"`half` must be 0, 1 or None, got {self.half}.")


def small_classifier(arguments: ClassifierArguments, names: list[str]) -> PreTrainedModel:
    """An untrained classifier with random weights.

    Args:
        arguments ([`ClassifierArguments`]): net and size.
        names (`list[str]`): of the classes.
    """
    labels = {
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }
    widths = [arguments.width * factor for factor in (1, 2, 4)]
    if arguments.architecture == "resnet":
        config = ResNetConfig(
            embedding_size=arguments.width, hidden_sizes=widths, depths=[1, 1, 1], layer_type="basic", **labels
        )
        return ResNetForImageClassification(config)
    config = ConvNextConfig(
        image_size=arguments.image_size, patch_size=2, num_stages=3, hidden_sizes=widths, depths=[1, 1, 2], **labels
    )
    return ConvNextForImageClassification(config)


def picture_processor(image_size: int) -> ViTImageProcessor:
    """Makes of square pictures what [`PictureDataset`] makes of them, pixels in [-1, 1]; it squashes others."""
    return ViTImageProcessor(
        size={"height": image_size, "width": image_size}, resample=3, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )


def half_of(rows: datasets.Dataset, half: int | None) -> datasets.Dataset:
    """One of the two halves of the rows, drawn once for all; 0 and 1 share none."""
    if half is None:
        return rows
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    return rows.select(sorted(order[half::2].tolist()))


def labels_of(rows: datasets.Dataset, column: str, names: list[str] | None = None) -> tuple[list[int], list[str]]:
    """Labels of rows as integers, and the names of the classes.

    Args:
        rows (`datasets.Dataset`): the rows.
        column (`str`): of class labels or texts.
        names (`list[str]`, *optional*): of the classes, in order; those of the column by default.

    Raises:
        `ValueError`: a label that is not among `names`, or none.
    """
    values, feature = [plain_label(value) for value in rows[column]], rows.features[column]
    if isinstance(feature, datasets.ClassLabel):
        values = [None if value is None else feature.int2str(value) for value in values]
        names = names or feature.names
    names = names or sorted_names(values)
    ids = {name: index for index, name in enumerate(names)}
    unknown = {str(value) for value in values if str(value) not in ids}
    if unknown:
        raise ValueError(f"`label_column` must hold labels of {names}, got also {sorted(unknown)[:5]}.")
    return [ids[str(value)] for value in values], names


class LabelledPictures(Dataset):
    """Samples of a classifier: `pixel_values` `(3, size, size)` in [-1, 1] and `labels`.

    Args:
        pictures ([`PictureDataset`]): the pictures.
        labels (`list[int]`): the class of each row.
    """

    def __init__(self, pictures: PictureDataset, labels: list[int]):
        self.pictures, self.labels = pictures, labels

    def set_epoch(self, epoch: int) -> None:
        """To be called before each epoch."""
        self.pictures.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample, row = self.pictures.sample(index)
        return {**sample, "labels": self.labels[row]}


class ClassifierTrainer(RQTrainer):
    """[`RQTrainer`] of a classifier, which logs its accuracy."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, compute_metrics=accuracy, **kwargs)
        self.model_accepts_loss_kwargs = False  # ResNet's `forward` takes and ignores them
        self.label_names = self.args.label_names = ["labels"]


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """The part of the pictures whose class is the likeliest one."""
    logits = prediction.predictions
    return {"accuracy": float(np.mean(logits.argmax(-1) == prediction.label_ids))}
