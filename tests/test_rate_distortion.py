# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""scripts/rate_distortion.py: a short run from training to the table and the plot."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
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


def test_a_training_that_has_not_ended_is_gone_on_with(script, tmp_path, monkeypatch):
    class Started(Exception):
        pass

    def start(name, *args):
        raise Started(name)

    run = script.Run("emoji-32", "4x4x2", 0)
    (tmp_path / run.path).mkdir(parents=True)
    (tmp_path / run.path / "model.safetensors").touch()  # killed just after it
    monkeypatch.setattr(script, "start", start)
    with pytest.raises(Started, match="train_rqvae.py"):
        script.train(run, tmp_path, "data", [])
    (tmp_path / run.path / "eval_results.json").touch()
    with pytest.raises(Started, match="evaluate.py"):
        script.train(run, tmp_path, "data", [])


def test_words_for_a_script_are_those_that_were_given(load_script, tmp_path):
    study = load_script("study")
    show = tmp_path / "show.py"
    show.write_text("import json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    log = tmp_path / "log"
    flags = {"output": tmp_path / 'für "x"', "sizes": [1, 2], "name": "ä", "number": 0.5, "flag": False}
    study.start(str(show), ["first"], flags, log, more_flags=["--number", "7"])
    assert json.loads(log.read_text()) == [
        *("first", "--output", str(tmp_path / 'für "x"'), "--sizes", "[1, 2]", "--name", "ä"),
        *("--number", "0.5", "--flag", "false", "--number", "7"),
    ]
    with pytest.raises(ValueError, match="--output_dir must be left to the study"):
        study.start(str(show), [], {}, log, more_flags=["--output_dir=x"])


def test_a_study_that_is_ended_ends_what_it_has_started(tmp_path):
    sleeper, started = tmp_path / "sleeper.py", tmp_path / "started"
    sleeper.write_text(f"import os, time\nopen({str(started)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n")
    program = (
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import study; from pathlib import Path\n"
        f"study.end_with_children()\n"
        f"run = lambda run: study.start({str(sleeper)!r}, [], {{}}, Path({str(tmp_path / 'log')!r}))\n"
        f"study.perform([study.Run('a', 'b', seed) for seed in range(3)], Path({str(tmp_path)!r}), 1, run)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    while not (started.exists() and started.read_text()):
        assert process.poll() is None
        time.sleep(0.1)
    child = int(started.read_text())
    process.terminate()
    assert process.wait(60) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


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
