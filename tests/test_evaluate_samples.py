# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What evaluate.py does in shares of processes: figures, resumed runs, reports, bad input."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from scorers import tiny_classifier, tiny_clip

from rq_hf import CLIPRanker, RQImageGenerationPipeline
from rq_hf.cards import evaluation_results
from rq_hf.metrics import (
    FeatureStatistics,
    distance_between_real_pictures,
    draw_pictures,
    feature_extractor,
    frechet_distances,
    load_statistics,
    precision_recall,
)

ROOT = Path(__file__).resolve().parents[1]
FIXTURE = ROOT / "tests" / "fixtures" / "emoji"
DATA = ["--dataset_name", FIXTURE, "--split", "train"]
NUM = 22


@pytest.fixture
def evaluate(load_script):
    return load_script("evaluate")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """What the first test that asks for it makes, for all tests of this file."""
    return {"root": tmp_path_factory.mktemp("models")}


@pytest.fixture
def folders(made, request) -> dict[str, Path]:
    """Folders of tiny models: pipelines of captions and of classes, two classifiers, CLIP."""
    root = made["root"]
    if "text" not in made:
        make_pipeline, tokenizer = (request.getfixturevalue(name) for name in ("make_pipeline", "tiny_tokenizer"))
        for kind in ("text", "class"):
            make_pipeline(kind).save_pretrained(root / kind)
        classifiers = {"judge": tiny_classifier(seed=1), "selector": tiny_classifier(seed=2)}
        classifiers["other"] = tiny_classifier({0: "shirt", 1: "goose", 2: "coat", 3: "bag"})
        for name, parts in {**classifiers, "clip": tiny_clip(tokenizer)}.items():
            for part in parts:
                part.save_pretrained(root / name)
        made.update({name: root / name for name in ("text", "class", "clip", *classifiers)})
    return made


@pytest.fixture
def run(evaluate, tmp_path):
    """Runs a command in this process and returns the results that it wrote."""

    def run(command: str, *argv: object, name: str = "results.json") -> dict:
        path = tmp_path / "out" / name
        evaluate.main([command, *map(str, argv), "--output", str(path)])
        return json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else {}

    return run


@pytest.fixture
def reference(made, evaluate, folders) -> Path:
    """Statistics of the training pictures, with their features."""
    path = made["root"] / "reference.safetensors"
    if not path.exists():
        options = ["--image_size", 16, "--feature_extractor", folders["judge"], "--keep_features"]
        evaluate.main(list(map(str, ["statistics", *DATA, *options, "--filter", "tone=default", "--output", path])))
    return path


@pytest.fixture
def class_samples(folders, reference) -> list:
    """Arguments of a run with everything that a class-conditional model is measured by."""
    return [
        folders["class"], "--num_pictures", NUM, "--batch_size", 5, "--reference", reference, "--precision_recall",
        "--feature_extractor", folders["judge"], "--judge", folders["judge"], "--device", "cpu",
    ]  # fmt: skip


def load(folder: Path) -> RQImageGenerationPipeline:
    pipe = RQImageGenerationPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_statistics_are_those_of_the_pictures(reference, folders):
    statistics = load_statistics(reference)
    rows = [row for row in datasets.load_dataset(str(FIXTURE))["train"] if row["tone"] == "default"]
    levels = [torch.from_numpy(np.array(row["image"].convert("RGB").resize((16, 16), Image.Resampling.BICUBIC)))
              for row in rows]  # fmt: skip
    features = feature_extractor(folders["judge"])(torch.stack(levels).permute(0, 3, 1, 2))
    torch.testing.assert_close(statistics.features, features, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(statistics.mean, features.double().mean(0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(statistics.covariance, statistics.features.double().T.cov(), rtol=1e-9, atol=1e-9)
    assert statistics.count == len(rows) and statistics.details["filter"] == "tone=default"
    assert statistics.protocol["image_size"] == 16 and statistics.protocol["feature_extractor"] == "judge"


def test_samples_are_measured_as_their_definitions_say(run, class_samples, folders, reference, capsys, tmp_path):
    results = run("samples", *class_samples, "--neighbours", 2, "--top_k", 20)
    pipe = load(folders["class"])
    classes = [index % 4 for index in range(NUM)]
    drawn = [draw_pictures(pipe, [classes[index]], [index], seed=0, top_k=20)[0] for index in range(NUM)]
    net, statistics = feature_extractor(folders["judge"]), load_statistics(reference)
    features = net(torch.cat(drawn))
    summed = FeatureStatistics()
    summed.update(features)
    figures = results["metrics"]
    expected = frechet_distances(statistics, [summed])[0]
    assert figures["frechet_distance_judge"] == pytest.approx(expected, rel=1e-3)
    assert not any("fid" in name for name in figures)
    floor = distance_between_real_pictures(statistics.features, NUM, seed=0)
    assert results["floor"] == {"num_pictures": NUM, "frechet_distance_judge": pytest.approx(floor, rel=1e-6)}
    found = precision_recall(features, statistics.features)
    assert (figures["precision"], figures["recall"]) == pytest.approx(found, abs=1.5 / NUM)
    logits = tiny_classifier(seed=1)[0].classifier(features)
    right = (logits.argmax(1) == torch.tensor(classes)).double().mean().item()
    assert figures["accuracy"] == pytest.approx(right, abs=1e-6)

    assert results["sampling"] == {"temperature": None, "top_k": 20, "top_p": None, "guidance_scale": None}
    assert results["dataset"] == {
        "name": str(FIXTURE), "config": None, "split": "train", "filter": "tone=default", "num_pictures": NUM,
    }  # fmt: skip
    assert {each.metric_type: each.metric_value for each in evaluation_results(results)} == figures
    folder = tmp_path / "out"
    with Image.open(folder / "results-neighbours.png") as sheet:
        assert sheet.width > 3 * 192 and sheet.height > 5 * 192
    text = (folder / "results.md").read_text(encoding="utf-8")
    assert f"| frechet_distance_judge of {NUM} real pictures: the floor | " in text
    assert "| frechet_distance_judge | " in text and "| frechet_distance_judge | " in capsys.readouterr().out
    (entry,) = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])["model-index"]
    values = {each["type"]: each["value"] for result in entry["results"] for each in result["metrics"]}
    assert entry["name"] == "class" and values == pytest.approx(figures)


def test_a_run_that_was_cut_short_ends_with_the_same_figures(run, class_samples, tmp_path, capfd):
    whole = run("samples", *class_samples)
    parts = tmp_path / "out" / "results-parts"
    files = sorted(parts.glob("*.safetensors"))
    assert len(files) == 5
    files[1].unlink()
    files[3].write_bytes(files[3].read_bytes()[:100])  # a full disk left a stump
    before = {path.name: path.stat().st_mtime_ns for path in files if path.exists()}
    capfd.readouterr()
    again = run("samples", *class_samples)
    assert again["metrics"] == whole["metrics"]
    assert "10/10" in capfd.readouterr().err  # two parts of five pictures
    kept = [name for name, when in before.items() if (parts / name).stat().st_mtime_ns == when]
    assert kept == [files[index].name for index in (0, 2, 4)]
    assert sorted(load_file(files[0])) == ["features", "index", "is_hit"]  # no pictures


@pytest.mark.parametrize("change", [["--seed", 1], ["--top_k", 3], ["--batch_size", 4]], ids=lambda change: change[0])
def test_parts_of_another_run_are_refused(run, class_samples, change):
    run("samples", *class_samples)
    name = {"--seed": "seed", "--top_k": "sampling", "--batch_size": "batch_size"}[change[0]]
    with pytest.raises(ValueError, match=f"`--work_dir` must be a new folder or one of the same settings.* {name} "):
        run("samples", *class_samples, *change)


def test_the_likeliest_codes_are_told_from_draws(run, class_samples, folders, tmp_path):
    drawn = run("samples", *class_samples)
    greedy = tmp_path / "greedy"
    shutil.copytree(folders["class"], greedy)
    settings = greedy / "transformer" / "generation_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"do_sample": False}))
    options = [greedy, *class_samples[1:]]
    with pytest.raises(ValueError, match="`--work_dir` must be a new folder or one of the same settings.* sampling "):
        run("samples", *options)
    likeliest = run("samples", *options, "--work_dir", tmp_path / "likeliest")
    assert likeliest["sampling"] == {"do_sample": False, "guidance_scale": None}
    assert likeliest["metrics"] != drawn["metrics"]
    with pytest.raises(ValueError, match="`--top_k` must not be given: the checkpoint has `do_sample` False"):
        run("sweep", *options, "--top_k", 2, 3)


def test_parts_that_another_selector_has_chosen_are_refused(run, class_samples, folders, tmp_path):
    selector = tmp_path / "selector"
    options = ["--num_pictures", 4, "--batch_size", 4, "--classifier", selector, "--acceptance_rate", 0.5]
    for seed in (2, 3):  # trained anew in the same folder
        for part in tiny_classifier(seed=seed):
            part.save_pretrained(selector)
        if seed == 2:
            first = run("samples", *class_samples, *options)
            assert run("samples", *class_samples, *options)["metrics"] == first["metrics"]
    with pytest.raises(ValueError, match=r"has parts of a run with classifier \['\w+ \w+'\] and not \['\w+ \w+'\]\."):
        run("samples", *class_samples, *options)


def test_parts_of_another_tokenizer_or_image_processor_are_refused(run, folders, reference, tmp_path):
    model, net = (shutil.copytree(folders[name], tmp_path / name) for name in ("text", "judge"))
    captions = ["a red heart", "green apple", "rocket", "pizza"]
    data = ["--dataset_name", caption_folder(tmp_path, captions), "--split", "validation", "--protocol", "captions"]
    arguments = [model, *data, "--feature_extractor", net, "--reference", reference, "--batch_size", 2]
    first = run("samples", *arguments)
    path = model / "tokenizer" / "tokenizer.json"
    own = path.read_text()
    path.write_text(json.dumps(json.loads(own) | {"normalizer": None}))
    with pytest.raises(ValueError, match="has parts of a run with tokenizer "):
        run("samples", *arguments)
    path.write_text(own)
    assert run("samples", *arguments)["metrics"] == first["metrics"]
    path = net / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.1] * 3}))
    with pytest.raises(ValueError, match="same protocol.*`image_processor` "):
        run("samples", *arguments)


def test_the_sheet_of_neighbours_has_its_rows_whatever_the_batch_size(run, class_samples, tmp_path):
    heights = []
    for size in (3, 20):
        run("samples", *class_samples, "--neighbours", 1, "--batch_size", size, name=f"{size}.json")
        with Image.open(tmp_path / "out" / f"{size}-neighbours.png") as sheet:
            heights.append(np.array(sheet.convert("RGB")))
    assert heights[0].shape == heights[1].shape and heights[0].shape[0] > 8 * 192
    assert np.abs(heights[0].astype(int) - heights[1]).mean() < 1


def launch(processes: int, *arguments: object, folder: Path) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes)]
    command += ["--multi_gpu", "--main_process_port", "0"] if processes > 1 else ["--cpu"]
    script = Path(__file__).with_name("evaluation_processes.py")
    finished = subprocess.run(
        [*command, str(script), *map(str, arguments)],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert finished.returncode == 0, finished.stdout[-4000:]


@pytest.mark.slow
def test_two_processes_give_exactly_the_figures_of_one(run, class_samples, tmp_path):
    alone = run("samples", *class_samples)
    together = tmp_path / "together" / "results.json"
    launch(2, "samples", *class_samples, "--output", together, folder=tmp_path)
    assert json.loads(together.read_text(encoding="utf-8"))["metrics"] == alone["metrics"]
    parts = [sorted(folder.glob("*.safetensors")) for folder in (tmp_path / "out" / "results-parts",
                                                                together.with_name("results-parts"))]  # fmt: skip
    assert len(parts[0]) == len(parts[1]) == 5
    for first, second in zip(*parts, strict=True):
        tensors = load_file(first), load_file(second)
        assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


@pytest.fixture
def reconstructions(folders) -> list:
    """Arguments of a run that measures the RQ-VAE of a pipeline."""
    return [folders["class"], *DATA, "--feature_extractor", folders["judge"], "--device", "cpu"]


def test_reconstructions_are_measured_as_by_the_other_command_and_resumed(run, reconstructions, tmp_path, caplog):
    whole = run("reconstructions", *reconstructions, "--filter", "style=noto", "--batch_size", 7)
    expected = run("rqvae", *reconstructions, "--filter", "style=noto", name="rqvae.json")["metrics"]
    assert whole["metrics"] == pytest.approx(
        {name: expected[name] for name in ("frechet_distance_judge", "psnr", "mse")}, rel=1e-4
    )
    assert "too few" not in caplog.text and whole["dataset"]["num_pictures"] > 16
    parts = sorted((tmp_path / "out" / "results-parts").glob("*.safetensors"))
    parts[1].unlink()
    again = run("reconstructions", *reconstructions, "--filter", "style=noto", "--batch_size", 7)
    assert again["metrics"] == whole["metrics"]
    assert "image-to-image" in (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="one of the same settings.*filter"):
        run("reconstructions", *reconstructions, "--batch_size", 7)


@pytest.mark.slow
def test_two_processes_give_exactly_the_distance_of_reconstructions_of_one(run, reconstructions, tmp_path):
    alone = run("reconstructions", *reconstructions, "--batch_size", 30)
    together = tmp_path / "together" / "results.json"
    launch(2, "reconstructions", *reconstructions, "--batch_size", 30, "--output", together, folder=tmp_path)
    assert json.loads(together.read_text(encoding="utf-8"))["metrics"] == alone["metrics"]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_figures_within_little_memory(run, class_samples, tmp_path):
    options = [*class_samples[:2], 1200, "--batch_size", 40, *class_samples[5:]]
    whole = run("samples", *options)
    output = tmp_path / "killed" / "results.json"
    command = [sys.executable, str(ROOT / "scripts" / "evaluate.py"), "samples", *options, "--output", output]
    process = subprocess.Popen(list(map(str, command)), env={**os.environ, "OMP_NUM_THREADS": "1"})
    parts = output.with_name("results-parts")
    deadline = time.monotonic() + 120
    while len(list(parts.glob("*.safetensors"))) < 5:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists() and len(list(parts.glob("*.safetensors"))) < 30
    resumed = run("samples", *options, "--work_dir", parts)
    assert resumed["metrics"] == whole["metrics"]


def caption_folder(tmp_path: Path, captions: list) -> Path:
    folder = tmp_path / "captions"
    folder.mkdir()
    datasets.Dataset.from_dict({"text": captions}).to_parquet(folder / "validation.parquet")
    return folder


def test_captions_are_paired_with_their_own_pictures(run, folders, tiny_tokenizer, tmp_path):
    captions = ["a red heart", "green apple", "a pizza of cheese", "rocket", "a red apple", "noto style", "pizza"]
    data = ["--dataset_name", caption_folder(tmp_path, captions), "--split", "validation"]
    options = ["--clip_model", folders["clip"], "--feature_extractor", folders["judge"], "--device", "cpu"]
    results = run("samples", folders["text"], "--protocol", "cc3m", *data, *options, "--batch_size", 3)
    assert results["dataset"]["num_pictures"] == 7 and set(results["metrics"]) == {"clip_score"}
    more = ["--protocol", "captions", "--work_dir", tmp_path / "parts"]
    assert run("samples", folders["text"], *more, *data, *options)["metrics"] == pytest.approx(results["metrics"])
    ranker, pipe = CLIPRanker(*tiny_clip(tiny_tokenizer)), load(folders["text"])
    drawn = torch.cat([draw_pictures(pipe, [text], [index])[0] for index, text in enumerate(captions)])
    pixels = drawn.float() / 127.5 - 1
    own = ranker.score(pixels, captions)
    assert results["metrics"]["clip_score"] == pytest.approx(own.double().mean().item(), abs=1e-5)
    shifted = ranker.score(pixels, captions[1:] + captions[:1]).mean().item()
    assert abs(results["metrics"]["clip_score"] - shifted) > 1e-4

    parts = sorted((tmp_path / "out" / "results-parts").glob("*.safetensors"))
    scores = torch.cat([load_file(path)["clip_score"] for path in parts])
    torch.testing.assert_close(scores, own, rtol=0, atol=1e-5)  # each by the number of its caption
    parts[0].write_bytes(parts[1].read_bytes())
    with pytest.raises(ValueError, match=r"000000.safetensors' must hold the pictures range\(0, 3\), it holds others"):
        run("samples", folders["text"], "--protocol", "cc3m", *data, *options, "--batch_size", 3)


def test_coco_draws_among_all_captions_of_a_picture(run, folders, tmp_path):
    captions = [["a red heart", "red"], ["green apple", "apple"], ["rocket", "a pizza"]]
    data = ["--dataset_name", caption_folder(tmp_path, captions), "--split", "validation"]
    options = ["--clip_model", folders["clip"], "--feature_extractor", folders["judge"], "--device", "cpu"]
    for count in (4, 6):
        name = f"{count}.json"
        results = run(
            "samples", folders["text"], "--protocol", "coco2014", *data, *options, "--num_pictures", count, name=name
        )
        assert results["dataset"]["num_pictures"] == count
    with pytest.raises(ValueError, match="`--num_pictures` must be at most 6"):
        run("samples", folders["text"], "--protocol", "coco2014", *data, *options, name="all.json")


def test_rejection_sampling_is_measured(run, class_samples, folders):
    rates = {}
    for rate in (1, 0.25):
        options = ["--classifier", folders["selector"], "--acceptance_rate", rate]
        rates[rate] = run("samples", *class_samples, *options, name=f"{rate}.json")
    assert rates[0.25]["metrics"]["selection_score"] > rates[1]["metrics"]["selection_score"]
    assert rates[0.25]["sampling"]["acceptance_rate"] == 0.25
    assert rates[0.25]["sampling"]["classifier"] == str(folders["selector"])


def test_a_sweep_measures_every_combination_and_draws_a_chart(run, class_samples, folders, tmp_path):
    options = ["--num_pictures", 8, "--batch_size", 8, "--top_k", 2, 30, "--top_p", 0.5, "1,0.9,0.8"]
    results = run("sweep", *class_samples, *options)
    rows = results["rows"]
    assert [(row["top_k"], row["top_p"]) for row in rows] == [
        (2, 0.5),
        (2, "1.0,0.9,0.8"),
        (30, 0.5),
        (30, "1.0,0.9,0.8"),
    ]
    distances = [row["frechet_distance_judge"] for row in rows]
    assert results["best_by"] == "frechet_distance_judge" and min(distances) < max(distances)
    assert results["metrics"]["frechet_distance_judge"] == min(distances)
    single = run("samples", *class_samples, *options[:4], "--top_k", 2, "--top_p", 0.5, name="single.json")
    assert single["metrics"]["frechet_distance_judge"] == distances[0]
    with Image.open(tmp_path / "out" / "results-sweep.png") as chart:
        assert chart.size == (540 * 4, 440)
    assert "| top_k | top_p | frechet_distance_judge |" in (tmp_path / "out" / "results.md").read_text()


def test_a_sweep_over_numbers_and_settings_per_depth_alone_is_drawn_and_one_of_scores_alone(run, folders, tmp_path):
    """A ranker's or classifier's score is the only figure where there is no reference."""
    options = ["--num_pictures", 4, "--batch_size", 4, "--feature_extractor", folders["judge"]]
    options += ["--classifier", folders["selector"], "--acceptance_rate", 0.5]
    results = run("sweep", folders["class"], *options, "--top_p", 0.5, "1,0.9,0.8")
    assert results["best_by"] == "selection_score"
    assert [row["top_p"] for row in results["rows"]] == [0.5, "1.0,0.9,0.8"]
    with Image.open(tmp_path / "out" / "results-sweep.png") as chart:
        assert chart.size == (540, 440)


def test_pictures_are_selected_by_the_transformer_itself(run, folders):
    options = ["--num_pictures", 4, "--batch_size", 4, "--feature_extractor", folders["judge"], "--seed", 5]
    options += ["--ranker", "likelihood", "--num_candidates", 3]
    results = run("samples", folders["class"], *options)
    pipe = load(folders["class"])
    labels = (pipe.transformer.config.class_ids * 4)[:4]
    _, scores = draw_pictures(pipe, labels, range(4), 5, ranker="likelihood", num_candidates=3)
    assert results["metrics"]["selection_score"] == pytest.approx(scores.double().mean().item(), abs=1e-5)
    assert results["sampling"]["ranker"] == "likelihood" and results["sampling"]["num_candidates"] == 3


def test_weights_of_the_likelihood_are_swept(run, folders):
    options = ["--num_pictures", 4, "--batch_size", 4, "--feature_extractor", folders["judge"]]
    options += ["--protocol", "captions", "--dataset_name", FIXTURE, "--split", "train"]
    options += ["--ranker", folders["clip"], "--num_candidates", 3]
    results = run("sweep", folders["text"], *options, "--clip_model", folders["clip"], "--likelihood_weight", 0, 2)
    assert [row["likelihood_weight"] for row in results["rows"]] == [0, 2]
    for weight, row in zip((0, 2), results["rows"], strict=True):
        alone = run("samples", folders["text"], *options, "--likelihood_weight", weight, name=f"{weight}.json")
        assert alone["metrics"]["selection_score"] == row["selection_score"]
        assert alone["sampling"]["likelihood_weight"] == weight
    assert results["rows"][1]["selection_score"] < results["rows"][0]["selection_score"]  # likelihoods are negative
    with pytest.raises(ValueError, match="`--likelihood_weight` of several values needs .* got neither with"):
        run("sweep", folders["text"], *options, "--likelihood_weight", 0, 2)


def test_too_few_pictures_are_warned_of(run, class_samples, folders, caplog):
    with caplog.at_level(logging.WARNING):
        run("samples", *class_samples, "--num_pictures", 16)
    assert "16 generated pictures are too few for a covariance of full rank of 16 features" in caplog.text
    caplog.clear()
    options = ["--image_size", 16, "--feature_extractor", folders["judge"], "--filter", "style=blob"]
    with caplog.at_level(logging.WARNING):
        run("statistics", "--dataset_name", FIXTURE, "--split", "test_combos", *options, name="few.safetensors")
    assert "2 reference pictures are too few for a covariance of full rank of 16 features" in caplog.text


@pytest.mark.parametrize(
    "command, change, match",
    [
        (
            "samples",
            ["--feature_extractor", "efficientnet_lite0"],
            "same protocol.*`feature_extractor` 'judge' and not",
        ),
        ("samples", ["--transform", "cc3m"], "same protocol.*`transform` 'center_crop' and not 'cc3m'"),
        ("samples", ["--reference", "none.safetensors"], "`reference` must be a file of statistics"),
        ("samples", ["--acceptance_rate", "0", "--classifier", "SELECTOR"], r"`acceptance_rate` must be .*\(0, 1\]"),
        ("samples", ["--acceptance_rate", "0.5"], "`classifier` and `acceptance_rate` need each other"),
        ("samples", ["--likelihood_weight", "1"], "`likelihood_weight` needs a `ranker` that compares captions"),
        ("sweep", ["--likelihood_weight", "0", "1"], "`likelihood_weight` needs a `ranker` that compares captions"),
        ("samples", ["--protocol", "cc3m"], "`MODEL` must draw captions for `--protocol cc3m`"),
        ("samples", ["--clip_model", "CLIP"], "`--clip_model` needs a model of captions"),
        ("samples", ["--inception_weights", "w.pth"], "`--inception_weights` needs `--feature_extractor inception`"),
        ("samples", ["--num_pictures", "0"], "`--num_pictures` must be at least 1, got 0"),
        ("samples", ["--neighbours", "0"], "`--neighbours` must be at least 1, got 0"),
        ("samples", ["--neighbours", "1000"], r"`--neighbours` must be at most \d+, the pictures of the reference"),
        ("samples", ["--precision_recall", "--num_pictures", "3"], "`--precision_recall` needs more than 3 pictures"),
        ("samples", ["--acceptance_rate", "-0.5", "--classifier", "SELECTOR"], r"`acceptance_rate` .* got -0.5"),
        (
            "samples",
            ["--acceptance_rate", "0.9", "--classifier", "SELECTOR"],
            "`--acceptance_rate` must be 1 / n, .* got 0.9; near it are 1 and 0.5",
        ),
        (
            "sweep",
            ["--acceptance_rate", "0.5", "0.3", "--classifier", "SELECTOR"],
            "`--acceptance_rate` must be 1 / n, .* got 0.3; near it are 0.3333333 and 0.25",
        ),
        ("sweep", ["--acceptance_rate", "1", "1.5", "--classifier", "SELECTOR"], r"`acceptance_rate` .* got 1.5"),
        ("sweep", ["--acceptance_rate", "1", "0.5"], "`classifier` and `acceptance_rate` need each other"),
        (
            "samples",
            ["--acceptance_rate", "0.5", "--classifier", "OTHER"],
            "`classifier` must know the model's classes",
        ),
        ("samples", ["--judge", "OTHER"], "`classifier` must know the model's classes"),
        ("samples", ["--dataset_name", "other"], "`--dataset_name` must not be given where no captions are drawn"),
        ("sweep", ["--top_k", "2", "3", "--filter", "a=b"], "`--filter` must not be given where no captions are"),
        (
            "samples",
            ["--acceptance_rate", "0.5", "--classifier", "JUDGE"],
            "`--judge` must not be the classifier that selects, got .*, which are the same",
        ),
        ("sweep", ["--top_p", "0.9", "1.5"], r"`top_p` must be in \(0, 1\], got 1.5"),
        ("sweep", ["--top_k", "3"], "must be given several values to sweep over"),
        ("sweep", ["--top_k", "3", "4", "--neighbours", "1"], "`--neighbours` must not be given for a sweep"),
    ],
)
def test_bad_options_are_refused(command, change, match, run, class_samples, folders, tmp_path):
    change = [folders.get(text.lower(), text) for text in change]
    with pytest.raises(ValueError, match=match):
        run(command, *class_samples, *change)
    assert not list(tmp_path.rglob("*.safetensors"))  # before anything is drawn


def test_statistics_of_another_width_and_captions_that_are_no_text_are_refused(run, folders, tmp_path):
    np.savez(tmp_path / "other.npz", mu=np.zeros(5), sigma=np.eye(5))
    options = ["--clip_model", folders["clip"], "--feature_extractor", folders["judge"]]
    with pytest.raises(ValueError, match="`--reference` must have the 16 features of 'judge', got 5"):
        run("samples", folders["class"], "--num_pictures", 4, "--reference", tmp_path / "other.npz", *options[2:])
    data = ["--dataset_name", caption_folder(tmp_path, [1, 2]), "--split", "validation"]
    with pytest.raises(ValueError, match="`--caption_column` must hold text, got 1 in row 0"):
        run("samples", folders["text"], "--protocol", "cc3m", *data, *options)
    assert not list(tmp_path.rglob("*-parts/*.safetensors"))


def test_what_is_missing_is_named(run, class_samples, folders, reference, evaluate, tmp_path, monkeypatch):
    options = ["--image_size", 16, "--feature_extractor", folders["judge"]]
    run("statistics", *DATA, *options, name="bare.safetensors")
    with pytest.raises(ValueError, match="need a `--reference` made with `--keep_features`"):
        run("samples", *class_samples, "--reference", tmp_path / "out" / "bare.safetensors")
    with pytest.raises(ValueError, match="`--protocol labels`"):
        run("samples", folders["text"], *class_samples[1:])
    with pytest.raises(ValueError, match="Something must be measured: `--reference`, .* got none of them"):
        run("samples", folders["class"], "--num_pictures", 4, "--feature_extractor", folders["judge"])
    assert not list(tmp_path.rglob("*-parts"))[1:]  # those of the statistics alone
    with pytest.raises(ValueError, match="`--output` must end in .json"):
        run("samples", *class_samples, name="results.txt")
    with pytest.raises(ValueError, match="`--output` must end in .safetensors"):
        run("statistics", *DATA, *options, name="statistics.json")
    data = ["--dataset_name", FIXTURE, "--split", "train"]
    with pytest.raises(ValueError, match="`--clip_model` must be given for `--protocol cc3m`"):
        run("samples", folders["text"], "--protocol", "cc3m", *data, "--feature_extractor", folders["judge"])
    with pytest.raises(ValueError, match="`--dataset_name` and `--split` must be given for captions"):
        run("samples", folders["text"], "--protocol", "cc3m", "--clip_model", folders["clip"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="`prompts` runs in one process, got 2"):
        run("prompts", folders["text"], *data)
