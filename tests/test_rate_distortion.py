# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""scripts/rate_distortion.py: a short run from training to the table and the plot."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "rate_distortion.py"


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("rate_distortion")


def test_every_run_is_a_model_that_its_name_describes(script):
    from rq_hf import RQVAEConfig

    for study in script.STUDIES.values():
        config = json.loads((ROOT / "scripts" / "configs" / f"{study.config}.json").read_text())
        for name, changes in study.runs.items():
            fields = {key: value for key, value in changes.items() if hasattr(RQVAEConfig(), key)}
            model = RQVAEConfig(**config["model"] | fields)
            assert name.split(",")[0] == "x".join(str(size) for size in model.code_shape)
            size = re.search(r"K (\d+)", name)
            assert model.codebook_size == (int(size[1]) if size else 256)
            assert model.shared_codebook != ("separate" in name)
            assert changes.get("codebook_update", "per_step") == ("per_depth" if "per_depth" in name else "per_step")
            assert ("adversarial_weight" in changes) == ("adversarial" in name)
    folders = [
        script.Run(study, name, seed).path
        for study in script.STUDIES
        for name in script.STUDIES[study].runs
        for seed in (0, 1)
    ]
    assert len(set(folders)) == len(folders)


def test_unknown_runs_and_empty_folders_are_refused(script, tmp_path):
    with pytest.raises(ValueError, match="`--only` must name runs"):
        script.main(["train", "emoji-32", "--output_dir", str(tmp_path), "--only", "9x9x9"])
    with pytest.raises(ValueError, match="must hold records of finished runs"):
        script.main(["report", "--output_dir", str(tmp_path), "--docs", str(tmp_path / "docs")])
    assert list(tmp_path.iterdir()) == []


def test_the_page_shows_the_tables_of_the_records(script):
    page = (ROOT / "docs" / "results" / "rate_distortion.md").read_text(encoding="utf-8")
    for study in script.STUDIES:
        runs = [run for name in script.STUDIES[study].runs for run in script.all_runs(study, names=[name])]
        records = [script.read_record(run, ROOT / "docs" / script.RECORDS) for run in runs]
        table = script.table([record for record in records if record is not None])
        assert table in page
        assert ("Fréchet distance" in table) == (study == "emoji-32")


@pytest.mark.slow
def test_a_study_is_trained_once_measured_and_reported(tmp_path):
    def call(*arguments: str) -> str:
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
        command = [sys.executable, str(SCRIPT), *arguments]
        finished = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout

    runs, docs = tmp_path / "runs", tmp_path / "docs"
    train = ["train", "emoji-32", "--output_dir", str(runs), "--docs", str(docs), "--seeds", "0", "--only", "4x4x2"]
    train += ["--dataset_name", str(ROOT / "tests" / "fixtures" / "emoji"), "--max_steps", "5", "--eval_steps", "1"]
    assert "4x4x2, seed 0: done" in call(*train)
    shutil.rmtree(runs)
    call(*train)
    assert not runs.exists()  # what has a record is done

    printed = call("report", "--output_dir", str(runs), "--docs", str(docs))
    assert "35 of 36 runs are not finished" in printed and "No sheet" in printed
    result = json.loads((docs / "results" / "rate-distortion" / "emoji-32" / "4x4x2-seed0.json").read_text())
    assert result["name"] == "4x4x2" and result["seed"] == 0
    assert result["bits"] == 4 * 4 * 2 * 8 and result["steps"] == 5 and result["cpu_minutes"] > 0
    errors = result["validation_error"]
    assert result["fall_over_last_fifth"] == pytest.approx(1 - errors["5"] / errors["4"])
    assert f"| 4x4x2 | 256 | {1000 * result['metrics']['mse']:.3f} |" in printed
    with Image.open(docs / "images" / "rate-distortion-emoji-32.png") as picture:
        assert min(picture.size) > 400 and len(picture.convert("L").getcolors(256)) > 10
