# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Model cards: README.md files rendered from the templates in model_cards/."""

import copy
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .configuration_rq_transformer import RQTransformerConfig
from .configuration_rqvae import RQVAEConfig

logger = logging.getLogger(__name__)

CardTemplate = Literal["rqvae", "rq_transformer", "pipeline"]

CITATION = """@inproceedings{lee2022autoregressive,
  title     = {Autoregressive Image Generation using Residual Quantization},
  author    = {Lee, Doyup and Kim, Chiheon and Kim, Saehoon and Cho, Minsu and Han, Wook-Shin},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  pages     = {11523--11532},
  year      = {2022}
}"""
TITLES = {"rqvae": "RQ-VAE", "rq_transformer": "RQ-Transformer", "pipeline": "RQ-VAE and RQ-Transformer"}
TAGS = {
    "rqvae": ["rq_hf", "transformers", "rq-vae", "residual-quantization", "image-tokenizer"],
    "rq_transformer": ["rq_hf", "transformers", "rq-transformer", "residual-quantization", "autoregressive"],
    "pipeline": ["rq_hf", "rq-vae", "rq-transformer", "residual-quantization", "autoregressive"],
}
METRIC_NAMES = {
    "clip_score": "CLIP score",
    "concept_top1": "Prompt accuracy, concept top-1",
    "concept_top5": "Prompt accuracy, concept top-5",
    "fid": "FID",
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


def render_card(
    template: CardTemplate,
    card_data: ModelCardData,
    *,
    repo_id: str | None = None,
    summary: str | None = None,
    architecture: Any = None,
    num_parameters: int | Mapping[str, int] | None = None,
    example_input: str | int | None = None,
    sample_images: Mapping[str, str] | None = None,
    sampling: Mapping[str, Any] | None = None,
    training_data: str | None = None,
    attribution: str | None = None,
    training_procedure: str | None = None,
    training_arguments: Mapping[str, Any] | None = None,
    training_commands: str | Sequence[str] | None = None,
    evaluations: Sequence[Mapping[str, Any] | str | Path] | None = None,
    intended_use: str | None = None,
    limitations: str | None = None,
    footprint: TrainingFootprint | None = None,
) -> ModelCard:
    r"""Renders a model card. What is not given has no section; texts are Markdown.

    Args:
        template (`str`): `"rqvae"`, `"rq_transformer"` or `"pipeline"`.
        card_data ([`~huggingface_hub.ModelCardData`]):
            Metadata: license, datasets, base_model, language, model_name (the title) and so on. `library_name` and
            `pipeline_tag` are filled in where missing, tags are added. It is not changed itself.
        repo_id (`str`, *optional*): repository or folder that the usage snippet loads.
        summary (`str`, *optional*): what is special about this model.
        architecture (`RQVAEConfig`, `RQTransformerConfig` or `dict`, *optional*):
            The configuration, or its dictionary; for a pipeline `{"rqvae": ..., "transformer": ...}`, both optional.
        num_parameters (`int` or `dict[str, int]`, *optional*): number of parameters; for a pipeline as `architecture`.
        example_input (`str` or `int`, *optional*): caption or class label of the usage snippet.
        sample_images (`dict[str, str]`, *optional*): paths of pictures, relative to the card, and their captions.
        sampling (`dict`, *optional*): sampling defaults.
        training_data (`str`, *optional*): what it was trained on.
        attribution (`str`, *optional*): licences and authors of that data.
        training_procedure (`str`, *optional*): what the arguments do not say.
        training_arguments (`dict`, *optional*): the training arguments worth knowing; `None` values are left out.
        training_commands (`str` or `list[str]`, *optional*): shell commands of the training.
        evaluations (`list` of `dict` or path, *optional*): see [`evaluation_results`].
        intended_use (`str`, *optional*): what it is for.
        limitations (`str`, *optional*): limits beside those of every model of its kind; list items (`- ...`).
        footprint ([`TrainingFootprint`], *optional*): hours, hardware and estimated emissions of the training.

    Returns:
        [`~huggingface_hub.ModelCard`]

    Raises:
        `ValueError`: unknown template, an architecture that is not the template's, a bad evaluation.

    Example:

    ```python
    >>> from huggingface_hub import ModelCardData
    >>> from rq_hf.cards import render_card
    >>> card = render_card("rqvae", ModelCardData(license="apache-2.0", model_name="emoji-64"))
    >>> card.data.library_name, card.text.strip().splitlines()[0]
    ('rq_hf', '# emoji-64')
    ```
    """
    if template not in get_args(CardTemplate):
        raise ValueError(f"`template` must be one of {get_args(CardTemplate)}, got {template!r}.")
    rqvae, transformer = _configurations(template, architecture)
    if not isinstance(num_parameters, Mapping):
        num_parameters = {"rqvae" if template == "rqvae" else "transformer": num_parameters}
    condition = "caption"
    if transformer is not None and transformer.condition_length == 1:
        condition = "class" if transformer.vocab_size > 1 else "none"

    card_data = copy.deepcopy(card_data)
    title = card_data.model_name or (repo_id.rstrip("/").split("/")[-1] if repo_id else TITLES[template])
    card_data.library_name = card_data.library_name or ("diffusers" if template == "pipeline" else "rq_hf")
    generates = "text-to-image" if condition == "caption" else "unconditional-image-generation"
    card_data.pipeline_tag = card_data.pipeline_tag or (
        "image-feature-extraction" if template == "rqvae" else generates
    )
    class_tags = ["class-conditional"] if condition == "class" else []
    card_data.tags = list(dict.fromkeys([*(card_data.tags or []), *TAGS[template], *class_tags]))
    results = list(card_data.eval_results or [])
    evaluations = [_read_evaluation(evaluation) for evaluation in evaluations or []]
    for evaluation in evaluations:
        results += evaluation_results(evaluation, task_type=card_data.pipeline_tag)
    if results:
        card_data.model_name = card_data.model_name or title
    card_data.eval_results = results or None
    if footprint is not None and footprint.emissions is not None:
        card_data["co2_eq_emissions"] = _emissions_metadata(footprint)

    card = ModelCard.from_template(
        card_data,
        template_path=str(_template_path(template)),
        title=title,
        repo_id=repo_id or "path/to/this/folder",
        summary=summary,
        condition=condition,
        rqvae=rqvae,
        transformer=transformer,
        rqvae_table=_table(_rqvae_rows(rqvae, num_parameters.get("rqvae"))),
        transformer_table=_table(_transformer_rows(transformer, num_parameters.get("transformer"))),
        example=_example(condition, example_input),
        sample_images=sample_images,
        sampling_table=_table((sampling or {}).items(), ["Argument", "Default"]),
        training_data=training_data,
        attribution=attribution,
        training_procedure=training_procedure,
        training_table=_table((training_arguments or {}).items(), ["Argument", "Value"]),
        training_commands=_lines(training_commands),
        evaluation_table=_table(_evaluation_rows(results), ["Data set", "Split", "Metric", "Value"]),
        evaluation_commands=_lines(
            dict.fromkeys(evaluation["command"] for evaluation in evaluations if evaluation.get("command"))
        ),
        intended_use=intended_use,
        limitations=limitations,
        footprint_table=_table(_footprint_rows(footprint)),
        citation=CITATION,
    )
    card.text = card.text.rstrip() + "\n"
    return card


def save_card(card: ModelCard, output_dir: str | Path) -> Path:
    """Writes a card to `output_dir`/README.md, unless there is one already: that is left alone.

    Args:
        card ([`~huggingface_hub.ModelCard`]): the card.
        output_dir (`str` or `Path`): a folder, made if it is missing.

    Returns:
        `Path` of the README.md.
    """
    path = Path(output_dir) / "README.md"
    if path.exists():
        logger.warning("%s exists already and is kept as it is.", path)
    else:
        card.save(path)
    return path


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
    evaluation = _read_evaluation(evaluation)
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


def _read_evaluation(evaluation: Mapping[str, Any] | str | Path) -> Mapping[str, Any]:
    if isinstance(evaluation, (str, Path)):
        evaluation = json.loads(Path(evaluation).read_text(encoding="utf-8"))
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


def _template_path(template: str) -> Path:
    """The template beside this file, where an installed package has it, or at the top of a source checkout."""
    package = Path(__file__).parent
    places = [package / "model_cards", package.parents[1] / "model_cards"]
    for place in places:
        if (place / f"{template}.md").is_file():
            return place / f"{template}.md"
    raise FileNotFoundError(f"There is no {template}.md in {places[0]} or {places[1]}.")


def _configurations(template: str, architecture: Any) -> tuple[RQVAEConfig | None, RQTransformerConfig | None]:
    if architecture is None:
        return None, None
    parts = architecture
    if template != "pipeline":
        parts = {"rqvae" if template == "rqvae" else "transformer": architecture}
    if not isinstance(parts, Mapping) or not {"rqvae", "transformer"}.issuperset(parts):
        raise ValueError(f"`architecture` of a pipeline must map `rqvae` and `transformer` to configs, got {parts!r}.")
    configurations = []
    for name, kind in (("rqvae", RQVAEConfig), ("transformer", RQTransformerConfig)):
        part = parts.get(name)
        part = kind.from_dict(dict(part)) if isinstance(part, Mapping) else part
        if part is not None and not isinstance(part, kind):
            raise ValueError(f"`architecture` must hold a {kind.__name__} for the {name}, got {type(part).__name__}.")
        configurations.append(part)
    return configurations[0], configurations[1]


def _example(condition: str, example_input: str | int | None) -> str | None:
    """The example as Python source."""
    if condition == "none":
        return None
    if example_input is None:
        example_input = "a red heart" if condition == "caption" else 0
    return json.dumps(example_input, ensure_ascii=False)


def _rqvae_rows(config: RQVAEConfig | None, num_parameters: int | None) -> list[tuple[str, Any]]:
    rows = [("Parameters", f"{num_parameters:,}" if num_parameters else None)]
    if config is not None:
        sharing = "one codebook for all depths" if config.shared_codebook else "a codebook for each depth"
        rows += [
            ("Pictures", f"{config.image_size} x {config.image_size} pixels, {config.num_channels} channels"),
            ("Code map (height x width x depth)", " x ".join(map(str, config.code_shape))),
            ("Codebook", f"{config.codebook_size:,} codes of {config.codebook_dim} dimensions, {sharing}"),
            ("Width of the levels", [config.base_channels * factor for factor in config.channel_multiplier]),
            ("Residual blocks per level", config.num_res_blocks),
        ]
    return rows


def _transformer_rows(config: RQTransformerConfig | None, num_parameters: int | None) -> list[tuple[str, Any]]:
    rows = [("Parameters", f"{num_parameters:,}" if num_parameters else None)]
    if config is not None:
        condition = f"captions of up to {config.condition_length} tokens, vocabulary of {config.vocab_size:,}"
        if config.condition_length == 1:
            condition = f"one of {config.vocab_size:,} classes" if config.vocab_size > 1 else "none"
        rows += [
            ("Condition", condition),
            ("Code map (height x width x depth)", " x ".join(map(str, config.code_shape))),
            ("Codebook", f"{config.codebook_size:,} codes of {config.codebook_dim} dimensions"),
            ("Layers", f"{config.num_spatial_layers} spatial, {config.num_depth_layers} depth"),
            ("Width", f"{config.hidden_size:,}, {config.num_attention_heads} attention heads"),
        ]
    return rows


def _evaluation_rows(results: Iterable[EvalResult]) -> list[tuple[Any, ...]]:
    rows = []
    for result in results:
        value = result.metric_value
        if isinstance(value, float):
            value = f"{value:.1f}" if abs(value) >= 1000 else f"{value:.4g}"
        rows.append((result.dataset_name, result.dataset_split or "", result.metric_name or result.metric_type, value))
    return rows


def _footprint_rows(footprint: TrainingFootprint | None) -> list[tuple[str, Any]]:
    if footprint is None:
        return []
    energy, emissions = footprint.energy, footprint.emissions
    return [
        ("Hardware", footprint.hardware),
        ("Hours", f"{footprint.hours:g}"),
        ("Location", footprint.location),
        ("Energy (estimate)", None if energy is None else f"{energy:.3g} kWh at {footprint.power_watts:g} W"),
        (
            "Emissions (estimate)",
            None if emissions is None else f"{emissions:.3g} kg CO2eq at {footprint.carbon_intensity:g} kg per kWh",
        ),
    ]


def _emissions_metadata(footprint: TrainingFootprint) -> dict[str, Any]:
    metadata = {
        "emissions": round(footprint.emissions * 1000, 3),  # the Hub wants grams
        "source": "hours x power draw x carbon intensity",
        "training_type": "pre-training",
        "geographical_location": footprint.location,
        "hardware_used": footprint.hardware,
    }
    return {name: value for name, value in metadata.items() if value is not None}


def _table(rows: Iterable[Sequence[Any]], header: Sequence[str] = ("", "")) -> str | None:
    """A Markdown table of the rows whose last cell is not `None`, or `None` if there are none."""
    rows = [row for row in rows if row[-1] is not None]
    if not rows:
        return None
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _lines(commands: str | Iterable[str] | None) -> str | None:
    return commands.strip() if isinstance(commands, str) else "\n".join(commands or []) or None
