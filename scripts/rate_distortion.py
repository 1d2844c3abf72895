# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
r"""The rate-distortion study: small RQ-VAEs that differ in one thing each, trained for equal steps from two seeds.

    python scripts/rate_distortion.py train emoji-32 --output_dir runs/rate-distortion --jobs 2
    python scripts/rate_distortion.py train fashion-mnist --output_dir runs/rate-distortion --jobs 2
    python scripts/rate_distortion.py report --output_dir runs/rate-distortion --docs docs

`train` starts scripts/train_rqvae.py and scripts/evaluate.py for each run, one thread each, and goes on where it was
stopped. `report` reads what has been measured, prints the table and writes results/rate_distortion.json and the
pictures under `--docs`. docs/results/rate_distortion.md discusses them.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from matplotlib.figure import Figure
from torchvision.transforms.functional import to_pil_image

from rq_hf import RQVAEModel
from rq_hf.metrics import to_uint8
from rq_hf.picture_grid import picture_grid
from rq_hf.training import PictureDataset
from rq_hf.training.data import select_rows

SCRIPTS = Path(__file__).resolve().parent
SEEDS = (0, 1)
SHEET_ROWS = 6
ADVERSARIAL = {
    "perceptual_backbone": "efficientnet_lite0",
    "perceptual_weight": 0.1,
    "adversarial_weight": 0.75,
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


def run_folder(output_dir: Path, study: str, name: str, seed: int) -> Path:
    slug = name.lower().replace(", ", "-").replace(" ", "")
    return output_dir / study / f"{slug}-seed{seed}"


def train(study_name: str, name: str, seed: int, output_dir: Path, dataset: str, more_flags: list[str]) -> None:
    """Trains and measures one run, unless that was done."""
    study, folder = STUDIES[study_name], run_folder(output_dir, study_name, name, seed)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if not (folder / "model.safetensors").exists():
        flags = {"dataset_name": dataset, "output_dir": folder, "seed": seed, "resume_from_checkpoint": "last"}
        pairs = [part for each in {**flags, **study.runs[name]}.items() for part in (f"--{each[0]}", as_text(each[1]))]
        command = [sys.executable, SCRIPTS / "train_rqvae.py", SCRIPTS / "configs" / f"{study.config}.json"]
        command += [*pairs, *more_flags]
        run(command, folder.with_suffix(".log"), environment, cpu_seconds=folder.with_suffix(".cpu.json"))
    if not (folder / "evaluation.json").exists():
        command = [sys.executable, SCRIPTS / "evaluate.py", "rqvae", folder, "--dataset_name", dataset]
        command += [*study.evaluation, "--output", folder / "evaluation.json"]
        run(command, folder.with_suffix(".evaluation.log"), environment)
    print(f"{study_name}: {name}, seed {seed}: done", flush=True)


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str).strip('"')


def run(command: list, log: Path, environment: dict[str, str], cpu_seconds: Path | None = None) -> None:
    """Runs a command to its end; `cpu_seconds` adds up what all attempts that came to an end took."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(list(map(str, command)), stdout=file, stderr=subprocess.STDOUT, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if cpu_seconds is not None:
        before = json.loads(cpu_seconds.read_text()) if cpu_seconds.exists() else 0.0
        cpu_seconds.write_text(json.dumps(before + usage.ru_utime + usage.ru_stime))
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} failed with {process.returncode}, see {log}.")


def collect(study_name: str, name: str, seed: int, output_dir: Path) -> dict[str, Any] | None:
    """What is known of a run, or `None` where it is not finished."""
    folder = run_folder(output_dir, study_name, name, seed)
    if not (folder / "evaluation.json").exists():
        return None
    evaluation = json.loads((folder / "evaluation.json").read_text())
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    config = json.loads((folder / "config.json").read_text())
    errors = {entry["step"]: entry["eval_reconstruction_loss"] for entry in history if "eval_loss" in entry}
    last = max(errors)
    late = max(step for step in errors if step <= 0.8 * last)
    height, width = (config["image_size"] // 2 ** (len(config["channel_multiplier"]) - 1),) * 2
    cpu_seconds = folder.with_suffix(".cpu.json")
    return {
        "study": study_name,
        "name": name,
        "seed": seed,
        "changes": STUDIES[study_name].runs[name],
        "steps": last,
        "cpu_minutes": json.loads(cpu_seconds.read_text()) / 60 if cpu_seconds.exists() else None,
        "bits": height * width * config["code_depth"] * math.log2(config["codebook_size"]),
        "validation_error": errors,
        "fall_over_last_fifth": 1 - errors[last] / errors[late],
        "metrics": evaluation["metrics"],
        "depths": evaluation["depths"],
    }


def report(output_dir: Path, docs: Path, dataset: str | None) -> None:
    collected = [
        collect(study_name, name, seed, output_dir)
        for study_name, study in STUDIES.items()
        for name in study.runs
        for seed in SEEDS
    ]
    results = [each for each in collected if each is not None]
    if not results:
        raise ValueError(f"`--output_dir` must hold finished runs, got '{output_dir}'.")
    (docs / "results").mkdir(parents=True, exist_ok=True)
    (docs / "images").mkdir(parents=True, exist_ok=True)
    (docs / "results" / "rate_distortion.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for study_name in STUDIES:
        rows = [each for each in results if each["study"] == study_name]
        if rows:
            print(f"\n{study_name}\n\n{table(rows)}")
            plot(rows, docs / "images" / f"rate-distortion-{study_name}.png")
    sheet(output_dir, dataset or STUDIES["emoji-32"].dataset, docs / "images" / "rate-distortion-sheet.png")
    missing = len(collected) - len(results)
    if missing:
        print(f"\n{missing} of {len(collected)} runs are not finished.")


def table(results: list[dict[str, Any]]) -> str:
    """A row for each kind of run: the mean of its seeds, and behind it each seed's figure."""
    lines = [
        "| codes | bits | MSE x 1000 | PSNR | codes used | Fréchet distance | fall at the end | CPU minutes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(each["name"] for each in results):
        runs = [each for each in results if each["name"] == name]
        metrics = [each["metrics"] for each in runs]
        distance = "frechet_distance_efficientnet_lite0"
        cells = [
            name,
            f"{runs[0]['bits']:.0f}",
            spread([1000 * each["mse"] for each in metrics], 3),
            spread([each["psnr"] for each in metrics], 2),
            spread([each["code_usage"] for each in metrics], 2),
            spread([each[distance] for each in metrics], 2) if distance in metrics[0] else "",
            spread([100 * each["fall_over_last_fifth"] for each in runs], 1) + " %",
            spread([each["cpu_minutes"] for each in runs if each["cpu_minutes"] is not None] or [math.nan], 1),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float], digits: int) -> str:
    each = ", ".join(f"{value:.{digits}f}" for value in values)
    return f"{statistics.mean(values):.{digits}f} ({each})" if len(values) > 1 else each


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Mean squared error against bits per picture, a point for each run."""
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    names = dict.fromkeys(each["name"] for each in results)
    for number, name in enumerate(names):
        runs = [each for each in results if each["name"] == name]
        marker = "osD^v<>Pp*X"[number % 11]
        errors = [each["metrics"]["mse"] for each in runs]
        axes.plot([each["bits"] for each in runs], errors, marker, markersize=7, alpha=0.8, label=name)
    axes.set(xscale="log", yscale="log", xlabel="bits per picture", ylabel="mean squared error of held-out pictures")
    axes.set_title(f"{results[0]['study']}: one point per seed")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def sheet(output_dir: Path, dataset: str, path: Path) -> None:
    """Held-out pictures, and their reconstructions without and with adversarial and perceptual losses (Figure 24)."""
    names = ["4x4x1", "4x4x4", "4x4x1, adversarial", "4x4x4, adversarial"]
    folders = [run_folder(output_dir, "emoji-32", name, SEEDS[0]) for name in names]
    if not all((folder / "model.safetensors").exists() for folder in folders):
        return print("\nNo sheet: it needs " + ", ".join(names) + f" with seed {SEEDS[0]}.")
    rows = select_rows(datasets.load_dataset(dataset)["test_combos"], {"tone": "default"})
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:SHEET_ROWS].tolist()
    models = [RQVAEModel.from_pretrained(folder).eval() for folder in folders]
    pictures = PictureDataset(rows, models[0].config.image_size, training=False)
    pixel_values = torch.stack([pictures[index]["pixel_values"] for index in chosen])
    columns = [pixel_values, *(model.decode(model.encode(pixel_values)) for model in models)]
    columns = [[to_pil_image(picture) for picture in to_uint8((column + 1) / 2)] for column in columns]
    tiles = list(zip(*columns, strict=True))
    picture_grid(tiles, [["original", *names]] * len(tiles), tile_size=160).save(path)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--output_dir", type=Path, required=True, help="folder of the runs")
    trains = commands.add_parser("train", parents=[common], help="train and measure what is missing")
    trains.add_argument("study", choices=sorted(STUDIES))
    trains.add_argument("--jobs", type=int, default=1, help="runs at a time (%(default)s)")
    trains.add_argument("--dataset_name", help="folder of the pictures (data/STUDY)")
    trains.add_argument("--only", action="append", metavar="NAME", help="this kind of run; may be repeated")
    trains.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    trains.epilog = "Further flags are handed to scripts/train_rqvae.py."
    reports = commands.add_parser("report", parents=[common], help="table and pictures of what is there")
    reports.add_argument("--docs", type=Path, default=Path("docs"))
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
    runs = [(name, seed) for seed in options.seeds for name in options.only or study.runs]
    dataset = options.dataset_name or study.dataset
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda each: train(options.study, *each, options.output_dir, dataset, more_flags), runs))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, RuntimeError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
