# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Drawing into a folder that is its own resume state, and what is measured of the pictures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_sets import MeanColour, Pixels
from PIL import Image
from safetensors.torch import save_file
from scorers import tiny_clip

from rq_hf import CLIPRanker
from rq_hf.evaluation.features import ImageFiles, extract_features
from rq_hf.evaluation.generation import (
    clip_score,
    evaluate_samples,
    generate_images,
    generation_metrics,
    used_sampling,
)
from rq_hf.images import to_pil
from rq_hf.models.sampling import seeded_generator

PROMPTS = ["a red heart", "rocket", "rocket", "green apple", "a pizza"]
CONDITIONS = {"text": PROMPTS, "class": [0, 3, 1, 0, 2], "none": 5}


def equal_pictures(first: Path, second: Path) -> bool:
    """Whether two files or folders hold the same pictures, but for a level by rounding in batches of other sizes."""
    pairs = [(first, second)]
    if first.is_dir():
        names = [path.name for path in sorted(first.glob("*.png"))]
        assert names == [path.name for path in sorted(second.glob("*.png"))]
        pairs = [(first / name, second / name) for name in names]
    return all(np.abs(np.int16(Image.open(one)) - np.int16(Image.open(other))).max() <= 1 for one, other in pairs)


@pytest.mark.parametrize("kind", CONDITIONS)
def test_a_picture_depends_on_the_seed_its_number_and_its_condition_alone(make_pipeline, tmp_path, kind):
    pipe, conditions = make_pipeline(kind), CONDITIONS[kind]
    paths = generate_images(pipe, conditions, tmp_path / "whole", seed=3)
    assert [path.name for path in paths] == [f"00000{number}.png" for number in range(5)]
    generate_images(pipe, conditions, tmp_path / "parts", batch_size=2, seed=3)
    assert equal_pictures(tmp_path / "whole", tmp_path / "parts")
    one = {"text": {"prompt": "green apple"}, "class": {"class_labels": 0}, "none": {}}[kind]
    pipe(**one, generator=seeded_generator(3, 3)).images[0].save(tmp_path / "single.png")
    assert equal_pictures(tmp_path / "single.png", paths[3])
    generate_images(pipe, conditions, tmp_path / "other", seed=4)
    assert not equal_pictures(tmp_path / "whole", tmp_path / "other")


def test_a_killed_run_leaves_no_half_written_picture(tiny_pipeline, tmp_path, monkeypatch):
    def killed(self, path):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        generate_images(tiny_pipeline, ["rocket"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["drawn.json"]


def test_a_stopped_run_goes_on_and_another_one_in_its_folder_is_refused(make_pipeline, tmp_path):
    pipe, folder = make_pipeline("class"), tmp_path / "drawn"
    (first,) = generate_images(pipe, [0], folder, seed=3, temperature=0.5)
    before, record = first.read_bytes(), json.loads((folder / "drawn.json").read_text())
    generate_images(pipe, [0, 3], folder, seed=3, temperature=0.5)
    after = json.loads((folder / "drawn.json").read_text())
    assert first.read_bytes() == before and after.pop("conditions") == {"000000.png": 0, "000001.png": 3}
    assert after.items() <= record.items() and record["settings"] == {"temperature": 0.5} and record["seed"] == 3
    for other, conditions, changes, what in (
        (pipe, [0, 3], {"seed": 4}, "seed"),
        (pipe, [0, 3], {"top_k": 5}, "settings"),
        (pipe, [0, 1], {}, "000001.png"),
        (make_pipeline("class", initializer_range=0.2), [0, 3], {}, "weights"),
    ):
        with pytest.raises(ValueError, match=rf"`folder` must be a new one: pictures in .* have other \['{what}'\]"):
            generate_images(other, conditions, folder, **{"seed": 3, "temperature": 0.5} | changes)
    assert json.loads((folder / "drawn.json").read_text()) == after | {
        "conditions": {"000000.png": 0, "000001.png": 3}
    }


def test_numbers_name_the_pictures_and_decide_what_is_drawn_and_what_is_there_is_kept(tiny_pipeline, tmp_path):
    whole = generate_images(tiny_pipeline, ["rocket"] * 4, tmp_path / "all")
    paths = generate_images(tiny_pipeline, ["rocket"] * 2, tmp_path / "sample", numbers=[3, 1])
    assert [path.name for path in paths] == ["000003.png", "000001.png"]
    assert equal_pictures(paths[0], whole[3]) and equal_pictures(paths[1], whole[1])
    paths[0].write_bytes(b"kept")
    again = generate_images(tiny_pipeline, ["rocket"] * 4, tmp_path / "sample")
    assert paths[0].read_bytes() == b"kept" and all(map(equal_pictures, again[:3], whole[:3]))
    for numbers in ([3, 3], [3], [3, 1, 2]):
        with pytest.raises(ValueError, match="`numbers` must be a different one for each of 2 pictures"):
            generate_images(tiny_pipeline, ["rocket"] * 2, tmp_path / "sample", numbers=numbers)


@pytest.mark.slow
def test_two_processes_draw_the_pictures_of_one_and_measure_as_one(make_pipeline, tmp_path):
    pipe = make_pipeline("class")
    pipe.save_pretrained(tmp_path / "pipe")
    options = {"reference": tmp_path / "real", "extractor": "pixels"}
    generate_images(pipe, list(range(4)), tmp_path / "real", seed=1)
    expected = evaluate_samples(pipe, list(range(4)), tmp_path / "one", **options)
    code = (
        "import json, sys; from rq_hf import RQImageGenerationPipeline; "
        "from rq_hf.evaluation.generation import evaluate_samples; "
        "pipe = RQImageGenerationPipeline.from_pretrained(sys.argv[1]); options = json.loads(sys.argv[3]); "
        "evaluate_samples(pipe, [0, 1, 2, 3], sys.argv[2], output=sys.argv[2] + '.json', **options); "
        "from accelerate import PartialState; assert PartialState().num_processes == 2"
    )
    (tmp_path / "draw.py").write_text(code)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, tmp_path / "draw.py", tmp_path / "pipe", tmp_path / "two", json.dumps(options, default=str)]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert equal_pictures(tmp_path / "two", tmp_path / "one")
    assert json.loads((tmp_path / "two.json").read_text())["num_pictures"] == expected["num_pictures"] == 4


def test_precision_and_recall_count_the_points_within_reach_of_three_neighbours(caplog):
    features = torch.tensor([[0.0], [1.0], [2.0], [3.0], [50.0]])
    real = torch.tensor([[-1.0], [0.5], [2.5], [5.5], [6.0], [90.0]])
    # The distance of each point to the third nearest of its own set.
    reach, real_reach = torch.tensor([3.0, 2, 2, 3, 49]), torch.tensor([6.5, 5, 3.5, 5, 5.5, 87.5])
    distances = (features - real.T).abs()  # (5, 6)
    found = generation_metrics(features, real, torch.nn.Identity(), precision_recall=True)
    assert found["precision"] == pytest.approx((distances <= real_reach).any(1).float().mean().item()) == 1
    assert found["recall"] == pytest.approx((distances <= reach[:, None]).any(0).float().mean().item())
    far = torch.cat([real[:4] + 1000, real])
    assert generation_metrics(features, far, torch.nn.Identity(), True)["recall"] == pytest.approx(6 / 10)
    found = generation_metrics(torch.cat([features, features[:3] - 1000]), real, torch.nn.Identity(), True)
    assert found["precision"] == pytest.approx(5 / 8)
    assert not caplog.text
    generation_metrics(torch.randn(6, 6), torch.randn(20, 6), MeanColour())
    assert "fewer than 7 pictures" in caplog.text


def test_the_kernel_distance_is_the_unbiased_discrepancy_of_cubic_kernels():
    features, real = torch.randn(6, 3, dtype=torch.double), torch.randn(6, 3, dtype=torch.double) + 1

    def kernel(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return (first @ second.T / 3 + 1) ** 3

    own = [(kernel(each, each).sum() - kernel(each, each).trace()) / (6 * 5) for each in (features, real)]
    expected = own[0] + own[1] - 2 * kernel(features, real).mean()
    found = generation_metrics(features, real, MeanColour())["kernel_distance_meancolour"]
    assert found == pytest.approx(expected.item(), rel=1e-4)


def test_the_clip_score_is_the_mean_cosine_of_pictures_and_captions(tiny_tokenizer, pictures):
    clip, captions = CLIPRanker(*tiny_clip(tiny_tokenizer)), ["a red heart", "rocket"] * 4
    cosines = (clip.embed_pictures(pictures) * clip.embed_texts(captions)).sum(-1)
    assert clip_score(Pixels(pictures), captions, clip, batch_size=3) == pytest.approx(cosines.mean().item(), rel=1e-4)


def test_evaluate_samples_measures_draws_and_writes(tiny_pipeline, tiny_tokenizer, pictures, tmp_path):
    output = tmp_path / "samples.json"
    (tmp_path / "real").mkdir()
    for number, image in enumerate(to_pil(pictures)):
        image.save(tmp_path / "real" / f"{number:06d}.png")
    options = {"extractor": MeanColour(), "reference": tmp_path / "real", "top_k": 5}
    results = evaluate_samples(
        tiny_pipeline, PROMPTS, tmp_path / "drawn", clip=CLIPRanker(*tiny_clip(tiny_tokenizer)), output=output,
        precision_recall=True, reference_features=tmp_path / "real.safetensors", **options,
    )  # fmt: skip
    assert json.loads(output.read_text()) == results and results["num_pictures"] == 5
    names = ["frechet_distance_meancolour", "kernel_distance_meancolour", "precision", "recall", "clip_score"]
    assert list(results["metrics"]) == names and results["sampling"]["top_k"] == 5
    sets = [extract_features(MeanColour(), ImageFiles(tmp_path / name)) for name in ("drawn", "real")]
    expected = generation_metrics(*(each["features"] for each in sets), MeanColour())
    assert results["metrics"][names[0]] == pytest.approx(expected[names[0]], rel=1e-4)
    options["reference"], options["reference_features"] = None, tmp_path / "real.safetensors"
    again = evaluate_samples(tiny_pipeline, PROMPTS, tmp_path / "drawn", **options)
    assert again["metrics"][names[0]] == pytest.approx(expected[names[0]], rel=1e-4)


def test_a_report_names_the_settings_of_masked_drawing(make_pipeline):
    pipe = make_pipeline(contextual=True)
    pipe.transformer.generation_config.num_revise_rounds = 1
    assert used_sampling(pipe, {"num_draft_steps": 3}) == {"num_draft_steps": 3, "num_revise_rounds": 1}


def test_what_cannot_be_measured_is_refused_before_anything_is_drawn(make_pipeline, tiny_pipeline, pictures, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "metadata.jsonl").touch()
    with pytest.raises(ValueError, match="`folder` must hold drawn pictures only, got .* with 'metadata.jsonl'"):
        generate_images(tiny_pipeline, ["rocket"], tmp_path / "other")
    with pytest.raises(ValueError, match="`folder` must be another one than `reference`"):
        evaluate_samples(tiny_pipeline, PROMPTS, tmp_path, reference=tmp_path, extractor="pixels")
    real, clip = list(Pixels(pictures)), CLIPRanker(*tiny_clip(tiny_pipeline.tokenizer))
    broken = [*real[:7], {"pixel_values": pictures[0] * torch.nan}]
    with_logits = MeanColour()
    with_logits.logits = torch.nn.Linear(6, 9)  # as Inception, whose score has ten parts
    other, nan = tmp_path / "other.safetensors", tmp_path / "nan.safetensors"
    save_file({"x": torch.ones(9, 6)}, other)
    save_file({"features": torch.full((9, 6), torch.nan)}, nan)
    for pipe, count, options, message in (
        (tiny_pipeline, 5, {}, "`reference` must be given"),
        (make_pipeline("class"), 5, {"reference": real, "clip": clip}, "`clip` needs a pipeline of captions"),
        (tiny_pipeline, 1, {"reference": real}, "at least 2 `conditions`"),
        (tiny_pipeline, 5, {"reference": real[:3], "precision_recall": True}, "4 pictures of `reference`, got 5 and"),
        (tiny_pipeline, 5, {"reference": broken}, "`pixel_values` must be in"),
        (tiny_pipeline, 5, {"extractor": with_logits}, "at least 10 `conditions`"),
        (tiny_pipeline, 5, {"reference_features": other}, r"shape .*, 6\), got \(0,\)"),
        (tiny_pipeline, 5, {"reference_features": nan}, "`reference_features` must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate_samples(pipe, PROMPTS[:count], tmp_path / "drawn", **{"extractor": MeanColour()} | options)
        assert not (tmp_path / "drawn").exists()
