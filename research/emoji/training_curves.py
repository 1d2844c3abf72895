# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Writes what trainings logged as a table (CSV) and draws its losses (PNG).

    python research/emoji/training_curves.py runs/emoji-rqt --output research/emoji/records/transformer

RUN is the output folder of a finished training, a checkpoint, or a CSV that this script wrote. Several runs continue
each other: steps and epochs are counted on. OUTPUT.csv has a row for each logged step. OUTPUT.png shows the losses
and, for an RQ-VAE, the PSNR of reconstructions.
"""

import argparse
import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Row = dict[str, Any]


def read_history(run: Path) -> list[Row]:
    """What one run logged, in the order of its steps."""
    if run.suffix == ".csv":
        with run.open(encoding="utf-8", newline="") as file:
            rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
        return [row | {"step": int(row["step"])} for row in rows]
    state = json.loads((run / "trainer_state.json").read_text(encoding="utf-8"))
    return [entry for entry in state["log_history"] if "train_runtime" not in entry]  # that one is of the whole run


def joined_history(runs: Sequence[Path]) -> list[Row]:
    """One row for each logged step of all runs; training and evaluation of a step share a row."""
    rows: list[Row] = []
    for run in runs:
        first_step, first_epoch = (rows[-1]["step"], rows[-1]["epoch"]) if rows else (0, 0.0)
        of_run: dict[int, Row] = {}
        for entry in read_history(run):
            counted = {"step": entry["step"] + first_step, "epoch": entry["epoch"] + first_epoch}
            of_run.setdefault(entry["step"], {}).update(entry | counted)
        rows += [of_run[step] for step in sorted(of_run)]
    if not rows:
        raise ValueError(f"`RUN` must have logged something, got nothing in {[str(run) for run in runs]}.")
    return rows


def write_csv(rows: list[Row], path: Path) -> None:
    first = ["step", "epoch"]
    names = [*first, *sorted({name for row in rows for name in row}.difference(first))]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})


def draw_chart(rows: list[Row]) -> Figure:
    """Losses on a logarithmic scale above, PSNR below where it was logged."""
    names = sorted({name for row in rows for name in row})
    losses, psnr = ([name for name in names if part in name] for part in ("loss", "psnr"))
    figure = Figure(figsize=(8, 8 if psnr else 5), layout="constrained")
    panels = figure.subplots(2 if psnr else 1, sharex=True, squeeze=False)[:, 0]
    draw_lines(panels[0], rows, losses)
    panels[0].set(yscale="log", ylabel="loss")
    if psnr:
        draw_lines(panels[1], rows, psnr)
        panels[1].set(ylabel="PSNR in dB")
    panels[-1].set(xlabel="steps")
    return figure


def draw_lines(axes: Axes, rows: list[Row], names: list[str]) -> None:
    """A line for each name; an evaluation has points on a line of the same colour as its training loss."""
    palette = matplotlib.colormaps["tab20"].colors
    bare = list(dict.fromkeys(name.removeprefix("eval_") for name in names))
    for name in names:
        logged = [row for row in rows if name in row]
        values = [row[name] if row[name] > 0 or "loss" not in name else math.nan for row in logged]
        colour = palette[bare.index(name.removeprefix("eval_")) % len(palette)]
        style = {"marker": "o", "markersize": 3} if name.startswith("eval_") else {"alpha": 0.5, "linewidth": 1}
        axes.plot([row["step"] for row in logged], values, color=colour, label=name, **style)
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a training, or a table of one")
    parser.add_argument("--output", type=Path, required=True, help="path of the files to write, without suffix")
    arguments = parser.parse_args(argv)
    rows = joined_history(arguments.runs)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    for suffix, write in ((".csv", write_csv), (".png", lambda rows, path: draw_chart(rows).savefig(path, dpi=110))):
        path = Path(f"{arguments.output}{suffix}")
        write(rows, path)
        print(path)


if __name__ == "__main__":
    main()
