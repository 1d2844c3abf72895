# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
r"""The study of selection: what rejection sampling, re-ranking and guidance buy, and what they cost (App. B.4, B.5).

    python scripts/selection_study.py train fashion --output_dir runs
    python scripts/selection_study.py train emoji --output_dir runs
    python scripts/selection_study.py report --output_dir runs

`fashion` trains classifier A and classifier B, of two nets on two halves of the real pictures, and measures a
class-conditional pipeline at several acceptance rates: A selects, B judges. `emoji` trains an image-text ranker and
measures prompt accuracy, which is of pixels and knows nothing of the ranker, with 1 and 16 candidates and over
guidance scales. `train` starts the scripts of this folder, one thread each, goes on where it was stopped, and leaves a
record of each run in docs/results/selection/; what has one is done. `report` prints the tables and draws
docs/images/selection*.png. docs/results/selection.md discusses them.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
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

from rq_hf import CLIPRanker, ImageClassifier, RQImageGenerationPipeline
from rq_hf.metrics import draw_pictures, markdown_table
from rq_hf.picture_grid import picture_grid

STUDY = "selection"
RECORDS = Path("results")
FASHION_MODEL = Path("fashion32-rqt-4x4x4-1M")
EMOJI_MODEL = SCRIPTS.parent / "checkpoints" / "emoji-64"
DATASETS = {"fashion": "data/fashion-mnist", "emoji": "data/emoji-64"}
CLASSIFIERS = {
    "classifier-a": {"architecture": "resnet", "half": 0, "seed": 0, "max_steps": 800},
    "classifier-b": {"architecture": "convnext", "half": 1, "seed": 1, "max_steps": 2500, "learning_rate": 2e-3},
}
RATES = (1, 0.5, 0.25, 0.05)
CANDIDATES = (1, 16)
SCALES = (1.5, 2, 3)  # a scale of 1 is that of one candidate
NUM_PICTURES = 2000  # more than the 1,280 features of the distance
NUM_PROMPTS = 256
SEEDS = (0,)
DISTANCE = "frechet_distance_efficientnet_lite0"
TRAINING = {
    "validation_split": "validation",
    "per_device_train_batch_size": 64,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 50,
    "weight_decay": 0.01,
    "logging_steps": 50,
    "save_total_limit": 1,
    "report_to": "none",
    "use_cpu": True,
    "resume_from_checkpoint": "last",
}
CLASSIFIER_TRAINING = {**TRAINING, "label_column": "label", "save_steps": 400}
RANKER_TRAINING = {
    **TRAINING,
    "caption_column": "captions",
    "filter": "tone=default",
    "transform": "emoji",
    "num_caption_variants": 1,
    "patch_size": 16,
    "max_steps": 1000,
    "save_steps": 500,
}
SHEET_PROMPTS = (
    "red heart, twemoji style",
    "green apple, noto style",
    "pizza, emojione style",
    "rocket, noto style",
    "castle, noto style",
    "alarm clock, fluent style",
)
SHEET_PICTURES = 4


def all_runs(part: str | None = None, seeds: Iterable[int] = SEEDS) -> list[Run]:
    """The runs of "fashion" or "emoji", or of both, in the order in which they need each other."""
    fashion = [Run(STUDY, name, flags["seed"]) for name, flags in CLASSIFIERS.items()]
    fashion += [Run(STUDY, f"rate-{rate:g}", seed) for seed in seeds for rate in RATES]
    emoji = [Run(STUDY, "ranker", 0)]
    emoji += [Run(STUDY, f"candidates-{number}", seed) for seed in seeds for number in CANDIDATES]
    emoji += [Run(STUDY, f"guidance-{scale:g}", seed) for seed in seeds for scale in SCALES]
    return {"fashion": fashion, "emoji": emoji, None: fashion + emoji}[part]


def folder_of(name: str, output_dir: Path) -> Path:
    """Where a classifier or the ranker is."""
    seed = CLASSIFIERS[name]["seed"] if name in CLASSIFIERS else 0
    return output_dir / Run(STUDY, name, seed).path


def train(run: Run, output_dir: Path, dataset: str, model: Path, more_flags: Sequence[str] = ()) -> dict[str, Any]:
    """Does one run; returns its record.

    Args:
        run: trains a classifier or the ranker, or measures pictures.
        output_dir: folder of the runs.
        dataset: of the real pictures.
        model: the pipeline to measure.
        more_flags: for what measures pictures, after the study's own.
    """
    if run.name in CLASSIFIERS:
        flags = {"dataset_name": dataset, **CLASSIFIER_TRAINING, **CLASSIFIERS[run.name]}
        return train_selector(run, "train_classifier.py", flags, output_dir)
    if run.name == "ranker":
        flags = {"dataset_name": dataset, "seed": run.seed, **RANKER_TRAINING}
        return train_selector(run, "train_ranker.py", flags, output_dir)
    kind, _, number = run.name.rpartition("-")
    if kind == "rate":
        return measure_rate(run, float(number), output_dir, dataset, model, more_flags)
    options = {"guidance_scale": float(number)} if kind == "guidance" else {}
    if kind == "candidates" and int(number) > 1:
        options = {"num_candidates": int(number), "ranker": folder_of("ranker", output_dir)}
    return measure_prompts(run, options, output_dir, dataset, model, more_flags)


def train_selector(run: Run, script: str, flags: dict[str, Any], output_dir: Path) -> dict[str, Any]:
    """Trains a classifier or ranker; its record has its figures of held-out pictures."""
    folder, cpu_seconds = output_dir / run.path, run.file(output_dir, ".cpu.json")
    if not (folder / "eval_results.json").exists():
        start(script, [], {**flags, "output_dir": folder}, run.file(output_dir, ".log"), cpu_seconds)
    results = json.loads((folder / "eval_results.json").read_text(encoding="utf-8"))
    figures = {name.removeprefix("eval_"): value for name, value in results.items()}
    return {
        "steps": log_history(folder)[-1]["step"],
        "cpu_minutes": cpu_minutes(cpu_seconds),
        "metrics": {name: figures[name] for name in ("accuracy", "retrieval", "loss") if name in figures},
    }


def measure_rate(
    run: Run, rate: float, output_dir: Path, dataset: str, model: Path, more_flags: Sequence[str]
) -> dict[str, Any]:
    """Pictures that classifier A selects at a rate, judged by classifier B and compared with real ones."""
    reference = output_dir / STUDY / "fashion-test.safetensors"
    log = run.file(output_dir, ".log")
    if not reference.exists():
        flags = {"dataset_name": dataset, "split": "test", "feature_extractor": "efficientnet_lite0"}
        config = json.loads((model / "rqvae" / "config.json").read_text(encoding="utf-8"))
        flags |= {name: config[name] for name in ("image_size", "num_channels")}
        start("evaluate.py", ["statistics", "--keep_features"], {**flags, "output": reference}, log)
    flags = {
        "reference": reference,
        "feature_extractor": "efficientnet_lite0",
        "num_pictures": NUM_PICTURES,
        "batch_size": 50,
        "seed": run.seed,
        "classifier": folder_of("classifier-a", output_dir),
        "acceptance_rate": rate,
        "judge": folder_of("classifier-b", output_dir),
    }
    return measured(run, ["samples", model, "--precision_recall"], flags, output_dir, more_flags)


def measure_prompts(
    run: Run, options: dict[str, Any], output_dir: Path, dataset: str, model: Path, more_flags: Sequence[str]
) -> dict[str, Any]:
    """Prompt accuracy of training prompts, the same for all runs of a seed."""
    flags = {"dataset_name": dataset, "split": "train", "num_prompts": NUM_PROMPTS, "seed": run.seed, **options}
    return measured(run, ["prompts", model], flags, output_dir, more_flags)


def measured(
    run: Run, arguments: list[Any], flags: dict[str, Any], output_dir: Path, more_flags: Sequence[str]
) -> dict[str, Any]:
    """What scripts/evaluate.py says, as a record."""
    output = run.file(output_dir, ".json")
    if not output.exists():
        log = run.file(output_dir, ".log")
        start("evaluate.py", arguments, {**flags, "output": output}, log, more_flags=more_flags)
    results = json.loads(output.read_text(encoding="utf-8"))
    return {
        "model": Path(results["model"]).name,
        "num_pictures": results["dataset"]["num_pictures"],
        "sampling": {
            name: Path(value).name if name in ("ranker", "classifier") else value
            for name, value in results["sampling"].items()
        },
        "metrics": results["metrics"],
    }


def report(output_dir: Path, docs: Path, model: Path) -> None:
    """Prints the tables and draws the plot, and the sheets as far as their models are there."""
    records = all_records(docs / RECORDS)
    if not records:
        raise ValueError(f"`--docs` must hold records of finished runs, got none in '{docs / RECORDS / STUDY}'.")
    for table in (selectors_table(records), rates_table(records), prompts_table(records)):
        if table:
            print(f"\n{table}")
    images = docs / "images"
    images.mkdir(parents=True, exist_ok=True)
    plot(records, images / "selection.png")
    sheet(rates_sheet, [model, folder_of("classifier-a", output_dir)], images / "selection-rates.png")
    sheet(ranked_sheet, [EMOJI_MODEL, folder_of("ranker", output_dir)], images / "selection-ranked.png")
    missing = [run for run in all_runs() if read_record(run, docs / RECORDS) is None]
    if missing:
        print(f"\n{len(missing)} of {len(all_runs())} runs are not finished.")


def all_records(records: Path) -> list[dict[str, Any]]:
    """What there is, of all seeds, in the order of the runs."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((records / STUDY).glob("*-seed*.json"))]
    names = [run.name for run in all_runs()]
    return sorted(found, key=lambda record: (names.index(record["name"]), record["seed"]))


def selectors_table(records: list[dict[str, Any]]) -> str:
    """What the classifiers and the ranker say of held-out pictures."""
    rows = []
    for record in records:
        if record["name"] in (*CLASSIFIERS, "ranker"):
            (name, value) = next((key, record["metrics"][key]) for key in ("accuracy", "retrieval")
                                 if key in record["metrics"])  # fmt: skip
            minutes = record["cpu_minutes"]
            cells = [record["name"], str(record["seed"]), str(record["steps"]), f"{name} {value:.3f}"]
            rows.append([*cells, "not counted" if minutes is None else f"{minutes:.1f}"])
    header = ["", "seed", "steps", "held-out pictures", "CPU minutes"]
    return markdown_table(header, rows) if rows else ""


def rates_table(records: list[dict[str, Any]]) -> str:
    """A row for each acceptance rate."""
    header = ["acceptance rate", "pictures drawn", "kept", "accuracy by B", "probability by A", "precision", "recall",
              "Fréchet distance"]  # fmt: skip
    rows = []
    for name, runs in by_name(of_kind(records, "rate")).items():
        rate, count = float(name.rpartition("-")[2]), runs[0]["num_pictures"]
        columns = [("accuracy", 4), ("selection_score", 3), ("precision", 3), ("recall", 3), (DISTANCE, 1)]
        cells = [spread([each["metrics"][key] for each in runs], digits) for key, digits in columns]
        rows.append([f"{rate:g}", f"{count / rate:,.0f}", f"{count:,}", *cells])
    return markdown_table(header, rows) if rows else ""


def prompts_table(records: list[dict[str, Any]]) -> str:
    """A row for each number of candidates and each guidance scale."""
    header = ["candidates", "guidance", "prompts", "concept top-1", "concept top-5", "style"]
    rows = []
    for name, runs in by_name([*of_kind(records, "candidates"), *of_kind(records, "guidance")]).items():
        kind, _, number = name.rpartition("-")
        cells = [number, "1"] if kind == "candidates" else ["1", number]
        hits = ("concept_top1", "concept_top5", "style_accuracy")
        cells += [str(runs[0]["num_pictures"]), *(spread([each["metrics"][key] for each in runs], 3) for key in hits)]
        rows.append(cells)
    return markdown_table(header, rows) if rows else ""


def of_kind(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The records whose name is the kind and a number."""
    return [record for record in records if record["name"].rpartition("-")[0] == kind]


def plot(records: list[dict[str, Any]], path: Path) -> None:
    """Accuracy and variety over acceptance rates; prompt accuracy over candidates and guidance."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    panels = figure.subplots(1, 4)
    rates = of_kind(records, "rate")
    lines(panels[0], rates, {"accuracy": "accuracy by B", "precision": "precision", "recall": "recall"})
    lines(panels[1], rates, {DISTANCE: "Fréchet distance to real pictures"})
    hits = {"concept_top1": "concept top-1", "concept_top5": "concept top-5", "style_accuracy": "style"}
    lines(panels[2], of_kind(records, "candidates"), hits)
    single = [{**record, "name": "guidance-1"} for record in records if record["name"] == "candidates-1"]
    lines(panels[3], [*single, *of_kind(records, "guidance")], hits)
    names = ("acceptance rate", "acceptance rate", "candidates", "guidance scale")
    for axes, name in zip(panels, names, strict=True):
        axes.set_xlabel(name)
        axes.grid(True, alpha=0.3)
    figure.savefig(path, dpi=110)


def lines(axes: Axes, records: list[dict[str, Any]], metrics: dict[str, str]) -> None:
    """A line for each metric, over the numbers in the records' names; the mean of seeds."""
    kinds = by_name(records)
    for metric, label in metrics.items():
        values = [sum(run["metrics"][metric] for run in runs) / len(runs) for runs in kinds.values()]
        axes.plot([name.rpartition("-")[2] for name in kinds], values, marker="o", label=label)
    axes.set_ylim(bottom=0)
    if kinds:
        axes.legend(fontsize=8)


def sheet(make: Callable[..., Image.Image], models: list[Path], path: Path) -> None:
    """Draws a sheet, or says what it lacks."""
    missing = [str(model) for model in models if not any(model.glob("*.json"))]
    if missing:
        return print(f"\nNo {path.name}: it needs {' and '.join(missing)}.")
    make(*models).save(path)


def rates_sheet(model: Path, classifier: Path) -> Image.Image:
    """The first two pictures of each class at each rate: those that were measured with seed 0."""
    pipe, selector = load(model), ImageClassifier(classifier)
    names = list(pipe.transformer.config.id2label.values())
    rows, captions = [], []
    for rate in RATES:
        options = {"classifier": selector, "acceptance_rate": rate}
        for start_index in (0, len(names)):
            indices = range(start_index, start_index + len(names))
            pictures, _ = draw_pictures(pipe, list(range(len(names))), indices, SEEDS[0], **options)
            rows.append([to_pil_image(picture) for picture in pictures])
        captions += ["", f"acceptance rate {rate:g}"]
    captions[1] += f": {', '.join(names)}"
    return picture_grid(rows, captions, tile_size=80)


def ranked_sheet(model: Path, ranker: Path) -> Image.Image:
    """Of 16 candidates of a prompt the first four, and the four that the ranker likes best."""
    pipe, scorer = load(model), CLIPRanker(ranker)
    rows, captions = [], []
    for index, prompt in enumerate(SHEET_PROMPTS):
        options = {"prompt": prompt, "candidate_batch_size": CANDIDATES[-1]}
        first, best = (
            pipe(num_images_per_prompt=count, generator=torch.Generator().manual_seed(index), **options, **selection)
            for count, selection in (
                (CANDIDATES[-1], {}),
                (SHEET_PICTURES, {"num_candidates": CANDIDATES[-1], "ranker": scorer}),
            )
        )
        rows.append([*first.images[:SHEET_PICTURES], *best.images])
        scores = ", ".join(f"{score:.2f}" for score in best.scores)
        captions.append(f"{prompt}: the first {SHEET_PICTURES} of {CANDIDATES[-1]}, and the best ({scores})")
    return picture_grid(rows, captions, tile_size=128)


def load(model: Path) -> RQImageGenerationPipeline:
    pipe = RQImageGenerationPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    add_arguments(common)
    common.add_argument(
        "--fashion_model", type=Path, metavar="DIR", help=f"class-conditional pipeline (OUTPUT_DIR/{FASHION_MODEL})"
    )
    trains = commands.add_parser(
        "train", parents=[common], help="train and measure what is missing", allow_abbrev=False
    )
    trains.add_argument("part", choices=sorted(DATASETS))
    trains.add_argument("--dataset_name", help="folder of the pictures (data/fashion-mnist, data/emoji-64)")
    trains.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of the pictures that are measured")
    trains.epilog = "Further flags are handed to scripts/evaluate.py."
    commands.add_parser("report", parents=[common], help="tables and pictures of what is there")
    options, more_flags = parser.parse_known_args(argv)
    model = options.fashion_model or options.output_dir / FASHION_MODEL
    if options.command == "report":
        if more_flags:
            parser.error(f"unrecognized arguments: {' '.join(more_flags)}")
        return report(options.output_dir, options.docs, model)
    dataset = options.dataset_name or DATASETS[options.part]
    model = model if options.part == "fashion" else EMOJI_MODEL
    perform(
        all_runs(options.part, options.seeds),
        options.docs / RECORDS,
        1,  # one after the other: pictures need what selects them
        lambda run: train(run, options.output_dir, dataset, model, more_flags),
    )


if __name__ == "__main__":
    end_with_children()
    try:
        main()
    except (ValueError, RuntimeError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
