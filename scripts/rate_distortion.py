# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
r"""The rate-distortion study: small RQ-VAEs that differ in one thing each, trained for equal steps from two seeds.

    python scripts/rate_distortion.py train emoji-32 --output_dir runs/rate-distortion --jobs 2
    python scripts/rate_distortion.py train fashion-mnist --output_dir runs/rate-distortion --jobs 2
    python scripts/rate_distortion.py report --output_dir runs/rate-distortion

`train` starts scripts/train_rqvae.py and scripts/evaluate.py for each run, one thread each, goes on where it was
stopped, and leaves a record of each in docs/results/rate-distortion/; what has one is done. `report` reads the
records, prints the table and draws docs/images/rate-distortion-*.png. docs/results/rate_distortion.md discusses them.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
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
from torchvision.transforms.functional import to_pil_image

from rq_hf import RQVAEConfig, RQVAEModel
from rq_hf.metrics import markdown_table, stored_pictures
from rq_hf.picture_grid import picture_grid
from rq_hf.training import PictureDataset
from rq_hf.training.data import select_rows

RECORDS = Path("results", "rate-distortion")
SEEDS = (0, 1)
SHEET_ROWS = 6
# The discriminator comes after half of the steps: from the first one it slows such a short training down.
ADVERSARIAL = {
    "perceptual_backbone": "efficientnet_lite0",
    "perceptual_weight": 1.0,
    "adversarial_weight": 0.75,
    "discriminator_start_step": 2250,
}


@dataclass(frozen=True)
class Study:
    """Runs on one data set: what each changes in the configuration `config`, and the pictures it is measured on."""

    config: str
    dataset: str
    evaluation: tuple[str, ...]
    runs: dict[str, dict[str, Any]]


STUDIES = {
    "emoji-32": Study(
        config="emoji32-rqvae-4x4x4-k256",
        dataset="data/emoji-32",
        evaluation=("--split", "test_combos", "--filter", "tone=default", "--feature_extractor", "efficientnet_lite0"),
        runs={
            "4x4x1": {"code_depth": 1},
            "4x4x2": {"code_depth": 2},
            "4x4x4": {"code_depth": 4},
            "4x4x1, K 2048": {"code_depth": 1, "codebook_size": 2048},
            "4x4x4, separate codebooks": {"code_depth": 4, "shared_codebook": False},
            "4x4x4, K 64, separate codebooks": {"code_depth": 4, "codebook_size": 64, "shared_codebook": False},
            "8x8x1": {"code_depth": 1, "channel_multiplier": [1, 2, 4]},
            "4x4x4, per_depth": {"code_depth": 4, "codebook_update": "per_depth"},
            "4x4x1, K 2048, per_depth": {"code_depth": 1, "codebook_size": 2048, "codebook_update": "per_depth"},
            "4x4x1, adversarial": {"code_depth": 1, **ADVERSARIAL},
            "4x4x4, adversarial": {"code_depth": 4, **ADVERSARIAL},
        },
    ),
    "fashion-mnist": Study(
        config="fashion-rqvae-7x7x4-k256",
        dataset="data/fashion-mnist",
        evaluation=("--split", "test", "--feature_extractor", "none"),
        runs={
            "7x7x1": {"code_depth": 1},
            "7x7x2": {"code_depth": 2},
            "7x7x4": {"code_depth": 4},
            "7x7x1, K 2048": {"code_depth": 1, "codebook_size": 2048},
            "7x7x4, separate codebooks": {"code_depth": 4, "shared_codebook": False},
            "14x14x1": {"code_depth": 1, "channel_multiplier": [1, 2]},
            "7x7x4, per_depth": {"code_depth": 4, "codebook_update": "per_depth"},
        },
    ),
}


def train(run: Run, output_dir: Path, dataset: str, more_flags: list[str]) -> dict[str, Any]:
    """Trains and measures one run; returns its record."""
    study, folder = STUDIES[run.study], output_dir / run.path
    cpu_seconds, metrics = run.file(output_dir, ".cpu.json"), folder / "evaluation.json"
    if not (folder / "eval_results.json").exists():  # what a training writes last
        config = SCRIPTS / "configs" / f"{study.config}.json"
        flags = {"dataset_name": dataset, "output_dir": folder, "seed": run.seed, "resume_from_checkpoint": "last"}
        flags |= study.runs[run.name]
        start("train_rqvae.py", [config], flags, run.file(output_dir, ".log"), cpu_seconds, more_flags)
    if not metrics.exists():
        log = run.file(output_dir, ".evaluation.log")
        start("evaluate.py", ["rqvae", folder, *study.evaluation], {"dataset_name": dataset, "output": metrics}, log)

    evaluation = json.loads(metrics.read_text())
    config = RQVAEConfig.from_pretrained(folder)
    errors = {
        entry["step"]: entry["eval_reconstruction_loss"] for entry in log_history(folder) if "eval_loss" in entry
    }
    last = max(errors)
    late = max((step for step in errors if step <= 0.8 * last), default=last)  # of one evaluation alone
    return {
        "changes": study.runs[run.name],
        "steps": last,
        "cpu_minutes": cpu_minutes(cpu_seconds),
        "bits": math.prod(config.code_shape) * math.log2(config.codebook_size),
        "validation_error": errors,
        "fall_over_last_fifth": 1 - errors[last] / errors[late],
        "metrics": evaluation["metrics"],
        "depths": evaluation["depths"],
    }


def all_runs(study: str, seeds: Iterable[int] = SEEDS, names: Iterable[str] | None = None) -> list[Run]:
    return [Run(study, name, seed) for seed in seeds for name in names or STUDIES[study].runs]


def report(output_dir: Path, docs: Path, dataset: str | None) -> None:
    runs = [run for study in STUDIES for name in STUDIES[study].runs for run in all_runs(study, names=[name])]
    records = [record for run in runs if (record := read_record(run, docs / RECORDS)) is not None]
    if not records:
        raise ValueError(f"`--docs` must hold records of finished runs, got none in '{docs / RECORDS}'.")
    (docs / "images").mkdir(parents=True, exist_ok=True)
    for study in STUDIES:
        rows = [record for record in records if record["study"] == study]
        if rows:
            print(f"\n{study}\n\n{table(rows)}")
            plot(rows, docs / "images" / f"rate-distortion-{study}.png")
    sheet(output_dir, dataset or STUDIES["emoji-32"].dataset, docs / "images" / "rate-distortion-sheet.png")
    if len(records) < len(runs):
        print(f"\n{len(runs) - len(records)} of {len(runs)} runs are not finished.")


def table(records: list[dict[str, Any]]) -> str:
    """A row for each kind of run: the mean of its seeds, and behind it each seed's figure."""
    header = "codes, bits, MSE x 1000, PSNR, codes used, Fréchet distance, fall at the end, CPU minutes".split(", ")
    distance, rows = "frechet_distance_efficientnet_lite0", []
    measured = distance in records[0]["metrics"]
    if not measured:
        header.remove("Fréchet distance")
    for name, runs in by_name(records).items():
        metrics = [each["metrics"] for each in runs]
        cells = [
            name,
            f"{runs[0]['bits']:.0f}",
            spread([1000 * each["mse"] for each in metrics], 3),
            spread([each["psnr"] for each in metrics], 2),
            spread([each["code_usage"] for each in metrics], 2),
            *([spread([each[distance] for each in metrics], 2)] if measured else []),
            spread([100 * each["fall_over_last_fifth"] for each in runs], 1) + " %",
            spread([each["cpu_minutes"] for each in runs if each["cpu_minutes"] is not None] or [math.nan], 1),
        ]
        rows.append(cells)
    return markdown_table(header, rows)


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Mean squared error against bits per picture, a point for each run."""
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    for number, (name, runs) in enumerate(by_name(results).items()):
        marker = "osD^v<>Pp*X"[number % 11]
        errors = [each["metrics"]["mse"] for each in runs]
        axes.plot([each["bits"] for each in runs], errors, marker, markersize=7, alpha=0.8, label=name)
    axes.set(xscale="log", yscale="log", xlabel="bits per picture", ylabel="mean squared error of held-out pictures")
    axes.set_title(f"{results[0]['study']}: one point per seed")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def sheet(output_dir: Path, dataset: str, path: Path) -> None:
    """Held-out pictures, and their reconstructions without and with adversarial and perceptual losses (Figure 24), by
    models of the first seed that has all."""
    names = ["4x4x1", "4x4x4", "4x4x1, adversarial", "4x4x4, adversarial"]
    for seed in SEEDS:
        folders = [output_dir / Run("emoji-32", name, seed).path for name in names]
        if all((folder / "model.safetensors").exists() for folder in folders):
            break
    else:
        return print("\nNo sheet: it needs " + ", ".join(names) + " with one seed.")
    rows = select_rows(datasets.load_dataset(dataset)["test_combos"], {"tone": "default"})
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:SHEET_ROWS].tolist()
    models = [RQVAEModel.from_pretrained(folder).eval() for folder in folders]
    pictures = PictureDataset(rows, models[0].config.image_size, training=False)
    pixel_values = torch.stack([pictures[index]["pixel_values"] for index in chosen])
    columns = [pixel_values, *(model.decode(model.encode(pixel_values)) for model in models)]
    columns = [[to_pil_image(picture) for picture in stored_pictures(column)] for column in columns]
    tiles = list(zip(*columns, strict=True))
    picture_grid(tiles, [["original", *names]] * len(tiles), tile_size=160).save(path)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    add_arguments(common)
    trains = commands.add_parser(
        "train", parents=[common], help="train and measure what is missing", allow_abbrev=False
    )
    trains.add_argument("study", choices=sorted(STUDIES))
    trains.add_argument("--jobs", type=int, default=1, help="runs at a time (%(default)s)")
    trains.add_argument("--dataset_name", help="folder of the pictures (data/STUDY)")
    trains.add_argument("--only", action="append", metavar="NAME", help="this kind of run; may be repeated")
    trains.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    trains.epilog = "Further flags are handed to scripts/train_rqvae.py."
    reports = commands.add_parser("report", parents=[common], help="table and pictures of what is there")
    reports.add_argument("--dataset_name", help="folder of the emoji (data/emoji-32)")
    options, more_flags = parser.parse_known_args(argv)
    if options.command == "report":
        if more_flags:
            parser.error(f"unrecognized arguments: {' '.join(more_flags)}")
        return report(options.output_dir, options.docs, options.dataset_name)
    study = STUDIES[options.study]
    unknown = set(options.only or ()).difference(study.runs)
    if unknown:
        raise ValueError(f"`--only` must name runs of {sorted(study.runs)}, got {sorted(unknown)}.")
    dataset = options.dataset_name or study.dataset
    runs = all_runs(options.study, options.seeds, options.only)
    perform(
        runs, options.docs / RECORDS, options.jobs, lambda run: train(run, options.output_dir, dataset, more_flags)
    )


if __name__ == "__main__":
    end_with_children()
    try:
        main()
    except (ValueError, RuntimeError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
