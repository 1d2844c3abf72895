# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The shipped checkpoint draws, decodes, predicts and learns what was recorded; see tests/golden.py."""

import golden
import pytest
import torch
from safetensors.torch import load_file

EXPECTED = golden.ROOT / "tests" / "fixtures" / "golden.safetensors"


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(EXPECTED)


@pytest.fixture(scope="module")
def pipe():
    return golden.load_pipeline()


def test_prompts_and_seeds_give_the_recorded_codes(pipe, expected):
    equal = (golden.drawn_codes(pipe) == expected["codes"]).flatten(1).all(1)
    assert equal.sum() >= 62, f"{int(equal.sum())} of 64 code maps are equal"


def test_codes_give_the_recorded_pixels_logits_and_likelihoods(pipe, expected):
    for name, values in golden.predictions(pipe, expected["codes"].long()).items():
        torch.testing.assert_close(values, expected[name], rtol=0, atol=1e-4, msg=lambda text, name=name: name + text)


@pytest.mark.slow
def test_training_steps_give_the_recorded_losses(expected):
    pixels = expected["pixels"]
    for name, losses in {
        "stage1_losses": golden.stage1_losses(pixels),
        "stage2_losses": golden.stage2_losses(pixels, soft_labels=False),
        "stage2_soft_losses": golden.stage2_losses(pixels, soft_labels=True),
    }.items():
        torch.testing.assert_close(losses, expected[name], rtol=0, atol=1e-4, msg=lambda text, name=name: name + text)
