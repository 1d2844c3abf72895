# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Painting inside a picture keeps all other pixels to the byte, with both kinds of transformer."""

import numpy as np
import pytest
import torch
from conftest import seeded
from diffusers import AutoPipelineForInpainting
from PIL import Image, ImageDraw

from rq_hf import RQImageGenerationPipeline, RQInpaintPipeline
from rq_hf.pipelines.pipeline_rq_inpaint import hidden_positions, square_box


def photograph(width: int = 30, height: int = 20) -> Image.Image:
    values = np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def hole(box=(10, 6, 17, 13), size=(30, 20)) -> Image.Image:
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).rectangle(box, fill=255)
    return mask


@pytest.fixture(params=["autoregressive", "contextual"])
def pipe(request, make_rqvae, make_transformer, tiny_tokenizer) -> RQInpaintPipeline:
    rqvae = make_rqvae()
    transformer = make_transformer("text", rqvae, contextual=request.param == "contextual")
    pipe = RQInpaintPipeline(rqvae, transformer, tiny_tokenizer)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_pixels_outside_the_mask_keep_their_bytes_and_those_inside_change(pipe):
    image, mask = photograph(), hole()
    results = pipe("a red heart", image, mask, num_images_per_prompt=2, generator=seeded(0)).images
    is_white = np.asarray(mask) > 0
    for result in results:
        assert result.size == image.size and result.mode == "RGB"
        is_changed = (np.asarray(result) != np.asarray(image)).any(-1)
        assert not is_changed[~is_white].any() and is_changed[is_white].mean() > 0.9
    assert not np.array_equal(*map(np.asarray, results))


@pytest.mark.parametrize(
    "size, box", [((30, 20), (0, 0, 29, 19)), ((9, 40), (2, 30, 6, 39)), ((64, 64), (60, 60, 63, 63))]
)
@pytest.mark.parametrize("padding", [None, 0, 5])
def test_pictures_and_holes_of_any_size_and_place(pipe, size, box, padding):
    image, mask = photograph(*size), hole(box, size)
    result = pipe("rocket", image, mask, padding_mask_crop=padding, generator=seeded(0)).images[0]
    is_changed = (np.asarray(result) != np.asarray(image)).any(-1)
    assert is_changed.any() and not is_changed[np.asarray(mask) == 0].any()


def test_only_positions_that_the_mask_touches_are_drawn(pipe):
    image, mask = photograph(16, 16), Image.new("L", (16, 16))
    mask.putpixel((5, 9), 255)  # of position (2, 1)
    codes = pipe("rocket", image, mask, output_type="latent", generator=seeded(1)).images
    kept = pipe.reconstruct(image, output_type="latent").images
    is_drawn = hidden_positions(mask, 4, 4)
    assert is_drawn.nonzero().tolist() == [[2, 1]]
    assert torch.equal(codes[:, ~is_drawn], kept[:, ~is_drawn])


def test_pictures_arrays_and_tensors_mean_the_same(pipe):
    image, mask = photograph(16, 16), hole((4, 4, 11, 11), (16, 16))
    values, ones = np.asarray(image) / 255, np.asarray(mask) / 255
    expected = pipe("rocket", image, mask, generator=seeded(0)).images[0]
    for given in ((values, ones), (torch.tensor(values).permute(2, 0, 1), torch.tensor(ones)), (values[None], [mask])):
        for output_type in ("np", "pt"):
            found = pipe("rocket", *given, output_type=output_type, generator=seeded(0)).images[0]
            found = found.permute(1, 2, 0).numpy() if output_type == "pt" else found
            assert np.array_equal((found * 255).round().astype(np.uint8), np.asarray(expected))


def test_several_pictures_have_their_own_masks_and_prompts(pipe):
    images, masks = [photograph(), photograph(16, 24)], [hole(), hole((2, 3, 8, 20), (16, 24))]
    generators = [seeded(0), seeded(1)]
    both = pipe(["rocket", "a red heart"], images, masks, generator=generators).images
    for index, prompt in enumerate(["rocket", "a red heart"]):
        single = pipe(prompt, images[index], masks[index], generator=seeded(index)).images[0]
        assert np.array_equal(both[index], single)
    ranked = pipe("rocket", images[0], masks[0], num_candidates=3, ranker="likelihood")
    assert len(ranked.images) == 1 and ranked.scores.shape == (1,)


def test_the_square_holds_the_hole_and_lies_in_the_picture_where_it_can():
    assert square_box(hole(), None) == (4, 0, 24, 20)
    assert square_box(hole((0, 0, 3, 3)), None) == (0, 0, 20, 20)
    assert square_box(hole((0, 5, 29, 9)), None) == (0, -5, 30, 25)
    assert square_box(hole((10, 6, 17, 13)), 2) == (8, 4, 20, 16)


def test_auto_pipelines_find_it(pipe, tmp_path):
    plain = RQImageGenerationPipeline(**pipe.components)
    assert isinstance(AutoPipelineForInpainting.from_pipe(plain), RQInpaintPipeline)
    plain.save_pretrained(tmp_path)
    varied = [each.vary(photograph(), "rocket", generator=seeded(0)).images[0] for each in (plain, pipe)]
    assert np.array_equal(*map(np.asarray, varied))
    loaded = AutoPipelineForInpainting.from_pretrained(tmp_path)
    assert isinstance(loaded, RQInpaintPipeline) and type(loaded.transformer) is type(pipe.transformer)


@pytest.mark.parametrize(
    "image, mask, message",
    [
        (None, hole(), "`image` must be a picture"),
        (photograph(), None, "`mask_image` must be a picture"),
        (photograph(), hole(size=(20, 30)), "`mask_image` must have the size of `image`"),
        (photograph(), Image.new("L", (30, 20)), "`mask_image` must have a white part"),
        (photograph(), hole().convert("I"), "`mask_image` must have a mode with a known white"),
        (np.full((4, 4, 3), 255), hole(), r"`image` must hold floats in \[0, 1\]"),
    ],
)
def test_bad_input_is_named(pipe, image, mask, message):
    with pytest.raises(ValueError, match=message):
        pipe("rocket", image, mask)


def test_codes_to_keep_are_no_argument_and_pictures_of_another_size_are_refused(pipe):
    with pytest.raises(TypeError, match="known_codes"):
        pipe("rocket", photograph(), hole(), known_codes=torch.zeros(1, 4, 4, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="height"):
        pipe("rocket", photograph(), hole(), height=16, width=16)
