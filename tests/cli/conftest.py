# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import datasets
import pytest
from picture_files import FIXTURE


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Ten emoji as training and as validation split, in tables with all columns that the recipes read."""
    folder = tmp_path_factory.mktemp("data")
    rows = datasets.load_dataset(str(FIXTURE), split="train").select(range(10))
    columns = {name: list(rows[name]) for name in ("image", "captions", "concept", "style")}
    columns |= {"jpg": columns["image"], "txt": list(rows["text"]), "label": list(range(10))}
    columns |= {"tone": ["default"] * 9 + ["dark"], "colour": [""] * 10, "alteration": ["none"] * 10}
    table = datasets.Dataset.from_dict(columns).cast_column("label", datasets.ClassLabel(num_classes=1000))
    for split in ("train", "validation"):
        table.to_parquet(folder / f"{split}.parquet")
    return folder
