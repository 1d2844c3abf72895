# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
r"""Writes what trainings logged as a table (CSV) and draws its losses (PNG).

    python scripts/training_curves.py runs/emoji-rqt-8x8x3-15M --output docs/results/demo/transformer-wide

RUN is the output folder of a training that is finished, a checkpoint of one that is not, or a CSV of this script. Of
several the second went on from the weights of the first, and so on: their steps and epochs are counted on. Writes
OUTPUT.csv, a row for each logged step, and OUTPUT.png, the losses and, of an RQ-VAE, the PSNR of its reconstructions.
"""

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from study import trainer_state

FIRST_COLUMNS = ("step", "epoch")


def joined_history(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """A row for each logged step of each run, training and evaluation of one step together.

    Raises:
        `ValueError`: a folder without `trainer_state.json`, a table without rows, steps or numbers, or nothing logged.
    """
    rows: list[dict[str, Any]] = []
    step, epoch = 0, 0.0
    for run in runs:
        state = read_csv(run) if run.suffix == ".csv" else trainer_state(run)
        of_run: dict[int, dict[str, Any]] = {}
        for entry in state["log_history"]:
            if "train_runtime" not in entry:  # of the whole run
                counted = {"step": entry["step"] + step, "epoch": entry["epoch"] + epoch}
                of_run.setdefault(entry["step"], {}).update({**entry, **counted})
        rows += [of_run[number] for number in sorted(of_run)]
        step, epoch = step + state["global_step"], epoch + state["epoch"]
    if not rows:
        raise ValueError(f"RUN must have logged something, got nothing in {[str(run) for run in runs]}.")
    return rows


def read_csv(path: Path) -> dict[str, Any]:
    """A table of `write_csv` as the state of a training that ended with its last row."""
    with path.open(encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    if not cells or any(not row.get(name) for row in cells for name in FIRST_COLUMNS):
        raise ValueError(f"A table must have rows with {' and '.join(FIRST_COLUMNS)}, got '{path}' without.")
    try:
        rows = [{name: float(value) for name, value in row.items() if value} for row in cells]
        rows = [{**row, "step": int(row["step"])} for row in rows]
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"A table must have numbers under its names, got '{path}': {error}.") from None
    return {"log_history": rows, "global_step": rows[-1]["step"], "epoch": rows[-1]["epoch"]}


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    names = [*FIRST_COLUMNS, *sorted({name for row in rows for name in row}.difference(FIRST_COLUMNS))]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _short(value) for name, value in row.items()} for row in rows)


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def chart_of(rows: list[dict[str, Any]]) -> Figure:
    """The losses over the steps, those of evaluations as points on a line of their colour, and under them the PSNR.

    The scale of losses is logarithmic: values that are not positive leave gaps. Without PSNR there is one panel.
    """
    names = sorted({name for row in rows for name, value in row.items() if _is_drawn(name, value)})
    losses, psnr = ([name for name in names if part in name] for part in ("loss", "psnr"))
    figure = Figure(figsize=(8, 8 if psnr else 5), layout="constrained")
    panels = figure.subplots(2 if psnr else 1, sharex=True, squeeze=False)[:, 0]
    _draw(panels[0], rows, losses)
    panels[0].set(yscale="log", ylabel="loss")
    if psnr:
        _draw(panels[1], rows, psnr)
        panels[1].set(ylabel="PSNR in dB")
    panels[-1].set(xlabel="steps")
    return figure


def _draw(axes: Axes, rows: list[dict[str, Any]], names: list[str]) -> None:
    bare = {name: name.removeprefix("eval_") for name in names}
    palette = matplotlib.colormaps["tab20"].colors
    colours = {name: palette[index % len(palette)] for index, name in enumerate(dict.fromkeys(bare.values()))}
    for name in names:
        logged = [row for row in rows if name in row]
        values = [row[name] if _is_drawn(name, row[name]) else math.nan for row in logged]
        style = {"marker": "o", "markersize": 3} if name.startswith("eval_") else {"alpha": 0.5, "linewidth": 1}
        axes.plot([row["step"] for row in logged], values, color=colours[bare[name]], label=name, **style)
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def _is_drawn(name: str, value: Any) -> bool:
    """Finite, and positive on the logarithmic scale of losses."""
    return isinstance(value, (int, float)) and math.isfinite(value) and (value > 0 or "loss" not in name)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="output folder of a training, or a table of one"
    )
    parser.add_argument("--output", type=Path, required=True, help="path of the files to write, without suffix")
    arguments = parser.parse_args(argv)
    rows = joined_history(arguments.runs)
    table, chart = (Path(f"{arguments.output}{suffix}") for suffix in (".csv", ".png"))
    table.parent.mkdir(parents=True, exist_ok=True)
    write_csv(rows, table)
    chart_of(rows).savefig(chart, dpi=110)
    print(table, chart, sep="\n")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
