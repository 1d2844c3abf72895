# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Results as files and tables."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.repocard_data import eval_results_to_model_index

from ..cards import evaluation_results


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table, floats with four significant digits.

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
    write_text(path, json.dumps(results, indent=2, ensure_ascii=False) + "\n")


def model_index(results: Mapping[str, Any], model_name: str, task_type: str = "text-to-image") -> str:
    """Results as the `model-index` of a model card, YAML for its head, of the figures that are finite: the PSNR of
    perfect reconstructions is not.

    Args:
        results (`Mapping[str, Any]`): what `scripts/evaluate.py` writes, see [`evaluation_results`].
        model_name (`str`): the model.
        task_type (`str`, defaults to `"text-to-image"`): a pipeline tag of the Hub.
    """
    finite = {
        name: value
        for name, value in results["metrics"].items()
        if not (isinstance(value, float) and not math.isfinite(value))
    }
    index = eval_results_to_model_index(model_name, evaluation_results({**results, "metrics": finite}, task_type))
    return yaml.safe_dump({"model-index": index}, sort_keys=False, allow_unicode=True)


def write_text(path: Path, text: str) -> None:
    """Writes a file as a whole or not at all.

    Args:
        path (`Path`): the file, replaced if there is one.
        text (`str`): its content.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place at the end, or is deleted where something fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
