# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Figures of merit over sampling settings as a chart (Figures 19 to 22)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from .sheets import figure_picture

LOWER_IS_BETTER = ("fid", "frechet_distance", "loss", "mse")


def lower_is_better(metric: str) -> bool:
    """Whether a smaller figure is a better one, by its name, also in an evaluation of a training (`eval_loss`)."""
    return any(part in metric for part in LOWER_IS_BETTER)


def sweep_chart(rows: Sequence[Mapping[str, Any]], settings: Sequence[str], metrics: Sequence[str]) -> Image.Image:
    """A panel for each metric, over the setting of the most values; a line for each combination of the others.

    The best point of each panel is ringed.

    Args:
        rows (`Sequence[Mapping[str, Any]]`): for each combination its settings and metrics.
        settings (`Sequence[str]`): names of the settings that vary.
        metrics (`Sequence[str]`): names of the metrics to show.

    Returns:
        `PIL.Image.Image`.

    Raises:
        `ImportError`: matplotlib is not installed.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('The chart needs matplotlib, which `pip install "rq_hf[eval]"` installs.') from error
    across = max(settings, key=lambda name: len({row[name] for row in rows}))
    others = [name for name in settings if name != across]
    places = {value: place for place, value in enumerate(sorted({row[across] for row in rows}, key=_place))}
    lines: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in rows:
        lines.setdefault(tuple(row[name] for name in others), []).append(row)
    figure = Figure(figsize=(5.4 * len(metrics), 4.4), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    colours = colormaps["viridis"](np.linspace(0, 0.9, len(lines)))
    for axes, metric in zip(panels, metrics, strict=True):
        for (values, points), colour in zip(lines.items(), colours, strict=True):
            points = sorted(points, key=lambda row: places[row[across]])
            label = ", ".join(f"{name} {value}" for name, value in zip(others, values, strict=True))
            line = [places[row[across]] for row in points], [row[metric] for row in points]
            axes.plot(*line, marker="o", color=colour, label=label)
        best = (min if lower_is_better(metric) else max)(rows, key=lambda row: row[metric])
        axes.plot(places[best[across]], best[metric], "o", markersize=14, markerfacecolor="none", color="crimson")
        axes.set_xticks(list(places.values()), [str(value) for value in places])
        axes.set(xlabel=across, ylabel=metric.replace("_", " "))
        axes.grid(alpha=0.3)
    if others:
        panels[-1].legend()
    return figure_picture(figure)


def _place(value: Any) -> tuple[bool, bool, Any]:
    """For sorting: numbers, then settings per depth, which are text, then none."""
    return value is None, isinstance(value, str), 0 if value is None else value
