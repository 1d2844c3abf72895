# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Recipes, the arguments that name the data of a training, and the check of declared types."""

import difflib
import inspect
import json
import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from huggingface_hub.dataclasses import type_validator
from transformers import MODEL_MAPPING, PreTrainedConfig, TrainingArguments
from transformers.utils.type_validators import interval

RECIPES = Path(__file__).parents[1] / "recipes"
SECTIONS = ("model", "training", "data", "sampling", "card")
# Types of the facts in the section "card".
CARD_TYPES = {
    **dict.fromkeys(("model_name", "base_model", "license", "summary", "training_data", "attribution"), str),
    **dict.fromkeys(("intended_use", "limitations", "paper"), str),
    **dict.fromkeys(("datasets", "tags", "training_commands", "notes"), list[str]),
    **dict.fromkeys(("processes", "global_batch_size"), int),
    "language": str | list[str],
    "examples": list[str | int],
}
Loaded = TypeVar("Loaded")


def is_of_type(value: Any, hint: Any) -> bool:
    """Whether a value fits a type hint. Integers are also `float`, and a path is a `str`."""
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    floats = [_as_float(each) for each in value] if isinstance(value, list) else _as_float(value)
    for each in (value, floats):
        with suppress(TypeError):
            type_validator("", each, hint)
            return True
    return False


def _as_float(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def check_types(values: Mapping[str, Any], hints: Mapping[str, Any], where: str = "") -> None:
    """Raises a `ValueError` unless every value has a type hint and fits it. The error begins with `where`."""
    for name, value in values.items():
        if name not in hints:
            raise ValueError(f"{where}there is no field `{name}`{closest(name, hints)}.")
        if not is_of_type(value, hints[name]):
            raise ValueError(f"{where}`{name}` must be {inspect.formatannotation(hints[name])}, got {value!r:.80}.")


def check_fields(arguments: Any) -> None:
    """Raises a `ValueError` unless the fields of a dataclass have their declared types and pass their validators."""
    values = {each.name: getattr(arguments, each.name) for each in fields(arguments)}
    check_types(values, get_type_hints(type(arguments)))
    for each in fields(arguments):
        value = values[each.name]
        for validate in each.metadata.get("validator", []) if value is not None else []:
            try:
                validate(value)
            except ValueError as error:
                raise ValueError(f"`{each.name}`: {error}") from error
        choices = each.metadata.get("choices")
        if choices is not None and value not in [*choices, None]:
            raise ValueError(f"`{each.name}` must be one of {', '.join(choices)}, got {value!r:.80}.")


def closest(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name. It suggests the most similar known name."""
    return "".join(f"; the closest one is `{close}`" for close in difflib.get_close_matches(name, known, 1))


def setting(default: Any, help: str, make_field: Callable[..., Any] = field) -> Any:
    """A field with its help. `make_field` may be a validator of `transformers.utils.type_validators`."""
    return make_field(default=default, metadata={"help": help})


def model_kinds(base: type[PreTrainedConfig]) -> dict[str, type[PreTrainedConfig]]:
    """The registered configurations of `base` and its subclasses, by `model_type`."""
    kinds = [base]
    for kind in kinds:  # the list grows
        kinds += kind.__subclasses__()
    return {kind.model_type: kind for kind in kinds if kind in MODEL_MAPPING}


@dataclass
class DataArguments:
    """The pictures to train on."""

    dataset_name: str | None = setting(None, "Hub id, or a folder of pictures, tables or tar shards.")
    dataset_config_name: str | None = setting(None, "Configuration of the data set.")
    streaming: bool = setting(False, "Train without a copy of the data on disk; needs --max_steps.")
    shuffle_buffer_size: int = setting(1000, "Rows that each worker shuffles while streaming.", interval(min=1))
    train_split: str = setting("train", "Split to train on.")
    validation_split: str | None = setting(None, "Split to evaluate on.")
    hold_out: bool = setting(False, "Without that split, hold out one training row in 14.")
    image_column: str = setting("image", "Column of pictures.")
    caption_column: str | None = setting(None, "Column of captions: texts, or lists to draw from.")
    label_column: str | None = setting(None, "Column of class labels: class names or whole numbers.")
    filter: str | None = setting(None, "Keep only rows with COLUMN=VALUE, separated by commas.")
    transform: str = setting(
        "center_crop", "How pictures are made square: center_crop, pad (white), cc3m, ffhq, imagenet or lsun."
    )
    max_train_samples: int | None = setting(None, "Train on this many rows at most.", interval(min=1))
    max_eval_samples: int | None = setting(None, "Evaluate on this many rows at most.", interval(min=1))

    def __post_init__(self):
        for each in fields(self):
            if each.default is None and getattr(self, each.name) == "":  # `--validation_split ""` overrides a recipe
                setattr(self, each.name, None)
        check_fields(self)
        if self.caption_column is not None and self.label_column is not None:
            raise ValueError("Only one of `caption_column` and `label_column` can be given, got both.")
        from .transforms import TRANSFORMS  # needs torchvision

        if self.transform not in TRANSFORMS:
            raise ValueError(f"`transform` must be one of {sorted(TRANSFORMS)}, got {self.transform!r}.")


@dataclass
class CodeDataArguments(DataArguments):
    """The pictures and conditions of stage 2, and the models that encode them."""

    rqvae_name_or_path: str | None = setting(None, "Hub id or folder of the RQ-VAE or a pipeline.")
    tokenizer_name_or_path: str | None = setting(None, "Hub id or folder of the tokenizer or a pipeline.")
    text_encoder: str | None = setting(None, "Hub id or folder of a frozen text encoder, with its tokenizer.")
    num_caption_variants: int | None = setting(None, "Captions of a list to use at most.", interval(min=1))
    prior_captions: str | None = setting(
        None, "Text file, one caption per line. The adapter learns to draw these captions as its base does."
    )


def load_made(
    load: Callable[[str], Loaded], argument: str, name: str | None, pipeline: str | None, *command: str
) -> Loaded:
    """Loads `name`, or without a name `pipeline`. If that fails, the error names a `command` that makes the model."""
    if name is None and pipeline is not None:
        return load(pipeline)
    hint = f"`{shlex.join([*command, *(['--output_dir', name] if name else [])])}` makes one"
    if name is None or (name.startswith("runs/") and not Path(name).exists()):  # an output folder, not a Hub id
        raise ValueError(f"`{argument}` must be a Hub id or a folder that exists, got {name!r}; {hint}.")
    try:
        return load(name)
    except OSError as error:
        raise ValueError(f"`{argument}` cannot be loaded ({str(error).splitlines()[0]}); {hint}.") from error


@dataclass
class Recipe:
    """
    The settings of a training. An unknown field of `sampling` or `card`, or a wrong type, is a `ValueError`.

    Args:
        training (`TrainingArguments`): Arguments of the stage: optimizer, batches, losses, seed.
        data ([`DataArguments`]): The data of the stage.
        model (`dict`): Fields of the model's configuration that differ from their defaults.
        card (`dict`): Facts for the model card, such as `license` and `intended_use`.
        sampling (`dict`): Settings of [`RQGenerationConfig`] that a trained transformer draws with.
        name (`str`, *optional*): Name of the recipe.
    """

    training: TrainingArguments
    data: DataArguments
    model: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)
    name: str | None = None

    def __post_init__(self):
        if self.sampling:
            model_class = getattr(self.training, "model_class", None)
            if model_class is None:
                raise ValueError(f"Section `sampling` must be empty: stage 1 draws nothing, got {self.sampling}.")
            model_class.with_settings(model_class.settings_class(), self.sampling)
        check_types(self.card, CARD_TYPES, "Section `card`: ")


def recipe_names() -> list[str]:
    """Names of the recipes that come with the library."""
    return sorted(path.stem for path in RECIPES.glob("*.json"))


def read_recipe(name_or_path: str | Path) -> dict[str, dict[str, Any]]:
    """
    Reads the sections "model", "training", "data", "sampling" and "card" of a recipe of the library, or of a JSON
    file. Paths in "data" that begin with "." are relative to that file. A file without this form is a `ValueError`.
    """
    path = Path(name_or_path)
    if not path.is_file():
        path = RECIPES / f"{name_or_path}.json"
    if not path.is_file():
        names, near = ", ".join(recipe_names()), closest(str(name_or_path), recipe_names())
        raise ValueError(f"The recipe must be a JSON file or one of {names}; got {str(name_or_path)!r}{near}.")
    try:
        sections = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"The recipe {str(path)!r} must be valid JSON: {error}.") from error
    if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
        raise ValueError(f"The recipe {str(path)!r} must be an object of the objects {', '.join(SECTIONS)}.")
    unknown = sorted(sections.keys() - set(SECTIONS))
    if unknown:
        raise ValueError(f"The sections of the recipe {str(path)!r} must be {', '.join(SECTIONS)}; got {unknown}.")
    sections = {name: sections.get(name, {}) for name in SECTIONS}
    for name, value in sections["data"].items():
        if isinstance(value, str) and value.startswith("."):
            sections["data"][name] = str((path.parent / value).resolve())
    return sections
