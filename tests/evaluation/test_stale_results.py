# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""What an earlier run left in a folder or a file is used only where it is what this run asks for."""

import pytest
import torch

from rq_hf.evaluation.generation import evaluate_samples, generate_images


def test_pictures_of_other_settings_seeds_weights_or_prompts_are_refused(make_pipeline, tmp_path):
    pipe, prompts = make_pipeline(), ["a cat", "a dog"]
    first = [path.read_bytes() for path in generate_images(pipe, prompts, tmp_path, temperature=0.9)]
    longer = generate_images(pipe, [*prompts, "a bird"], tmp_path, temperature=0.9)  # goes on
    assert [path.read_bytes() for path in longer[:2]] == first
    with pytest.raises(ValueError, match="must be a new one.*settings"):
        generate_images(pipe, prompts, tmp_path, temperature=0.5)
    with pytest.raises(ValueError, match="must be a new one.*seed"):
        generate_images(pipe, prompts, tmp_path, temperature=0.9, seed=1)
    with pytest.raises(ValueError, match=r"must be a new one.*000001\.png"):
        generate_images(pipe, ["a cat", "a fish"], tmp_path, temperature=0.9)
    with torch.no_grad():
        pipe.transformer.spatial_positions.weight *= -1  # signs count
    with pytest.raises(ValueError, match="must be a new one.*weights"):
        generate_images(pipe, prompts, tmp_path, temperature=0.9)


def test_stored_features_of_another_reference_are_refused(make_pipeline, tmp_path):
    pipe = make_pipeline("none")
    size = pipe.rqvae.config.image_size
    real, other = ([{"pixel_values": torch.rand(3, size, size)} for _ in range(4)] for _ in range(2))
    options = {"extractor": "pixels", "reference_features": tmp_path / "features.safetensors"}
    results = evaluate_samples(pipe, 4, tmp_path / "drawn", reference=real, **options)
    assert evaluate_samples(pipe, 4, tmp_path / "drawn", reference=real, **options) == results
    with pytest.raises(ValueError, match="`reference_features` must be those of `reference`"):
        evaluate_samples(pipe, 4, tmp_path / "drawn", reference=other, **options)
