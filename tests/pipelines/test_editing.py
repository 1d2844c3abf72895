# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Reconstruction runs coarse to fine, variations keep depths."""

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
from conftest import seeded

from rq_hf import RQImageGenerationPipeline


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


@pytest.fixture
def picture(pictures) -> torch.Tensor:
    return pictures[:1] / 2 + 0.5


def test_reconstruct_decodes_the_first_depths(tiny_pipeline, pictures):
    images = pictures / 2 + 0.5
    codes = tiny_pipeline.rqvae.encode(pictures)
    for depth in (1, 2, 3, None):
        found = tiny_pipeline.reconstruct(images, depth, output_type="latent", return_dict=False)[0]
        assert torch.equal(found, codes[..., :depth])
        expected = tiny_pipeline.rqvae.decode(codes[..., :depth]) / 2 + 0.5
        torch.testing.assert_close(tiny_pipeline.reconstruct(images, depth, "pt").images, expected.clamp(0, 1))


def test_reconstruct_takes_pictures_of_any_kind(tiny_pipeline):
    values = noise(2, 16, 24, 3)
    pil, floats = [PIL.Image.fromarray(each) for each in values], values.astype(np.float32) / 255
    expected = tiny_pipeline.reconstruct(pil, output_type="latent").images
    assert expected.shape == (2, 4, 6, 3)
    for images in (tuple(pil), floats, list(floats), torch.tensor(floats).permute(0, 3, 1, 2)):
        assert torch.equal(tiny_pipeline.reconstruct(images, output_type="latent").images, expected)
    for image in (pil[0], pil[:1], floats[0], [floats[:1]]):
        assert torch.equal(tiny_pipeline.reconstruct(image, output_type="latent").images, expected[:1])
    for mode in ("L", "RGBA"):  # decoded as in training
        image = tiny_pipeline.reconstruct(pil[0].convert(mode)).images[0]
        assert image.mode == "RGB" and image.size == (24, 16)


@pytest.mark.parametrize(
    "image, message",
    [
        (torch.rand(1, 3, 18, 16), r"must have shape .*multiples of 4, got \(1, 3, 18, 16\)"),
        ([], "`image` must hold at least one picture, got an empty list"),
        (255 * torch.ones(1, 3, 16, 16), r"`image` must hold .* floats in \[0, 1\], got torch.float32 from 255.0 to"),
        (torch.full((1, 3, 16, 16), float("nan")), r"`image` must hold .* floats in \[0, 1\].*nan"),
        (np.full((1, 16, 16, 3), 255, dtype=np.uint8), r"`image` must hold .* got uint8"),
        ("picture.png", "`image` must hold pictures, .*got 'picture.png'"),
        ([PIL.Image.new("RGB", (size, size)) for size in (16, 8)], "`image` must hold pictures of one size"),
    ],
)
def test_reconstruct_refuses_what_is_no_picture(tiny_pipeline, image, message):
    with pytest.raises(ValueError, match=message):
        tiny_pipeline.reconstruct(image)


def test_variations_share_the_first_depths(tiny_pipeline, picture):
    codes = tiny_pipeline.reconstruct(picture, output_type="latent").images.expand(2, -1, -1, -1)
    for depths in (1, 2, 3):
        options = dict(num_images_per_prompt=2, output_type="latent", generator=seeded(0))
        varied = tiny_pipeline.vary(picture, "a red heart", depths, **options).images
        assert torch.equal(varied[..., :depths], codes[..., :depths])
        assert (depths == 3) == torch.equal(varied, codes) == torch.equal(varied[0], varied[1])


def test_each_picture_may_have_a_mask(tiny_pipeline, pictures):
    codes, prompts = tiny_pipeline.rqvae.encode(pictures[:2]), ["rocket", "a red heart"]
    mask = torch.zeros(2, 4, 4, 3, dtype=torch.bool)
    mask[0, 0], mask[1, :, 0] = True, True
    options = dict(known_codes=codes, output_type="latent", num_images_per_prompt=2)
    drawn, both = tiny_pipeline(prompts, known_mask=mask, **options).images, mask.repeat_interleave(2, 0)
    assert torch.equal(drawn[both], codes.repeat_interleave(2, 0)[both])


def test_grey_pictures_are_edited_and_stay_grey(make_rqvae, make_transformer):
    rqvae = make_rqvae(num_channels=1)
    pipe = RQImageGenerationPipeline(rqvae, make_transformer("class", rqvae))
    pipe.set_progress_bar_config(disable=True)
    picture = PIL.Image.fromarray(noise(16, 16, 3))
    varied = pipe.vary(picture, keep_depths=3, class_labels=1).images[0]
    assert varied.mode == "L" and varied.size == (16, 16)
    assert np.array_equal(varied, pipe.reconstruct(picture.convert("L")).images[0])


def test_pillow_pictures_of_any_size_are_fitted(tiny_pipeline):
    photograph = PIL.Image.fromarray(noise(20, 30, 3))
    assert tiny_pipeline.reconstruct(photograph).images[0].size == (28, 20)
    square = PIL.ImageOps.fit(photograph, (16, 16), PIL.Image.Resampling.LANCZOS)
    options = {"prompt": "rocket", "output_type": "latent"}
    varied = [tiny_pipeline.vary(image, generator=seeded(0), **options).images for image in (photograph, square)]
    assert torch.equal(*varied)


def test_bad_input_is_named(tiny_pipeline, pictures, picture, monkeypatch):
    with pytest.raises(ValueError, match="`depth` must be an integer from 1 to 3, got 4"):
        tiny_pipeline.reconstruct(picture, 4)
    with pytest.raises(ValueError, match="`keep_depths` must be an integer from 1 to 3, got 4"):
        tiny_pipeline.vary(picture, "rocket", keep_depths=4)
    with pytest.raises(ValueError, match="`known_codes` or `image` must be one or 2, got 3"):
        tiny_pipeline.vary(pictures[:3] / 2 + 0.5, ["rocket", "a red heart"])
    with pytest.raises(ValueError, match="`prompt` must be given"):
        tiny_pipeline.vary(picture)
    monkeypatch.setattr(tiny_pipeline.rqvae, "encode", None)  # a large picture is refused before it is encoded
    with pytest.raises(ValueError, match="`image` must be of the model's size, 16 x 16 pixels, got 24 x 16"):
        tiny_pipeline.vary(torch.rand(1, 3, 16, 24), "rocket")
