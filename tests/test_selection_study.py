# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""scripts/selection_study.py, killed_evaluation.py, editing_sheet.py and gallery.py: what they run, tables, plots and
sheets."""

import filecmp
import json
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from scorers import CLASSES, tiny_classifier

from rq_hf.picture_grid import MARGIN

ROOT = Path(__file__).resolve().parents[1]
FIXTURE = ROOT / "tests" / "fixtures" / "emoji"


@pytest.fixture
def study(load_script):
    return load_script("selection_study")


def write_records(study, folder: Path, values: dict[str, dict[str, float]]) -> None:
    for run in study.all_runs():
        if run.name in values:
            path = run.file(folder, ".json")
            path.parent.mkdir(parents=True, exist_ok=True)
            record = {"study": run.study, "name": run.name, "seed": run.seed, "steps": 7, "cpu_minutes": None}
            path.write_text(json.dumps({**record, "num_pictures": 2000, "metrics": values[run.name]}))


def rate_figures(accuracy: float) -> dict[str, float]:
    return {"accuracy": accuracy, "selection_score": 0.75, "precision": 0.5, "recall": 0.25,
            "frechet_distance_efficientnet_lite0": 12.25}  # fmt: skip


def prompt_figures(top1: float) -> dict[str, float]:
    return {"concept_top1": top1, "concept_top5": 0.5, "style_accuracy": 0.625}


def test_runs_come_in_the_order_in_which_they_need_each_other(study):
    names = [run.name for run in study.all_runs()]
    assert len(set(names)) == len(names) and study.all_runs() == study.all_runs("fashion") + study.all_runs("emoji")
    assert names[:3] == ["classifier-a", "classifier-b", "rate-1"] and names.index("ranker") < names.index(
        "candidates-16"
    )
    assert [run.path.name for run in study.all_runs("fashion", [3])][2:] == [
        f"rate-{rate}-seed3" for rate in ("1", "0.5", "0.25", "0.05")
    ]
    first, second = study.CLASSIFIERS.values()
    assert all(first[name] != second[name] for name in ("architecture", "half", "seed"))


def test_a_report_shows_the_figures_of_the_records_and_what_is_missing(study, tmp_path, capsys):
    values = {f"rate-{rate:g}": rate_figures(accuracy) for rate, accuracy in zip((1, 0.05), (0.7, 0.9), strict=True)}
    values |= {"candidates-1": prompt_figures(0.25), "guidance-2": prompt_figures(0.375)}
    values |= {"classifier-a": {"accuracy": 0.875}, "ranker": {"retrieval": 0.5}}
    write_records(study, tmp_path / "results", values)
    study.main(["report", "--output_dir", str(tmp_path / "runs"), "--docs", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "| 1 | 2,000 | 2,000 | 0.7000 | 0.750 | 0.500 | 0.250 | 12.2 |" in printed
    assert "| 0.05 | 40,000 | 2,000 | 0.9000 |" in printed
    assert "| 1 | 1 | 2000 | 0.250 | 0.500 | 0.625 |" in printed and "| 1 | 2 | 2000 | 0.375 |" in printed
    assert "| classifier-a | 0 | 7 | accuracy 0.875 |" in printed and "retrieval 0.500" in printed
    assert "6 of 12 runs are not finished" in printed and "No selection-rates.png: it needs" in printed
    with Image.open(tmp_path / "images" / "selection.png") as picture:
        assert picture.width > 1000 and len(picture.convert("RGB").getcolors(10**6)) > 100


def test_one_candidate_is_no_guidance_in_the_plot(study, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(study, "lines", lambda axes, records, labels: seen.append(records))
    names = ("candidates-16", "candidates-1", "guidance-2")
    study.plot([{"name": name, "seed": seed} for name in names for seed in (0, 1)], tmp_path / "plot.png")
    assert seen[-1] == [{"name": name, "seed": seed} for name in ("guidance-1", "guidance-2") for seed in (0, 1)]


def test_a_report_without_records_is_refused(study, tmp_path):
    with pytest.raises(ValueError, match="must hold records of finished runs"):
        study.main(["report", "--output_dir", str(tmp_path), "--docs", str(tmp_path)])


def test_the_committed_records_belong_to_the_study(study):
    paths = {run.file(Path(), ".json").name: run for run in study.all_runs()}
    found = list((ROOT / "docs" / "results" / "selection").glob("*-seed0.json"))
    assert found
    for path in found:
        record = json.loads(path.read_text(encoding="utf-8"))
        assert record["name"] == paths[path.name].name and path.stat().st_size < 5000
        assert str(ROOT) not in path.read_text(encoding="utf-8")


def test_the_page_shows_the_tables_of_the_records(study):
    page = (ROOT / "docs" / "results" / "selection.md").read_text(encoding="utf-8")
    records = [study.read_record(run, ROOT / "docs" / study.RECORDS) for run in study.all_runs()]
    records = [record for record in records if record is not None]
    for make in (study.selectors_table, study.rates_table, study.prompts_table):
        assert make(records) and make(records) in page


def test_the_sheet_of_edits_shows_sixteen_of_each_kind(load_script):
    script = load_script("editing_sheet")
    assert script.COUNT * len(script.COMPLETIONS) == script.COUNT * len(script.VARIATIONS) == 16
    for name, region in script.COMPLETIONS:
        picture, prompt = script.read(name)
        mask = region(8, 8)
        assert picture.size == (64, 64) and prompt.endswith(f"{name.split('/')[0]} style")
        assert 0 < mask.double().mean() < 1
        kept = np.array(script.shown(picture, mask))
        pixels = mask.repeat_interleave(8, 0).repeat_interleave(8, 1).numpy()
        assert np.array_equal(kept[pixels], np.array(picture)[pixels])
        assert (kept[~pixels] == script.UNKNOWN).all()
    with Image.open(ROOT / "docs" / "images" / "editing.png") as sheet:
        assert sheet.width > 6 * 168 and sheet.height > 8 * 168


@pytest.mark.slow
def test_the_sheet_of_edits_is_drawn(load_script, tmp_path):
    script = load_script("editing_sheet")
    script.main(["--output", str(tmp_path / "sheet.png")])
    with Image.open(tmp_path / "sheet.png") as sheet, Image.open(ROOT / "docs" / "images" / "editing.png") as shown:
        assert sheet.size == shown.size
        assert len(sheet.convert("RGB").getcolors(10**6)) > 1000


@pytest.mark.slow
def test_the_gallery_shows_styles_depths_and_completions(load_script, tmp_path, monkeypatch, capsys):
    script = load_script("gallery")
    monkeypatch.setattr(script, "CONCEPTS", ("red heart",))
    monkeypatch.setattr(script, "COARSE_TO_FINE", ("a castle",))
    monkeypatch.setitem(script.LIKELIEST, "num_candidates", 4)
    for folder in (tmp_path / "first", tmp_path / "second"):
        script.main(["--output_dir", str(folder)])
    names = ["gallery-styles.png", "gallery-depths.png", "gallery-completion.png"]
    assert [Path(line).name for line in capsys.readouterr().out.splitlines()] == names * 2
    assert filecmp.cmpfiles(tmp_path / "first", tmp_path / "second", names, shallow=False)[0] == names
    for name, columns, tile in zip(names, (len(script.STYLES), 3, 6), (136, 192, 168), strict=True):
        with Image.open(tmp_path / "first" / name) as picture:
            assert picture.width == (tile + MARGIN) * columns + MARGIN
            assert len(picture.convert("RGB").getcolors(10**6)) > 100


def labelled_folder(folder: Path) -> Path:
    """Pictures of four colours, one for each class of the tiny pipelines."""
    generator = np.random.default_rng(0)
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=list(CLASSES.values())))
    folder.mkdir()
    for split, count in (("train", 32), ("validation", 8), ("test", 12)):
        rows = {"image": [], "label": []}
        for index in range(count):
            noise = generator.integers(0, 60, size=(16, 16, 3)) + np.array([0, 60, 120, 180])[index % 4]
            rows["image"].append(Image.fromarray(noise.astype(np.uint8)))
            rows["label"].append(index % 4)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.mark.slow
def test_the_study_of_rates_from_training_to_sheet(study, make_pipeline, tmp_path, monkeypatch, capsys):
    model, docs, runs = tmp_path / "model", tmp_path / "docs", tmp_path / "runs"
    make_pipeline("class").save_pretrained(model)
    small = {"per_device_train_batch_size": 8, "image_size": 16, "width": 8}
    monkeypatch.setattr(study, "CLASSIFIER_TRAINING", {**study.CLASSIFIER_TRAINING, **small})
    classifiers = {name: {**flags, "max_steps": 4} for name, flags in study.CLASSIFIERS.items()}
    monkeypatch.setattr(study, "CLASSIFIERS", classifiers)
    monkeypatch.setattr(study, "NUM_PICTURES", 8)
    monkeypatch.setattr(study, "RATES", (1, 0.25))
    options = ["--output_dir", str(runs), "--docs", str(docs), "--fashion_model", str(model)]
    train = ["train", "fashion", *options, "--dataset_name", str(labelled_folder(tmp_path / "data"))]
    study.main(train)
    figures = {
        rate: json.loads((docs / "results" / "selection" / f"rate-{rate}-seed0.json").read_text())
        for rate in ("1", "0.25")
    }
    assert figures["0.25"]["metrics"]["selection_score"] > figures["1"]["metrics"]["selection_score"]
    assert figures["0.25"]["sampling"]["classifier"] == "classifier-a-seed0" and figures["1"]["model"] == "model"
    assert set(figures["1"]["metrics"]) == {
        "frechet_distance_efficientnet_lite0", "precision", "recall", "accuracy", "selection_score",
    }  # fmt: skip
    study.main(["report", *options])
    printed = capsys.readouterr().out
    assert "| 0.25 | 32 | 8 |" in printed and "No selection-ranked.png" in printed
    with Image.open(docs / "images" / "selection-rates.png") as sheet:
        assert sheet.width > 4 * 80 and sheet.height > 4 * 80
    (runs / "selection" / "classifier-a-seed0").rename(tmp_path / "gone")
    study.main(train)  # what has a record is done
    assert not (runs / "selection" / "classifier-a-seed0").exists()


@pytest.mark.slow
def test_the_study_of_re_ranking_from_training_to_sheet(study, tmp_path, monkeypatch, capsys):
    docs, runs = tmp_path / "docs", tmp_path / "runs"
    small = {"per_device_train_batch_size": 8, "hidden_size": 32, "num_layers": 2, "vocab_size": 300, "max_steps": 2}
    monkeypatch.setattr(study, "RANKER_TRAINING", {**study.RANKER_TRAINING, **small})
    monkeypatch.setattr(study, "NUM_PROMPTS", 3)
    monkeypatch.setattr(study, "CANDIDATES", (1, 4))
    monkeypatch.setattr(study, "SCALES", (2,))
    monkeypatch.setattr(study, "SHEET_PROMPTS", ("red heart, noto style",))
    options = ["--output_dir", str(runs), "--docs", str(docs)]
    study.main(["train", "emoji", *options, "--dataset_name", str(FIXTURE)])
    records = {
        path.stem.removesuffix("-seed0"): json.loads(path.read_text())
        for path in (docs / "results" / "selection").glob("*.json")
    }
    assert set(records) == {"ranker", "candidates-1", "candidates-4", "guidance-2"}
    assert records["candidates-4"]["sampling"]["ranker"] == "ranker-seed0"
    assert records["guidance-2"]["sampling"]["guidance_scale"] == 2 and records["ranker"]["cpu_minutes"] > 0
    study.main(["report", *options])
    assert "| 4 | 1 | 3 |" in capsys.readouterr().out
    with Image.open(docs / "images" / "selection-ranked.png") as sheet:
        assert sheet.width > 8 * 128


@pytest.mark.slow
def test_a_killed_evaluation_ends_with_the_figures_of_one_that_was_left_alone(load_script, make_pipeline, tmp_path):
    script = load_script("killed_evaluation")
    make_pipeline("class").save_pretrained(tmp_path / "model")
    for part in tiny_classifier(seed=1):
        part.save_pretrained(tmp_path / "judge")
    command = [
        tmp_path / "model", "--num_pictures", 1600, "--batch_size", 20, "--record", tmp_path / "record.json",
        "--kill_after", 0.3, "--feature_extractor", tmp_path / "judge", "--judge", tmp_path / "judge",
    ]  # fmt: skip
    command = list(map(str, command))
    script.main([*command, "--output_dir", str(tmp_path / "runs")])
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["parts"] == 80 and 24 <= record["parts_when_killed"] < 80  # 0.3 of them are there at the kill
    assert all(0.1 < peak < 4 for peak in record["peak_gib"].values())
    assert 0 <= record["metrics"]["accuracy"] <= 1
    with pytest.raises(ValueError, match="`--output_dir` must be a new or empty folder"):
        script.main([*command, "--output_dir", str(tmp_path / "runs")])
    with pytest.raises(RuntimeError, match="Memory must stay within 0.1 GiB, got"):
        script.main([*command, "--output_dir", str(tmp_path / "again"), "--limit_gib", "0.1"])


def test_memory_of_a_process_includes_what_it_started(load_script, tmp_path):
    script = load_script("killed_evaluation")
    hold = "import time; block = b'x' * (100 * 2**20); time.sleep(1)"
    start = f"import subprocess, sys; block = b'x' * (100 * 2**20); subprocess.run([sys.executable, '-c', {hold!r}])"
    ended = script.watch([sys.executable, "-c", start], tmp_path / "log")
    assert ended.returncode == 0 and ended.peak_bytes > 200 * 2**20


def test_a_part_that_is_no_part_is_refused(load_script, tmp_path):
    script = load_script("killed_evaluation")
    options = ["model", "--output_dir", str(tmp_path / "new"), "--record", str(tmp_path / "record.json")]
    with pytest.raises(ValueError, match=r"`--kill_after` must be in \(0, 1\), got 1.0"):
        script.main([*options, "--kill_after", "1"])
