# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Figures of merit, against hand-computed values, other implementations and laws."""

import math
import sys
from pathlib import Path

import datasets
import pytest
import torch
from torchmetrics.image import PeakSignalNoiseRatio
from torchvision.transforms.functional import pil_to_tensor

from rq_hf.metrics import (
    PromptAccuracy,
    code_usage,
    picture_errors,
    pooled_pixels,
    psnr_from_mse,
    shift_down,
    structural_similarity,
    to_uint8,
)

FIXTURE = Path(__file__).parent / "fixtures" / "emoji"
MATERIALS = [["3d", "fluent", "flat"]]


def random_pictures(count: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def emoji() -> tuple[torch.Tensor, list[str], list[str]]:
    """Every default-tone picture of the fixture with its concept and style."""
    rows = datasets.concatenate_datasets(list(datasets.load_dataset(str(FIXTURE)).values()))
    rows = rows.select([index for index, tone in enumerate(rows["tone"]) if tone == "default"])
    pictures = torch.stack([pil_to_tensor(picture.convert("RGB")) for picture in rows["image"]])
    return pictures, list(rows["concept"]), list(rows["style"])


@pytest.fixture(scope="module")
def accuracy(emoji) -> PromptAccuracy:
    pictures, concepts, styles = emoji
    return PromptAccuracy(pooled_pixels(pictures), concepts, styles, MATERIALS)


def test_to_uint8_rounds_and_clamps():
    pixels = torch.tensor([[-0.5, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 1.7]])
    assert to_uint8(pixels).tolist() == [[0, 0, 0, 1, 255, 255]]
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8((every / 127.5 - 1 + 1) / 2), every)
    with pytest.raises(ValueError, match="finite"):
        to_uint8(torch.tensor([0.5, math.nan]))


def test_psnr_is_that_of_the_mean_error_of_all_pictures():
    targets = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    pictures = targets.clone()
    pictures[0] += 51  # 51 / 255 = 0.2, squared 0.04
    errors = picture_errors(pictures, targets)
    assert errors.tolist() == pytest.approx([0.04, 0.0], abs=1e-12)
    assert psnr_from_mse(errors.mean().item()) == pytest.approx(10 * math.log10(1 / 0.02)) == pytest.approx(16.9897)
    assert psnr_from_mse(1.0) == 0 and psnr_from_mse(0.0) == math.inf


def test_psnr_equals_torchmetrics():
    first, second = random_pictures(5), random_pictures(5, seed=1)
    expected = PeakSignalNoiseRatio(data_range=1.0)(first / 255, second / 255).item()
    assert psnr_from_mse(picture_errors(first, second).mean().item()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("mse", [-0.1, 1.5, math.nan])
def test_psnr_of_an_impossible_error_is_refused(mse):
    with pytest.raises(ValueError, match="`mse` must be in"):
        psnr_from_mse(mse)


def test_picture_errors_refuse_other_shapes_and_floats():
    with pytest.raises(ValueError, match="one shape"):
        picture_errors(random_pictures(2), random_pictures(3))
    with pytest.raises(ValueError, match="uint8"):
        picture_errors(random_pictures(2).float(), random_pictures(2))


def test_code_usage_of_known_counts():
    assert code_usage(torch.tensor([4, 4, 0, 0])) == pytest.approx(
        {"codes_used": 2, "code_usage": 0.5, "code_entropy": math.log(2), "code_perplexity": 2.0}
    )
    assert code_usage(torch.full((32,), 7))["code_perplexity"] == pytest.approx(32)
    alone = code_usage(torch.tensor([0, 9]))
    assert alone["code_perplexity"] == pytest.approx(1) and alone["code_entropy"] == pytest.approx(0)
    with pytest.raises(ValueError, match="only zeros"):
        code_usage(torch.zeros(4, dtype=torch.long))


def test_missing_torchmetrics_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.image", None)
    with pytest.raises(ImportError, match=r"rq_hf\[eval\]"):
        structural_similarity()


def test_pooled_pixels_are_means_of_cells_whatever_the_size():
    pictures = random_pictures(2, size=64)
    cells = pictures.double().view(2, 3, 16, 4, 16, 4).mean((3, 5)) / 255
    assert torch.allclose(pooled_pixels(pictures).double(), cells.flatten(1), atol=1e-6)
    larger = pictures.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(pooled_pixels(larger), pooled_pixels(pictures), atol=1e-6)
    with pytest.raises(ValueError, match="at least 16 x 16"):
        pooled_pixels(random_pictures(1, size=8))


def test_shift_down_brings_white_in_at_the_top():
    pictures = random_pictures(2, size=16)
    shifted = shift_down(pictures)
    assert shifted.shape == pictures.shape and (shifted[:, :, :2] == 255).all()
    assert torch.equal(shifted[:, :, 2:], pictures[:, :, :-2])


def test_real_pictures_are_right(emoji, accuracy):
    pictures, concepts, styles = emoji
    scores = accuracy.score(pooled_pixels(pictures), concepts, styles)
    assert scores.summary() == {"concept_top1": 1.0, "concept_top5": 1.0, "style_accuracy": 1.0}
    assert torch.equal(scores.nearest, torch.arange(len(pictures)))


def test_shuffled_pictures_score_about_chance(emoji, accuracy):
    pictures, concepts, styles = emoji
    features = pooled_pixels(pictures)
    shuffles = [torch.randperm(len(features), generator=torch.Generator().manual_seed(seed)) for seed in range(5)]
    results = [accuracy.score(features[order], concepts, styles).summary() for order in shuffles]
    for name, expected in accuracy.chance(concepts, styles).items():
        measured = sum(result[name] for result in results) / len(results)
        deviation = math.sqrt(expected * (1 - expected) / (len(results) * len(features)))
        assert abs(measured - expected) < 6 * deviation, name


def test_floors_of_real_emoji_lie_between_chance_and_the_real_pictures(emoji, accuracy):
    pictures, concepts, styles = emoji
    floors = {name: scores.summary() for name, scores in accuracy.floors(concepts, styles).items()}
    shifted = accuracy.score(pooled_pixels(shift_down(pictures)), concepts, styles).summary()
    chance = accuracy.chance(concepts, styles)
    assert set(floors) == {"other_style_copy", "other_styles_mean"}
    for floor in floors.values():
        assert chance["concept_top1"] < floor["concept_top1"] <= floor["concept_top5"] < shifted["concept_top5"]
        assert floor["style_accuracy"] < shifted["style_accuracy"]
    assert shifted["concept_top1"] > 0.9 and shifted["style_accuracy"] > 0.9
    again = accuracy.floors(concepts, styles, seed=0)["other_style_copy"]
    other = accuracy.floors(concepts, styles, seed=1)["other_style_copy"]
    assert again.summary() == floors["other_style_copy"] and not torch.equal(again.concept_rank, other.concept_rank)


# Six real pictures whose only feature is a number.
FEATURES = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [30.0]])
CONCEPTS = ["cat", "dog", "cow", "cat", "dog", "cat"]
STYLES = ["3d", "3d", "3d", "flat", "flat", "noto"]


def score(position: float, concept: str, style: str, groups=()):
    scores = PromptAccuracy(FEATURES, CONCEPTS, STYLES, groups).score(torch.tensor([[position]]), [concept], [style])
    return scores.concept_rank.item(), scores.style_hit.item(), scores.nearest.item()


def test_concept_rank_counts_nearer_pictures_of_the_prompted_style_only():
    assert score(1.9, "cat", "3d") == (2, True, 2)
    assert score(1.9, "cow", "3d") == (0, True, 2)
    assert score(10.0, "cat", "3d") == (2, False, 2)  # the real cat at 10 is flat
    assert score(28.0, "cat", "flat") == (1, False, 4)


def test_styles_of_a_group_count_as_one_for_style_but_not_for_concept():
    assert score(10.0, "cat", "3d", MATERIALS) == (2, True, 2)
    assert score(30.0, "cat", "3d", MATERIALS) == (2, False, 2)


def test_equally_near_pictures_count_as_hits():
    assert score(0.5, "cat", "3d")[0] == score(0.5, "dog", "3d")[0] == 0
    assert score(5.0, "cat", "3d")[1] and score(5.0, "cat", "flat")[1]


def test_chance_of_known_pictures():
    accuracy = PromptAccuracy(FEATURES, CONCEPTS, STYLES, MATERIALS)
    assert accuracy.chance(["cat"], ["3d"]) == pytest.approx(
        {"concept_top1": 1 / 3, "concept_top5": 1.0, "style_accuracy": 2 / 3}
    )
    many = PromptAccuracy(torch.rand(10, 2), [f"thing {index}" for index in range(10)], ["noto"] * 10)
    assert many.chance(["thing 0"], ["noto"])["concept_top5"] == pytest.approx(0.5)


def test_floors_take_the_concept_in_its_other_styles():
    accuracy = PromptAccuracy(FEATURES, CONCEPTS, STYLES)
    floors = accuracy.floors(["dog", "cow"], ["3d", "3d"])  # cow has no other style
    for scores in floors.values():
        assert len(scores) == 1
        assert (scores.concept_rank.item(), scores.style_hit.item(), scores.nearest.item()) == (1, False, 2)
    mean = accuracy.floors(["cat"], ["3d"])["other_styles_mean"]  # at (10 + 30) / 2: as far from 10 as from 30
    assert (mean.concept_rank.item(), mean.style_hit.item()) == (2, False)
    assert accuracy.floors(["cow"], ["3d"]) == {}


def test_prompt_accuracy_refuses_bad_input():
    with pytest.raises(ValueError, match="of one length above 0, got 6, 5 and 6"):
        PromptAccuracy(FEATURES, CONCEPTS[1:], STYLES)
    with pytest.raises(ValueError, match="of one length above 0"):
        PromptAccuracy(FEATURES[:0], [], [])
    with pytest.raises(ValueError, match="`concepts` must be among those of the real pictures, got 'goat'"):
        score(0.0, "goat", "3d")
    with pytest.raises(ValueError, match="`styles` must be among those of the real pictures, got 'blob'"):
        score(0.0, "cat", "blob")
    with pytest.raises(ValueError, match="pairs with a real picture, got 'cow', 'flat'"):
        score(0.0, "cow", "flat")
    with pytest.raises(ValueError, match="finite"):
        score(math.nan, "cat", "3d")
