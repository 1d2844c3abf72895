# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Data sets: what is read and refused, corrupt pictures, seeded samples, cached latents."""

import shutil
from pathlib import Path

import datasets
import pytest
import torch
from picture_files import FIXTURE, LETTERS, emoji_rows, write_folder, write_shard
from PIL import Image
from torch.utils.data import DataLoader

from rq_hf.training.arguments import DataArguments
from rq_hf.training.data import PictureDataset, SampleReader, cache_latents, load_splits
from rq_hf.training.transforms import PictureTransform


@pytest.fixture(scope="module")
def emoji() -> dict[str, datasets.Dataset]:
    """The splits of the fixture, undecoded."""
    return load_splits(DataArguments(str(FIXTURE), validation_split="validation"))


def make_pictures(
    rows: datasets.Dataset, size: int = 16, transform: str = "center_crop", training: bool = True, **reader
) -> PictureDataset:
    return PictureDataset(rows, SampleReader(PictureTransform(size, 3, transform, training), **reader))


def folder_rows(folder: Path, size: int, corrupt: list[int]) -> datasets.Dataset:
    return load_splits(DataArguments(str(write_folder(folder, size, corrupt))))["train"]


def pixels_of_every_row(pictures: PictureDataset, workers: int) -> torch.Tensor:
    return torch.cat([batch["pixel_values"] for batch in DataLoader(pictures, batch_size=3, num_workers=workers)])


def test_a_folder_with_a_card_is_read_anew_when_its_files_change(tmp_path, monkeypatch):
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: train/*\n---\n"
    for place, size in {"first": 2, "second": 3}.items():
        folder = write_folder(tmp_path / place / "pics", size)
        (folder / "README.md").write_text(card)
        monkeypatch.chdir(folder.parent)
        assert load_splits(DataArguments("pics"))["train"]["text"][:] == list(LETTERS[:size])
    text = Path("pics/train/metadata.jsonl")
    text.write_text(text.read_text().replace(LETTERS[0], "another"))
    assert load_splits(DataArguments("pics"))["train"]["text"][0] == "another"


@pytest.mark.parametrize("streaming", [False, True])
def test_splits_are_filtered_and_limited(emoji, streaming):
    arguments = {"validation_split": "validation", "filter": "tone=default, style=noto", "max_train_samples": 4}
    splits = load_splits(DataArguments(str(FIXTURE), streaming=streaming, **arguments))
    assert [row["style"] for row in splits["train"]] == ["noto"] * 4
    expected = [row["text"] for row in emoji["validation"] if (row["tone"], row["style"]) == ("default", "noto")]
    assert splits["validation"]["text"][:] == expected
    assert len(load_splits(DataArguments(str(FIXTURE), max_train_samples=10**6))["train"]) == len(emoji["train"])


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "changes, match",
    [
        ({"dataset_name": ""}, "`dataset_name` must be a Hub id or a folder of data, got None"),
        ({"train_split": "trian"}, "`train_split` must be one of"),
        ({"validation_split": "dev"}, "`validation_split` must be one of"),
        ({"image_column": "picture"}, "`image_column` must be one of the columns .*'image'.* got 'picture'"),
        ({"filter": "tone"}, "`filter` must be COLUMN=VALUE of the columns .* got 'tone'"),
        ({"filter": "tone=green"}, "`train_split` must have rows, got none of 'train' with `filter` 'tone=green'"),
    ],
)
def test_data_that_are_not_there_are_refused(streaming, changes, match):
    with pytest.raises(ValueError, match=match):
        load_splits(DataArguments(**{"dataset_name": str(FIXTURE), "streaming": streaming, **changes}))


@pytest.mark.parametrize("streaming", [False, True])
def test_tar_shards_are_read_though_tables_lie_beside_them(tmp_path, streaming):
    rows = emoji_rows()
    for split, start in (("train", 0), ("validation", 6)):
        write_shard(tmp_path / split / "00000.tar", rows[start : start + 3], start=start)
        datasets.Dataset.from_dict({"key": ["0"], "url": ["https://a"]}).to_parquet(tmp_path / split / "00000.parquet")
    arguments = {"image_column": "jpg", "caption_column": "txt", "validation_split": "validation"}
    splits = load_splits(DataArguments(str(tmp_path), streaming=streaming, **arguments))
    for split, start in (("train", 0), ("validation", 6)):
        assert [row["txt"] for row in splits[split]] == [row["text"] for row in rows[start : start + 3]]
    assert isinstance(splits["validation"], datasets.Dataset)


@pytest.mark.parametrize("kind", ["bytes", "paths", "structs"])
def test_pictures_may_be_bytes_paths_or_both(tmp_path, kind):
    Image.new("RGB", (16, 16), (10, 20, 30)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    structs = {"bytes": content, "path": None, "width": 16}
    value = {"bytes": content, "paths": str(tmp_path / "a.png"), "structs": structs}[kind]
    (tmp_path / "table").mkdir()
    datasets.Dataset.from_dict({"image": [value]}).to_parquet(tmp_path / "table" / "train.parquet")
    rows = load_splits(DataArguments(str(tmp_path / "table")))["train"]
    expected = torch.tensor([10, 20, 30]) / 127.5 - 1
    torch.testing.assert_close(make_pictures(rows)[0]["pixel_values"][:, 3, 5], expected)


def held_out(folder: Path) -> dict[str, set[str]]:
    """Captions of the rows for training and for validation."""
    splits = load_splits(DataArguments(str(folder), validation_split="validation", hold_out=True))
    return {name: set(rows["text"][:]) for name, rows in splits.items()}


def test_a_missing_split_is_held_out_alike_each_time_and_one_that_is_there_is_taken(tmp_path, emoji, caplog):
    assert held_out(FIXTURE)["validation"] == set(emoji["validation"]["text"][:])
    folder = write_folder(tmp_path / "a", 12)
    flat = shutil.copytree(folder / "train", tmp_path / "flat")
    (folder / "test").mkdir()  # without files it is no split
    parts = held_out(folder)
    assert caplog.messages == [f"1 of 12 rows of {folder} are held out for validation."]
    assert len(parts["validation"]) == 1 and parts["train"] == set(LETTERS) - parts["validation"]
    assert parts == held_out(flat)
    with pytest.raises(ValueError, match="`hold_out` needs at least two rows, got 1"):
        held_out(write_folder(tmp_path / "one", 1))


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"train.parquet": "PAR1, or not"},
        {"train/00000.tar": "no archive" * 300},
    ],
)
def test_a_missing_or_damaged_data_set_is_refused_with_its_name(tmp_path, files):
    for name, text in files.items():
        (tmp_path / "a" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "a" / name).write_text(text)
    with pytest.raises(ValueError, match="`dataset_name` '.*' cannot be read: ") as raised:
        load_splits(DataArguments(str(tmp_path / "a")))
    assert str(raised.value).endswith("; there is no such folder here") == (not files)


def test_cached_latents_are_made_anew_when_the_files_that_a_table_names_change(tmp_path, tiny_rqvae):
    (tmp_path / "table").mkdir()
    table = datasets.Dataset.from_dict({"image": [str(tmp_path / "a.png"), None, "https://nowhere/b.png"]})
    table.to_csv(tmp_path / "table" / "train.csv")
    cached = []
    for colour in ("red", "red", "blue"):
        if not cached or colour == "blue":
            Image.new("RGB", (16, 16), colour).save(tmp_path / "a.png")
        rows = load_splits(DataArguments(str(tmp_path / "table")))["train"]
        cached.append(cache_latents(make_pictures(rows.take(1), training=False), tiny_rqvae))
    assert cached[0].cache_files == cached[1].cache_files != cached[2].cache_files
    assert not torch.equal(cached[1][0]["latents"], cached[2][0]["latents"])


def read_letter(row: dict, generator: torch.Generator) -> torch.Tensor:
    return torch.tensor([LETTERS.index(row["text"])])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_picture_stands_in_with_its_condition_for_a_corrupt_one(tmp_path, caplog, workers):
    pictures = make_pictures(folder_rows(tmp_path, 12, [3, 4, 11]), 64, read_condition=read_letter)
    first, second = (pixels_of_every_row(pictures, workers) for _ in range(2))
    assert torch.equal(first, second)
    for corrupt, stand_in in ((3, 5), (4, 5), (11, 0)):
        assert torch.equal(first[corrupt], first[stand_in])
    assert not torch.equal(first[2], first[3])
    conditions = [pictures[index]["input_ids"].item() for index in range(12)]
    assert conditions == [0, 1, 2, 5, 5, 5, 6, 7, 8, 9, 10, 0]
    if workers == 0:  # each is named once
        names = [record.getMessage().split(":")[0] for record in caplog.records]
        assert names == [f"Skipped picture {tmp_path}/train/{number:03d}.png" for number in (3, 4, 11)]


def test_a_data_set_without_any_picture_is_refused(tmp_path):
    paths = ["/nowhere/a.png", str(tmp_path)]
    files = [None, {"bytes": b"", "path": None}, *({"bytes": None, "path": path} for path in paths)]
    features = datasets.Features(image=datasets.Image(decode=False))
    pictures = make_pictures(datasets.Dataset.from_dict({"image": files}, features))
    with pytest.raises(ValueError, match="`image_column` must hold pictures, got 'image' without any"):
        pictures[0]


def test_samples_depend_on_seed_epoch_and_index_alone_and_persistent_workers_see_the_epoch_change(emoji):
    rows, found = emoji["train"].select(range(6)), []
    for seed in (1, 0):
        pictures = make_pictures(rows, 32, "imagenet", seed=seed)
        loader = DataLoader(pictures, batch_size=3, num_workers=2, persistent_workers=True)
        for epoch in (0, 1, 0):
            pictures.set_epoch(epoch)
            found.append(torch.cat([batch["pixel_values"] for batch in loader]))
            assert torch.equal(found[-1], torch.stack([pictures[index]["pixel_values"] for index in range(6)]))
    assert torch.equal(found[0], found[2]) and torch.equal(found[3], found[5])
    assert all(not torch.equal(found[0], found[other]) for other in (1, 3, 4))


def test_each_row_and_epoch_has_draws_of_its_own_for_pixels_and_condition(emoji):
    def draw(row_or_picture: object, generator: torch.Generator) -> torch.Tensor:
        return torch.randint(2**40, (), generator=generator)

    draw.mode = "RGB"  # as a transform has it
    pictures, draws = PictureDataset(emoji["train"].select([0] * 5), SampleReader(draw, draw)), set()
    for epoch in range(3):
        pictures.set_epoch(epoch)
        draws |= {value.item() for index in range(5) for value in pictures[index].values()}
    assert len(draws) == 30


def test_cached_latents_keep_other_columns_and_leave_corrupt_pictures_out(tmp_path, tiny_rqvae):
    rows = folder_rows(tmp_path, 10, [1, 4, 5, 6, 7])  # a whole batch among them
    cached = cache_latents(make_pictures(rows, training=False), tiny_rqvae, batch_size=4)
    assert cached["text"][:] == [LETTERS[number] for number in (0, 2, 3, 8, 9)]
    samples = PictureDataset(cached, SampleReader(PictureTransform(16)))
    expected = make_pictures(rows.select([8]), training=False)[0]["pixel_values"]
    torch.testing.assert_close(samples[3]["latents"], tiny_rqvae.encode_latents(expected[None])[0].detach())
    with pytest.raises(ValueError, match="must have pictures that can be decoded, got none in 2 rows"):
        cache_latents(make_pictures(rows.select([4, 5]), training=False), tiny_rqvae)
