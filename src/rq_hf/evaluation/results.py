# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Runs a command of `scripts/evaluate.py` and reports: a table, JSON, and Markdown for a model card."""

import argparse
import datetime
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import InitProcessGroupKwargs, PartialState

from .. import __version__, metrics
from .arguments import parse_arguments
from .likelihood import evaluate_likelihood
from .prompts import COPY_PSNR, SHIFT, evaluate_prompts
from .reconstructions import evaluate_reconstructions
from .reference import evaluate_statistics
from .rqvae import evaluate_rqvae
from .samples import evaluate_samples, evaluate_sweep
from .shards import finish

HIT_NAMES = {"concept_top1": "concept top-1", "concept_top5": "concept top-5", "style_accuracy": "style"}
FLOOR_NAMES = {
    "other_style_copy": "copy of another style",
    "other_styles_mean": "mean of the other styles",
    "shifted": f"real picture, {SHIFT} px lower",
    "chance": "chance",
}
ALONE = {"rqvae": evaluate_rqvae, "prompts": evaluate_prompts, "likelihood": evaluate_likelihood}
SHARED = {
    "reconstructions": evaluate_reconstructions,
    "statistics": evaluate_statistics,
    "samples": evaluate_samples,
    "sweep": evaluate_sweep,
}
TASKS = {"rqvae": "image-to-image", "reconstructions": "image-to-image"}  # others: text-to-image
PATIENCE = datetime.timedelta(hours=12)  # of processes that wait for a slower one


def run_command(argv: Sequence[str], description: str) -> None:
    """Measures and writes what the command line asks for, and prints a table.

    Args:
        argv (`Sequence[str]`): the command line.
        description (`str`): of the script, for its help.

    Raises:
        `ValueError`, `OSError`, `ImportError`: bad input, or what is needed and not there.
    """
    arguments = parse_arguments(argv, description)
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    if arguments.command in ALONE:
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        if processes > 1:
            raise ValueError(f"`{arguments.command}` runs in one process, got {processes}.")
        report(arguments, argv, settings, ALONE[arguments.command](arguments))
        return
    state = PartialState(cpu=arguments.device == "cpu", **InitProcessGroupKwargs(timeout=PATIENCE).to_kwargs())
    measured = SHARED[arguments.command](arguments, state)
    if measured is not None:
        report(arguments, argv, settings, measured)
    finish(state)


def report(
    arguments: argparse.Namespace, argv: Sequence[str], settings: dict[str, Any], measured: dict[str, Any]
) -> None:
    """Writes the results and prints them as tables."""
    results = {
        "dataset": {**dataset_of(arguments, measured), "num_pictures": measured.pop("num_pictures")},
        "model": getattr(arguments, "model", None),
        **measured,
        "command": shlex.join(["python", "scripts/evaluate.py", *argv]),
        "settings": {**settings, "rq_hf_version": __version__, "torch_version": torch.__version__},
    }
    text = tables(results)
    if arguments.output is not None and arguments.command != "statistics":
        index = metrics.model_index(
            results, Path(os.path.abspath(arguments.model)).name, TASKS.get(arguments.command, "text-to-image")
        )
        metrics.write_json(arguments.output, results)
        metrics.write_text(arguments.output.with_suffix(".md"), f"{text}\n\n```yaml\n{index}```\n")
    print(text)


def dataset_of(arguments: argparse.Namespace, measured: dict[str, Any]) -> dict[str, Any]:
    """The data set that was measured, or that of the reference statistics."""
    reference = measured.get("reference") or {}
    if arguments.dataset_name is None:
        name = reference.get("dataset_name") or reference.get("dataset") or "generated pictures"
        return {
            "name": name,
            "config": reference.get("dataset_config_name"),
            "split": reference.get("split"),
            "filter": reference.get("filter", ""),
        }
    return {
        "name": arguments.dataset_name,
        "config": arguments.dataset_config_name,
        "split": arguments.split,
        "filter": arguments.filter,
    }


def tables(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    if "rows" in results:
        rows = results["rows"]
        return metrics.markdown_table(list(rows[0]), [list(row.values()) for row in rows])
    if "details" in results:
        facts = {"pictures": results["dataset"]["num_pictures"], **results["protocol"]}
        return metrics.markdown_table(["statistics", ""], list(facts.items()))
    if "protocol" in results:
        rows = list(results["metrics"].items())
        if floor := dict(results.get("floor", {})):
            count = floor.pop("num_pictures")
            rows += [(f"{name} of {count} real pictures: the floor", value) for name, value in floor.items()]
        return metrics.markdown_table(["metric", ""], rows)
    if "depths" not in results:
        return prompt_tables(results)
    parts = [metrics.markdown_table(["metric", "all depths"], list(results["metrics"].items()))]
    halves = dict(results["halves"])
    if halves:
        header = [
            f"halves of {halves.pop('num_pictures')} pictures",
            "real from real: the floor",
            "reconstructed from real",
        ]
        parts.append(metrics.markdown_table(header, [(name, *values.values()) for name, values in halves.items()]))
    depths = [list(row.values()) for row in results["depths"]]
    parts.append(metrics.markdown_table(list(results["depths"][0]), depths))
    return "\n\n".join(parts)


def prompt_tables(results: dict[str, Any]) -> str:
    """Prompt accuracy, by pixels and by the features of nets, and copies."""
    parts = []
    for name, judged in {"": results, **results["features"]}.items():
        lines = [("model", results["dataset"]["num_pictures"], *judged["metrics"].values())]
        lines += [(FLOOR_NAMES[floor], *values.values()) for floor, values in judged["floors"].items()]
        parts.append(metrics.markdown_table([f"by {name}" if name else "", "pictures", *HIT_NAMES.values()], lines))
    if (found := results.get("copies")) is not None:
        header = [f"copies of {found['num_pictures']} pictures of {found['split']}", "part of the drawn ones"]
        parts.append(metrics.markdown_table(header, [(name, found[name]) for name in COPY_PSNR]))
    return "\n\n".join(parts)
