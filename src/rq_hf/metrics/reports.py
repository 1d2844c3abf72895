# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Results as files and tables."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table, numbers with four significant digits.

    Args:
        header (`Sequence[str]`): names of the columns.
        rows (`Sequence[Sequence]`): cells of each row.
    """
    texts = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *texts])


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Writes a JSON file as a whole or not at all.

    Args:
        path (`Path`): the file, replaced if there is one.
        results (`dict`): what JSON can hold.
    """
    text = json.dumps(results, indent=2, ensure_ascii=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
