# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""scripts/training_curves.py: the table and the chart of what trainings logged."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def script(load_script):
    return load_script("training_curves")


def write_run(folder: Path, history: list[dict], step: int = 0, epoch: float = 0.0) -> Path:
    folder.mkdir()
    state = {"global_step": step, "epoch": epoch, "log_history": history}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    return folder


def test_runs_one_after_the_other_become_one_table_and_chart(script, tmp_path, capsys):
    first = [
        {"step": 10, "epoch": 0.5, "loss": 2.0, "learning_rate": 1e-3},
        {"step": 20, "epoch": 1.0, "loss": 1.23456789},
        {"step": 20, "epoch": 1.0, "eval_loss": 1.5},
        {"step": 24, "epoch": 1.2, "train_runtime": 12.0, "train_loss": 1.6},
    ]
    second = [
        {"step": 0, "epoch": 0.0, "eval_loss": 1.4},
        {"step": 5, "epoch": 0.25, "loss": 0.5, "adversarial_loss": -0.125, "eval_loss": float("nan")},
    ]
    runs = [write_run(tmp_path / "first", first, 24, 1.2), write_run(tmp_path / "second", second, 5, 0.25)]
    output = tmp_path / "docs" / "stage-2.5"
    script.main([*map(str, runs), "--output", str(output)])
    table, chart = (Path(f"{output}.{suffix}") for suffix in ("csv", "png"))
    assert capsys.readouterr().out.splitlines() == [str(table), str(chart)]
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "epoch", "adversarial_loss", "eval_loss", "learning_rate", "loss"]
    assert [(row["step"], row["epoch"], row["loss"], row["eval_loss"]) for row in rows] == [
        ("10", "0.5", "2", ""),
        ("20", "1", "1.23457", "1.5"),
        ("24", "1.2", "", "1.4"),
        ("29", "1.45", "0.5", "nan"),
    ]
    assert rows[3]["adversarial_loss"] == "-0.125"
    with Image.open(chart) as picture:
        assert picture.width > 600 and len(picture.convert("RGB").getcolors(10**6)) > 50

    again = tmp_path / "again"
    script.main([str(table), "--output", str(again)])
    assert again.with_suffix(".csv").read_bytes() == table.read_bytes()
    third = write_run(tmp_path / "third", [{"step": 1, "epoch": 0.05, "loss": 0.25}], 1, 0.05)
    script.main([str(table), str(third), "--output", str(again)])
    lines, more = table.read_text().splitlines(), again.with_suffix(".csv").read_text().splitlines()
    assert more == [*lines, "30,1.5,,,,0.25"]


@pytest.mark.parametrize("text", ["", "step,epoch,loss\n", "step,loss\n1,2.0\n"])
def test_tables_without_rows_or_steps_are_refused(script, tmp_path, text):
    (table := tmp_path / "table.csv").write_text(text)
    with pytest.raises(ValueError, match="A table must have rows with step and epoch, got '.*table.csv' without"):
        script.main([str(table), "--output", str(tmp_path / "out" / "curves")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("row, message", [("2,0.5,low", "'low'"), ("2,0.5,1.0,3.0", ""), ("inf,0.5,1.0", "infinity")])
def test_tables_with_other_cells_than_numbers_are_refused(script, tmp_path, row, message):
    (table := tmp_path / "table.csv").write_text(f"step,epoch,loss\n1,0.25,2.0\n{row}\n")
    with pytest.raises(ValueError, match=f"must have numbers under its names.*table.csv.*{message}"):
        script.main([str(table), "--output", str(tmp_path / "curves")])
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_psnr_is_drawn_under_the_losses_in_decibels(script):
    rows = [
        {"step": 10, "epoch": 0.5, "loss": 0.02, "eval_psnr": -1.5},
        {"step": 20, "epoch": 1.0, "eval_loss": 0.03, "eval_psnr": 26.5},
    ]
    losses, psnr = script.chart_of(rows).axes
    assert [line.get_label() for line in losses.lines] == ["eval_loss", "loss"] and losses.get_yscale() == "log"
    (line,) = psnr.lines
    assert psnr.get_ylabel() == "PSNR in dB" and line.get_xydata().tolist() == [[10, -1.5], [20, 26.5]]
    assert len(script.chart_of([{"step": 10, "epoch": 0.5, "loss": 0.02}]).axes) == 1


def test_folders_without_logs_are_refused_and_leave_nothing(script, tmp_path):
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(ValueError, match="must have a trainer_state.json, got none in .*unfinished"):
        script.main([str(tmp_path / "unfinished"), "--output", str(tmp_path / "out" / "curves")])
    for content in ("[]", "{}", '{"global_step": 1, "epoch": null, "log_history": []}'):
        (tmp_path / "unfinished" / "trainer_state.json").write_text(content)
        with pytest.raises(ValueError, match="trainer_state.json must have global_step, epoch, log_history"):
            script.main([str(tmp_path / "unfinished"), "--output", str(tmp_path / "out" / "curves")])
    with pytest.raises(ValueError, match="RUN must have logged something"):
        script.main([str(write_run(tmp_path / "mute", [])), "--output", str(tmp_path / "out" / "curves")])
    assert not (tmp_path / "out").exists()
