# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""What tests of the evaluation share: data sets of pixels and of spoilt rows, random Inception weights."""

import io
from pathlib import Path

import datasets
import pytest
import torch
from picture_files import emoji_rows, jpeg
from torch import nn
from torch.utils.data import TensorDataset
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

NAMES = ["tabby, tabby cat", "goose", "goldfish, Carassius auratus", "volcano"]  # of the classes 0 to 3
CLASSES = [3, 1, 0, 2, 1, 3]
COLUMNS = {
    "image": [{"bytes": jpeg(row), "path": None} for row in emoji_rows()[:6]],
    "text": ["a red heart", "rocket", "green apple", "a pizza", "a", "heart"],
    "concept": ["cat", "dog", "cow"] * 2, "style": ["3d", "flat"] * 3, "label": [NAMES[label] for label in CLASSES],
}  # fmt: skip
BROKEN = {"bytes": jpeg(emoji_rows()[7])[:900], "path": None}


def write_rows(folder: Path, spoilt: dict[str, object], feature: object = None, **columns: list) -> Path:
    """Six rows, after the second and the last of which a copy of the first stands with `spoilt` in place of parts."""
    columns = {name: list(values) for name, values in (COLUMNS | columns).items()}
    for index in [2, 7] if spoilt else []:
        for name, values in columns.items():
            values.insert(index, spoilt.get(name, values[0]))
    rows = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image(decode=False))
    rows = rows if feature is None else rows.cast_column("label", feature)
    folder.mkdir()
    rows.to_parquet(folder / "train.parquet")
    return folder


class Pixels(TensorDataset):
    """Pictures `(N, C, h, w)` as a data set of `{"pixel_values": (C, h, w)}`."""

    def __getitem__(self, index):
        return {"pixel_values": super().__getitem__(index)[0]}


class MeanColour(nn.Module):
    """The mean colour of each half of a picture: six features."""

    num_features = 6

    def forward(self, pictures):
        return torch.cat([half.float().mean((2, 3)) for half in pictures.chunk(2, dim=3)], dim=1)


def write_inception(folder: Path) -> Path:
    """Random weights of Inception v3 under torch-fidelity's names."""
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with pytest.MonkeyPatch.context() as patch:  # torch-fidelity builds no network without weights
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state_dict: None)
        state_dict = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], nothing).state_dict()
    for name, value in state_dict.items():
        if name.endswith("conv.weight"):  # large enough that features do not fade from layer to layer
            torch.nn.init.kaiming_normal_(value, nonlinearity="relu")
    torch.save(state_dict, folder / "inception.pth")
    return folder / "inception.pth"
