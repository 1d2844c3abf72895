# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Results of an evaluation as JSON and as Markdown tables, in files that are whole or absent."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from PIL import Image

from ..files import write_whole


def markdown_report(results: Mapping[str, Any]) -> str:
    """Formats `results["metrics"]`, and each list of rows with equal keys in `results`, as Markdown tables."""
    metrics = [{"metric": name, "value": value} for name, value in results["metrics"].items()]
    tables = []
    for rows in (metrics, *(value for value in results.values() if isinstance(value, list))):
        cells = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row.values()] for row in rows]
        lines = [list(rows[0]), ["---"] * len(rows[0]), *cells]
        tables.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(tables)


def write_report(results: Mapping[str, Any], output: str | Path, sheet: Image.Image | None = None) -> None:
    """
    Writes results as JSON to `output`, and beside it as Markdown tables (`.md`) and with a sheet of pictures (`.png`).
    No file appears before all could be written.
    """
    contents = {".md": markdown_report(results) + "\n"}
    contents[".json"] = json.dumps(results, indent=2, ensure_ascii=False) + "\n"
    with ExitStack() as files:
        for suffix, text in contents.items():
            unfinished = files.enter_context(write_whole(Path(output).with_suffix(suffix)))
            unfinished.write_text(text, encoding="utf-8")
        if sheet is not None:
            sheet.save(files.enter_context(write_whole(Path(output).with_suffix(".png"))))
