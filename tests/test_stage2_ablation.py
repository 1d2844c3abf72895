# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""scripts/stage2_ablation.py: what its runs are, and a short one from training to table and plot."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "stage2_ablation.py"
SMALL = [
    "--max_steps",
    "4",
    "--eval_steps",
    "2",
    "--hidden_size",
    "20",
    "--bf16",
    "false",
    "--max_train_samples",
    "40",
]


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("stage2_ablation")


def test_runs_are_the_four_kinds_from_three_seeds_and_other_temperatures_once(script):
    runs = script.all_runs()
    assert len(runs) == len({run.path for run in runs}) == 4 * 3 + 3
    four = {name: fields for name, fields in script.KINDS.items() if "tau" not in name}
    switches = {(fields["stochastic_codes"], fields["soft_labels"]) for fields in four.values()}
    assert len(switches) == len(four) == 4 and {fields["code_temperature"] for fields in four.values()} == {0.5}
    assert {fields["code_temperature"] for fields in script.KINDS.values()} == {0.1, 0.25, 0.5, 1.0}


def test_a_report_without_records_is_refused(script, tmp_path):
    with pytest.raises(ValueError, match="must hold records of finished runs"):
        script.main(["report", "--output_dir", str(tmp_path), "--docs", str(tmp_path)])


def test_the_page_shows_the_table_of_the_records(script):
    page = (ROOT / "docs" / "results" / "stage2_ablation.md").read_text(encoding="utf-8")
    records = [script.read_record(run, ROOT / "docs" / script.RECORDS) for run in script.all_runs()]
    assert script.table(records) in page  # all runs have a record
    real = json.loads((ROOT / "docs" / script.RECORDS / script.STUDY / "real.json").read_text(encoding="utf-8"))
    assert f"{real['num_pictures']:,} real ones are {real[script.DISTANCE]:.0f}\nfrom the others" in page


@pytest.mark.slow
def test_a_run_is_trained_measured_and_reported_once(script, tmp_path, monkeypatch, capsys):
    fixture, models = str(ROOT / "tests" / "fixtures" / "emoji"), str(ROOT / "checkpoints" / "emoji-64")
    config = json.loads(script.CONFIG.read_text())
    config["data"] |= {"dataset_name": fixture, "rqvae_name_or_path": models, "tokenizer_name_or_path": models}
    monkeypatch.setattr(script, "CONFIG", tmp_path / "config.json")
    script.CONFIG.write_text(json.dumps(config))
    monkeypatch.setattr(script, "NUM_PROMPTS", 3)
    monkeypatch.setattr(script, "NUM_PICTURES", 4)
    run, docs, runs = script.Run(script.STUDY, "both", 0), tmp_path / "docs", tmp_path / "runs"
    script.measure_real_pictures(runs, docs)
    script.perform([run], docs / script.RECORDS, 1, lambda run: script.train(run, runs, SMALL))
    record = json.loads((docs / "results" / "stage2-ablation" / "both-seed0.json").read_text())
    assert record[script.DISTANCE] > 0
    assert record["steps"] == 4 and list(record["validation_loss"]) == ["2", "4"] and record["cpu_minutes"] > 0
    history = json.loads((runs / run.path / "trainer_state.json").read_text())["log_history"]
    assert script.last_loss(record) == [e["eval_image_loss_nearest_codes"] for e in history if "eval_loss" in e][-1]
    shutil.rmtree(runs)
    script.perform([run], docs / script.RECORDS, 1, lambda run: script.train(run, runs, SMALL))
    assert not runs.exists()  # what has a record is done
    script.main(["report", "--output_dir", str(runs), "--docs", str(docs)])
    printed = capsys.readouterr().out
    assert (
        f"| both | 0.5 | {script.last_loss(record):.3f} |" in printed and "14 of 15 runs are not finished" in printed
    )
    assert "Distance of 4 real pictures from the others: " in printed
    with Image.open(docs / "images" / "stage2-ablation.png") as picture:
        assert min(picture.size) > 400 and len(picture.convert("L").getcolors(256)) > 10
