# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Rows of data sets for the commands: splits, filters, columns as texts, pictures of a model's size, samples."""

import argparse
from collections.abc import Iterator

import datasets
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data_sources import read_dataset
from ..modeling_rqvae import RQVAEModel
from ..training.data import check_column, parse_filter, select_rows
from ..training.pictures import PictureDataset


def load_splits(arguments: argparse.Namespace, *columns: str) -> dict[str, datasets.Dataset]:
    """All splits; the one to measure has these columns."""
    splits = read_dataset(arguments.dataset_name, arguments.dataset_config_name)
    if arguments.split not in splits:
        raise ValueError(f"`--split` must be one of {list(splits)}, got {arguments.split!r}.")
    for name in columns:
        check_column(splits[arguments.split], getattr(arguments, name), f"--{name}")
    return splits


def filtered(rows: datasets.Dataset, arguments: argparse.Namespace, name: str = "filter") -> datasets.Dataset:
    """The rows that `--filter`, or the argument `name` where it is given, leaves."""
    chosen = getattr(arguments, name)
    chosen = arguments.filter if chosen is None else chosen
    return select_rows(rows, parse_filter(chosen)) if chosen else rows


def column_texts(rows: datasets.Dataset, column: str) -> list[str]:
    """A column as texts: the names of class labels, the first of lists.

    Raises:
        `ValueError`: a row without any.
    """
    values, feature = list(rows[column]), rows.features[column]
    firsts = [(value or [None])[0] if isinstance(value, list) else value for value in values]
    if None in firsts:
        row = firsts.index(None)
        raise ValueError(f"Column {column!r} must hold a text in every row, got {values[row]} in row {row}.")
    if isinstance(feature, datasets.ClassLabel):
        return feature.int2str(firsts)
    return [str(value) for value in firsts]


def picture_dataset(rows: datasets.Dataset, rqvae: RQVAEModel, arguments: argparse.Namespace) -> PictureDataset:
    """Pictures of the model's size."""
    config, column = rqvae.config, arguments.image_column
    return PictureDataset(rows, config.image_size, config.num_channels, column, arguments.transform, training=False)


def picture_batches(pictures: PictureDataset, arguments: argparse.Namespace) -> Iterator[torch.Tensor]:
    """Pixels `(B, C, height, width)` in [-1, 1]."""
    for batch in tqdm(DataLoader(pictures, batch_size=arguments.batch_size), desc="Reading pictures", unit="batch"):
        yield batch["pixel_values"]


def choose_rows(count: int, number: int | None, seed: int, argument: str = "--num_prompts") -> list[int]:
    """All rows, or a random sample of `number`; a larger sample begins with the smaller one."""
    if number is None:
        return list(range(count))
    if number > count:
        raise ValueError(f"`{argument}` must be at most {count}, the rows of the split, got {number}.")
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:number].tolist()
