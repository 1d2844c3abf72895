# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Pictures by their index. Every random choice about a sample is seeded by (seed, epoch, sample index)."""

import logging
from functools import partial
from typing import Any

import datasets
import torch
from torch.utils.data import Dataset

from ..data_sources import Rows
from ..picture_decoding import decode_picture
from ..seeds import seeded_generator
from .transforms import PictureTransform

logger = logging.getLogger(__name__)

NUM_JUDGED = 1000  # pictures from which the part of the undecodable ones is told
NUM_NAMED = 5


def undecoded(rows: Rows, image_column: str) -> Rows:
    """The rows with pictures as files, `{"bytes": ..., "path": ...}`: one that cannot be decoded stops nothing yet.

    Raises:
        `ValueError`: a column of something else than pictures, their files or paths, or arrays.
    """
    feature = rows.features[image_column]
    is_file = isinstance(feature, datasets.Value) and feature.dtype.removeprefix("large_") in ("string", "binary")
    is_table = isinstance(feature, dict) and {"bytes", "path"} & feature.keys()
    is_array = isinstance(feature, (datasets.Image, datasets.Array2D, datasets.Array3D))
    is_nested = isinstance(getattr(feature, "feature", None), datasets.List | datasets.LargeList)
    if not (is_file or is_table or is_array or is_nested):
        raise ValueError(f"`image_column` must be one of pictures, got {image_column!r} of {feature}.")
    return rows.cast_column(image_column, datasets.Image(decode=False))


def check_corrupt_fraction(corrupt: int, read: int, total: int, maximum: float, names: list[str]) -> None:
    """Raises a `ValueError` if more than a part of `maximum` of the pictures could not be decoded.

    Fewer than `NUM_JUDGED` of `total` are too few to tell it: so many are taken as read then.
    """
    if corrupt > maximum * max(read, min(total, NUM_JUDGED)):
        raise ValueError(
            f"`max_corrupt_fraction` must be at least the part of the pictures that cannot be decoded, got {maximum} "
            f"while {corrupt} of {read} could not be, among them: {'; '.join(names)}. Evaluations allow none."
        )


class SeededDataset(Dataset):
    """A data set whose random choices depend on (seed, epoch, sample index) alone.

    The epoch is in shared memory, so that data loader workers that live on see it change.
    """

    def __init__(self, seed: int):
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """To be called before each epoch."""
        self._epoch.fill_(epoch)

    def generator(self, index: int, stream: int = 0) -> torch.Generator:
        """The generator of a sample in this epoch; different streams are independent."""
        return seeded_generator(self.seed, int(self._epoch), index, stream)


class PictureDataset(SeededDataset):
    """Pictures for stage 1: `{"pixel_values": (channels, size, size) in [-1, 1]}`.

    In the place of a picture that cannot be decoded stands that of the next row, in every epoch and on every process
    alike. It is logged once with its name. What was read and what was corrupt is in shared memory: the data loader
    workers of a process count together, and each row once.

    Args:
        rows (`datasets.Dataset`): with a column of pictures.
        image_size (`int`): height and width.
        num_channels (`int`): 3, or 1 for grey.
        image_column (`str`): the column.
        transform (`str`): a key of `TRANSFORMS`.
        training (`bool`): random crops and flips, or the evaluation transform.
        seed (`int`): of the random choices.
        max_corrupt_fraction (`float`): part of the pictures that may be corrupt, in [0, 1].

    Raises:
        `ValueError`: on reading, where more of the pictures are corrupt.
    """

    UNREAD, DECODED, CORRUPT = range(3)

    def __init__(
        self,
        rows: datasets.Dataset,
        image_size: int,
        num_channels: int = 3,
        image_column: str = "image",
        transform: str = "center_crop",
        training: bool = True,
        seed: int = 0,
        max_corrupt_fraction: float = 0.0,
    ):
        super().__init__(seed)
        self.rows = undecoded(rows.select_columns([image_column]), image_column)
        self.image_column = image_column
        self.transform = PictureTransform(image_size, num_channels, transform, training)
        self.max_corrupt_fraction = max_corrupt_fraction
        self._state = torch.full((len(rows),), self.UNREAD, dtype=torch.uint8).share_memory_()
        self._names: list[str] = []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.sample(index)[0]

    @property
    def num_corrupt(self) -> int:
        """How many rows were found corrupt so far, by all workers of this process."""
        return int((self._state == self.CORRUPT).sum())

    def sample(self, index: int) -> tuple[dict[str, torch.Tensor], int]:
        """A sample, and the row that its picture is of: `index`, or the next one that can be decoded."""
        for row in (index, *range(index + 1, len(self)), *range(index)):
            if self._state[row] == self.CORRUPT:
                continue
            value = self.rows[row][self.image_column]
            try:
                picture = self.transform.decode(value)
            except ValueError as error:
                self._note_corrupt(row, value, error)
                continue
            self._state[row] = self.DECODED
            return {"pixel_values": self.transform(picture, self.generator(index))}, row
        raise ValueError(f"`image_column` must have pictures, got {self.image_column!r}: none can be decoded.")

    def _note_corrupt(self, row: int, value: dict[str, Any], error: ValueError) -> None:
        self._state[row] = self.CORRUPT
        corrupt, read = self.num_corrupt, int((self._state != self.UNREAD).sum())
        name = value["path"] if value is not None and value["path"] else f"row {row}"
        logger.warning("Skipped picture %s, %d corrupt of %d read: %s", name, corrupt, read, error)
        self._names = [*self._names, name][-NUM_NAMED:]
        check_corrupt_fraction(corrupt, read, len(self), self.max_corrupt_fraction, self._names)

    def prepare(self, value: Any) -> torch.Tensor:
        """The transformed pixels of one picture, `(channels, size, size)`, without random choices."""
        return self.transform(self.transform.decode(value), None)


def decodable_rows(rows: datasets.Dataset, image_column: str, max_corrupt_fraction: float) -> datasets.Dataset:
    """The rows whose pictures can be decoded; `datasets` keeps the result. The others are logged.

    Raises:
        `ValueError`: more than a part of `max_corrupt_fraction` of all pictures cannot be.
    """
    errors = undecoded(rows.select_columns([image_column]), image_column).map(
        partial(_decoding_error, image_column=image_column), with_indices=True, remove_columns=[image_column],
        features=datasets.Features(error=datasets.Value("string")), desc="Decoding pictures",
    )["error"]  # fmt: skip
    found = [error for error in errors if error]
    for error in found:
        logger.warning("Skipped picture %s", error)
    check_corrupt_fraction(len(found), len(rows), len(rows), max_corrupt_fraction, found[:NUM_NAMED])
    return rows.select([row for row, error in enumerate(errors) if not error]) if found else rows


def _decoding_error(example: dict[str, Any], row: int, image_column: str) -> dict[str, str]:
    value = example[image_column]
    try:
        decode_picture(value)
    except ValueError as error:
        return {"error": f"{value and value['path'] or f'row {row}'}: {error}"}
    return {"error": ""}
