# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The photographs: which classes are in, and which pictures are held out."""

import importlib
import io
import sys
from pathlib import Path

import datasets
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "research" / "photographs"))
prepare = importlib.import_module("prepare_photographs")


def test_every_class_is_in_both_parts_faces_are_in_none_and_two_builds_are_equal(tmp_path, monkeypatch):
    for name, count in {"Grand_Piano": 12, "ant": 6, "Faces": 3, "BACKGROUND_Google": 3}.items():
        (tmp_path / "101_ObjectCategories" / name).mkdir(parents=True)
        for number in range(count):
            content = io.BytesIO()
            Image.new("RGB", (9, 8), (number, count, 0)).save(content, "jpeg")
            (tmp_path / "101_ObjectCategories" / name / f"{number}.jpg").write_bytes(content.getvalue())
    monkeypatch.setattr(prepare, "HELD_OUT", 6)
    files = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        prepare.main([str(tmp_path), "--output_dir", str(folder)])
        files.append([(folder / f"{split}.parquet").read_bytes() for split in ("train", "validation")])
    assert files[0] == files[1]
    rows = datasets.load_dataset(str(tmp_path / "a"), cache_dir=str(tmp_path / "cache"))
    assert {split: sorted(rows[split]["text"]) for split in rows} == {
        "train": ["ant"] * 4 + ["grand piano"] * 8,
        "validation": ["ant"] * 2 + ["grand piano"] * 4,
    }
    assert rows["train"].features["label"].names == ["grand piano", "ant"]
    with pytest.raises(SystemExit):  # not into a folder that holds something
        prepare.main([str(tmp_path), "--output_dir", str(tmp_path / "a")])
