# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the buttons of the page do."""

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from rq_hf.cli import app

SAMPLING = (2, 5, 1, 1.0, 32)  # pictures, seed, candidates, temperature, top-k


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize(("kind", "condition"), [("text", "a red heart"), ("class", 1), ("none", None)])
def test_the_page_draws_what_the_pipeline_draws(make_pipeline, kind, condition):
    pipe = make_pipeline(kind)
    assert isinstance(app.build_page(pipe, "tiny"), gr.Blocks)
    studio = app.Studio(pipe)
    codes, pictures = studio.draw(condition, 3, *SAMPLING)
    asked = {"text": {"prompt": condition}, "class": {"class_labels": condition}, "none": {}}[kind]
    options = {"num_images_per_prompt": 2, "generator": generators(5, 6), "output_type": "latent", "top_k": 32}
    assert torch.equal(codes, pipe(**asked, **options).images)
    assert len(pictures) == 2
    (coarse, _), expected = studio.decode(codes, 1), pipe.rqvae.decode(codes[..., :1])
    scaled = Image.fromarray(((expected[0] + 1) * 127.5).clamp(0, 255).round().byte().permute(1, 2, 0).numpy())
    assert np.abs(np.asarray(coarse, int) - np.asarray(scaled.resize((256, 256), Image.Resampling.BICUBIC))).max() <= 1


def test_an_empty_field_is_the_checkpoints_own_setting(tiny_pipeline):
    tiny_pipeline.transformer.generation_config.update(temperature=0.2, top_k=[64, 8, 4])
    codes, _ = app.Studio(tiny_pipeline).draw("a heart", 3, 2, 5, 1, None, None)
    options = {"num_images_per_prompt": 2, "generator": generators(5, 6), "output_type": "latent"}
    assert torch.equal(codes, tiny_pipeline("a heart", **options).images)


def test_a_reconstruction_is_the_pipelines(tiny_pipeline):
    picture = Image.effect_noise((16, 16), 90).convert("RGB")
    studio = app.Studio(tiny_pipeline)
    codes, pictures = studio.reconstruct(picture, 2)
    assert torch.equal(codes, tiny_pipeline.reconstruct(picture, output_type="latent").images)
    assert len(pictures) == 1


def test_a_completion_keeps_the_codes_of_the_first_rows(tiny_pipeline):
    picture = Image.effect_noise((40, 30), 90).convert("RGB")
    studio = app.Studio(tiny_pipeline)
    codes, _ = studio.complete(picture, "a red heart", 2, 3, *SAMPLING)
    square = ImageOps.fit(picture, (16, 16), Image.Resampling.LANCZOS)  # its middle, not squeezed
    known = tiny_pipeline.reconstruct(square, output_type="latent").images
    assert torch.equal(codes[:, :2], known[:, :2].expand_as(codes[:, :2]))
    assert not torch.equal(codes[:, 2:], known[:, 2:].expand_as(codes[:, 2:]))


def test_bad_input_is_an_error_on_the_page(tiny_pipeline):
    studio = app.Studio(tiny_pipeline)
    with pytest.raises(ValueError, match="`temperature`"):
        studio.draw("a heart", 3, 1, 0, 1, -1, 8)
    with pytest.raises(ValueError, match="Upload a picture"):
        studio.complete(None, "a red heart", 2, 3, *SAMPLING)
    assert studio.decode(None, 2) == []
