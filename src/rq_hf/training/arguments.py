# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Recipes, and the arguments that name the data of a training."""

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.hf_argparser import HfArg

RECIPES = Path(__file__).parents[1] / "recipes"
SECTIONS = ("model", "training", "data", "card")


@dataclass
class DataArguments:
    """The pictures to train on."""

    dataset_name: str | None = HfArg(default=None, help="Hub id, or a folder of pictures, tables or tar shards.")
    dataset_config_name: str | None = HfArg(default=None, help="Configuration of the data set.")
    streaming: bool = HfArg(default=False, help="Train without a copy of the data on disk; needs --max_steps.")
    shuffle_buffer_size: int = HfArg(default=1000, help="Rows that each worker shuffles while streaming.")
    train_split: str = HfArg(default="train", help="Split to train on.")
    validation_split: str | None = HfArg(default=None, help="Split to evaluate on.")
    hold_out: bool = HfArg(
        default=False, help="Without that split, hold out one training row in 14, by a hash of the pictures."
    )
    image_column: str = HfArg(default="image", help="Column of pictures.")
    caption_column: str | None = HfArg(default=None, help="Column of captions: texts, or lists to draw from.")
    label_column: str | None = HfArg(default=None, help="Column of class labels: class names or whole numbers.")
    filter: str | None = HfArg(default=None, help="Keep only rows with COLUMN=VALUE, separated by commas.")
    transform: str = HfArg(
        default="center_crop",
        help="How pictures are cropped: cc3m, center_crop, ffhq, imagenet or lsun.",
    )
    max_train_samples: int | None = HfArg(default=None, help="Train on this many rows at most.")
    max_eval_samples: int | None = HfArg(default=None, help="Evaluate on this many rows at most.")

    def __post_init__(self):
        for each in fields(self):
            if each.default is None and getattr(self, each.name) == "":  # `--validation_split ""` overrides a recipe
                setattr(self, each.name, None)
        if self.caption_column is not None and self.label_column is not None:
            raise ValueError("Only one of `caption_column` and `label_column` can be given, got both.")
        from .transforms import TRANSFORMS  # torchvision, which a training on tensors does not need

        if self.transform not in TRANSFORMS:
            raise ValueError(f"`transform` must be one of {sorted(TRANSFORMS)}, got {self.transform!r}.")


@dataclass
class CodeDataArguments(DataArguments):
    """The pictures and conditions of stage 2, and the models that encode them."""

    rqvae_name_or_path: str | None = HfArg(default=None, help="Hub id or folder of the RQ-VAE or a pipeline.")
    tokenizer_name_or_path: str | None = HfArg(default=None, help="Hub id or folder of the tokenizer or a pipeline.")
    num_caption_variants: int | None = HfArg(default=None, help="Captions of a list to use at most.")


@contextmanager
def made_by(argument: str, name: str | None, pipeline: str | None, *command: str) -> Iterator[str]:
    """Gives where to load from: the name, or else the pipeline. Where nothing is, an error names the command."""
    if name is None and pipeline is not None:
        yield pipeline
        return
    hint = f"`{shlex.join([*command, *(['--output_dir', name] if name else [])])}` makes one"
    if name is None or (name.startswith("runs/") and not Path(name).exists()):  # what recipes make is never a Hub id
        raise ValueError(f"`{argument}` must be a Hub id or a folder that exists, got {name!r}; {hint}.")
    try:
        yield name
    except OSError as error:
        raise ValueError(f"`{argument}` cannot be loaded ({str(error).splitlines()[0]}); {hint}.") from error


@dataclass
class Recipe:
    """
    All that a training needs to know.

    Args:
        training (`TrainingArguments`): Arguments of the stage: optimizer, batches, losses, seed.
        data ([`DataArguments`]): The data of the stage.
        model (`dict`): Fields of the model's configuration that differ from their defaults.
        card (`dict`): Facts for the model card: licence, training data, intended use.
        name (`str`, *optional*): Name of the recipe.
    """

    training: TrainingArguments
    data: DataArguments
    model: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    name: str | None = None


def recipe_names() -> list[str]:
    """Names of the recipes that come with the library."""
    return sorted(path.stem for path in RECIPES.glob("*.json"))


def read_recipe(name_or_path: str | Path) -> dict[str, dict[str, Any]]:
    """
    Reads a recipe as its sections "model", "training", "data" and "card".

    Args:
        name_or_path (`str` or `Path`): Name of a recipe of the library, or path of a JSON file. Paths in the section
            "data" that begin with "." are relative to that file.

    Raises:
        `ValueError`: If there is no such recipe or its JSON is not an object of these sections.
    """
    path = Path(name_or_path)
    if not path.is_file():
        path = RECIPES / f"{name_or_path}.json"
    if not path.is_file():
        names = ", ".join(recipe_names())
        raise ValueError(f"The recipe must be a JSON file or one of {names}; got {str(name_or_path)!r}.")
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
