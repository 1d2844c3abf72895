# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`evaluate.py statistics`: mean and covariance of the features of real pictures, to compare generated ones with."""

import argparse
from typing import Any

import torch
from accelerate import PartialState

from .. import metrics
from ..data_sources import read_dataset
from ..metrics.extractors import FeatureExtractor
from ..metrics.statistics import ReferenceStatistics
from ..training.data import parse_filter, select_rows
from ..training.pictures import PictureDataset
from .models import device_of
from .rows import filtered, load_splits
from .shards import Shards

DETAILS = ("dataset_name", "dataset_config_name", "split", "filter", "image_column")


def picture_protocol(
    extractor: FeatureExtractor, image_size: int, num_channels: int, transform: str
) -> dict[str, Any]:
    """What has to agree between pictures that are compared."""
    processor = extractor.image_processor_digest
    return {
        "feature_extractor": extractor.name,
        "weights": extractor.digest,
        **({} if processor is None else {"image_processor": processor}),
        "image_size": image_size,
        "num_channels": num_channels,
        "transform": transform,
    }


def evaluate_statistics(arguments: argparse.Namespace, state: PartialState) -> dict[str, Any] | None:
    """Writes the statistics of a split to `--output`; `None` on all processes but the main one."""
    extractor = metrics.feature_extractor(arguments.feature_extractor, arguments.inception_weights)
    device = device_of(arguments, state)
    extractor.to(device)
    rows = filtered(load_splits(arguments, "image_column")[arguments.split], arguments)
    pictures = PictureDataset(
        rows, arguments.image_size, arguments.num_channels, arguments.image_column, arguments.transform, training=False
    )
    if len(rows) < 2:
        raise ValueError(f"`--split` must hold at least 2 pictures for a covariance, got {len(rows)}.")
    protocol = picture_protocol(extractor, arguments.image_size, arguments.num_channels, arguments.transform)
    details = {name: getattr(arguments, name) for name in DETAILS}

    def features(indices: range) -> dict[str, torch.Tensor]:
        pixel_values = torch.stack([pictures[index]["pixel_values"] for index in indices])
        levels = metrics.to_rgb(metrics.stored_pictures(pixel_values))
        return metrics.extract(extractor, levels.to(device))

    settings = {**protocol, **details, "device": device.type, "fingerprint": rows._fingerprint}
    shards = Shards(arguments.work_dir, len(rows), arguments.batch_size, settings, state)
    shards.make(features, "Reading")
    if not state.is_main_process:
        return None
    statistics = metrics.FeatureStatistics()
    for batch in shards.batches("features"):
        statistics.update(batch)
    metrics.warn_of_few_pictures("reference", statistics.count, len(statistics.mean))
    kept = shards.read("features") if arguments.keep_features else None
    ReferenceStatistics.of(statistics, protocol, details, kept).save(arguments.output)
    return {"num_pictures": statistics.count, "protocol": protocol, "details": details}


class ReferencePictures:
    """uint8 pictures `(3, height, width)` of the data set that statistics are of, by their place.

    Raises:
        `ValueError`: statistics that do not tell of what they are, or a data set that is another now.
    """

    def __init__(self, reference: ReferenceStatistics):
        details = reference.details
        missing = [name for name in DETAILS if name not in details]
        if missing:
            raise ValueError(f"`reference` must tell its data set to show pictures of it, it lacks {missing}.")
        rows = read_dataset(details["dataset_name"], details["dataset_config_name"])[details["split"]]
        if details["filter"]:
            rows = select_rows(rows, parse_filter(details["filter"]))
        protocol = reference.protocol
        self._pictures = PictureDataset(
            rows, protocol["image_size"], protocol["num_channels"], details["image_column"], protocol["transform"],
            training=False,
        )  # fmt: skip
        if len(rows) != reference.count:
            raise ValueError(
                f"`reference` must be of the data set as it is now, with {len(rows)} pictures, got {reference.count}."
            )

    def __getitem__(self, place: int) -> torch.Tensor:
        levels = metrics.stored_pictures(self._pictures[place]["pixel_values"])
        return metrics.to_rgb(levels[None])[0]
