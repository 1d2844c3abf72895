# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Completion keeps codes exactly and draws the rest in raster order; variations keep depths; mixtures of two."""

import io
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import RQVAE_FIELDS
from scorers import tiny_clip

from rq_hf import CLIPRanker, RQImageGenerationPipeline, RQVAEConfig, RQVAEModel

CONDITIONS = {"text": dict(prompt="a red heart"), "class": dict(class_labels="goose"), "none": {}}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


def test_completion_is_the_decoded_picture_of_its_codes(tiny_pipeline, picture, upper_half):
    codes, image = (
        tiny_pipeline.complete(picture, "rocket", upper_half, output_type=kind, generator=seeded()).images
        for kind in ("latent", "pt")
    )
    torch.testing.assert_close(image, (tiny_pipeline.rqvae.decode(codes) / 2 + 0.5).clamp(0, 1))


def test_with_everything_kept_the_picture_is_the_reconstruction(pipe_and_condition, picture):
    pipe, condition = pipe_and_condition
    whole = torch.ones(4, 4, dtype=torch.bool)
    completed = pipe.complete(picture, mask=whole, output_type="pt", **condition).images
    assert torch.equal(completed, pipe.reconstruct(picture, output_type="pt").images)


@pytest.mark.parametrize("kept_rows", [1, 2, 3])
def test_kept_rows_decode_to_the_originals_reconstruction(pipe_and_condition, picture, kept_rows):
    pipe, condition = pipe_and_condition
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:kept_rows] = True
    codes = pipe.complete(picture, mask=mask, output_type="latent", generator=seeded(), **condition).images
    original = pipe.reconstruct(picture, output_type="latent").images
    assert not torch.equal(codes, original)
    rows = [pipe.rqvae.decode(each[:, :kept_rows]) for each in (codes, original)]
    assert torch.equal(*rows) and rows[0].shape[-2] == 4 * kept_rows


def test_in_a_whole_picture_kept_rows_stay_near_the_reconstruction():
    root = Path(__file__).parents[1]
    pipe = RQImageGenerationPipeline.from_pretrained(root / "checkpoints" / "emoji-64")
    pipe.set_progress_bar_config(disable=True)
    with PIL.Image.open(root / "tests" / "fixtures" / "emoji" / "train" / "noto" / "rocket.png") as file:
        picture = file.convert("RGB")
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:4] = True
    options = dict(num_images_per_prompt=2, temperature=1.0, generator=seeded(), output_type="pt")
    completed = pipe.complete(picture, "rocket, noto style", mask, **options).images
    change = (completed - pipe.reconstruct(picture, output_type="pt").images).abs().mean((0, 1, 3))  # of each row
    assert change[:32].mean() < 0.02 and change[32:].mean() > 4 * change[:32].mean()
    assert change[:16].mean() < change[16:32].mean()  # the nearer to what is new, the more


def test_with_nothing_kept_the_picture_is_a_generated_one(pipe_and_condition, picture):
    pipe, condition = pipe_and_condition
    nothing = torch.zeros(4, 4, dtype=torch.bool)
    completed = pipe.complete(picture, mask=nothing, output_type="np", generator=seeded(), **condition).images
    assert np.array_equal(completed, pipe(**condition, output_type="np", generator=seeded()).images)


def test_new_codes_depend_on_what_is_kept_above_and_not_on_what_is_kept_below(tiny_pipeline, pictures):
    first, second = (pictures[[index]] / 2 + 0.5 for index in (0, 1))
    rows = torch.zeros(4, 4, dtype=torch.bool)

    def middle(picture: torch.Tensor, kept_row: int) -> torch.Tensor:
        mask = rows.clone()
        mask[kept_row] = True
        codes = tiny_pipeline.complete(picture, "rocket", mask, output_type="latent", generator=seeded()).images
        return codes[:, 1:3]

    assert not torch.equal(middle(first, 0), middle(second, 0))
    assert torch.equal(middle(first, 3), middle(second, 3))


@pytest.mark.parametrize("page", ["editing"])
def test_the_guides_python_runs(page, monkeypatch):
    root = Path(__file__).parents[1]
    monkeypatch.chdir(root)
    blocks = re.findall(r"```python\n(.*?)```", (root / "docs" / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    namespace = {}
    for block in blocks:
        exec(compile(block, f"{page}.md", "exec"), namespace)
    kept = namespace["mask"]
    assert torch.equal(namespace["codes"][:, kept], namespace["original"].expand(2, -1, -1, -1)[:, kept])
    assert len(namespace["variations"]) == 4 and len(namespace["mixtures"]) == 5


def test_several_pictures_share_a_prompt_or_have_their_own(make_pipeline, pictures, upper_half):
    images = pictures[:2] / 2 + 0.5
    for kind, condition in CONDITIONS.items():
        pipe = make_pipeline(kind)
        codes = pipe.reconstruct(images, output_type="latent").images
        found = pipe.complete(
            images, mask=upper_half, num_images_per_prompt=2, output_type="latent", **condition
        ).images
        assert torch.equal(found[:, upper_half], codes.repeat_interleave(2, 0)[:, upper_half])
    pipe = make_pipeline("text")
    generators = [seeded(0), seeded(1)]
    together = pipe.complete(images, ["rocket", "a red heart"], upper_half, output_type="latent", generator=generators)
    for index, prompt in enumerate(["rocket", "a red heart"]):
        alone = pipe.complete(images[[index]], prompt, upper_half, output_type="latent", generator=seeded(index))
        assert torch.equal(together.images[[index]], alone.images)


def test_other_arguments_are_those_of_a_call(tiny_pipeline, tiny_tokenizer, picture, upper_half):
    ranker = CLIPRanker(*tiny_clip(tiny_tokenizer))
    chosen = tiny_pipeline.complete(
        picture, "rocket", upper_half, num_candidates=3, ranker=ranker, guidance_scale=2.0, output_type="latent",
        temperature=0.5,
    )  # fmt: skip
    codes = tiny_pipeline.reconstruct(picture, output_type="latent").images
    assert torch.equal(chosen.images[:, upper_half], codes[:, upper_half]) and chosen.scores.shape == (1,)
    with pytest.raises(TypeError, match="unexpected keyword argument 'steps'"):
        tiny_pipeline.complete(picture, "rocket", upper_half, steps=3)


def test_variations_share_the_first_depths(pipe_and_condition, picture):
    pipe, condition = pipe_and_condition
    codes = pipe.reconstruct(picture, output_type="latent").images
    for depths in (1, 2, 3):
        varied = pipe.vary(
            picture, keep_depths=depths, num_images_per_prompt=2, output_type="latent", generator=seeded(), **condition
        ).images
        assert torch.equal(varied[..., :depths], codes[..., :depths].expand(2, -1, -1, -1))
        assert (depths == 3) == torch.equal(varied, codes.expand(2, -1, -1, -1))
        assert (depths == 3) == torch.equal(varied[0], varied[1])


def test_mixtures_run_from_one_reconstruction_to_the_other(tiny_pipeline, pictures):
    first, second = (pictures[[index]] / 2 + 0.5 for index in (0, 1))
    for depth in (1, None):
        mixed = tiny_pipeline.interpolate(first, second, [0, 0.25, 0.5, 1], depth, "pt").images
        ends = [tiny_pipeline.reconstruct(each, depth, "pt").images[0] for each in (first, second)]
        torch.testing.assert_close(mixed[0], ends[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(mixed[3], ends[1], rtol=0, atol=1e-5)
        distances = [(each - ends[0]).abs().mean() for each in mixed]
        assert distances[0] < distances[1] < distances[2] < distances[3]
    codes = [tiny_pipeline.rqvae.encode(pictures[[index]])[..., :2] for index in (0, 1)]
    middle = sum(tiny_pipeline.rqvae.quantizer.embed(each) for each in codes) / 2
    found = tiny_pipeline.interpolate(first, second, torch.tensor([0, 0.5, 1]), 2, "latent").images
    assert torch.equal(found[1:2], tiny_pipeline.rqvae.quantize(middle)[0][..., :2])
    assert torch.equal(found[::2], torch.cat(codes))
    picture = tiny_pipeline.interpolate(first, second, [0.5], 2, "pt").images
    torch.testing.assert_close(picture, (tiny_pipeline.rqvae.decode_quantized(middle) / 2 + 0.5).clamp(0, 1))


def test_grey_pictures_are_edited_and_stay_grey(make_transformer):
    rqvae = RQVAEModel(RQVAEConfig(**RQVAE_FIELDS | {"num_channels": 1})).eval()
    pipe = RQImageGenerationPipeline(rqvae, make_transformer("class", rqvae))
    pipe.set_progress_bar_config(disable=True)
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8))
    completed = pipe.complete(picture, mask=torch.ones(4, 4, dtype=torch.bool), class_labels=1).images[0]
    assert completed.mode == "L" and completed.size == (16, 16)
    assert np.array_equal(completed, pipe.reconstruct(picture.convert("L")).images[0])


def test_transparent_parts_are_white(tiny_pipeline):
    levels = np.random.default_rng(0).integers(256, size=(16, 16, 4), dtype=np.uint8)
    levels[..., 3] = 255 * (np.arange(16) < 8)[:, None]  # the lower half cannot be seen
    white = levels[..., :3].copy()
    white[8:] = 255
    found, expected = (
        tiny_pipeline.reconstruct(PIL.Image.fromarray(each), output_type="np").images for each in (levels, white)
    )
    assert np.array_equal(found, expected)


def test_pictures_are_read_as_in_training(tiny_pipeline):
    """16-bit grey is scaled, not clipped, and a photograph is turned as its camera was."""
    levels = np.random.default_rng(0).integers(256, size=(16, 16), dtype=np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    buffer = io.BytesIO()
    PIL.Image.fromarray(levels).save(buffer, "PNG", exif=exif)
    pairs = [
        (PIL.Image.fromarray(levels.astype(np.uint16) * 257), levels),
        (PIL.Image.open(buffer), np.rot90(levels, -1)),
    ]
    for picture, plain in pairs:
        expected = tiny_pipeline.reconstruct(PIL.Image.fromarray(plain.copy()), output_type="np").images
        assert np.array_equal(tiny_pipeline.reconstruct(picture, output_type="np").images, expected)
    with pytest.raises(ValueError, match="`image` must be of integers of 8 or 16 bits, got .*no known range"):
        tiny_pipeline.reconstruct(PIL.Image.fromarray(levels.astype(np.float32)))


def test_editing_works_with_offloading(tiny_pipeline, picture, upper_half):
    calls = [
        lambda: tiny_pipeline.complete(picture, "rocket", upper_half, output_type="np", generator=seeded()).images,
        lambda: tiny_pipeline.interpolate(picture, picture.flip(-1), output_type="np").images,
    ]
    expected = [call() for call in calls]
    tiny_pipeline.enable_model_cpu_offload(device="cpu")
    for call, before in zip(calls, expected, strict=True):
        assert np.array_equal(call(), before)


@pytest.mark.parametrize(
    "mask, got",
    [
        (torch.ones(4, 3, dtype=torch.bool), r"torch.bool \(4, 3\)"),
        (torch.ones(4, 4, 3, dtype=torch.bool), r"torch.bool \(4, 4, 3\)"),
        (torch.ones(16, 16, dtype=torch.bool), r"torch.bool \(16, 16\)"),
        (torch.ones(4, 4), r"torch.float32 \(4, 4\)"),
        (None, "None"),
    ],
    ids=["height", "depth", "pixels", "dtype", "missing"],
)
def test_a_mask_of_another_shape_or_type_is_refused(tiny_pipeline, picture, mask, got):
    with pytest.raises(ValueError, match=r"`mask` must be a bool tensor of shape \(4, 4\).*got " + got):
        tiny_pipeline.complete(picture, "rocket", mask)


def test_bad_input_is_named(tiny_pipeline, pictures, picture, upper_half):
    with pytest.raises(ValueError, match="`image` must be of the model's size, 16 x 16 pixels, got 24 x 16"):
        tiny_pipeline.vary(torch.rand(1, 3, 16, 24), "rocket")
    with pytest.raises(ValueError, match="`keep_depths` must be an integer from 1 to 3, got 4"):
        tiny_pipeline.vary(picture, "rocket", keep_depths=4)
    with pytest.raises(ValueError, match="`keep_depths` must be an integer from 1 to 3, got None"):
        tiny_pipeline.vary(picture, "rocket", keep_depths=None)
    with pytest.raises(ValueError, match="`image`, or `known_codes`, must be one or 2, got 3"):
        tiny_pipeline.complete(pictures[:3] / 2 + 0.5, ["rocket", "a red heart"], upper_half)
    with pytest.raises(ValueError, match=r"`weights` must be one or more numbers in \[0, 1\], got \[2\]"):
        tiny_pipeline.interpolate(picture, picture, [2])
    with pytest.raises(ValueError, match=r"`weights` must be one or more numbers in \[0, 1\], got \[1.5\]"):
        tiny_pipeline.interpolate(picture, picture, 1.5)
    with pytest.raises(ValueError, match="`image` and `other` must be one picture each"):
        tiny_pipeline.interpolate(picture, pictures[:2] / 2 + 0.5)
    with pytest.raises(ValueError, match="`prompt` must be given"):
        tiny_pipeline.complete(picture, mask=upper_half)


def test_a_pipeline_that_lacks_a_model_says_so(tiny_pipeline, picture, upper_half):
    calls = {
        "reconstruct": (picture,), "complete": (picture, "rocket", upper_half), "vary": (picture, "rocket"),
        "interpolate": (picture, picture),
    }  # fmt: skip
    for component, names in {"rqvae": calls, "transformer": ("complete", "vary")}.items():
        pipe = RQImageGenerationPipeline(**tiny_pipeline.components | {component: None})
        for name in names:
            with pytest.raises(ValueError, match=f"`{component}` must be loaded, got None"):
                getattr(pipe, name)(*calls[name])
    pipe = RQImageGenerationPipeline(**tiny_pipeline.components | {"rqvae": None})
    with pytest.raises(ValueError, match="`rqvae` must be loaded for `ranker` and `classifier`"):
        pipe("rocket", num_candidates=2, ranker=object(), output_type="latent")


def test_a_mask_per_picture_may_be_given_to_a_call(tiny_pipeline, pictures):
    codes = tiny_pipeline.rqvae.encode(pictures[:2])
    mask = torch.zeros(2, 4, 4, 3, dtype=torch.bool)
    mask[0, 0], mask[1, :, 0] = True, True
    drawn = tiny_pipeline(
        ["rocket", "a red heart"], known_codes=codes, known_mask=mask, output_type="latent", num_images_per_prompt=2
    ).images
    both = mask.repeat_interleave(2, 0)
    assert torch.equal(drawn[both], codes.repeat_interleave(2, 0)[both])
    with pytest.raises(ValueError, match="`known_mask` must be one or 2, got 3"):
        tiny_pipeline(["rocket", "a red heart"], known_codes=codes, known_mask=mask[[0, 1, 1]])
