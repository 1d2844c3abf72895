# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
r"""The ablation of App. B.3: small RQ-Transformers trained for equal steps with and without stochastic codes and soft
labels, and at other temperatures tau of Eq. 15.

    python scripts/rate_distortion.py train emoji-32 --output_dir runs/rate-distortion --only 4x4x4 --seeds 0
    python scripts/stage2_ablation.py train --output_dir runs --jobs 2
    python scripts/stage2_ablation.py report --output_dir runs

The first line trains the RQ-VAE that all runs share. `train` starts scripts/train_rqt.py and scripts/evaluate.py for
each run, one thread each, goes on where it was stopped, and leaves a record of each in docs/results/stage2-ablation/;
what has one is done. `report` prints the table and draws docs/images/stage2-ablation.png.
docs/results/stage2_ablation.md discusses them.
"""

import argparse
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from study import (
    SCRIPTS,
    Run,
    add_arguments,
    by_name,
    cpu_minutes,
    end_with_children,
    log_history,
    perform,
    read_record,
    spread,
    start,
)

from rq_hf import RQVAEModel
from rq_hf.metrics import distance_between_real_pictures, load_statistics, markdown_table, write_text
from rq_hf.pipeline_rq_image_generation import load_component

STUDY = "stage2-ablation"
RECORDS = Path("results")
CONFIG = SCRIPTS / "configs" / "emoji32-rqt-4x4x4-2M.json"
SEEDS = (0, 1, 2)
NUM_PROMPTS = 512
NUM_PICTURES = 2000
EXTRACTOR = "efficientnet_lite0"
DISTANCE = f"frechet_distance_{EXTRACTOR}"


def kind(stochastic_codes: bool, soft_labels: bool, tau: float = 0.5) -> dict[str, Any]:
    return {"stochastic_codes": stochastic_codes, "soft_labels": soft_labels, "code_temperature": tau}


KINDS = {
    "neither": kind(False, False),
    "stochastic codes": kind(True, False),
    "soft labels": kind(False, True),
    "both": kind(True, True),
    "both, tau 0.1": kind(True, True, tau=0.1),
    "both, tau 0.25": kind(True, True, tau=0.25),
    "both, tau 1": kind(True, True, tau=1.0),
}


def all_runs() -> list[Run]:
    """Seed by seed; other temperatures once."""
    return [Run(STUDY, name, seed) for seed in SEEDS for name in KINDS if seed == SEEDS[0] or "tau" not in name]


def train(run: Run, output_dir: Path, more_flags: list[str]) -> dict[str, Any]:
    """Trains and measures one run; returns its record."""
    folder, cpu_seconds = output_dir / run.path, run.file(output_dir, ".cpu.json")
    log = run.file(output_dir, ".log")
    if not (folder / "model_index.json").exists():
        flags = {"output_dir": folder, "seed": run.seed, "resume_from_checkpoint": "last", "use_cpu": True}
        flags |= KINDS[run.name]
        start("train_rqt.py", [CONFIG], flags, log, cpu_seconds, more_flags)
    data = data_settings()
    accuracy = folder / "prompts.json"
    if not accuracy.exists():
        flags = {
            "dataset_name": data["dataset_name"],
            "split": "train",
            "num_prompts": NUM_PROMPTS,
            "output": accuracy,
        }
        start("evaluate.py", ["prompts", folder], flags, log)
    distance = folder / "samples.json"
    if not distance.exists():
        flags = {
            **real_pictures(),
            "reference": reference_file(output_dir),
            "protocol": "captions",
            "caption_column": data["caption_column"],
            "num_pictures": NUM_PICTURES,
            "batch_size": 100,
            "output": distance,
        }
        start("evaluate.py", ["samples", folder], flags, log)
    evaluations = [entry for entry in log_history(folder) if "eval_loss" in entry]
    hard = "eval_image_loss_nearest_codes" if KINDS[run.name]["soft_labels"] else "eval_image_loss"
    return {
        **KINDS[run.name],
        "steps": evaluations[-1]["step"],
        "cpu_minutes": cpu_minutes(cpu_seconds),
        "validation_loss": {entry["step"]: entry[hard] for entry in evaluations},
        "prompt_accuracy": json.loads(accuracy.read_text())["metrics"],
        DISTANCE: json.loads(distance.read_text())["metrics"][DISTANCE],
    }


def data_settings() -> dict[str, Any]:
    return json.loads(CONFIG.read_text(encoding="utf-8"))["data"]


def real_pictures() -> dict[str, Any]:
    """Flags for the pictures that the runs learn from, seen by the net of the Frechet distance."""
    data = data_settings()
    names = ("dataset_name", "filter", "transform")
    return {**{name: data[name] for name in names}, "split": data["train_split"], "feature_extractor": EXTRACTOR}


def reference_file(output_dir: Path) -> Path:
    return output_dir / STUDY / "real.safetensors"


def measure_real_pictures(output_dir: Path, docs: Path) -> None:
    """What generated pictures are compared with, and the distance that as many real ones have from the others."""
    reference = reference_file(output_dir)
    if not reference.exists():
        config = load_component(RQVAEModel, data_settings()["rqvae_name_or_path"], "rqvae").config
        flags = {name: getattr(config, name) for name in ("image_size", "num_channels")}
        start(
            "evaluate.py", ["statistics", "--keep_features"], {**real_pictures(), **flags, "output": reference},
            reference.with_suffix(".log"),
        )  # fmt: skip
    distance = distance_between_real_pictures(load_statistics(reference).features, NUM_PICTURES)
    path = docs / RECORDS / STUDY / "real.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({DISTANCE: distance, "num_pictures": NUM_PICTURES}, indent=1) + "\n")


def report(docs: Path) -> None:
    runs = all_runs()
    records = [record for run in runs if (record := read_record(run, docs / RECORDS)) is not None]
    if not records:
        raise ValueError(f"`--docs` must hold records of finished runs, got none in '{docs / RECORDS / STUDY}'.")
    path = docs / RECORDS / STUDY / "real.json"
    if not path.exists():
        raise ValueError(f"`--docs` must hold the distance of real pictures, got no '{path}'.")
    print(table(records))
    real = json.loads(path.read_text(encoding="utf-8"))
    print(f"\nDistance of {real['num_pictures']} real pictures from the others: {real[DISTANCE]:.1f}")
    (docs / "images").mkdir(parents=True, exist_ok=True)
    plot(records, docs / "images" / "stage2-ablation.png")
    if len(records) < len(runs):
        print(f"\n{len(runs) - len(records)} of {len(runs)} runs are not finished.")


def last_loss(record: dict[str, Any]) -> float:
    """Of the nearest codes of held-out pictures, at the end."""
    return list(record["validation_loss"].values())[-1]


def table(records: list[dict[str, Any]]) -> str:
    """A row for each kind of run: the mean of its seeds, and behind it each seed's figure."""
    header = ["", "tau", "nats per code", "concept top-1", "concept top-5", "style", "distance", "CPU minutes"]
    rows = []
    for name, runs in by_name(records).items():
        accuracies = [run["prompt_accuracy"] for run in runs]
        hits = [[each[key] for each in accuracies] for key in ("concept_top1", "concept_top5", "style_accuracy")]
        used = runs[0]["stochastic_codes"] or runs[0]["soft_labels"]
        minutes = [run["cpu_minutes"] for run in runs if run["cpu_minutes"] is not None] or [math.nan]
        rows.append([
            name.partition(",")[0],
            f"{runs[0]['code_temperature']:g}" if used else "",
            spread([last_loss(run) for run in runs], 3),
            *(spread(values, 3) for values in hits),
            spread([run[DISTANCE] for run in runs], 1),
            spread(minutes, 1),
        ])  # fmt: skip
    return markdown_table(header, rows)


def plot(records: list[dict[str, Any]], path: Path) -> None:
    """Validation loss against steps, the mean of the seeds and what they span."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for name, runs in by_name(records).items():
        steps = [int(step) for step in runs[0]["validation_loss"]]
        curves = list(zip(*(run["validation_loss"].values() for run in runs), strict=True))
        (line,) = axes.plot(steps, [statistics.mean(values) for values in curves], label=name)
        axes.fill_between(steps, list(map(min, curves)), list(map(max, curves)), color=line.get_color(), alpha=0.2)
    axes.set(xlabel="steps", ylabel="nats per code, nearest codes of held-out pictures")
    axes.grid(True, alpha=0.3)
    figure.legend(fontsize=8, loc="outside right upper")
    figure.savefig(path, dpi=130)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    add_arguments(common)
    trains = commands.add_parser(
        "train", parents=[common], help="train and measure what is missing", allow_abbrev=False
    )
    trains.add_argument("--jobs", type=int, default=1, help="runs at a time (%(default)s)")
    trains.epilog = "Further flags are handed to scripts/train_rqt.py."
    commands.add_parser("report", parents=[common], help="table and picture of what is there")
    options, more_flags = parser.parse_known_args(argv)
    if options.command == "report":
        if more_flags:
            parser.error(f"unrecognized arguments: {' '.join(more_flags)}")
        return report(options.docs)
    records = options.docs / RECORDS
    measure_real_pictures(options.output_dir, options.docs)
    perform(all_runs(), records, options.jobs, lambda run: train(run, options.output_dir, more_flags))


if __name__ == "__main__":
    end_with_children()
    try:
        main()
    except (ValueError, RuntimeError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
