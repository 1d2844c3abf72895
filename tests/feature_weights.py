# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Files of random weights for the feature nets whose real ones are downloaded."""

import io
from pathlib import Path

import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision.models import vgg16


def write_inception(folder: Path) -> Path:
    """Inception v3 under torch-fidelity's names."""
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with pytest.MonkeyPatch.context() as patch:  # torch-fidelity builds no net without weights
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state_dict: None)
        state_dict = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], nothing).state_dict()
    for name, value in state_dict.items():
        if name.endswith("conv.weight"):  # as large as keeps the features from fading on the way
            torch.nn.init.kaiming_normal_(value, nonlinearity="relu")
    torch.save(state_dict, folder / "inception.pth")
    return folder / "inception.pth"


def write_vgg16(folder: Path) -> Path:
    """The convolutions of torchvision's VGG16."""
    with torch.device("meta"):
        layers = vgg16().features
    layers.to_empty(device="cpu").apply(lambda layer: getattr(layer, "reset_parameters", lambda: None)())
    torch.save(layers.state_dict(), folder / "vgg16.pth")
    return folder / "vgg16.pth"
