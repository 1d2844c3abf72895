# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Model cards: README.md files rendered from the templates in model_cards/."""

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from huggingface_hub import ModelCard, ModelCardData

from .card_metadata import TrainingFootprint, emissions_metadata, evaluation_results, read_evaluation
from .card_tables import evaluation_rows, footprint_rows, joined_commands, rqvae_rows, table, transformer_rows
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
NO_REPOSITORY = "path/to/this/folder"  # what snippets load where no repository is known
TITLES = {"rqvae": "RQ-VAE", "rq_transformer": "RQ-Transformer", "pipeline": "RQ-VAE and RQ-Transformer"}
TAGS = {
    "rqvae": ["rq_hf", "transformers", "rq-vae", "residual-quantization", "image-tokenizer"],
    "rq_transformer": ["rq_hf", "transformers", "rq-transformer", "residual-quantization", "autoregressive"],
    "pipeline": ["rq_hf", "rq-vae", "rq-transformer", "residual-quantization", "autoregressive"],
    "adapter": ["rq_hf", "lora", "rq-transformer"],
    "tokenizer": ["rq_hf", "transformers"],
}


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
    with_code: bool = False,
    tokenizer: str | None = None,
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
        with_code (`bool`, defaults to `False`): the repository brings the code to be loaded without this library.
        tokenizer (`str`, *optional*): repository or folder that the usage snippet of a transformer loads it from.

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
    evaluations = [read_evaluation(evaluation) for evaluation in evaluations or []]
    for evaluation in evaluations:
        results += evaluation_results(evaluation, task_type=card_data.pipeline_tag)
    if results:
        card_data.model_name = card_data.model_name or title
    card_data.eval_results = results or None
    if footprint is not None and footprint.emissions is not None:
        card_data["co2_eq_emissions"] = emissions_metadata(footprint)

    card = ModelCard.from_template(
        card_data,
        template_path=str(_template_path(template)),
        title=title,
        repo_id=repo_id or NO_REPOSITORY,
        summary=summary,
        condition=condition,
        rqvae=rqvae,
        transformer=transformer,
        rqvae_table=table(rqvae_rows(rqvae, num_parameters.get("rqvae"))),
        transformer_table=table(transformer_rows(transformer, num_parameters.get("transformer"))),
        example=_example(condition, example_input, transformer),
        tokenizer=tokenizer,
        sample_images=sample_images,
        sampling_table=table((sampling or {}).items(), ["Argument", "Default"]),
        training_data=training_data,
        attribution=attribution,
        training_procedure=training_procedure,
        training_table=table((training_arguments or {}).items(), ["Argument", "Value"]),
        training_commands=joined_commands(training_commands),
        evaluation_table=table(evaluation_rows(results), ["Data set", "Split", "Metric", "Value"]),
        evaluation_commands=joined_commands(
            dict.fromkeys(evaluation["command"] for evaluation in evaluations if evaluation.get("command"))
        ),
        intended_use=intended_use,
        limitations=limitations,
        footprint_table=table(footprint_rows(footprint)),
        code_section=code_section(template, repo_id) if with_code else None,
        citation=CITATION,
    )
    card.text = card.text.rstrip() + "\n"
    return card


def render_small_card(
    template: Literal["adapter", "tokenizer"], card_data: ModelCardData, *, title: str, **parts: Any
) -> ModelCard:
    """Renders the card of what belongs to a model: an adapter or a tokenizer.

    Args:
        template (`str`): `"adapter"` or `"tokenizer"`.
        card_data ([`~huggingface_hub.ModelCardData`]): metadata, which is not changed itself.
        title (`str`): first heading.
        parts: the other values of the template; a missing one has no section.

    Returns:
        [`~huggingface_hub.ModelCard`]
    """
    card_data = copy.deepcopy(card_data)
    card_data.library_name = card_data.library_name or ("peft" if template == "adapter" else "transformers")
    card_data.tags = list(dict.fromkeys([*(card_data.tags or []), *TAGS[template]]))
    path = str(_template_path(template))
    card = ModelCard.from_template(card_data, template_path=path, title=title, citation=CITATION, **parts)
    card.text = card.text.rstrip() + "\n"
    return card


def code_section(kind: str, repo_id: str | None) -> str:
    """How to load a repository that brings its code, as a section of its card.

    Args:
        kind (`str`): "pipeline", or a kind of model.
        repo_id (`str`, *optional*): repository or folder that the snippet loads.
    """
    library, loader = ("diffusers", "DiffusionPipeline") if kind == "pipeline" else ("transformers", "AutoModel")
    return f"""## Without rq_hf

The repository brings the code that it needs, which is run if you say that you trust it:

```python
from {library} import {loader}

{"pipe" if kind == "pipeline" else "model"} = {loader}.from_pretrained(
    "{repo_id or NO_REPOSITORY}", trust_remote_code=True
)
```
"""


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


def _example(condition: str, example_input: str | int | None, transformer: RQTransformerConfig | None) -> str | None:
    """The example as Python source; by default the first class, by its name where no other has it."""
    if condition == "none":
        return None
    if example_input is None and condition == "caption":
        example_input = "a red heart"
    elif example_input is None:
        names = transformer.id2label or {}
        index = transformer.class_ids[0]
        name = names.get(index)
        example_input = index if name is None or list(names.values()).count(name) > 1 else name
    return json.dumps(example_input, ensure_ascii=False)
