# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What tests of the evaluation share: data sets of pixels, random Inception weights."""

import io
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


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
