# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Streams of tar shards: order, parts of processes and workers, corrupt pictures, captions, and resuming."""

import json
import logging
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import datasets
import pytest
import torch
from picture_files import emoji_rows, write_folder, write_shard, write_shards
from test_scripts import SMALL_RQVAE
from torch.utils.data import DataLoader

from rq_hf import RQImageGenerationPipeline
from rq_hf.caption_tokenizer import BPEDropoutEncoder
from rq_hf.training import (
    CodeDataArguments,
    CodeStream,
    DataArguments,
    PictureDataset,
    PictureStream,
    PictureTransform,
    RQTransformerTrainingArguments,
    RQVAETrainer,
    RQVAETrainingArguments,
    ScriptArguments,
    code_datasets,
    load_dataset_splits,
    training_pictures,
    transformer_config,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import train_rqt  # noqa: E402
import train_rqvae  # noqa: E402


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Four shards of six pictures."""
    return write_shards(tmp_path_factory.mktemp("shards"), 4, 6)


def stream_rows(folder: Path, **arguments) -> datasets.IterableDataset:
    arguments = {"image_column": "jpg", "streaming": True, **arguments}
    return load_dataset_splits(DataArguments(str(folder), **arguments))["train"]


def make_stream(folder: Path, transform: str = "imagenet", **arguments) -> PictureStream:
    arguments = {"image_column": "jpg", "shuffle_buffer_size": 5, **arguments}
    return PictureStream(stream_rows(folder), PictureTransform(16, transform=transform), **arguments)


def read(stream: PictureStream, count: int) -> list[tuple[str, int, torch.Tensor]]:
    """Key, epoch and pixels of the first samples."""
    return [
        (row["__key__"], words[1], sample["pixel_values"]) for sample, row, words in islice(stream.samples(), count)
    ]


class KeyStream(PictureStream):
    """Gives numbers, (epoch, key), instead of pixels, so that what data loaders deliver can be told."""

    def __iter__(self):
        for _, row, words in self.samples():
            yield torch.tensor([-1, -1] if row is None else [words[1], int(row["__key__"])])


def test_every_epoch_has_all_pictures_in_an_order_of_its_own(shards):
    samples = read(make_stream(shards, seed=3), 48)
    epochs = [[key for key, epoch, _ in samples if epoch == wanted] for wanted in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == [f"{number:09d}" for number in range(24)]
    assert epochs[0] != epochs[1] and epochs[0] != sorted(epochs[0])
    again, other = read(make_stream(shards, seed=3), 48), read(make_stream(shards, seed=4), 48)
    assert all(a[0] == b[0] and torch.equal(a[2], b[2]) for a, b in zip(samples, again, strict=True))
    assert [key for key, _, _ in samples] != [key for key, _, _ in other]


@pytest.mark.parametrize("processes, workers", [(1, 0), (1, 3), (2, 0), (2, 2), (3, 1), (6, 2)])
def test_processes_and_workers_share_an_epoch_without_loss_or_repetition(shards, processes, workers):
    found = []
    for process in range(processes):
        stream = KeyStream(
            stream_rows(shards), PictureTransform(16), "jpg", num_processes=processes, process_index=process,
            num_workers=workers, shuffle_buffer_size=3,
        )  # fmt: skip
        delivered = islice(DataLoader(stream, batch_size=None, num_workers=workers), 48)
        found += [key for epoch, key in (entry.tolist() for entry in delivered) if epoch == 0]
    assert sorted(found) == list(range(24))


def test_crop_of_a_picture_depends_on_seed_and_epoch_not_on_who_reads_it(shards):
    alone = {(key, epoch): pixels for key, epoch, pixels in read(make_stream(shards), 48)}
    for process in range(3):
        for key, epoch, pixels in read(make_stream(shards, num_processes=3, process_index=process), 12):
            if epoch < 2:
                assert torch.equal(pixels, alone[key, epoch])
    assert any(not torch.equal(alone[key, 0], alone[key, 1]) for key, epoch in alone if epoch == 0)


def test_skipped_batches_are_counted_not_decoded_and_lead_to_the_same_place(shards, tmp_path):
    corrupt = write_shards(tmp_path, 4, 6, corrupt=[2, 3, 9, 17])
    for workers in (0, 2):
        options = {"num_workers": workers, "batch_size": 3, "max_corrupt_fraction": 0.5, "shuffle_buffer_size": 4}
        loaders = [
            DataLoader(
                KeyStream(stream_rows(corrupt), PictureTransform(16), "jpg", skipped_batches=skipped, **options),
                batch_size=3, num_workers=workers,
            )
            for skipped in (0, 11)
        ]  # fmt: skip
        whole, resumed = ([batch.tolist() for batch in islice(loader, 22)] for loader in loaders)
        assert whole[11:] == resumed[11:]
        assert resumed[:11] == [[[-1, -1]] * 3] * 11


@pytest.mark.parametrize("workers", [0, 2])
def test_next_picture_of_the_stream_stands_in_for_a_corrupt_one(tmp_path, caplog, workers):
    folder = write_shards(tmp_path, 2, 6, corrupt=[1])
    stream = make_stream(folder, max_corrupt_fraction=0.5, num_workers=workers)
    if workers:
        assert len(list(islice(DataLoader(stream, batch_size=None, num_workers=workers), 36))) == 36
        assert stream.num_corrupt >= 2
        return
    with caplog.at_level(logging.WARNING):
        keys = [key for key, _, _ in read(stream, 36)]
    assert len(set(keys)) == 11 and "000000001" not in keys  # three epochs, a sample for each row
    assert len(caplog.records) == 1
    assert f"{folder}/00000.tar: 000000001.jpg, 1 corrupt of" in caplog.records[0].getMessage()


def test_corrupt_pictures_of_a_stream_stop_it_after_an_epoch_or_a_thousand(tmp_path):
    folder = write_shards(tmp_path, 2, 6, corrupt=[1, 8])
    assert len(read(make_stream(folder, max_corrupt_fraction=0.17), 36)) == 36  # 2 of 12
    with pytest.raises(ValueError, match="`max_corrupt_fraction`.* 0.16 while 2 of 12 could not be.*00001.jpg"):
        read(make_stream(folder, max_corrupt_fraction=0.16), 36)


def test_resumed_stream_is_not_judged_on_the_rest_of_an_epoch(tmp_path):
    folder = write_shards(tmp_path, 2, 6, corrupt=[4])
    order = [row["__key__"] for row in make_stream(folder).epoch_rows(0)]
    skipped = order.index("000000004")  # the corrupt picture comes first after the resumption
    stream = make_stream(folder, max_corrupt_fraction=0.1, skipped_batches=skipped)
    assert len(list(islice(stream.samples(), 40))) == 40


def test_stream_without_any_picture_ends_with_an_error(tmp_path):
    write_shard(tmp_path / "0.tar", emoji_rows()[:2], corrupt=[0, 1])
    with pytest.raises(ValueError, match="`jpg` must have pictures for every worker"):
        read(make_stream(tmp_path, max_corrupt_fraction=1.0), 1)


def test_caption_comes_with_its_picture_and_varies_with_the_epoch(shards, tiny_tokenizer):
    encoder = BPEDropoutEncoder(tiny_tokenizer)
    captions = {f"{number:09d}": row["captions"] for number, row in enumerate(emoji_rows()[:24])}
    stream = CodeStream(make_stream(shards), lambda row: captions[row["__key__"]], encoder=encoder)
    keys = [key for key, _, _ in read(stream.pictures, 72)]
    drawn = {}
    for key, sample in zip(keys, islice(stream, 72), strict=True):
        drawn.setdefault(key, []).append(tuple(sample["input_ids"].tolist()))
    for key, ids in drawn.items():
        known = tiny_tokenizer(captions[key], padding="max_length", truncation=True).input_ids
        assert set(ids) <= {tuple(each) for each in known}
    assert any(len(set(ids)) > 1 for ids in drawn.values())


def test_filter_and_validation_split_of_a_stream(tmp_path):
    write_folder(tmp_path, 6)
    write_folder(tmp_path, 4, split="validation")
    arguments = DataArguments(str(tmp_path), streaming=True, filter="text=e", validation_split="validation")
    splits = load_dataset_splits(arguments)
    assert [row["text"] for row in splits["train"]] == ["e"]
    assert isinstance(splits["validation"], datasets.Dataset) and splits["validation"]["text"][:] == ["e"]
    limited = DataArguments(str(tmp_path), streaming=True, validation_split="validation", max_eval_samples=3)
    validation = load_dataset_splits(limited)["validation"]
    assert len(validation) == 3
    assert PictureDataset(validation, 64, training=False)[2]["pixel_values"].shape == (3, 64, 64)


def test_stream_of_a_folder_of_pictures_gives_what_its_rows_give(tmp_path):
    write_folder(tmp_path, 6)
    stream = PictureStream(stream_rows(tmp_path, image_column="image"), PictureTransform(64))
    found = {row["text"]: sample["pixel_values"] for sample, row, _ in islice(stream.samples(), 6)}
    rows = load_dataset_splits(DataArguments(str(tmp_path)))["train"]
    pictures = PictureDataset(rows, 64)
    assert len(found) == 6
    for index, text in enumerate(rows["text"]):
        assert torch.equal(found[text], pictures[index]["pixel_values"])


def stream_arguments(tmp_path, **training) -> RQVAETrainingArguments:
    return RQVAETrainingArguments(**{
        "output_dir": str(tmp_path), "use_cpu": True, "report_to": "none", "max_steps": 5,
        "per_device_train_batch_size": 2, **training,
    })  # fmt: skip


@pytest.mark.parametrize(
    "training, match",
    [
        ({"max_steps": -1}, "`max_steps` must be given with `streaming`"),
        ({"save_strategy": "epoch"}, "`save_strategy` must be 'steps' or 'no' with `streaming`"),
        ({"eval_strategy": "epoch"}, "`eval_strategy` must be 'steps' or 'no' with `streaming`"),
    ],
)
def test_arguments_that_need_the_length_of_an_epoch_are_refused(shards, tmp_path, training, match):
    data = DataArguments(str(shards), image_column="jpg", streaming=True)
    with pytest.raises(ValueError, match=match):
        training_pictures(stream_rows(shards), data, stream_arguments(tmp_path, **training), 16, 3)


def test_what_a_stream_cannot_do_is_refused(shards, tmp_path, tiny_rqvae):
    with pytest.raises(ValueError, match="`max_train_samples` must not be given with `streaming`"):
        DataArguments(str(shards), streaming=True, max_train_samples=5)
    data = CodeDataArguments(str(shards), image_column="jpg", streaming=True)
    training = RQTransformerTrainingArguments(str(tmp_path), use_cpu=True, cache_latents=True, max_steps=5)
    arguments = ScriptArguments(training=training, data=data)
    with pytest.raises(ValueError, match="`cache_latents` must be false with `streaming`"):
        code_datasets(arguments, {"train": stream_rows(shards)}, tiny_rqvae, None, None)
    labelled = CodeDataArguments(str(shards), image_column="jpg", label_column="txt", streaming=True)
    arguments = ScriptArguments(training=training, data=labelled)
    with pytest.raises(ValueError, match="`label_column` must be of class labels with `streaming`"):
        transformer_config(arguments, tiny_rqvae, None, stream_rows(shards))


def test_workers_without_a_shard_of_their_own_are_not_started(shards, tmp_path):
    data = DataArguments(str(shards), image_column="jpg", streaming=True)
    training = stream_arguments(tmp_path, dataloader_num_workers=9)
    training_pictures(stream_rows(shards), data, training, 16, 3)
    assert training.dataloader_num_workers == 4


def test_labels_of_a_stream_come_from_id2label(shards, tmp_path, tiny_rqvae):
    names = [row["text"] for row in emoji_rows()[:24]]
    data = CodeDataArguments(str(shards), image_column="jpg", label_column="txt", streaming=True)
    training = RQTransformerTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", max_steps=5)
    model = {"hidden_size": 16, "num_attention_heads": 2, "id2label": dict(enumerate(names))}
    arguments = ScriptArguments(training=training, data=data, model=model)
    rows = stream_rows(shards)
    config = transformer_config(arguments, tiny_rqvae, None, rows)
    assert config.vocab_size == 24
    stream = code_datasets(arguments, {"train": rows}, tiny_rqvae, config, None)["train"]
    for (key, _, _), sample in zip(read(stream.pictures, 8), islice(stream, 8), strict=True):
        assert names[sample["input_ids"].item()] == names[int(key)]


def losses(folder: Path) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def run_stage1(shards: Path, folder: Path, *flags: str) -> list[float]:
    train_rqvae.main([
        "--dataset_name", str(shards), "--image_column", "jpg", "--streaming", "true", "--shuffle_buffer_size", "6",
        "--validation_split", "train", "--max_eval_samples", "4", "--transform", "imagenet", "--save_total_limit", "5",
        "--use_cpu", "true", "--max_steps", "10", "--save_steps", "4", "--logging_steps", "1", "--eval_steps", "10",
        "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2", "--disable_tqdm", "true",
        *SMALL_RQVAE, "--output_dir", str(folder), *flags,
    ])  # fmt: skip
    return losses(folder)


def test_streamed_training_resumes_in_a_later_epoch_as_if_never_stopped(shards, tmp_path):
    whole = run_stage1(shards, tmp_path / "whole")  # 80 pictures: more than three epochs
    resumed = run_stage1(
        shards, tmp_path / "resumed", "--resume_from_checkpoint", str(tmp_path / "whole" / "checkpoint-4")
    )
    assert len(whole) == len(resumed) == 10
    assert whole == pytest.approx(resumed, abs=1e-5)
    assert (tmp_path / "whole" / "eval_results.json").exists()


def test_resuming_a_finished_streamed_run_trains_no_further(shards, tmp_path):
    whole = run_stage1(shards, tmp_path / "run")
    assert run_stage1(shards, tmp_path / "run", "--resume_from_checkpoint", "last") == whole


def test_stage2_trains_on_streamed_captions(shards, tmp_path, tiny_pipeline):
    tiny_pipeline.save_pretrained(tmp_path / "first")
    train_rqt.main([
        "--dataset_name", str(shards), "--image_column", "jpg", "--caption_column", "txt", "--streaming", "true",
        "--validation_split", "train", "--max_eval_samples", "4", "--filter", "__key__=000000003",
        "--rqvae_name_or_path", str(tmp_path / "first"), "--tokenizer_name_or_path", str(tmp_path / "first"),
        "--use_cpu", "true", "--max_steps", "30", "--save_steps", "30", "--logging_steps", "1", "--eval_steps", "30",
        "--per_device_train_batch_size", "4", "--cache_latents", "false", "--condition_dropout", "0",
        "--bpe_dropout", "0", "--hidden_size", "32", "--num_attention_heads", "2", "--disable_tqdm", "true",
        "--output_dir", str(tmp_path / "run"),
    ])  # fmt: skip
    found = losses(tmp_path / "run")
    assert len(found) == 30 and found[-1] < 0.9 * found[0]  # one picture, learnt by heart
    RQImageGenerationPipeline.from_pretrained(tmp_path / "run")


def test_a_stream_is_resumed_with_the_batch_size_that_was_found(shards, tmp_path, make_rqvae):
    data = DataArguments(str(shards), image_column="jpg", streaming=True, shuffle_buffer_size=5)

    class Small(RQVAETrainer):
        def training_step(self, model, inputs, *args):
            if len(inputs["pixel_values"]) == 4:
                raise RuntimeError("CUDA out of memory.")  # as accelerate knows it
            return super().training_step(model, inputs, *args)

    def losses_of(resume: str | None) -> list[float]:
        training = stream_arguments(
            tmp_path, max_steps=6, save_steps=2, per_device_train_batch_size=4, auto_find_batch_size=True, seed=0,
            logging_steps=1, perceptual_weight=0.0, adversarial_weight=0.0, disable_tqdm=True, learning_rate=1e-3,
            resume_from_checkpoint=resume,
        )  # fmt: skip
        stream = training_pictures(stream_rows(shards), data, training, 16, 3)
        torch.manual_seed(0)
        trainer = Small(model=make_rqvae(), args=training, train_dataset=stream)
        trainer.train(resume_from_checkpoint=resume)
        assert trainer._train_batch_size == 3
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    whole = losses_of(None)
    assert losses_of(str(tmp_path / "checkpoint-2")) == whole


@pytest.mark.slow
def test_each_of_two_training_processes_reads_its_own_part(shards, tmp_path):
    script = Path(__file__).with_name("streaming_processes.py")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--multi_gpu"]
    finished = subprocess.run(
        [*launch, "--main_process_port", "0", str(script), str(shards), str(tmp_path)],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout[-4000:]
    opened, keys = [], []
    for process in range(2):
        found = json.loads((tmp_path / f"{process}.json").read_text())
        keys += found["keys"]
        opened.append(set(found["shards"]))
    assert sorted(keys) == list(range(24))
    assert not opened[0] & opened[1]


def test_a_stream_of_a_csv_file_knows_its_columns(tmp_path):
    picture = next((Path(__file__).parent / "fixtures" / "emoji").rglob("*.png"))
    (tmp_path / "rows.csv").write_text(f"image,text\n{picture},a heart\n{picture},a star\n")
    data = DataArguments(
        dataset_name="csv", data_files=str(tmp_path / "rows.csv"), streaming=True, validation_split=None
    )
    rows = load_dataset_splits(data)["train"]
    assert {"image", "text"} <= set(rows.column_names)
    assert [row["text"] for row in rows] == ["a heart", "a star"]
