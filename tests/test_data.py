# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Data sets: pictures of every kind, corrupt ones, transforms by name, seeded samples, and what is refused."""

import argparse
import io
import logging

import datasets
import numpy as np
import pytest
import torch
from picture_files import FIXTURE, LETTERS, emoji_rows, write_folder, write_shard
from PIL import Image
from torch.utils.data import DataLoader

from rq_hf.caption_tokenizer import BPEDropoutEncoder
from rq_hf.data_sources import read_dataset
from rq_hf.evaluation.rows import load_splits
from rq_hf.picture_decoding import decode_picture
from rq_hf.training import (
    TRANSFORMS,
    CodeDataArguments,
    CodeDataset,
    DataArguments,
    PictureDataset,
    PictureTransform,
    RQTransformerTrainingArguments,
    ScriptArguments,
    code_datasets,
    load_dataset_splits,
    transformer_config,
)


@pytest.fixture(scope="module")
def emoji() -> datasets.DatasetDict:
    return datasets.load_dataset(str(FIXTURE))


def file_of(picture: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def grey(*levels: int, dtype=np.uint8) -> Image.Image:
    return Image.fromarray(np.array([levels], dtype=dtype))


def with_alpha(mode: str, *pixels: tuple[int, ...]) -> Image.Image:
    picture = Image.new(mode, (len(pixels), 1))
    for x, pixel in enumerate(pixels):
        picture.putpixel((x, 0), pixel)
    return picture


def palette_picture() -> Image.Image:
    """Three pixels of a palette: red, half transparent green, and blue that is not seen at all."""
    picture = Image.new("P", (3, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    for x in range(3):
        picture.putpixel((x, 0), x)
    return picture


SIXTEEN_BITS = (0, 128, 257, 32896, 65535)
IN_8_BITS = [(0,) * 3, (0,) * 3, (1,) * 3, (128,) * 3, (255,) * 3]
KINDS = {
    "grey": (file_of(grey(0, 7, 255)), [(0,) * 3, (7,) * 3, (255,) * 3]),
    "black and white": (file_of(grey(0, 255).convert("1")), [(0,) * 3, (255,) * 3]),
    "grey with alpha": (file_of(with_alpha("LA", (9, 255), (9, 0), (0, 51))), [(9,) * 3, (255,) * 3, (204,) * 3]),
    "RGBA": (
        file_of(with_alpha("RGBA", (1, 2, 3, 255), (1, 2, 3, 0), (255, 0, 0, 51))),
        [(1, 2, 3), (255, 255, 255), (255, 204, 204)],
    ),
    "palette": (file_of(palette_picture()), [(255, 0, 0), (0, 255, 0), (0, 0, 255)]),
    "palette with transparency": (
        file_of(palette_picture(), transparency=bytes([255, 51, 0])),
        [(255, 0, 0), (204, 255, 204), (255, 255, 255)],
    ),
    "RGB with a transparent colour": (
        file_of(with_alpha("RGB", (1, 2, 3), (4, 5, 6)), transparency=(4, 5, 6)),
        [(1, 2, 3), (255, 255, 255)],
    ),
    "CMYK": (
        file_of(with_alpha("CMYK", (0, 0, 0, 0), (255, 0, 0, 0), (0, 0, 0, 255)), "TIFF"),
        [(255, 255, 255), (0, 255, 255), (0, 0, 0)],
    ),
    "16-bit PNG": (file_of(grey(*SIXTEEN_BITS, dtype=np.uint16)), IN_8_BITS),
    "16-bit TIFF": (file_of(grey(*SIXTEEN_BITS, dtype=np.uint16), "TIFF"), IN_8_BITS),
    "16-bit PGM, opened as 32-bit integers": (file_of(grey(*SIXTEEN_BITS, dtype=np.uint16), "PPM"), IN_8_BITS),
    "16-bit with a transparent level": (
        file_of(grey(257, 514, dtype=np.uint16), transparency=514),
        [(1,) * 3, (255,) * 3],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_every_mode_give_exact_rgb_on_white(kind):
    content, expected = KINDS[kind]
    picture = decode_picture({"bytes": content, "path": None})
    assert picture.mode == "RGB"
    assert [picture.getpixel((x, 0)) for x in range(picture.width)] == expected
    assert decode_picture(content, "L").tobytes() == picture.convert("L").tobytes()


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation_is_taken(format):
    red, blue = (Image.new("RGB", (8, 8), color) for color in ("red", "blue"))
    options = {"lossless": True} if format == "WEBP" else {}
    content = file_of(red, format, save_all=True, append_images=[blue], duration=100, **options)
    with Image.open(io.BytesIO(content)) as opened:
        assert opened.n_frames == 2
    assert decode_picture(content).getcolors() == [(64, (255, 0, 0))]


def test_exif_orientation_is_applied():
    picture = Image.new("RGB", (32, 16), "black")
    picture.paste("white", (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = decode_picture(file_of(picture, "JPEG", exif=exif))
    assert turned.size == (16, 32)
    assert turned.getpixel((8, 4)) == (255, 255, 255) and turned.getpixel((8, 28)) == (0, 0, 0)


def test_pictures_are_read_from_a_path_and_taken_as_they_are_when_opened(tmp_path):
    content, expected = KINDS["RGBA"]
    (tmp_path / "a.png").write_bytes(content)
    path = str(tmp_path / "a.png")
    for value in (path, {"bytes": None, "path": path}, Image.open(path)):
        assert decode_picture(value).getpixel((2, 0)) == expected[2]


UNDECODABLE = {
    "no picture": (b"no picture", "UnidentifiedImageError"),
    "empty": (b"", "UnidentifiedImageError"),
    "truncated": (file_of(Image.effect_noise((64, 64), 50), "JPEG")[:900], "truncated"),
    "32-bit integers": (file_of(grey(-1, 70000, dtype=np.int32), "TIFF"), r"must be in \[0, 65535\]"),
    "floating-point numbers": (file_of(grey(0, 1, dtype=np.float32), "TIFF"), "no known range"),
    "missing": ("/nowhere/a.png", "FileNotFoundError"),
    "none": (None, "no picture"),
}


@pytest.mark.parametrize("kind", UNDECODABLE)
def test_what_cannot_be_decoded_is_a_value_error_that_says_why(kind):
    value, match = UNDECODABLE[kind]
    with pytest.raises(ValueError, match=match):
        decode_picture(value)


def test_decompression_bomb_counts_as_undecodable(monkeypatch):
    content = file_of(Image.new("L", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="DecompressionBombError"):
        decode_picture(content)


def corrupt_rows(folder, size: int, corrupt: list[int]) -> datasets.Dataset:
    return datasets.load_dataset(str(write_folder(folder, size, corrupt)), split="train")


def pixels_of_every_row(dataset: PictureDataset, workers: int) -> torch.Tensor:
    return torch.cat([batch["pixel_values"] for batch in DataLoader(dataset, batch_size=3, num_workers=workers)])


@pytest.mark.parametrize("workers", [0, 2])
def test_next_picture_stands_in_for_a_corrupt_one_on_any_number_of_workers(tmp_path, caplog, workers):
    rows = corrupt_rows(tmp_path, 12, [3, 4, 11])
    dataset = PictureDataset(rows, 64, max_corrupt_fraction=0.25)
    with caplog.at_level(logging.WARNING):
        pixels = [pixels_of_every_row(dataset, workers) for _ in range(2)]
    assert torch.equal(*pixels)
    for corrupt, stand_in in ((3, 5), (4, 5), (11, 0)):
        assert torch.equal(pixels[0][corrupt], pixels[0][stand_in])
    assert not torch.equal(pixels[0][2], pixels[0][3])
    assert dataset.num_corrupt == 3  # counted once, though read in two epochs and by several workers
    if workers == 0:
        names = [record.getMessage().split(",")[0] for record in caplog.records]
        assert names == [f"Skipped picture {tmp_path}/train/{number:03d}.png" for number in (3, 4, 11)]


def test_caption_comes_with_the_picture_that_stands_in(tmp_path, tiny_tokenizer):
    rows = corrupt_rows(tmp_path, 6, [1])
    pictures = PictureDataset(rows, 16, max_corrupt_fraction=0.5)
    dataset = CodeDataset(pictures, rows["text"], encoder=BPEDropoutEncoder(tiny_tokenizer))
    assert torch.equal(dataset[1]["pixel_values"], dataset[2]["pixel_values"])
    assert dataset[1]["input_ids"].tolist() == tiny_tokenizer(LETTERS[2], padding="max_length").input_ids
    assert dataset[1]["input_ids"].tolist() != tiny_tokenizer(LETTERS[1], padding="max_length").input_ids


@pytest.mark.parametrize("workers", [0, 2])
def test_more_corrupt_pictures_than_allowed_stop_with_their_names(tmp_path, workers):
    rows = corrupt_rows(tmp_path, 12, [2, 7])
    allowed = PictureDataset(rows, 32, max_corrupt_fraction=0.17)  # 2 of 12
    assert len(pixels_of_every_row(allowed, workers)) == 12
    refused = PictureDataset(rows, 32, max_corrupt_fraction=0.16)
    with pytest.raises(ValueError, match=r"`max_corrupt_fraction`.* got 0.16 while 2 of .*007\.png"):
        pixels_of_every_row(refused, workers)


def test_one_corrupt_picture_of_many_does_not_stop_before_enough_were_read(emoji):
    good = emoji["train"][0]["image"]
    files = [{"bytes": file_of(good), "path": None}] * 1999
    rows = datasets.Dataset.from_dict(
        {"image": [{"bytes": b"no picture", "path": None}, *files]},
        features=datasets.Features(image=datasets.Image(decode=False)),
    )
    assert PictureDataset(rows, 16, max_corrupt_fraction=0.001)[0]["pixel_values"].shape == (3, 16, 16)
    with pytest.raises(ValueError, match="1 of 1 could not be, among them: row 0"):
        PictureDataset(rows, 16, max_corrupt_fraction=0.0009)[0]


def test_without_any_picture_the_column_is_named(tmp_path):
    dataset = PictureDataset(corrupt_rows(tmp_path, 3, [0, 1, 2]), 16, max_corrupt_fraction=1.0)
    with pytest.raises(ValueError, match="`image_column` must have pictures"):
        dataset[0]


def cached_codes(folder, rows, rqvae, tokenizer, fraction) -> CodeDataset:
    data = CodeDataArguments(caption_column="text", max_corrupt_fraction=fraction)
    training = RQTransformerTrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to="none", cache_latents=True, bpe_dropout=0.0
    )
    arguments = ScriptArguments(training=training, data=data, model={"hidden_size": 16, "num_attention_heads": 2})
    config = transformer_config(arguments, rqvae, tokenizer, rows)
    return code_datasets(arguments, {"train": rows}, rqvae, config, tokenizer)["train"]


def test_cached_latents_leave_corrupt_pictures_and_their_captions_out(tmp_path, tiny_rqvae, tiny_tokenizer):
    rows = corrupt_rows(tmp_path, 6, [1, 4])
    cached = cached_codes(tmp_path, rows, tiny_rqvae, tiny_tokenizer, 0.5)
    assert len(cached) == 4 and cached.conditions == [LETTERS[number] for number in (0, 2, 3, 5)]
    pictures = PictureDataset(rows.select([5]), tiny_rqvae.config.image_size, training=False)
    expected = tiny_rqvae.encode_latents(pictures[0]["pixel_values"][None])[0]
    torch.testing.assert_close(cached[3]["latents"], expected)
    with pytest.raises(ValueError, match="`max_corrupt_fraction`.*2 of 6 could not be.*001.png"):
        cached_codes(tmp_path, rows, tiny_rqvae, tiny_tokenizer, 0.3)


def test_splits_filter_and_limits(emoji):
    splits = load_dataset_splits(
        DataArguments(str(FIXTURE), validation_split="validation", filter="tone=default", max_train_samples=10)
    )
    assert len(splits["train"]) == 10
    expected = sum(tone == "default" for tone in emoji["validation"]["tone"])
    assert len(splits["validation"]) == expected


def test_limit_above_the_size_keeps_all_rows(emoji):
    splits = load_dataset_splits(DataArguments(str(FIXTURE), max_train_samples=10**6))
    assert len(splits["train"]) == len(emoji["train"])


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "changes, match",
    [
        ({"dataset_name": None}, "`dataset_name`"),
        ({"dataset_name": "/nowhere"}, "`dataset_name` must be a data set that can be read, got '/nowhere'"),
        ({"train_split": "trian"}, "`train_split` must be one of"),
        ({"validation_split": "dev"}, "`validation_split` must be one of"),
        ({"image_column": "picture"}, "`image_column` must name a column"),
        ({"caption_column": "caption"}, "`caption_column` must name a column"),
        ({"label_column": "label"}, "`label_column` must name a column"),
        ({"filter": "tone"}, "COLUMN=VALUE"),
        ({"filter": "tone=green"}, "which none has"),
        ({"filter": "colour=green"}, "`filter` must name a column"),
        ({"transform": "flip"}, "`transform` must be one of"),
        ({"max_corrupt_fraction": 1.5}, r"`max_corrupt_fraction` must be in \[0, 1\]"),
        ({"shuffle_buffer_size": 0}, "`shuffle_buffer_size` must be at least 1"),
    ],
)
def test_bad_data_arguments_are_refused(streaming, changes, match):
    with pytest.raises(ValueError, match=match):
        load_dataset_splits(DataArguments(**{"dataset_name": str(FIXTURE), "streaming": streaming, **changes}))


@pytest.mark.parametrize("streaming", [False, True])
def test_data_set_without_files_or_rows_is_refused(tmp_path, streaming):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="`dataset_name` must be a data set that can be read"):
        load_dataset_splits(DataArguments(str(tmp_path / "empty"), streaming=streaming))
    table = datasets.Dataset.from_dict({"image": []}, features=datasets.Features(image=datasets.Image()))
    (tmp_path / "rows").mkdir()
    table.to_parquet(tmp_path / "rows" / "train.parquet")
    with pytest.raises(ValueError, match="corresponds to no data|`train_split` must have rows, got 'train'"):
        load_dataset_splits(DataArguments(str(tmp_path / "rows"), streaming=streaming))


@pytest.mark.parametrize("streaming", [False, True])
def test_folder_of_tar_shards_is_read_though_tables_lie_beside_them(tmp_path, streaming):
    rows = emoji_rows()
    for split, start in (("train", 0), ("validation", 6)):
        write_shard(tmp_path / split / "00000.tar", rows[start : start + 3], start=start)
        datasets.Dataset.from_dict({"key": ["0"], "url": ["https://a"]}).to_parquet(tmp_path / split / "00000.parquet")
    arguments = DataArguments(
        str(tmp_path), image_column="jpg", caption_column="txt", validation_split="validation", streaming=streaming
    )
    splits = load_dataset_splits(arguments)
    for split, start in (("train", 0), ("validation", 6)):
        assert [row["txt"] for row in splits[split]] == [row["text"] for row in rows[start : start + 3]]
    named = argparse.Namespace(dataset_name=str(tmp_path), dataset_config_name=None, split="train", image_column="jpg")
    assert load_splits(named, "image_column")["validation"]["txt"] == [row["text"] for row in rows[6:9]]
    read = read_dataset(str(tmp_path), split="train", streaming=streaming)
    assert [row["txt"] for row in read] == [row["text"] for row in rows[:3]]


def test_data_files_choose_among_the_files_of_a_folder(tmp_path):
    for number, row in enumerate(emoji_rows()[:4]):
        write_shard(tmp_path / f"{number}.tar", [row], start=number)
    keys = {
        "1.tar": ["000000001"],
        '{"train": ["0.tar", "2.tar"]}': ["000000000", "000000002"],
        '["3.tar", "0.tar"]': ["000000003", "000000000"],
        "[12].tar": ["000000001", "000000002"],  # a pattern
    }
    for data_files, expected in keys.items():
        arguments = DataArguments(str(tmp_path), data_files=data_files, image_column="jpg")
        assert load_dataset_splits(arguments)["train"]["__key__"][:] == expected
    with pytest.raises(ValueError, match="`data_files` must be valid JSON, got '{\"train\": '"):
        read_dataset(str(tmp_path), data_files='{"train": ')


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_give_the_size_and_depend_on_the_generator_alone(name):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 130, 3), dtype=np.uint8))
    training, evaluation = TRANSFORMS[name]
    for size in (32, 64):
        assert evaluation(picture, size).size == (size, size)
        same = [np.array(training(picture, size, torch.Generator().manual_seed(3))) for _ in range(2)]
        assert (same[0] == same[1]).all() and same[0].shape == (size, size, 3)
    several = {training(picture, 32, torch.Generator().manual_seed(seed)).tobytes() for seed in range(8)}
    assert (len(several) > 1) == (name in ("imagenet", "ffhq", "cc3m", "altered_emoji"))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_take_the_smallest_and_the_longest_pictures(name):
    for size in ((1, 1), (1, 40), (300, 7)):
        for transform in TRANSFORMS[name]:
            assert transform(Image.new("RGB", size), 16, torch.Generator().manual_seed(0)).size == (16, 16)


def test_emoji_of_the_models_size_stay_as_they_are(emoji):
    picture = emoji["train"][5]["image"].convert("RGB")
    for transform in TRANSFORMS["emoji"]:
        assert transform(picture, 64, torch.Generator().manual_seed(0)).tobytes() == picture.tobytes()


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_altered_emoji_are_moved_made_smaller_and_coloured_on_white(mode):
    picture = Image.new(mode, (64, 64), "white")
    picture.paste((200, 100, 40) if mode == "RGB" else 100, (16, 16, 48, 48))
    training, evaluation = TRANSFORMS["altered_emoji"]
    assert evaluation(picture, 64).tobytes() == picture.tobytes()
    sides, corners, colours = set(), set(), set()
    for seed in range(100):
        pixels = np.array(training(picture, 64, torch.Generator().manual_seed(seed)))
        assert pixels.shape == np.array(picture).shape and pixels.dtype == np.uint8
        pixels = pixels.reshape(64, 64, -1)
        rows, columns = np.nonzero((pixels < 250).any(-1))
        sides.add(columns.max() + 1 - columns.min())
        corners.add((rows.min(), columns.min()))
        colours.add(tuple(pixels[(rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2]))
        assert (pixels == 255).all(-1).mean() > 0.7  # the ground has no colour
    assert min(sides) in (25, 26, 27) and max(sides) <= 34
    assert min(row for row, _ in corners) < 12 and max(row for row, _ in corners) > 20
    assert min(column for _, column in corners) < 12 and max(column for _, column in corners) > 20
    assert len(colours) > 20
    if mode == "RGB":
        assert {colour for colour in colours if sorted(colour) == [40, 100, 200]} > {(200, 100, 40)}


def test_which_transforms_mirror_pictures():
    picture = Image.new("RGB", (64, 64), "black")
    picture.paste("white", (0, 0, 32, 64))
    for name, (training, _) in TRANSFORMS.items():
        lefts = {
            np.array(training(picture, 32, torch.Generator().manual_seed(seed)))[16, 4, 0] > 128 for seed in range(12)
        }
        assert lefts == ({True, False} if name in ("imagenet", "ffhq", "altered_emoji") else {True}), name


def sample_of_every_worker_count(dataset, epoch):
    results = []
    for workers in (0, 2):
        dataset.set_epoch(epoch)
        loader = DataLoader(dataset, batch_size=2, num_workers=workers)
        results.append(torch.cat([batch["pixel_values"] for batch in loader]))
    assert torch.equal(*results)
    return results[0]


def test_samples_depend_on_seed_epoch_and_index_not_on_workers(emoji):
    rows = emoji["train"].select(range(6))
    dataset = PictureDataset(rows, 32, transform="imagenet", seed=1)
    first, second = (sample_of_every_worker_count(dataset, epoch) for epoch in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first, sample_of_every_worker_count(dataset, 0))
    assert not torch.equal(first, sample_of_every_worker_count(PictureDataset(rows, 32, transform="imagenet"), 0))


def test_workers_that_live_on_see_the_epoch_change(emoji):
    dataset = PictureDataset(emoji["train"].select(range(4)), 32, transform="imagenet")
    loader = DataLoader(dataset, batch_size=4, num_workers=1, persistent_workers=True)
    batches = []
    for epoch in range(2):
        dataset.set_epoch(epoch)
        batches.append(next(iter(loader))["pixel_values"])
    assert not torch.equal(*batches)


def test_pixels_are_in_range_and_channels_first(emoji):
    sample = PictureDataset(emoji["train"], 64, training=False)[0]["pixel_values"]
    assert sample.shape == (3, 64, 64) and sample.min() >= -1 and sample.max() == 1
    assert PictureDataset(emoji["train"], 64, num_channels=1, training=False)[0]["pixel_values"].shape == (1, 64, 64)


@pytest.fixture
def caption_data(emoji, tiny_tokenizer):
    rows = emoji["train"].select(range(8))
    arguments = {"pictures": PictureDataset(rows, 16), "conditions": rows["captions"]}
    return arguments, BPEDropoutEncoder(tiny_tokenizer), tiny_tokenizer


def test_caption_variants_and_dropout_are_for_training_only(caption_data):
    arguments, encoder, tokenizer = caption_data
    evaluation = CodeDataset(**arguments, encoder=encoder, training=False)
    expected = tokenizer(arguments["conditions"][0][0], padding="max_length", truncation=True).input_ids
    assert evaluation[0]["input_ids"].tolist() == expected
    training = CodeDataset(**arguments, encoder=encoder, bpe_dropout=0.5, seed=2)
    drawn = []
    for epoch in range(6):
        training.set_epoch(epoch)
        drawn.append(tuple(training[0]["input_ids"].tolist()))
        assert tuple(training[0]["input_ids"].tolist()) == drawn[-1]
    assert len(set(drawn)) > 2


def test_condition_dropout_gives_the_null_condition_at_its_rate(caption_data):
    arguments, encoder, _ = caption_data
    null = [0] * len(encoder("", 0.0))
    dataset = CodeDataset(**arguments, encoder=encoder, condition_dropout=0.3, null_condition_ids=null)
    dropped = 0
    for epoch in range(50):
        dataset.set_epoch(epoch)
        dropped += sum(dataset[index]["input_ids"].tolist() == null for index in range(8))
    assert 0.2 < dropped / 400 < 0.4


def test_channels_that_no_picture_file_has_are_refused():
    with pytest.raises(ValueError, match="`num_channels` must be 1 or 3 for pictures of files, got 4"):
        PictureTransform(16, 4)


@pytest.mark.parametrize("values", [[1, 2], [[1, 2], [3, 4]], [0.5, 1.5], [{"a": 1}, {"a": 2}]])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_without_pictures_is_refused(tmp_path, values, streaming):
    datasets.Dataset.from_dict({"image": values}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="`image_column` must be one of pictures, got 'image' of"):
        load_dataset_splits(DataArguments(str(tmp_path), streaming=streaming))


@pytest.mark.parametrize("kind", ["array", "lists", "table"])
def test_pictures_may_be_arrays_or_tables_with_more_in_them(tmp_path, kind):
    levels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    if kind == "table":
        values = []
        for each in levels:
            buffer = io.BytesIO()
            Image.fromarray(each).save(buffer, "PNG")
            values.append({"bytes": buffer.getvalue(), "path": None, "width": 16})
        feature = {
            "bytes": datasets.Value("binary"),
            "path": datasets.Value("string"),
            "width": datasets.Value("int32"),
        }
    else:
        values = levels.tolist()
        nested = datasets.List(datasets.List(datasets.List(datasets.Value("uint8"))))
        feature = datasets.Array3D((16, 16, 3), "uint8") if kind == "array" else nested
    rows = datasets.Dataset.from_dict({"image": values}, features=datasets.Features({"image": feature}))
    rows.to_parquet(tmp_path / "train.parquet")
    rows = load_dataset_splits(DataArguments(str(tmp_path)))["train"]
    pictures = PictureDataset(rows, image_size=16, transform="center_crop", training=False)
    expected = torch.from_numpy(levels[1]).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(pictures[1]["pixel_values"], expected, rtol=0, atol=1e-2)
