# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a card's metadata says of evaluations and of the training's footprint."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

METRIC_NAMES = {
    "clip_score": "CLIP score",
    "concept_top1": "Prompt accuracy, concept top-1",
    "concept_top5": "Prompt accuracy, concept top-5",
    "fid": "FID",
    "frechet_distance_efficientnet_lite0": "Frechet distance (EfficientNet-Lite0)",
    "inception_score": "Inception Score",
    "lpips": "LPIPS",
    "psnr": "PSNR (dB)",
    "rfid": "rFID",
    "ssim": "SSIM",
    "style_accuracy": "Prompt accuracy, style",
}


@dataclass(frozen=True)
class TrainingFootprint:
    """
    What the training took.

    Args:
        hours (`float`): wall-clock time in hours.
        hardware (`str`): what it ran on, all devices together.
        power_watts (`float`, *optional*): mean power draw of that hardware in watts.
        carbon_intensity (`float`, *optional*): emissions of the electricity in kg CO2eq per kWh.
        location (`str`, *optional*): where it ran.
    """

    hours: float
    hardware: str
    power_watts: float | None = None
    carbon_intensity: float | None = None
    location: str | None = None

    def __post_init__(self):
        for name in ("hours", "power_watts", "carbon_intensity"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"`{name}` must be a finite number of at least 0, got {value}.")

    @property
    def energy(self) -> float | None:
        """Estimated energy in kWh, where the power draw is known."""
        return None if self.power_watts is None else self.hours * self.power_watts / 1000

    @property
    def emissions(self) -> float | None:
        """Estimated emissions in kg CO2eq, where power draw and carbon intensity are known."""
        return None if self.energy is None or self.carbon_intensity is None else self.energy * self.carbon_intensity


def evaluation_results(
    evaluation: Mapping[str, Any] | str | Path, task_type: str = "text-to-image"
) -> list[EvalResult]:
    r"""Evaluation results for the metadata of a card.

    Args:
        evaluation (`dict`, `str` or `Path`):
            What `scripts/evaluate.py` wrote, or the path of its JSON file: `{"dataset": {"name", "split", ...},
            "metrics": {...}, "command": ...}`. The data set may have `type` (its Hub id), `config` and `revision`.
            Metrics are numbers, or dictionaries and lists of them, which become `name.key` and `name.1`, `name.2`, ...
        task_type (`str`, defaults to `"text-to-image"`): task of the model, a pipeline tag of the Hub.

    Returns:
        `list[EvalResult]`, one per number.

    Raises:
        `ValueError`: no data set name, no metrics, or a metric that is not a finite number.
    """
    evaluation = read_evaluation(evaluation)
    dataset, metrics = evaluation.get("dataset") or {}, evaluation.get("metrics")
    if not isinstance(dataset, Mapping) or not dataset.get("name"):
        raise ValueError(f"`evaluation` must have a `dataset` with a `name`, got {dataset!r}.")
    if not isinstance(metrics, Mapping) or not metrics:
        raise ValueError(f"`evaluation` must have a non-empty dictionary of `metrics`, got {metrics!r}.")
    return [
        EvalResult(
            task_type=task_type,
            dataset_type=dataset.get("type") or dataset["name"],
            dataset_name=dataset["name"],
            dataset_config=dataset.get("config"),
            dataset_split=dataset.get("split"),
            dataset_revision=dataset.get("revision"),
            metric_type=name,
            metric_name=METRIC_NAMES.get(name, name.replace("_", " ")),
            metric_value=value,
        )
        for name, value in _flatten(metrics)
    ]


def read_evaluation(evaluation: Mapping[str, Any] | str | Path) -> Mapping[str, Any]:
    """An evaluation as it is, or of a JSON file.

    Raises:
        `ValueError`: a file of something else.
    """
    if isinstance(evaluation, (str, Path)):
        path = evaluation
        try:
            evaluation = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:  # no JSON, or no text
            raise ValueError(f"`evaluation` must be a file of JSON, got '{path}': {error}") from error
    if not isinstance(evaluation, Mapping):
        raise ValueError(f"`evaluation` must be a dictionary, got {type(evaluation).__name__}.")
    return evaluation


def _flatten(metrics: Mapping[str, Any], prefix: str = "") -> list[tuple[str, int | float]]:
    """Numbers of nested metrics under dotted names, as plain Python numbers."""
    flat = []
    for key, value in metrics.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat += _flatten(value, f"{name}.")
        elif isinstance(value, (list, tuple)):
            flat += _flatten({str(index): item for index, item in enumerate(value, start=1)}, f"{name}.")
        elif isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value):
            flat.append((name, int(value) if isinstance(value, Integral) else float(value)))
        else:
            raise ValueError(f"`metrics` must hold finite numbers, got {value!r} for {name!r}.")
    return flat


def emissions_metadata(footprint: TrainingFootprint) -> dict[str, Any]:
    """The emissions as the Hub wants them in a card's head, in grams of CO2eq."""
    metadata = {
        "emissions": round(footprint.emissions * 1000, 3),
        "source": "hours x power draw x carbon intensity",
        "training_type": "pre-training",
        "geographical_location": footprint.location,
        "hardware_used": footprint.hardware,
    }
    return {name: value for name, value in metadata.items() if value is not None}
