# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Whether pictures show what was asked for, by hand-made features, and whether they are copies."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from picture_sets import MeanColour, Pixels

from rq_hf.evaluation.features import ImageFiles, extract_features
from rq_hf.images import to_uint8

sys.path.insert(0, str(Path(__file__).parents[2] / "research" / "emoji"))
research = importlib.import_module("prompt_accuracy")
prompt_accuracy, judge_prompts = research.prompt_accuracy, research.judge_prompts

MATERIALS = [["3d", "fluent", "flat"]]
# Six real pictures whose only feature is a number.
FEATURES = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [30.0]])
COLUMNS = {
    "concept": ["cat", "dog", "cow", "cat", "dog", "cat"],
    "style": ["3d", "3d", "3d", "flat", "flat", "noto"],
}


def real_samples(pictures: torch.Tensor) -> list[dict]:
    rows = zip(pictures, *COLUMNS.values(), strict=True)
    return [dict(zip(("pixel_values", *COLUMNS), row, strict=True)) for row in rows]


# Of a drawing with this feature: how many real pictures are nearer than the nearest one of the concept.
RANKS = [(1.9, "cat", 2), (1.9, "cow", 0), (10.1, "cat", 0), (28.0, "dog", 1), (0.5, "cat", 0), (0.5, "dog", 0)]
# With a style and groups of styles: whether the nearest of the concept has the style, and the rank among those of it.
STYLE_HITS = [
    (1.9, "cat", "3d", (), True, 2),
    (28.0, "cat", "flat", (), False, 1),
    (28.0, "cat", "noto", (), True, 0),
    (10.0, "cat", "3d", (), False, 2),  # the cat at 10 is flat
    (10.0, "cat", "3d", MATERIALS, True, 2),  # styles of a group count as one where the style is judged
    (30.0, "cat", "3d", MATERIALS, False, 2),
    (5.0, "cat", "3d", (), True, 2),  # two cats are equally near: the one that makes a hit counts
    (5.0, "cat", "flat", (), True, 0),
    (2.0, "cow", "noto", (), False, None),  # nobody has drawn this pair
]


def judge(feature: float, groups=(), **prompt) -> dict:
    return judge_prompts(torch.tensor([[feature]]), [prompt], COLUMNS | {"features": FEATURES}, groups)[0]


def test_rank_counts_the_nearer_pictures_and_styles_are_judged_by_those_of_the_concept_and_of_the_style():
    for feature, concept, rank in RANKS:
        row = judge(feature, concept=concept, prompt="a dog")
        index = (FEATURES - feature).abs().argmin().item()
        assert (row["nearest"], row["nearest_concept"], row["prompt"]) == (index, COLUMNS["concept"][index], "a dog")
        assert row["rank"] == rank and "style_hit" not in row and "rank_in_style" not in row
    for feature, concept, style, groups, hit, rank in STYLE_HITS:
        row = judge(feature, groups, concept=concept, style=style)
        assert (row["style_hit"], row["rank_in_style"]) == (hit, rank), (feature, concept, style)


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
    rates = research.copy_rates(Pixels(drawn), Pixels(originals), rqvae, batch_size=3)
    assert rates["exact_copies"] == 0.5 and rates["near_copies"] == 0.75
    assert rates["near_copies_error"] == pytest.approx((0.75 * 0.25 / 4) ** 0.5)


def test_evaluate_prompts_draws_judges_and_writes(tiny_pipeline, pictures, tmp_path):
    prompts = [{"prompt": "rocket", "concept": "cat", "style": "3d"}, {"prompt": "a red heart", "concept": "dog"}]
    (tmp_path / "prompts.jsonl").write_text("\n\n".join(map(json.dumps, prompts)) + "\n")
    real, output = real_samples(pictures[:6]), tmp_path / "results.json"
    results = research.evaluate_prompts(
        tiny_pipeline, tmp_path / "prompts.jsonl", real, tmp_path / "drawn",
        extractor=MeanColour(), originals=real, temperature=0.5, output=output,
    )  # fmt: skip
    assert json.loads(output.read_text()) == results
    assert results["num_pictures"] == 2 and results["sampling"]["temperature"] == 0.5
    features = extract_features(MeanColour(), ImageFiles(tmp_path / "drawn"))["features"]
    rows = judge_prompts(features, prompts, extract_features(MeanColour(), real))
    assert results["metrics"].items() >= prompt_accuracy(rows).items()
    assert results["metrics"]["near_copies"] >= results["metrics"]["exact_copies"] >= 0
    assert [json.loads(line) for line in output.with_suffix(".jsonl").read_text().splitlines()] == rows
