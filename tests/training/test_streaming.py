# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Streams of tar shards: order, workers, processes, corrupt pictures, captions and resuming."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, skip_first_batches
from picture_files import write_shards
from torch.utils.data import DataLoader
from training_runs import COMMON, RQVAE_FIELDS, logged

from rq_hf.training import Recipe, RQVAETrainingArguments, train_rqvae
from rq_hf.training.arguments import DataArguments
from rq_hf.training.data import PictureStream, SampleReader, load_splits, picture_datasets
from rq_hf.training.transforms import PictureTransform


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Four shards of six pictures."""
    return write_shards(tmp_path_factory.mktemp("shards"), 4, 6)


def read_key(row: dict, generator: torch.Generator) -> torch.Tensor:
    """Number of a row, in place of its condition."""
    return torch.tensor([int(row["__key__"])])


def make_stream(folder: Path, shuffle_buffer_size: int = 5, seed: int = 0) -> PictureStream:
    rows = load_splits(DataArguments(str(folder), image_column="jpg", streaming=True))["train"]
    reader = SampleReader(PictureTransform(16, 3, "imagenet"), read_key, "jpg", seed)
    return PictureStream(rows, reader, shuffle_buffer_size)


def read(stream: PictureStream, count: int) -> list[tuple[int, torch.Tensor]]:
    """Key and pixels of the first samples."""
    samples = itertools.islice(stream, count)
    return [(sample["input_ids"].item(), sample["pixel_values"]) for sample in samples]


def test_every_epoch_has_all_pictures_in_an_order_of_its_own(shards):
    keys = [key for key, _ in read(make_stream(shards, seed=3), 48)]
    assert sorted(keys[:24]) == sorted(keys[24:]) == list(range(24))
    assert keys[:24] != keys[24:] and keys[:24] != list(range(24))
    assert keys == [key for key, _ in read(make_stream(shards, seed=3), 48)]
    assert keys != [key for key, _ in read(make_stream(shards, seed=4), 48)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 2, 3, 6])
def test_workers_share_an_epoch_without_loss_or_repetition(shards, workers):
    loader = DataLoader(make_stream(shards), batch_size=None, num_workers=workers)
    keys = [sample["input_ids"].item() for sample in itertools.islice(loader, 48)]
    if 4 % workers == 0:  # workers with equally many shards end their epochs together
        assert sorted(keys[:24]) == sorted(keys[24:]) == list(range(24))
    assert set(keys) == set(range(24))


def test_the_crop_of_a_picture_depends_on_seed_and_epoch_alone(shards):
    samples = read(make_stream(shards), 48)
    first, second = dict(samples[:24]), dict(samples[24:])
    for key, pixels in read(make_stream(shards, shuffle_buffer_size=1), 24):
        assert torch.equal(pixels, first[key])
    assert any(not torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_batches_lead_to_the_same_place(shards, tmp_path, workers):
    corrupt = write_shards(tmp_path, 4, 6, corrupt=[2, 3, 9, 17])
    loader = Accelerator(cpu=True).prepare(DataLoader(make_stream(corrupt), batch_size=3, num_workers=workers))
    whole = list(itertools.islice(loader, 18))
    rest = list(itertools.islice(skip_first_batches(loader, 11), 7))  # as `Trainer` resumes, into the next epoch
    for expected, found in zip(whole[11:], rest, strict=True):
        assert torch.equal(expected["input_ids"], found["input_ids"])
        assert torch.equal(expected["pixel_values"], found["pixel_values"])


def test_corrupt_pictures_are_left_out_and_named_once(tmp_path, caplog):
    keys = [key for key, _ in read(make_stream(write_shards(tmp_path, 2, 6, corrupt=[1])), 33)]
    assert all(sorted(keys[start : start + 11]) == [0, *range(2, 12)] for start in (0, 11, 22))
    assert len(caplog.records) == 1
    assert "Skipped picture 000000001.jpg" in caplog.records[0].getMessage()


def test_tables_of_undeclared_columns_are_not_streamed(tmp_path):
    (tmp_path / "train.csv").write_text("image,text\na.png,a heart\n")
    with pytest.raises(ValueError, match="`streaming` needs a data set that declares its columns"):
        load_splits(DataArguments(str(tmp_path), streaming=True))


@pytest.mark.parametrize("name", ["save_strategy", "eval_strategy", "logging_strategy"])
def test_strategies_that_count_epochs_are_refused(shards, tmp_path, name, tiny_rqvae):
    data = DataArguments(str(shards), image_column="jpg", streaming=True)
    training = RQVAETrainingArguments(str(tmp_path), use_cpu=True, max_steps=5, **{name: "epoch"})
    with pytest.raises(ValueError, match=f"`{name}` must be 'steps' or 'no' with `streaming`, got 'epoch'"):
        picture_datasets(load_splits(data), data, training, tiny_rqvae.config)


@pytest.mark.slow
def test_a_streamed_training_resumes_as_if_never_stopped(shards, tmp_path):
    def train(folder: Path, **options) -> list[float]:
        options |= {"max_steps": 10, "save_strategy": "steps", "save_steps": 4, "gradient_accumulation_steps": 2}
        losses = {"perceptual_weight": 0.0, "adversarial_weight": 0.0}
        training = RQVAETrainingArguments(str(folder), **COMMON | losses | options)
        columns = {"image_column": "jpg", "streaming": True, "transform": "imagenet", "shuffle_buffer_size": 6}
        return logged(train_rqvae(Recipe(training, DataArguments(str(shards), **columns), RQVAE_FIELDS)), "loss")

    whole = train(tmp_path / "whole")  # 80 pictures: more than three epochs
    resumed = train(tmp_path / "resumed", resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert len(whole) == 10 and whole == pytest.approx(resumed, abs=1e-5)


@pytest.mark.slow
def test_two_processes_get_the_batches_of_one_stream_in_turn(shards, tmp_path):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, *launch, shards, tmp_path], check=True, timeout=300, env=environment)
    first, second = (json.loads((tmp_path / f"{process}.json").read_text()) for process in (0, 1))
    found = [key for pair in zip(first, second, strict=True) for keys in pair for key in keys]
    assert sorted(found) == list(range(24)) and all(len(keys) == 3 for keys in first + second)


def write_keys(shards: str, folder: str) -> None:
    """Writes the keys of the first batches that this process gets."""
    accelerator = Accelerator(cpu=True)
    batches = iter(accelerator.prepare(DataLoader(make_stream(shards), batch_size=3, num_workers=1)))
    keys = [next(batches)["input_ids"].flatten().tolist() for _ in range(4)]
    Path(folder, f"{accelerator.process_index}.json").write_text(json.dumps(keys))
    accelerator.end_training()


if __name__ == "__main__":
    write_keys(*sys.argv[1:])
