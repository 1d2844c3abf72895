# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Pictures as they come, from shards that are never all on disk. Each process reads its own part of them."""

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets.distributed import split_dataset_by_node
from torch.utils.data import IterableDataset, get_worker_info
from transformers import TrainerState, TrainingArguments

from ..seeds import seeded_generator
from .checkpoints import STATE_FILE, resume_checkpoint
from .data import ConditionEncoder, DataArguments
from .pictures import NUM_JUDGED, NUM_NAMED, check_corrupt_fraction
from .transforms import PictureTransform

logger = logging.getLogger(__name__)

MAX_EMPTY_EPOCHS = 10


class PictureStream(IterableDataset):
    """Endless pictures of a stream, epoch after epoch: `{"pixel_values": (channels, size, size) in [-1, 1]}`.

    A process reads its own shards, or every n-th row where there are fewer shards than processes, and its data loader
    workers share those shards. Each epoch puts the shards into another order, deals them out anew, and draws the rows
    from a buffer, all seeded by (seed, epoch). The crop of a picture is seeded by (seed, epoch, its file's content),
    so that no number of workers or processes changes it. In the place of a picture that cannot be decoded stands the
    next one that can: a sample for each row, so that resuming can count rows without decoding them.

    An epoch ends at different steps on different workers; that is why the stream itself goes on to the next.

    Args:
        rows (`datasets.IterableDataset`): with a column of pictures.
        transform (`PictureTransform`): of the training.
        image_column (`str`): the column.
        seed (`int`): of the order and of the random choices.
        shuffle_buffer_size (`int`): rows among which each worker draws.
        max_corrupt_fraction (`float`): part of the pictures that may be corrupt, in [0, 1].
        num_processes (`int`): how many read the stream together.
        process_index (`int`): which one this is.
        num_workers (`int`): the most workers that this process's data loader has.
        batch_size (`int`): of this process's data loader.
        skipped_batches (`int`, *optional*): the first batches, which are only counted, on resuming: empty tensors
            stand for them. `None`: the training was over, nothing comes.

    Raises:
        `ValueError`: on reading, where more of the pictures are corrupt, or a worker finds none at all.
    """

    def __init__(
        self,
        rows: datasets.IterableDataset,
        transform: PictureTransform,
        image_column: str = "image",
        seed: int = 0,
        shuffle_buffer_size: int = 1000,
        max_corrupt_fraction: float = 0.0,
        num_processes: int = 1,
        process_index: int = 0,
        num_workers: int = 0,
        batch_size: int = 1,
        skipped_batches: int | None = 0,
    ):
        self.rows = rows
        self.transform = transform
        self.image_column = image_column
        self.seed = seed
        self.shuffle_buffer_size = shuffle_buffer_size
        self.max_corrupt_fraction = max_corrupt_fraction
        self.num_processes = num_processes
        self.process_index = process_index
        self.batch_size = batch_size
        self.skipped_batches = skipped_batches
        # For each worker, which alone writes them: rows read, corrupt ones, epochs read from their start.
        self._counts = torch.zeros(max(num_workers, 1), 3, dtype=torch.int64).share_memory_()
        self._names: list[str] = []  # of this worker's corrupt pictures

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for sample, _, _ in self.samples():
            yield sample

    @property
    def num_corrupt(self) -> int:
        """How many pictures were found corrupt so far, by all workers of this process, in all epochs."""
        return int(self._counts[:, 1].sum())

    def epoch_rows(self, epoch: int) -> datasets.IterableDataset:
        """This process's rows of one epoch, in its order; in a data loader worker `datasets` gives that one's."""
        order = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1)[0])
        rows = self.rows.shuffle(seed=order, buffer_size=self.shuffle_buffer_size)
        if rows.num_shards >= self.num_processes:
            return rows.shard(self.num_processes, self.process_index)
        return split_dataset_by_node(rows, self.process_index, self.num_processes)

    def samples(self) -> Iterator[tuple[dict[str, torch.Tensor], dict[str, Any] | None, tuple[int, ...]]]:
        """Samples with their rows and the numbers that seed their random choices; skipped ones have neither."""
        if self.skipped_batches is None:
            return
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info is not None else (0, 1)
        if num_workers > len(self._counts):
            raise ValueError(f"`num_workers` must be that of the data loader, {num_workers}, got {len(self._counts)}.")
        skipped = self.batch_size * len(range(worker, self.skipped_batches, num_workers))  # batches go round in turn
        waiting = 0  # samples whose own picture is corrupt
        for epoch in itertools.count():
            num_decoded, is_whole = 0, skipped == 0
            if is_whole and self._counts[worker, 2] == 0:
                self._counts[worker] = 0  # the rest of an epoch, on resuming, would weigh too much
            for row in self.epoch_rows(epoch):
                if skipped > 0:
                    skipped, num_decoded = skipped - 1, num_decoded + 1
                    yield {"pixel_values": torch.empty(0)}, None, ()
                    continue
                self._counts[worker, 0] += 1
                value = row[self.image_column]
                try:
                    picture = self.transform.decode(value)
                except ValueError as error:
                    waiting += 1
                    self._note_corrupt(worker, _name(row, value), error)
                    continue
                num_decoded += 1
                for distance in range(waiting, -1, -1):
                    words = (self.seed, epoch, _identity(value), distance)
                    yield {"pixel_values": self.transform(picture, seeded_generator(*words, 0))}, row, words
                waiting = 0
            self._counts[worker, 2] += is_whole
            if self._counts[:, 2].min() > 0:  # all workers' parts were read
                self._check(total=self._corrupt_and_read()[1])
            if num_decoded == 0 and epoch >= MAX_EMPTY_EPOCHS:
                raise ValueError(f"`{self.image_column}` must have pictures for every worker, got none for {worker}.")

    def _note_corrupt(self, worker: int, name: str, error: ValueError) -> None:
        self._counts[worker, 1] += 1
        if name not in self._names:
            self._names.append(name)
            logger.warning("Skipped picture %s, %d corrupt of %d read: %s", name, *self._corrupt_and_read(), error)
        self._check(total=NUM_JUDGED)

    def _corrupt_and_read(self) -> tuple[int, int]:
        return self.num_corrupt, int(self._counts[:, 0].sum())

    def _check(self, total: int) -> None:
        corrupt, read = self._corrupt_and_read()
        check_corrupt_fraction(corrupt, read, total, self.max_corrupt_fraction, self._names[:NUM_NAMED])


class CodeStream(ConditionEncoder, IterableDataset):
    """Samples of stage 2 from a stream: `pixel_values`, and a condition `input_ids` `(condition_length,)`.

    Args:
        pictures (`PictureStream`): the pictures.
        read_condition (`Callable`): gives the condition of a row, see [`ConditionEncoder`].
        encoding: of [`ConditionEncoder`].
    """

    def __init__(self, pictures: PictureStream, read_condition: Callable[[dict[str, Any]], Any], **encoding):
        super().__init__(**encoding)
        self.pictures = pictures
        self.read_condition = read_condition

    @property
    def batch_size(self) -> int:
        """Of this process's data loader."""
        return self.pictures.batch_size

    @batch_size.setter
    def batch_size(self, batch_size: int) -> None:
        self.pictures.batch_size = batch_size

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for sample, row, words in self.pictures.samples():
            if row is None:
                yield {**sample, "input_ids": torch.empty(0)}
                continue
            generator = seeded_generator(*words, 1)  # the picture's crop does not decide the caption
            yield {**sample, "input_ids": self.input_ids(self.read_condition(row), generator)}


def _identity(value: dict[str, Any]) -> int:
    """A number that stands for a picture wherever it is read."""
    content = value["bytes"] or value["path"].encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _name(row: dict[str, Any], value: dict[str, Any] | None) -> str:
    path = value["path"] if value is not None and value["path"] else "without a name"
    return f"{row['__url__']}: {path}" if "__url__" in row else path


def training_stream(
    rows: datasets.IterableDataset, data: DataArguments, training: TrainingArguments, transform: PictureTransform
) -> PictureStream:
    """The stream of this process, from where its training goes on.

    There are no more data loader workers than shards for them: `training.dataloader_num_workers` is lowered to that.

    Raises:
        `ValueError`: arguments that need a known number of steps in an epoch.
    """
    if training.max_steps <= 0:
        raise ValueError(f"`max_steps` must be given with `streaming`, got {training.max_steps}.")
    for name in ("eval_strategy", "save_strategy", "logging_strategy"):
        if getattr(training, name) == "epoch":
            raise ValueError(
                f"`{name}` must be 'steps' or 'no' with `streaming`, got 'epoch': no process knows where one ends."
            )
    shards = rows.num_shards // training.world_size or rows.num_shards
    if training.dataloader_num_workers > shards:
        logger.warning(
            "`dataloader_num_workers` is %d instead of %d: %d shards on %d processes.",
            shards, training.dataloader_num_workers, rows.num_shards, training.world_size,
        )  # fmt: skip
        training.dataloader_num_workers = shards
    return PictureStream(
        rows,
        transform,
        image_column=data.image_column,
        seed=training.seed,
        shuffle_buffer_size=data.shuffle_buffer_size,
        max_corrupt_fraction=data.max_corrupt_fraction,
        num_processes=training.world_size,
        process_index=training.process_index,
        num_workers=training.dataloader_num_workers,
        batch_size=training.train_batch_size,
        skipped_batches=_trained_batches(training),
    )


def _trained_batches(training: TrainingArguments) -> int | None:
    """Batches that `Trainer` will pass over on resuming; `None` where all steps are done."""
    checkpoint = resume_checkpoint(training.output_dir, training.resume_from_checkpoint)
    if checkpoint is None or training.ignore_data_skip:
        return 0
    step = TrainerState.load_from_json(str(Path(checkpoint, STATE_FILE))).global_step
    return step * training.gradient_accumulation_steps if step < training.max_steps else None
