# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Data sets and training transforms. Every random choice about a sample is seeded by (seed, epoch, sample index)."""

from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from ..caption_tokenizer import BPEDropoutEncoder


@dataclass
class DataArguments:
    """Which pictures to train on."""

    dataset_name: str | None = field(default=None, metadata={"help": "Hub id of a data set, or a folder."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
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


def _resize_short_side(picture: Image.Image, size: int) -> Image.Image:
    return TF.resize(picture, [size], interpolation=v2.InterpolationMode.BICUBIC, antialias=True)


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def _random_crop(picture: Image.Image, size: int, generator: torch.Generator) -> Image.Image:
    top = int(_uniform(generator, 0, picture.height - size + 1))
    left = int(_uniform(generator, 0, picture.width - size + 1))
    return TF.crop(picture, top, left, size, size)


def _random_flip(picture: Image.Image, generator: torch.Generator) -> Image.Image:
    return TF.horizontal_flip(picture) if torch.rand((), generator=generator) < 0.5 else picture


def _center_crop(picture: Image.Image, size: int, generator: torch.Generator | None = None) -> Image.Image:
    return TF.center_crop(_resize_short_side(picture, size), [size, size])


def _squash(picture: Image.Image, size: int, generator: torch.Generator | None = None) -> Image.Image:
    return TF.resize(picture, [size, size], interpolation=v2.InterpolationMode.BICUBIC, antialias=True)


def _imagenet(picture: Image.Image, size: int, generator: torch.Generator) -> Image.Image:
    return _random_flip(_random_crop(_resize_short_side(picture, size), size, generator), generator)


def _ffhq(picture: Image.Image, size: int, generator: torch.Generator) -> Image.Image:
    side = int(min(picture.size) * _uniform(generator, 0.75, 1.0) ** 0.5)  # the scale is one of area
    return _random_flip(_squash(_random_crop(picture, side, generator), size), generator)


def _cc3m(picture: Image.Image, size: int, generator: torch.Generator) -> Image.Image:
    side = min(picture.size)
    slack = [length - side for length in (picture.height, picture.width)]
    top, left = (int(part * _uniform(generator, 3 / 8, 5 / 8)) for part in slack)
    square = TF.crop(picture, top, left, side, side)
    target = int(_uniform(generator, size, max(size, min(side, size * 9 // 8)) + 1))
    return _random_crop(_squash(square, target), size, generator)


# name: (training, evaluation); each takes a picture, the size and, in training, a generator
TRANSFORMS = {
    "center_crop": (_center_crop, _center_crop),
    "imagenet": (_imagenet, _center_crop),
    "ffhq": (_ffhq, _squash),
    "lsun": (_center_crop, _center_crop),
    "cc3m": (_cc3m, _squash),
}


def to_pixel_values(picture: Image.Image) -> torch.Tensor:
    """An RGB or grey picture as `(channels, height, width)` fp32 in [-1, 1]."""
    pixels = torch.from_numpy(np.array(picture))
    pixels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
    return pixels.float() / 127.5 - 1


def parse_filter(text: str) -> dict[str, str]:
    """ "a=b,c=d" as a dictionary."""
    pairs = [part.split("=", 1) for part in text.split(",")]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"`filter` must be COLUMN=VALUE, several separated by commas, got {text!r}.")
    return {column.strip(): value.strip() for column, value in pairs}


def select_rows(dataset: datasets.Dataset, conditions: dict[str, str]) -> datasets.Dataset:
    """Rows whose columns have these values (as text); pictures are not decoded for it.

    Raises:
        `ValueError`: a column that is missing, or no row left.
    """
    for column, value in conditions.items():
        check_column(dataset, column, "filter")
        keep = [index for index, entry in enumerate(dataset[column]) if str(entry) == value]
        if not keep:
            raise ValueError(f"`filter` must leave some rows, got {column}={value!r}, which none has.")
        dataset = dataset.select(keep)
    return dataset


def check_column(dataset: datasets.Dataset, column: str, argument: str) -> None:
    """Raises a `ValueError` if the data set has no such column."""
    if column not in dataset.column_names:
        raise ValueError(f"`{argument}` must name a column of the data set, {dataset.column_names}, got {column!r}.")


def load_dataset_splits(arguments: DataArguments) -> dict[str, datasets.Dataset]:
    """The training split and, if there is one, the validation split, as "train" and "validation".

    Raises:
        `ValueError`: no data set named, a split or column that it lacks.
    """
    if arguments.dataset_name is None:
        raise ValueError("`dataset_name` must be a Hub id or a folder, got None.")
    if arguments.transform not in TRANSFORMS:
        raise ValueError(f"`transform` must be one of {sorted(TRANSFORMS)}, got {arguments.transform!r}.")
    available = datasets.load_dataset(arguments.dataset_name, arguments.dataset_config_name)
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
        for argument in ("image_column", "caption_column", "label_column"):
            column = getattr(arguments, argument)
            if column is not None:
                check_column(rows, column, argument)
        if arguments.filter is not None:
            rows = select_rows(rows, parse_filter(arguments.filter))
        splits[name] = rows if limit is None else rows.select(range(min(limit, len(rows))))
    return splits


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
        words = np.random.SeedSequence([self.seed, int(self._epoch), index, stream]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(words[0]) >> 1)


class PictureDataset(SeededDataset):
    """Pictures for stage 1: `{"pixel_values": (channels, size, size) in [-1, 1]}`.

    Args:
        rows (`datasets.Dataset`): with a column of pictures.
        image_size (`int`): height and width.
        num_channels (`int`): 3, or 1 for grey.
        image_column (`str`): the column.
        transform (`str`): a key of `TRANSFORMS`.
        training (`bool`): random crops and flips, or the evaluation transform.
        seed (`int`): of the random choices.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        image_size: int,
        num_channels: int = 3,
        image_column: str = "image",
        transform: str = "center_crop",
        training: bool = True,
        seed: int = 0,
    ):
        super().__init__(seed)
        self.rows = rows.select_columns([image_column])
        self.image_size = image_size
        self.mode = {1: "L", 3: "RGB"}[num_channels]
        self.image_column = image_column
        self.transform = TRANSFORMS[transform][0 if training else 1]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.prepare(self.rows[index][self.image_column], self.generator(index))}

    def prepare(self, picture: Image.Image, generator: torch.Generator | None = None) -> torch.Tensor:
        """The transformed pixels of one picture, `(channels, size, size)`."""
        return to_pixel_values(self.transform(picture.convert(self.mode), self.image_size, generator))


class CodeDataset(SeededDataset):
    """Samples of stage 2: a condition `input_ids` `(condition_length,)` with `pixel_values`, cached `latents`
    or cached `codes`.

    Args:
        pictures (`PictureDataset` or `datasets.Dataset`):
            The pictures, or rows with a column `latents` or `codes` (see [`cache_latents`]).
        conditions (`list`):
            For each row a caption, a list of caption variants of which one is drawn, or a class id; `None`:
            unconditional.
        encoder (`BPEDropoutEncoder`, *optional*):
            Turns captions into ids.
        bpe_dropout (`float`): rate of BPE dropout, 0 in evaluation.
        condition_dropout (`float`): part of the samples that get `null_condition_ids`, 0 in evaluation.
        null_condition_ids (`list[int]`, *optional*): ids of "no condition".
        training (`bool`): whether variants are drawn, or the first is taken.
        seed (`int`): of the random choices.
    """

    def __init__(
        self,
        pictures: PictureDataset | datasets.Dataset,
        conditions: list[Any] | None,
        encoder: BPEDropoutEncoder | None = None,
        bpe_dropout: float = 0.0,
        condition_dropout: float = 0.0,
        null_condition_ids: list[int] | tuple[int, ...] | None = None,
        training: bool = True,
        seed: int = 0,
    ):
        super().__init__(seed)
        self.pictures = pictures
        self.conditions = conditions
        self.encoder = encoder
        self.bpe_dropout = bpe_dropout
        self.condition_dropout = condition_dropout
        self.null_condition_ids = null_condition_ids
        self.training = training

    def set_epoch(self, epoch: int) -> None:
        """To be called before each epoch."""
        super().set_epoch(epoch)
        if isinstance(self.pictures, PictureDataset):
            self.pictures.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        sample = self.pictures[index]
        generator = self.generator(index, stream=1)  # the picture's crop does not decide the caption
        return {**sample, "input_ids": torch.tensor(self._condition(index, generator))}

    def _condition(self, index: int, generator: torch.Generator) -> list[int] | tuple[int, ...]:
        if self.conditions is None:
            return [0]
        if self.condition_dropout > 0 and torch.rand((), generator=generator) < self.condition_dropout:
            return self.null_condition_ids
        condition = self.conditions[index]
        if self.encoder is None:
            return [int(condition)]
        if not isinstance(condition, str):
            drawn = int(_uniform(generator, 0, len(condition))) if self.training else 0
            condition = condition[drawn]
        return self.encoder(condition, self.bpe_dropout, generator)
