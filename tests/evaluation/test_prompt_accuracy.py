# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Whether pictures show what was asked for, by hand-made features, and whether they are copies."""

import json

import pytest
import torch
from picture_sets import MeanColour, Pixels
from PIL import Image

from rq_hf.evaluation.features import PictureFiles, extract_features
from rq_hf.evaluation.prompt_accuracy import copy_rates, evaluate_prompts, judge_prompts, prompt_accuracy
from rq_hf.images import to_uint8

MATERIALS = [["3d", "fluent", "flat"]]
# Six real pictures whose only feature is a number.
FEATURES = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [30.0]])
CONCEPTS = ["cat", "dog", "cow", "cat", "dog", "cat"]
STYLES = ["3d", "3d", "3d", "flat", "flat", "noto"]


def judge(feature: float, concept: str, style: str | None = None, groups=()) -> dict:
    prompt = {"prompt": f"a {concept}", "concept": concept} | ({} if style is None else {"style": style})
    return judge_prompts(torch.tensor([[feature]]), [prompt], FEATURES, CONCEPTS, STYLES, groups)[0]


def test_rank_counts_the_nearer_pictures_of_any_style():
    assert judge(1.9, "cat")["rank"] == 2 and judge(1.9, "cow")["rank"] == 0
    assert judge(10.1, "cat")["rank"] == 0 and judge(28.0, "dog")["rank"] == 1
    assert "style_hit" not in judge(1.9, "cat") and "rank_in_style" not in judge(1.9, "cat")
    row = judge(28.0, "dog")
    assert (row["nearest"], row["nearest_concept"], row["prompt"]) == (5, "cat", "a dog")


def test_rank_in_style_counts_those_of_the_prompted_style_alone():
    assert judge(1.9, "cat", "3d")["rank_in_style"] == 2 and judge(28.0, "cat", "flat")["rank_in_style"] == 1
    assert judge(28.0, "cat", "noto")["rank_in_style"] == 0


def test_style_is_that_of_the_nearest_picture_of_the_concept():
    assert judge(1.9, "cat", "3d")["style_hit"] and judge(28.0, "cat", "noto")["style_hit"]
    assert not judge(10.0, "cat", "3d")["style_hit"]  # the cat at 10 is flat


def test_styles_of_a_group_count_as_one_where_the_style_is_judged():
    assert judge(10.0, "cat", "3d", MATERIALS)["style_hit"] and not judge(30.0, "cat", "3d", MATERIALS)["style_hit"]
    assert judge(10.0, "cat", "3d", MATERIALS)["rank_in_style"] == judge(10.0, "cat", "3d")["rank_in_style"] == 2


def test_of_equally_near_pictures_the_one_that_makes_a_hit_counts():
    assert judge(0.5, "cat")["rank"] == judge(0.5, "dog")["rank"] == 0
    assert judge(5.0, "cat", "3d")["style_hit"] and judge(5.0, "cat", "flat")["style_hit"]


def test_a_pair_that_nobody_has_drawn_is_no_style_hit_and_has_no_rank_in_style():
    row = judge(2.0, "cow", "noto")
    assert row["rank"] == 0 and not row["style_hit"] and row["rank_in_style"] is None


def test_accuracy_is_the_share_of_hits_with_its_standard_error():
    rows = [{"rank": rank} for rank in (0, 4, 5, 0)] + [{"rank": 9, "style_hit": True, "rank_in_style": 3}]
    metrics = prompt_accuracy(rows)
    assert metrics["top1"] == pytest.approx(0.4) and metrics["top1_error"] == pytest.approx((0.4 * 0.6 / 5) ** 0.5)
    assert metrics["top5"] == pytest.approx(0.6) and metrics["style"] == 1 and metrics["style_error"] == 0
    assert metrics["top1_in_style"] == 0 and metrics["top5_in_style"] == 1
    assert list(prompt_accuracy(rows[:4])) == ["top1", "top1_error", "top5", "top5_error"]


@pytest.mark.parametrize("num_channels", [1, 3])
def test_copies_are_what_the_rqvae_makes_of_training_pictures(make_rqvae, pictures, num_channels):
    rqvae = make_rqvae(num_channels=num_channels)
    originals = pictures[:, :num_channels]
    levels = to_uint8(rqvae.decode(rqvae.encode(originals[:3]))).float()
    levels[1, :, 0, 0] += torch.where(levels[1, :, 0, 0] < 128, 1, -1)  # rounding: still a copy
    levels[2] = (levels[2] - 4).clamp(min=0)  # 36 dB: hardly another picture
    drawn = torch.cat([levels, 255 - levels[:1]]) / 127.5 - 1
    rates = copy_rates(Pixels(drawn), Pixels(originals), rqvae, batch_size=3)
    assert rates["exact_copies"] == 0.5 and rates["near_copies"] == 0.75
    assert rates["near_copies_error"] == pytest.approx((0.75 * 0.25 / 4) ** 0.5)


def test_evaluate_prompts_draws_judges_and_writes(tiny_pipeline, pictures, tmp_path):
    prompts = [{"prompt": "rocket", "concept": "cat", "style": "3d"}, {"prompt": "a red heart", "concept": "dog"}]
    (tmp_path / "prompts.jsonl").write_text("\n\n".join(map(json.dumps, prompts)) + "\n")
    real, output = Pixels(pictures[:6]), tmp_path / "figures.json"
    results = evaluate_prompts(
        tiny_pipeline, tmp_path / "prompts.jsonl", real, CONCEPTS, STYLES, tmp_path / "drawn",
        extractor=MeanColour(), originals=real, temperature=0.5, output=output,
    )  # fmt: skip
    assert json.loads(output.read_text()) == results
    assert results["num_pictures"] == 2 and results["sampling"]["temperature"] == 0.5
    features = extract_features(MeanColour(), PictureFiles(tmp_path / "drawn"))
    real_features = extract_features(MeanColour(), real)
    rows = judge_prompts(features, prompts, real_features, CONCEPTS, STYLES)
    assert results["metrics"].items() >= prompt_accuracy(rows).items()
    assert results["metrics"]["near_copies"] >= results["metrics"]["exact_copies"] >= 0
    assert [json.loads(line) for line in output.with_suffix(".jsonl").read_text().splitlines()] == rows
    with Image.open(output.with_suffix(".png")) as sheet:
        assert sheet.size == (4 * 200 + 8, 222 + 8)


@pytest.mark.parametrize("wrong", [{"concept": "horse"}, {"style": "oil"}, {"concept": None}, {"prompt": ""}])
def test_prompts_that_no_real_picture_can_answer_are_refused(tiny_pipeline, pictures, tmp_path, wrong):
    prompt = {"prompt": "a cat", "concept": "cat", "style": "3d"} | wrong
    with pytest.raises(ValueError, match="`prompts` must hold a prompt and a concept and style of `pictures`, got {"):
        evaluate_prompts(tiny_pipeline, [prompt], Pixels(pictures), CONCEPTS, STYLES, tmp_path)
    assert not list(tmp_path.iterdir())
