# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Model cards: README.md files rendered from the templates in model_cards/."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

# Where snippets load from as long as there is no repository.
NO_REPOSITORY = "path/to/this/folder"
# By kind: library and tags.
KINDS = {
    "pipeline": ("diffusers", ["rq-vae", "rq-transformer"]),
    "rqvae": ("rq_hf", ["rq-vae", "image-tokenizer"]),
    "rq_transformer": ("rq_hf", ["rq-transformer"]),
    "adapter": ("peft", ["rq-transformer", "lora"]),
    "tokenizer": ("transformers", ["rq-transformer"]),
}
METRIC_NAMES = {
    "clip_score": "CLIP score",
    "fid": "FID",
    "inception_score": "Inception Score",
    "lpips": "LPIPS",
    "psnr": "PSNR (dB)",
    "rfid": "rFID",
    "ssim": "SSIM",
}
EVALUATION = re.compile(r"^## Evaluation\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def render_card(kind: str, facts: Mapping[str, Any]) -> ModelCard:
    r"""Renders a model card.

    Args:
        kind (`str`): `"pipeline"`, `"rqvae"`, `"rq_transformer"`, `"adapter"` or `"tokenizer"`.
        facts (`dict`): what the card says. Without a fact its section is left out. Texts are Markdown.

            - `license`, `language`, `datasets`, `base_model`, `tags`: metadata, as in `ModelCardData`.
            - `model_name`: the title. `repo_id`: the repository that the snippets load.
            - `based_on`: the repository, or the name, of the model that this one was made of.
            - `summary`, `training_data`, `attribution`, `intended_use`, `limitations` (a list, `- ...`).
            - `examples`: captions that the Hub and the page offer, or a class id. The first is that of the snippet.
            - `configs`: dictionaries or configurations by component, `"rqvae"`, `"transformer"`, `"adapter"` or
              `"tokenizer"`. `num_parameters`: integers by component.
            - `sampling`: default settings. `training_arguments`: a dictionary. `training_commands`: a list.
            - `metrics`: values by name, measured on `metrics_dataset` (by default the first of `datasets`) and
              `metrics_split`.
            - `sample_images`: captions by path.

    Raises:
        `ValueError`: unknown kind.

    Example:

    ```python
    >>> from rq_hf.hub import render_card
    >>> card = render_card("rqvae", {"license": "apache-2.0", "model_name": "emoji-64", "metrics": {"psnr": 28.6}})
    >>> card.data.library_name, card.text.strip().splitlines()[0]
    ('rq_hf', '# emoji-64')
    ```
    """
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {list(KINDS)}, got {kind!r}.")
    library, tags = KINDS[kind]
    repo_id = facts.get("repo_id") or NO_REPOSITORY
    title = facts.get("model_name") or repo_id.split("/")[-1]
    configs = {
        name: dict(config) if isinstance(config, Mapping) else config.to_dict()
        for name, config in facts.get("configs", {}).items()
    }
    transformer = configs.get("transformer") or {}
    condition, example = _condition(transformer)
    examples = facts.get("examples") or []
    task = "text-to-image" if condition == "caption" else "unconditional-image-generation"
    task = {"rqvae": "image-feature-extraction", "tokenizer": None}.get(kind, task)
    tables = {
        name: {key: value for key, value in (facts.get(name) or {}).items() if value is not None}
        for name in ("sampling", "training_arguments", "num_parameters")
    }
    based_on, summary = facts.get("based_on") or "", [facts["summary"]] if facts.get("summary") else []
    if based_on:
        link = f"[{based_on}](https://huggingface.co/{based_on})" if "/" in based_on else f"`{based_on}`"
        summary += [f"The model is based on {link} and has other weights. Figures of {link} do not hold for it."]
    datasets = facts.get("datasets") or []
    data = ModelCardData(
        base_model=facts.get("base_model") or (based_on if "/" in based_on else None),
        datasets=datasets or None,
        language=facts.get("language"),
        library_name=library,
        license=facts.get("license"),
        model_name=title,
        pipeline_tag=task,
        widget=[{"text": each} for each in examples if isinstance(each, str)] or None,
        tags=list(dict.fromkeys([*(facts.get("tags") or []), "rq_hf", *tags, "residual-quantization"])),
    )
    derived = {
        "title": title,
        "repo_id": repo_id,
        "summary": "\n\n".join(summary),
        "configs": configs,
        "condition": condition,
        "model_class": next(iter(transformer.get("architectures") or ["RQTransformerForImageGeneration"])),
        "example": json.dumps((examples or [example])[0], ensure_ascii=False),
    }
    template = _template(kind) + _template("sections")
    card = ModelCard.from_template(data, template_str=template, **{**facts, **tables, **derived})
    card.text = card.text.rstrip() + "\n"
    dataset = facts.get("metrics_dataset") or next(iter(datasets), None)
    results = results_of(facts.get("metrics") or {}, task, dataset, facts.get("metrics_split"))
    set_figures(card, results, title)
    return card


def results_of(
    metrics: Mapping[str, Any], task: str | None, dataset: str | None = None, split: str | None = None
) -> list[EvalResult]:
    """The numbers among metrics as results of a card. The Hub wants a task and a data set."""
    where = {"task_type": task or "other", "dataset_type": dataset or "unknown", "dataset_name": dataset or "unknown"}
    where["dataset_split"] = split
    names = {name: METRIC_NAMES.get(name, name.replace("_", " ")) for name in metrics}
    return [
        EvalResult(**where, metric_type=name, metric_name=names[name], metric_value=value)
        for name, value in metrics.items()
        if isinstance(value, int | float)
    ]


def set_figures(card: ModelCard, results: list[EvalResult], model_name: str) -> None:
    """Replaces the figures of a card, in its metadata and in its section "Evaluation"."""
    card.data.eval_results = results or None
    card.text = EVALUATION.sub("", card.text)
    if results:
        card.data.model_name = card.data.model_name or model_name
        rows = ["## Evaluation", "", "| Metric | Value | Data |", "| --- | --- | --- |"]
        for result in results:
            data = ", ".join(filter(None, [result.dataset_name, result.dataset_split]))
            rows.append(f"| {result.metric_name or result.metric_type} | {result.metric_value:.4g} | {data} |")
        before, heading, after = card.text.partition("## Citation\n")
        card.text = "\n".join([before.rstrip(), "", *rows, "", heading + after])


def write_card(folder: str | Path, kind: str, facts: Mapping[str, Any]) -> None:
    """Renders a card to the README.md of a folder; see [`render_card`]."""
    render_card(kind, facts).save(Path(folder, "README.md"))


def code_section(kind: str, repo_id: str) -> str:
    """A section of a card: how to load a repository with code."""
    loader = ("diffusers", "DiffusionPipeline") if kind == "pipeline" else ("transformers", "AutoModel")
    return _template("code").format(*loader, repo_id)


def _template(name: str) -> str:
    """A template of an installed package, or at the top of a source checkout."""
    package = Path(__file__).parents[1]
    folders = (package / "model_cards", package.parents[1] / "model_cards")
    return next(folder / f"{name}.md" for folder in folders if folder.is_dir()).read_text(encoding="utf-8")


def _condition(transformer: Mapping[str, Any]) -> tuple[str, str | int | None]:
    """The condition of a transformer, "caption", "class" or "none", and an example of it."""
    if not transformer or transformer["condition_length"] > 1 or transformer.get("condition_dim"):
        return "caption", "a red heart"
    if transformer["vocab_size"] > 1:
        return "class", 1 if 0 in (transformer.get("null_condition_ids") or ()) else 0
    return "none", None
