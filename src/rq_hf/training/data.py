# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Training data: from a data set's name to samples of pictures and, in stage 2, their conditions.

Everything random about a sample is drawn from (seed, epoch, index), so that neither data loader workers nor a resumed
training change it.
"""

import itertools
import os
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow.compute as pc
import torch
from datasets.fingerprint import Hasher
from PIL import Image
from torch.utils.data import Dataset, IterableDataset
from transformers import TrainingArguments
from transformers.utils import logging

from ..images import decode_image
from ..models import RQVAEConfig, RQVAEModel
from ..models.sampling import seeded_generator
from .arguments import DataArguments

logger = logging.get_logger(__name__)

SPLITS = {"train", "validation", "test"}
HELD_OUT = 1 / 14  # share of the rows
Rows = datasets.Dataset | datasets.IterableDataset
ReadCondition = Callable[[dict[str, Any], torch.Generator], torch.Tensor]


def read_dataset(name: str, config_name: str | None = None, **kwargs) -> dict[str, Rows] | Rows:
    """
    Reads a data set with `datasets.load_dataset(..., **kwargs)`. Of a folder `SPLIT/*.tar` only the tar shards are
    read. Raises a `ValueError` if it cannot be read.
    """
    if not (name or "").strip("/"):
        raise ValueError(f"`dataset_name` must be a Hub id or a folder of data, got {name!r}.")
    if Path(name, "README.md").is_file():  # `datasets` caches such a folder under a key without its paths and times
        key = files_key(sorted(str(path.absolute()) for path in Path(name).rglob("*")))
        kwargs.setdefault("cache_dir", str(Path(datasets.config.HF_DATASETS_CACHE, key)))
    # img2dataset writes tables beside its shards, which `datasets` would read instead.
    shards: dict[str, list[str]] = {}
    for file in sorted(Path(name).glob("*/*.tar")):
        shards.setdefault(file.parent.name, []).append(str(file))
    try:
        if shards:
            return datasets.load_dataset("webdataset", data_files=shards, **kwargs)
        if Path(name).is_dir() and {each.name for each in Path(name).iterdir()} <= SPLITS:
            # Given the names of the splits, `datasets` searches a folder once and not 45 times.
            folders = sorted({file.parent.name for file in Path(name).glob("*/[!.]*")})
            kwargs["data_files"] = {folder: f"{folder}/**" for folder in folders} or None
        return datasets.load_dataset(name, config_name, **kwargs)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError, tarfile.TarError) as error:
        place = "" if Path(name).exists() else "; there is no such folder here"
        raise ValueError(f"`dataset_name` {name!r} cannot be read: {error.__cause__ or error}{place}") from error


def files_key(paths: Iterable[str]) -> str:
    """A hash of the names, sizes and times of those files that exist."""
    states = [(path, os.stat(path)) for path in paths if os.path.isfile(path)]
    return Hasher.hash([(path, state.st_size, state.st_mtime_ns) for path, state in states])


def load_splits(data: DataArguments) -> dict[str, Rows]:
    """
    Loads the training split and, if one is named, the validation split, as "train" and "validation".

    Pictures stay undecoded files. With `streaming` only the training split is a stream: validation rows are copied to
    the cache of `datasets`. With `hold_out`, and without `streaming`, training rows replace a
    missing validation split.
    """
    available = read_dataset(data.dataset_name, data.dataset_config_name, streaming=data.streaming)
    names, splits = {"train": data.train_split, "validation": data.validation_split}, {}
    for name, split in names.items():
        if split is None:
            continue
        if name == "validation" and split not in available and data.hold_out and not data.streaming:
            splits["train"], splits[name] = hold_out(splits["train"], data)
        else:
            splits[name] = read_split(available, split, data, f"{name}_split")
    for name, rows in splits.items():
        limit = data.max_train_samples if name == "train" else data.max_eval_samples
        if limit is not None:
            rows = rows.take(limit if data.streaming else min(limit, len(rows)))
        if data.streaming and name == "validation":
            rows = datasets.Dataset.from_generator(each_row, gen_kwargs={"rows": rows}, features=rows.features)
        if next(iter(rows), None) is None:
            raise ValueError(
                f"`{name}_split` must have rows, got none of {names[name]!r} with `filter` {data.filter!r}."
            )
        splits[name] = rows
    return splits


def read_split(available: dict[str, Rows], split: str, data: DataArguments, argument: str = "split") -> Rows:
    """The rows of one split that pass the filter, with undecoded pictures. An error calls the split `argument`."""
    if split not in available:
        raise ValueError(f"`{argument}` must be one of {list(available)}, got {split!r}; see `hold_out`.")
    rows = available[split]
    if rows.features is None:
        raise ValueError("`streaming` needs a data set that declares its columns; tables in text formats do not.")
    columns = list(rows.features)
    for name in ("image_column", "caption_column", "label_column"):
        if getattr(data, name) not in (*columns, None):
            raise ValueError(f"`{name}` must be one of the columns {columns}, got {getattr(data, name)!r}.")
    rows = rows.cast_column(data.image_column, datasets.Image(decode=False))
    if isinstance(rows, datasets.Dataset):
        rows = _keyed_by_files(rows, data.image_column)
    for pair in [] if data.filter is None else data.filter.split(","):
        column, separator, value = (part.strip() for part in pair.partition("="))
        if not separator or column not in columns:
            raise ValueError(f"`filter` must be COLUMN=VALUE of the columns {columns}, got {pair!r}.")
        rows = rows.filter(_has_value, input_columns=[column], fn_kwargs={"value": value})
    return rows


def _keyed_by_files(rows: datasets.Dataset, column: str) -> datasets.Dataset:
    """The same rows. `datasets` computes cached results anew when the files that a column names change."""
    pictures = rows.data[column]
    paths = pc.struct_field(pictures, "path").filter(pc.is_null(pc.struct_field(pictures, "bytes")))
    key = files_key(path for path in paths.to_pylist() if path)
    return rows.rename_column(column, key).rename_column(key, column)  # fingerprints depend on the names of columns


def hold_out(rows: datasets.Dataset, data: DataArguments) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Rows for training, and one row in 14 for validation. Both stages and evaluations of the same rows get the same
    parts, as the seed is fixed."""
    if len(rows) < 2:
        raise ValueError(f"`hold_out` needs at least two rows, got {len(rows)}.")
    parts = rows.train_test_split(max(1, round(len(rows) * HELD_OUT)), seed=0)
    logger.warning(f"{len(parts['test'])} of {len(rows)} rows of {data.dataset_name} are held out for validation.")
    return parts["train"], parts["test"]


def _read_file(picture: dict[str, Any] | None) -> bytes:
    path, content = (picture["path"], picture["bytes"]) if picture is not None else (None, None)
    if content is not None:
        return content
    if Path(str(path)).is_file():  # `fsspec` takes twice as long
        return Path(path).read_bytes()
    with fsspec.open(str(path), "rb") as file:
        return file.read()


def _has_value(entry: Any, value: str) -> bool:
    return str(entry) == value


def each_row(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield from rows


def open_picture(picture: Image.Image | dict[str, Any] | None, mode: str) -> Image.Image | None:
    """Decodes a picture: Pillow's, or `{"bytes": ..., "path": ...}`. Warns and returns `None` if that fails."""
    if isinstance(picture, Image.Image):
        return decode_image(picture, mode)
    try:
        return decode_image(_read_file(picture), mode)
    except (OSError, ValueError):
        logger.warning_once(f"Skipped picture {picture and picture['path']}: it cannot be read or decoded.")
        return None


@dataclass
class SampleReader:
    """
    Makes the training sample of a row.

    Args:
        transform ([`PictureTransform`]): Makes pixels of a decoded picture.
        read_condition (`Callable`, *optional*): A [`ConditionReader`], in stage 2.
        image_column (`str`, *optional*, defaults to `"image"`): Column of undecoded pictures.
        seed (`int`, *optional*, defaults to 0): Seed of all random choices.
        columns (`Sequence[str]`, *optional*): Further columns that the sample holds as they are.
    """

    transform: Callable[[Image.Image, torch.Generator], torch.Tensor]
    read_condition: ReadCondition | None = None
    image_column: str = "image"
    seed: int = 0
    columns: Sequence[str] = ()

    def __call__(self, row: dict[str, Any], epoch: int, index: int) -> dict[str, Any] | None:
        """
        A sample of a row: `pixel_values`, or `latents` if the row has them, and in stage 2 `input_ids` or
        `prompt_embeds`. `None` if the picture cannot be decoded.
        """
        if "latents" in row:
            sample = {"latents": row["latents"]}
        else:
            picture = open_picture(row[self.image_column], self.transform.mode)
            if picture is None:
                return None
            sample = {"pixel_values": self.transform(picture, seeded_generator(self.seed, epoch, index, 0))}
        if self.read_condition is not None:  # the crop of the picture does not decide the caption
            condition = self.read_condition(row, seeded_generator(self.seed, epoch, index, 1))
            sample["prompt_embeds" if condition.is_floating_point() else "input_ids"] = condition
        return sample | {name: row[name] for name in self.columns}


class PictureDataset(Dataset):
    """Samples of rows of [`load_splits`] or [`cache_latents`]. The next one stands in for an undecodable picture."""

    def __init__(self, rows: datasets.Dataset, reader: SampleReader):
        self.rows = rows
        self.reader = reader
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # persistent workers see it change

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch for random choices. [`RQTrainer`] calls it before each epoch."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index >= len(self):
            raise IndexError(index)  # ends a `for` loop
        for row in itertools.chain(range(index, len(self)), range(index)):
            sample = self.reader(self.rows[row], int(self._epoch), index)
            if sample is not None:
                return sample
        raise ValueError(f"`image_column` must hold pictures, got {self.reader.image_column!r} without any.")


class PictureStream(IterableDataset):
    """
    Endless training samples of a stream, epoch after epoch. Pictures that cannot be decoded are left out.

    Each epoch shuffles the shards and reads them through a buffer. Data loader workers share the shards.
    The index of a sample is the checksum of its file or path, so its crop does not depend on who reads it. With
    several processes the first one reads for all; `accelerate` hands out the batches. A resumed training reads and
    skips the samples that it was trained on before. The result is exact for the same batch size and number of workers.
    """

    def __init__(self, rows: datasets.IterableDataset, reader: SampleReader, shuffle_buffer_size: int):
        self.rows = rows.shuffle(seed=reader.seed, buffer_size=shuffle_buffer_size)
        self.reader = reader

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for epoch in itertools.count():
            self.rows.set_epoch(epoch)
            num_samples = 0
            for row in self.rows:
                picture = row[self.reader.image_column] or {}
                checksum = zlib.crc32(picture.get("bytes") or str(picture.get("path")).encode())
                sample = self.reader(row, epoch, checksum)
                if sample is not None:
                    num_samples += 1
                    yield sample
            if num_samples == 0:  # a worker without a shard of its own
                return


def make_reader(data: DataArguments, rqvae_config: RQVAEConfig, is_random: bool = False, **options) -> SampleReader:
    """A [`SampleReader`] for a model, whose transform crops at random or is that of evaluations."""
    from .transforms import PictureTransform  # needs torchvision

    transform = PictureTransform(rqvae_config.image_size, rqvae_config.num_channels, data.transform, is_random)
    return SampleReader(transform, image_column=data.image_column, **options)


def picture_datasets(
    splits: dict[str, Rows],
    data: DataArguments,
    training: TrainingArguments,
    rqvae_config: RQVAEConfig,
    is_random: bool = True,
) -> dict[str, PictureDataset | PictureStream]:
    """Makes the samples of each split, without conditions. Only "train" is cropped at random."""
    for name in ("eval_strategy", "save_strategy", "logging_strategy") if data.streaming else ():
        if getattr(training, name) == "epoch":
            raise ValueError(f"`{name}` must be 'steps' or 'no' with `streaming`, got 'epoch': a stream has no end.")
    columns = sorted({data.image_column, data.caption_column, data.label_column} - {None})
    samples = {}
    for name, rows in splits.items():
        reader = make_reader(data, rqvae_config, is_random and name == "train", seed=training.seed)
        if isinstance(rows, datasets.Dataset):
            samples[name] = PictureDataset(rows.select_columns(columns), reader)
        else:
            samples[name] = PictureStream(rows, reader, data.shuffle_buffer_size)
    return samples


@torch.no_grad()
def cache_latents(pictures: PictureDataset, rqvae: RQVAEModel, batch_size: int = 64) -> datasets.Dataset:
    """
    Rows with fp32 `latents` `(H, W, n_z)` in place of pictures, whose transform must not be random.

    `datasets` keeps the result for the same pictures, transform and weights. Undecodable pictures are left out.
    """
    rows, column, transform = pictures.rows, pictures.reader.image_column, pictures.reader.transform
    shape = (*rqvae.config.code_shape[:2], rqvae.config.codebook_dim)
    features = datasets.Features(rows.features | {"latents": datasets.Array3D(shape, "float32")})
    del features[column]
    options = {"batched": True, "batch_size": batch_size, "remove_columns": rows.column_names}
    given = {"image_column": column, "transform": transform, "rqvae": rqvae}
    encoded = rows.map(_encode, features=features, fn_kwargs=given, desc="Encoding pictures", **options)
    if len(encoded) == 0:
        raise ValueError(f"The data set must have pictures that can be decoded, got none in {len(rows)} rows.")
    return encoded.with_format("torch", columns=["latents"], output_all_columns=True)


def _encode(batch: dict[str, list], image_column: str, transform: Callable, rqvae: RQVAEModel) -> dict[str, list]:
    """One batch of [`cache_latents`]."""
    pictures = [open_picture(value, transform.mode) for value in batch.pop(image_column)]
    kept = [index for index, picture in enumerate(pictures) if picture is not None]
    encoded = {name: [values[index] for index in kept] for name, values in batch.items()}
    if not kept:
        return encoded | {"latents": []}
    pixel_values = torch.stack([transform(pictures[index]) for index in kept])
    return encoded | {"latents": rqvae.encode_latents(pixel_values.to(rqvae.device)).cpu().numpy()}
