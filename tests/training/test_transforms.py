# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Transforms of training pictures: sizes, randomness from a generator alone, and what each may change."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from rq_hf.models.sampling import seeded_generator
from rq_hf.training.transforms import TRANSFORMS, PictureTransform

RANDOM = ("imagenet", "ffhq", "cc3m")


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_pixels_have_the_size_and_in_training_depend_on_a_generator_alone_which_stays_as_it_is(name):
    transform, generator, state = PictureTransform(32, 3, name), seeded_generator(3), torch.get_rng_state()
    pickled = pickle.loads(pickle.dumps(transform))
    first, second = transform(noise(120, 110), generator), pickled(noise(120, 110), seeded_generator(3))
    assert torch.equal(first, second) and first.shape == (3, 32, 32) and first.dtype == torch.float32
    assert first.min() >= -1 and first.max() <= 1
    several = {transform(noise(120, 120), seeded_generator(seed)).numpy().tobytes() for seed in range(8)}
    assert (len(several) > 1) == (name in RANDOM)
    assert torch.equal(generator.get_state(), seeded_generator(3).get_state())
    assert torch.equal(torch.get_rng_state(), state)
    transform = PictureTransform(32, 3, name, training=False)
    assert torch.equal(transform(noise(90, 130)), transform(noise(90, 130), seeded_generator(1)))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_smallest_and_the_longest_pictures_are_taken(name):
    for training in (True, False):
        for channels, mode in ((3, "RGB"), (1, "L")):
            transform = PictureTransform(16, channels, name, training)
            for size in ((1, 1), (1, 40), (300, 7)):
                assert transform(Image.new(mode, size), seeded_generator(0)).shape == (channels, 16, 16)


def test_pictures_of_the_models_size_stay_as_they_are():
    picture = noise(64, 64)
    pixels = PictureTransform(64)(picture, seeded_generator(0))
    assert torch.equal(pixels, torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1)


def test_which_transforms_mirror_pictures():
    picture = Image.new("RGB", (64, 64), "black")
    picture.paste("white", (0, 0, 32, 64))
    for name in TRANSFORMS:
        transform = PictureTransform(32, 3, name)
        lefts = {bool(transform(picture, seeded_generator(seed))[0, 16, 8] > 0) for seed in range(12)}
        assert lefts == ({True, False} if name in ("imagenet", "ffhq") else {True}), name


def test_the_crop_of_dalle_stays_near_the_centre():
    picture = Image.new("RGB", (128, 32), "black")
    picture.paste("white", (36, 0, 92, 32))  # 3/8 to 5/8 of the slack of 96, and the square of 32
    transform = PictureTransform(32, 3, "cc3m")
    for seed in range(20):
        assert transform(picture, seeded_generator(seed))[:, :, 2:-2].min() > 0.9


def test_padding_keeps_the_whole_of_a_wide_picture_on_white():
    pixels = PictureTransform(32, 3, "pad")(Image.new("RGB", (64, 32), "black"))
    assert (pixels[:, 9:23] < -0.9).all() and (pixels[:, :7] > 0.9).all() and (pixels[:, 25:] > 0.9).all()


def test_other_channels_than_grey_and_rgb_are_refused():
    with pytest.raises(ValueError, match="`num_channels` must be 1 or 3 for picture files, got 4"):
        PictureTransform(16, 4)
