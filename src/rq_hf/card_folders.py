# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Cards made from what a folder of weights says of itself, for a repository that has none."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from .card_metadata import evaluation_results
from .card_tables import evaluation_rows, table
from .cards import code_section, render_card, render_small_card
from .configuration_common import SAMPLING

WHAT_TELLS_THE_KIND = {
    "model_index.json": "pipeline",
    "config.json": "model",
    "adapter_config.json": "adapter",
    "tokenizer_config.json": "tokenizer",
}
MODELS = ("rqvae", "rq_transformer")  # their types and templates


def folder_kind(folder: str | Path) -> str:
    """ "pipeline", "model", "adapter" or "tokenizer".

    Raises:
        `ValueError`: none of them.
    """
    for name, kind in WHAT_TELLS_THE_KIND.items():
        if (Path(folder) / name).is_file():
            return kind
    raise ValueError(f"`folder` must have one of the files {list(WHAT_TELLS_THE_KIND)}, got {str(folder)!r}.")


def folder_card(
    folder: str | Path,
    card_data: ModelCardData,
    repo_id: str,
    with_code: bool = False,
    evaluations: Sequence[Mapping[str, Any] | str | Path] = (),
) -> ModelCard:
    """The card of a pipeline, a model, an adapter or a tokenizer, from its configuration files.

    Args:
        folder: of it.
        card_data: metadata to start from.
        repo_id: repository that the snippets load.
        with_code: the repository brings the code to be loaded without this library.
        evaluations: see [`evaluation_results`].

    Raises:
        `ValueError`: a folder of none of these kinds.
    """
    folder, kind = Path(folder), folder_kind(folder)
    title = repo_id.split("/")[-1]
    if kind == "adapter":
        card = _adapter_card(folder, card_data, title, repo_id)
        return ModelCard(extended_card(str(card), kind, repo_id, False, evaluations))
    if kind == "tokenizer":
        config = _read_json(folder / "tokenizer_config.json")
        card = render_small_card(
            "tokenizer", card_data, title=title, repo_id=repo_id, max_length=config.get("model_max_length")
        )
        return ModelCard(extended_card(str(card), kind, repo_id, False, evaluations))
    if kind == "pipeline":
        parts = {name: _read_json(folder / name / "config.json") for name in ("rqvae", "transformer")}
        architecture: Any = {name: config for name, config in parts.items() if config}
        template, sampling = "pipeline", _sampling(folder / "transformer")
    else:
        architecture = _read_json(folder / "config.json")
        template, sampling = architecture.get("model_type"), _sampling(folder)
        if template not in MODELS:
            raise ValueError(f"`folder` must hold a model of the types {MODELS}, got {template!r}.")
    card_data.model_name = card_data.model_name or title
    options = {"repo_id": repo_id, "architecture": architecture, "sampling": sampling, "with_code": with_code}
    options["tokenizer"] = repo_id if (folder / "tokenizer.json").is_file() else None
    return render_card(template, card_data, evaluations=evaluations, **options)


def extended_card(
    text: str, kind: str, repo_id: str, with_code: bool, evaluations: Sequence[Mapping[str, Any] | str | Path]
) -> str:
    """A card that is there, with what a push adds to it: code that is brought along, and evaluations, whose values
    take the place of earlier ones of the same metric.

    Args:
        text: of the README.md.
        kind: what the folder holds, see [`folder_kind`].
        repo_id: repository that the snippets load.
        with_code: the repository brings the code to be loaded without this library.
        evaluations: see [`evaluation_results`].
    """
    if with_code:
        text = _with_section(text, code_section(kind, repo_id))
    if not evaluations:
        return text
    card = ModelCard(text)
    task = card.data.pipeline_tag or "text-to-image"
    results = [result for evaluation in evaluations for result in evaluation_results(evaluation, task_type=task)]
    card.data.model_name = card.data.model_name or repo_id.split("/")[-1]
    kept = [old for old in card.data.eval_results or [] if not any(old.is_equal_except_value(new) for new in results)]
    card.data.eval_results = [*kept, *results]
    header = ["Data set", "Split", "Metric", "Value"]
    lines, added = str(card).splitlines(), []
    rows = table(evaluation_rows(results), header).splitlines()
    new: dict[str, list[str]] = {}
    for row in rows[2:]:
        new.setdefault(row.rpartition(" | ")[0] + " | ", []).append(row)  # by all but the value
    for beginning, own in new.items():
        places = [place for place, line in enumerate(lines) if line.startswith(beginning)]
        for number, place in enumerate(places):
            lines[place] = own[min(number, len(own) - 1)]
        added += own[len(places) :]
    replaced = {row for own in new.values() for row in own}
    lines = [
        line for before, line in zip(["", *lines], lines, strict=False) if line != before or line not in replaced
    ]  # once where a table had several such values
    heading = f"## Evaluation of {repo_id}"
    if added and heading in lines:  # of an earlier push
        place = lines.index(heading) + 1
        while place < len(lines) and (not lines[place] or lines[place].startswith("|")):
            place += 1
        last = max(index for index in range(place) if lines[index].startswith("|"))
        lines[last + 1 : last + 1] = added
    text = "\n".join([*lines, ""])
    if not added or heading in lines:
        return text
    return _with_section(text, "\n".join([heading, "", *rows[:2], *added, ""]))


def _with_section(card: str, section: str) -> str:
    """The card with a section before its citation, or at its end, unless it has one of this name."""
    if section.splitlines()[0] in card.splitlines():
        return card
    before, citation, after = card.partition("\n## Citation\n")
    return f"{before.rstrip()}\n\n{section}{citation}{after}"


def _adapter_card(folder: Path, card_data: ModelCardData, title: str, repo_id: str) -> ModelCard:
    config = _read_json(folder / "adapter_config.json")
    base = config.get("base_model_name_or_path")
    if base is not None and not Path(base).exists():
        card_data.base_model = card_data.base_model or base
    return render_small_card(
        "adapter",
        card_data,
        title=title,
        repo_id=repo_id,
        base=base and (Path(base).name if Path(base).exists() else base),
        rank=config.get("r"),
        alpha=config.get("lora_alpha"),
        grown=bool(config.get("trainable_token_indices")),
    )


def _sampling(folder: Path) -> dict[str, Any]:
    settings = _read_json(folder / "generation_config.json")
    return {name: settings[name] for name in SAMPLING if settings.get(name) is not None}


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
