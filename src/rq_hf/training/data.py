# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Data sets: where pictures come from, Hub ids, folders and tar shards alike, and the samples of stage 2."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import datasets
import torch

from ..caption_tokenizer import BPEDropoutEncoder
from ..data_sources import Rows, read_dataset
from .field_types import check_field_types
from .pictures import PictureDataset, SeededDataset, undecoded
from .transforms import TRANSFORMS, uniform


@dataclass
class DataArguments:
    """Which pictures to train on."""

    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Hub id of a data set, or a folder of pictures, of their tables or tar shards."},
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    data_files: str | None = field(
        default=None,
        metadata={
            "help": "Which of its files: a pattern or address, a JSON list of these, or a JSON object of them by "
            "split. With --dataset_name webdataset these may be addresses of tar shards."
        },
    )
    streaming: bool = field(
        default=False,
        metadata={"help": "Read the training split as it comes, without a copy of it on disk; needs --max_steps."},
    )
    shuffle_buffer_size: int = field(
        default=1000, metadata={"help": "Pictures, not decoded, among which each worker draws while streaming."}
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    validation_split: str | None = field(default=None, metadata={"help": "Split to evaluate on."})
    image_column: str = field(default="image", metadata={"help": "Column of pictures."})
    caption_column: str | None = field(
        default=None, metadata={"help": "Column of captions, strings or lists of variants of which one is drawn."}
    )
    label_column: str | None = field(default=None, metadata={"help": "Column of class labels."})
    filter: str | None = field(
        default=None, metadata={"help": "Keep only rows with COLUMN=VALUE, several separated by commas."}
    )
    transform: str = field(default="center_crop", metadata={"help": "Name of a training transform."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Use only the first so many."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Use only the first so many."})
    max_corrupt_fraction: float = field(
        default=0.01,
        metadata={
            "help": "Stop when more than this part of the pictures cannot be decoded, in [0, 1]; others stand in for "
            "those. It is judged on 1,000 pictures or more, or on all where there are fewer."
        },
    )

    def __post_init__(self):
        for each in fields(self):  # an empty flag takes back what a configuration says
            if each.default is None and getattr(self, each.name) == "":
                setattr(self, each.name, None)
        if isinstance(self.data_files, dict | list):  # of a configuration
            self.data_files = json.dumps(self.data_files)
        check_field_types(self)
        if not 0 <= self.max_corrupt_fraction <= 1:
            raise ValueError(f"`max_corrupt_fraction` must be in [0, 1], got {self.max_corrupt_fraction}.")
        if self.shuffle_buffer_size < 1:
            raise ValueError(f"`shuffle_buffer_size` must be at least 1, got {self.shuffle_buffer_size}.")
        if self.transform not in TRANSFORMS:
            raise ValueError(f"`transform` must be one of {sorted(TRANSFORMS)}, got {self.transform!r}.")
        if self.streaming and self.max_train_samples is not None:
            raise ValueError("`max_train_samples` must not be given with `streaming`: `max_steps` bounds a stream.")


def load_dataset_splits(arguments: DataArguments) -> dict[str, Rows]:
    """The training split and, if there is one, the validation split, as "train" and "validation".

    Pictures stay files, `datasets.Image(decode=False)`. With `streaming` the training split is a
    `datasets.IterableDataset`; the validation split is read once into the cache of `datasets`, so that every
    evaluation sees all of it on any number of processes.

    Raises:
        `ValueError`: no data set named, none found, or one without the split, a column or any row.
    """
    if arguments.dataset_name is None:
        raise ValueError("`dataset_name` must be a Hub id or a folder, got None.")
    try:
        available = read_dataset(
            arguments.dataset_name,
            arguments.dataset_config_name,
            arguments.data_files,
            streaming=arguments.streaming,
        )
    except (FileNotFoundError, ValueError) as error:
        named = arguments.dataset_name
        raise ValueError(f"`dataset_name` must be a data set that can be read, got {named!r}: {error}") from error
    splits = {}
    for name, split, limit in (
        ("train", arguments.train_split, arguments.max_train_samples),
        ("validation", arguments.validation_split, arguments.max_eval_samples),
    ):
        if split is None:
            continue
        if split not in available:
            raise ValueError(f"`{name}_split` must be one of {list(available)}, got {split!r}.")
        rows = available[split]
        if rows.column_names is None:  # of a stream of files that do not say
            rows = rows._resolve_features()
        for argument in ("image_column", "caption_column", "label_column"):
            column = getattr(arguments, argument)
            if column is not None:
                check_column(rows, column, argument)
        rows = undecoded(rows, arguments.image_column)
        if arguments.filter is not None:
            rows = select_rows(rows, parse_filter(arguments.filter))
        if limit is not None:
            rows = rows.take(limit if arguments.streaming else min(limit, len(rows)))
        if arguments.streaming and name == "validation":
            rows = datasets.Dataset.from_generator(_each, gen_kwargs={"rows": rows}, features=rows.features)
        if _is_empty(rows):
            raise ValueError(f"`{name}_split` must have rows, got {split!r} of {arguments.dataset_name!r} with none.")
        splits[name] = rows
    return splits


def _each(rows: datasets.IterableDataset) -> Iterator[dict[str, Any]]:
    yield from rows


def sorted_names(labels: Iterable[Any]) -> list[str]:
    """Names of the different labels, whole numbers by value, anything else by text; what is missing is no label.

    Raises:
        `ValueError`: a label that is neither a number nor a text.
    """
    different = {label for label in map(plain_label, labels) if label is not None}
    if all(isinstance(label, int) for label in different):
        return [str(label) for label in sorted(different)]
    return sorted({str(label) for label in different})


def plain_label(label: Any) -> Any:
    """A label as it was meant: a column of integers with gaps is read as one of floats; `None` is none, or a blank.

    Raises:
        `ValueError`: a label that is neither a number nor a text.
    """
    if isinstance(label, str):
        return label if label.strip() else None
    if isinstance(label, float):
        return None if math.isnan(label) else int(label) if label.is_integer() else label
    if label is not None and not isinstance(label, int):
        raise ValueError(f"`label_column` must hold numbers or texts, got {label!r:.100}.")
    return label


def check_column(rows: Rows, column: str, argument: str) -> None:
    """Raises a `ValueError` if the data set has no such column."""
    if column not in (rows.column_names or []):
        raise ValueError(f"`{argument}` must name a column of the data set, {rows.column_names}, got {column!r}.")


def parse_filter(text: str) -> dict[str, str]:
    """ "a=b,c=d" as a dictionary.

    Raises:
        `ValueError`: a part without "=".
    """
    pairs = [part.split("=", 1) for part in text.split(",")]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"`filter` must be COLUMN=VALUE, several separated by commas, got {text!r}.")
    return {column.strip(): value.strip() for column, value in pairs}


def select_rows(rows: Rows, conditions: dict[str, str]) -> Rows:
    """Rows whose columns have these values (as text); pictures are not decoded for it.

    Raises:
        `ValueError`: a column that is missing, or no row left.
    """
    for column, value in conditions.items():
        check_column(rows, column, "filter")
        if isinstance(rows, datasets.IterableDataset):
            rows = rows.filter(_has_value, fn_kwargs={"value": value}, input_columns=[column])
        else:
            rows = rows.select([index for index, entry in enumerate(rows[column]) if str(entry) == value])
        if _is_empty(rows):
            raise ValueError(f"`filter` must leave some rows, got {column}={value!r}, which none has.")
    return rows


def _is_empty(rows: Rows) -> bool:
    if isinstance(rows, datasets.IterableDataset):
        return next(iter(rows), None) is None
    return len(rows) == 0


def _has_value(entry: Any, value: str) -> bool:
    return str(entry) == value


class ConditionEncoder:
    """Turns a condition, a caption, a list of caption variants, a class id or `None`, into ids.

    Args:
        encoder (`BPEDropoutEncoder`, *optional*):
            Turns captions into ids.
        bpe_dropout (`float`): rate of BPE dropout, 0 in evaluation.
        condition_dropout (`float`): part of the samples that get `null_condition_ids`, 0 in evaluation.
        null_condition_ids (`list[int]`, *optional*): ids of "no condition".
        training (`bool`): whether variants are drawn, or the first is taken.
    """

    def __init__(
        self,
        encoder: BPEDropoutEncoder | None = None,
        bpe_dropout: float = 0.0,
        condition_dropout: float = 0.0,
        null_condition_ids: list[int] | tuple[int, ...] | None = None,
        training: bool = True,
    ):
        for name, rate in (("bpe_dropout", bpe_dropout), ("condition_dropout", condition_dropout)):
            if not 0 <= rate <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], got {rate}.")
        if condition_dropout > 0 and null_condition_ids is None:
            raise ValueError(f"`condition_dropout` needs `null_condition_ids`, got {condition_dropout} without them.")
        self.encoder = encoder
        self.bpe_dropout = bpe_dropout
        self.condition_dropout = condition_dropout
        self.null_condition_ids = null_condition_ids
        self.training = training

    def input_ids(self, condition: Any, generator: torch.Generator) -> torch.Tensor:
        """Ids of a condition, `(condition_length,)`; `None` is the start id of unconditional models."""
        return torch.tensor(self._ids(condition, generator))

    def _ids(self, condition: Any, generator: torch.Generator) -> list[int] | tuple[int, ...]:
        if condition is None:
            return [0]
        if self.condition_dropout > 0 and torch.rand((), generator=generator) < self.condition_dropout:
            return self.null_condition_ids
        if self.encoder is None:
            return [int(condition)]
        if not isinstance(condition, str):
            drawn = int(uniform(generator, 0, len(condition))) if self.training else 0
            condition = condition[drawn]
        return self.encoder(condition, self.bpe_dropout, generator)


class CodeDataset(ConditionEncoder, SeededDataset):
    """Samples of stage 2: a condition `input_ids` `(condition_length,)` with `pixel_values`, cached `latents`
    or cached `codes`.

    Args:
        pictures (`PictureDataset` or `datasets.Dataset`):
            The pictures, or rows with a column `latents` or `codes` (see [`cache_latents`]).
        conditions (`list`):
            For each row a caption, a list of caption variants of which one is drawn, or a class id; `None`:
            unconditional.
        seed (`int`): of the random choices.
        encoding: of [`ConditionEncoder`].
    """

    def __init__(
        self,
        pictures: PictureDataset | datasets.Dataset,
        conditions: list[Any] | None,
        seed: int = 0,
        **encoding,
    ):
        if conditions is not None and len(conditions) != len(pictures):
            raise ValueError(f"`conditions` must be one per picture ({len(pictures)}), got {len(conditions)}.")
        ConditionEncoder.__init__(self, **encoding)
        SeededDataset.__init__(self, seed)
        self.pictures = pictures
        self.conditions = conditions

    def set_epoch(self, epoch: int) -> None:
        """To be called before each epoch."""
        super().set_epoch(epoch)
        if isinstance(self.pictures, PictureDataset):
            self.pictures.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if isinstance(self.pictures, PictureDataset):
            sample, row = self.pictures.sample(index)  # where another picture stands in, its caption comes with it
        else:
            sample, row = self.pictures[index], index
        condition = None if self.conditions is None else self.conditions[row]
        generator = self.generator(index, stream=1)  # the picture's crop does not decide the caption
        return {**sample, "input_ids": self.input_ids(condition, generator)}
