# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
from pathlib import Path

import datasets
import pytest

FIXTURE = Path(__file__).parents[1] / "fixtures" / "emoji"


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Ten emoji as training and as validation split, in tables with all columns that the recipes read."""
    folder = tmp_path_factory.mktemp("data")
    rows = datasets.load_dataset(str(FIXTURE), split="train").select(range(10))
    pictures, captions = list(rows["image"]), list(rows["captions"])
    table = datasets.Dataset.from_dict(
        {
            "image": pictures,
            "jpg": pictures,
            "label": list(range(10)),
            "captions": captions,
            "txt": [texts[0] for texts in captions],
            "concept": list(rows["concept"]),
            "style": list(rows["style"]),
            "tone": ["default"] * 9 + ["dark"],
            "colour": [""] * 10,
            "alteration": ["none"] * 10,
        }
    )
    table = table.cast_column("label", datasets.ClassLabel(num_classes=1000))
    for split in ("train", "validation"):
        table.to_parquet(folder / f"{split}.parquet")
    return folder
