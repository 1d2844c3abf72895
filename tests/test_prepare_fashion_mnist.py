# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""scripts/prepare_fashion_mnist.py reads the published file format and refuses anything else."""

import gzip
from pathlib import Path

import datasets
import numpy as np
import pytest

LABELS = "t10k-labels-idx1-ubyte.gz"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("prepare_fashion_mnist")


def write(path: Path, header: tuple[int, ...], content: bytes) -> None:
    path.write_bytes(gzip.compress(np.array(header, ">u4").tobytes() + content, compresslevel=1))


def write_set(folder: Path, script) -> dict[str, np.ndarray]:
    """All four files: labels at random, and pictures that show the number of their row."""
    labels = {}
    for name, header in script.HEADERS.items():
        if "images" in name:
            rows = np.arange(header[1], dtype=np.uint32)
            pictures = np.zeros(header[1:], np.uint8)
            pictures[:, 0, :4] = rows.view(np.uint8).reshape(-1, 4)
            write(folder / name, header, pictures.tobytes())
        else:
            labels[name] = np.random.default_rng(0).integers(0, 10, header[1], dtype=np.uint8)
            write(folder / name, header, labels[name].tobytes())
    return labels


def test_splits_hold_the_published_pictures_in_order(script, tmp_path):
    labels = write_set(tmp_path, script)
    script.main(["--input_dir", str(tmp_path), "--output_dir", str(tmp_path / "set")])
    splits = datasets.load_dataset(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 55000, "validation": 5000, "test": 10000}
    for name, file, first in (("train", "train", 0), ("validation", "train", 55000), ("test", "t10k", 0)):
        published = labels[f"{file}-labels-idx1-ubyte.gz"]
        assert splits[name]["label"][:] == published[first : first + len(splits[name])].tolist()
        for index in (0, 300, len(splits[name]) - 1):
            pixels = np.array(splits[name][index]["image"])
            assert pixels.shape == (28, 28) and pixels[0, :4].view(np.uint32)[0] == first + index
    assert splits["test"].features["label"].names[9] == "ankle boot"


def test_an_array_is_read_as_it_was_written(script, tmp_path):
    labels = np.random.default_rng(0).integers(0, 10, 10000, dtype=np.uint8)
    write(tmp_path / LABELS, script.HEADERS[LABELS], labels.tobytes())
    assert np.array_equal(script.read_array(tmp_path / LABELS), labels)


@pytest.mark.parametrize(
    "header, length, match",
    [((2049, 10000), 9999, "an array of that shape"), ((2051, 10000), 10000, "must begin with the numbers")],
)
def test_other_files_are_refused(script, tmp_path, header, length, match):
    write(tmp_path / LABELS, header, bytes(length))
    with pytest.raises(ValueError, match=match):
        script.read_array(tmp_path / LABELS)
    (tmp_path / LABELS).write_bytes(gzip.compress(b"abc"))
    with pytest.raises(ValueError, match=f"{LABELS}' must begin with the numbers"):
        script.read_array(tmp_path / LABELS)
    write(tmp_path / LABELS, header, bytes(length))
    packed = (tmp_path / LABELS).read_bytes()
    (tmp_path / LABELS).write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match="is damaged"):
        script.read_array(tmp_path / LABELS)


def test_a_missing_file_or_an_existing_folder_ends_without_output(script, tmp_path, capsys):
    for folder, message in ((tmp_path / "new", "does not exist"), (tmp_path, "must not exist")):
        with pytest.raises(SystemExit) as exit:
            script.main(["--input_dir", str(tmp_path), "--output_dir", str(folder)])
        assert exit.value.code == 1 and message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
