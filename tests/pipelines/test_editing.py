# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Reconstruction runs coarse to fine, completion keeps codes exactly, variations keep depths."""

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
from conftest import seeded

from rq_hf import RQImageGenerationPipeline

CONDITIONS = {"text": dict(prompt="a red heart"), "class": dict(class_labels="goose"), "none": {}}


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


@pytest.fixture
def picture(pictures) -> torch.Tensor:
    return pictures[:1] / 2 + 0.5


@pytest.fixture(params=CONDITIONS)
def pipe_and_condition(request, make_pipeline):
    return make_pipeline(request.param), CONDITIONS[request.param]


@pytest.fixture
def upper_half() -> torch.Tensor:
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:2] = True
    return mask


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
        (torch.full((1, 3, 16, 16), -0.5), r"floats in \[0, 1\], got torch.float32 from -0.5"),
        ("picture.png", "`image` must hold pictures, .*got 'picture.png'"),
        ([PIL.Image.new("RGB", (size, size)) for size in (16, 8)], "`image` must hold pictures of one size"),
    ],
)
def test_reconstruct_refuses_what_is_no_picture(tiny_pipeline, image, message):
    with pytest.raises(ValueError, match=message):
        tiny_pipeline.reconstruct(image)


def test_completion_keeps_the_given_codes_and_draws_the_others(pipe_and_condition, picture, upper_half):
    pipe, condition = pipe_and_condition
    codes = pipe.reconstruct(picture, output_type="latent").images
    drawn = [
        pipe.complete(picture, mask=upper_half, output_type="latent", generator=seeded(seed), **condition).images
        for seed in (0, 0, 1)
    ]
    assert all(torch.equal(each[:, upper_half], codes[:, upper_half]) for each in drawn)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0][:, ~upper_half], codes[:, ~upper_half])
    everything = torch.ones(4, 4, dtype=torch.bool)
    completed = pipe.complete(picture, mask=everything, output_type="pt", **condition).images
    assert torch.equal(completed, pipe.reconstruct(picture, output_type="pt").images)


def test_variations_share_the_first_depths(pipe_and_condition, picture):
    pipe, condition = pipe_and_condition
    codes = pipe.reconstruct(picture, output_type="latent").images.expand(2, -1, -1, -1)
    for depths in (1, 2, 3):
        options = dict(num_images_per_prompt=2, output_type="latent", generator=seeded(0))
        varied = pipe.vary(picture, keep_depths=depths, **options, **condition).images
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
    completed = pipe.complete(picture, mask=torch.ones(4, 4, dtype=torch.bool), class_labels=1).images[0]
    assert completed.mode == "L" and completed.size == (16, 16)
    assert np.array_equal(completed, pipe.reconstruct(picture.convert("L")).images[0])


def test_pillow_pictures_of_any_size_are_fitted(tiny_pipeline, upper_half):
    photograph = PIL.Image.fromarray(noise(20, 30, 3))
    assert tiny_pipeline.reconstruct(photograph).images[0].size == (28, 20)
    square = PIL.ImageOps.fit(photograph, (16, 16), PIL.Image.Resampling.LANCZOS)
    for method, options in (("complete", {"mask": upper_half}), ("vary", {})):
        options |= {"prompt": "rocket", "output_type": "latent"}
        fitted, expected = (
            getattr(tiny_pipeline, method)(image, generator=seeded(0), **options).images
            for image in (photograph, square)
        )
        assert torch.equal(fitted, expected)


def test_masks_of_every_kind_mean_the_same(tiny_pipeline, picture, upper_half):
    def kept(mask) -> torch.Tensor:
        return tiny_pipeline.complete(picture, "rocket", mask, output_type="latent", generator=seeded(0)).images

    expected = kept(upper_half)
    pixels = upper_half.repeat_interleave(4, 0).repeat_interleave(4, 1)
    image = PIL.Image.fromarray(pixels.numpy())
    photograph_mask = PIL.Image.new("L", (300, 200))
    photograph_mask.paste(255, (0, 0, 300, 100))
    for mask in (pixels, pixels.float(), pixels.numpy(), upper_half.numpy().astype(np.uint8), image, photograph_mask):
        assert torch.equal(kept(mask), expected)
    assert torch.equal(kept(PIL.Image.fromarray(upper_half.numpy())), expected)
    for white, dark in ((65535, 3000), (40000, 255)):  # 16 bits
        levels = np.where(pixels.numpy(), white, dark).astype(np.uint16)
        assert torch.equal(kept(PIL.Image.fromarray(levels)), expected)
    for mode in ("I", "F"):
        with pytest.raises(ValueError, match=f"`mask` must have a mode with a known white, such as 'L', got '{mode}'"):
            kept(image.convert(mode))
    pixels[7, 0] = False  # one pixel of a position is drawn, so all of it is
    upper_half[1, 0] = False
    assert torch.equal(kept(pixels), kept(upper_half))


def test_bad_input_is_named(tiny_pipeline, pictures, picture, upper_half, monkeypatch):
    for mask in (torch.ones(8, 16).bool(), torch.full((4, 4), 0.5), None):
        with pytest.raises(ValueError, match=r"`mask` must be .* \[\(4, 4\), \(16, 16\)\], got "):
            tiny_pipeline.complete(picture, "rocket", mask)
    with pytest.raises(ValueError, match="`depth` must be an integer from 1 to 3, got 4"):
        tiny_pipeline.reconstruct(picture, 4)
    with pytest.raises(ValueError, match="`keep_depths` must be an integer from 1 to 3, got 4"):
        tiny_pipeline.vary(picture, "rocket", keep_depths=4)
    with pytest.raises(ValueError, match="`known_codes` or `image` must be one or 2, got 3"):
        tiny_pipeline.complete(pictures[:3] / 2 + 0.5, ["rocket", "a red heart"], upper_half)
    with pytest.raises(ValueError, match="`prompt` must be given"):
        tiny_pipeline.complete(picture, mask=upper_half)
    monkeypatch.setattr(tiny_pipeline.rqvae, "encode", None)  # a large picture is refused before it is encoded
    with pytest.raises(ValueError, match="`image` must be of the model's size, 16 x 16 pixels, got 24 x 16"):
        tiny_pipeline.vary(torch.rand(1, 3, 16, 24), "rocket")
