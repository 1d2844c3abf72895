# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Results of an evaluation as JSON and as Markdown tables."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def markdown_report(results: Mapping[str, Any]) -> str:
    """Formats `results["metrics"]`, and each list of rows with equal keys in `results`, as Markdown tables."""
    metrics = [{"metric": name, "value": value} for name, value in results["metrics"].items()]
    tables = []
    for rows in (metrics, *(value for value in results.values() if isinstance(value, list))):
        cells = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row.values()] for row in rows]
        lines = [list(rows[0]), ["---"] * len(rows[0]), *cells]
        tables.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(tables)


def write_report(results: Mapping[str, Any], output: str | Path) -> None:
    """Writes results as JSON to `output` and as Markdown tables beside it (`.md`); makes the folder if needed."""
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".json").write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    output.with_suffix(".md").write_text(markdown_report(results) + "\n", encoding="utf-8")
