# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Command lines of the trainings: `RECIPE [--flag value ...]`, where flags win over the recipe."""

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import transformers
from transformers import HfArgumentParser, PreTrainedConfig, TrainingArguments

from ..training.arguments import DataArguments, Recipe, read_recipe, recipe_names
from .options import CommandParser


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults and keeps the line breaks of the description."""


class RecipeParser(CommandParser, HfArgumentParser):
    """An `HfArgumentParser` with the errors of a command."""


def parse_recipe(
    command: str,
    config_class: type[PreTrainedConfig],
    training_class: type[TrainingArguments],
    data_class: type[DataArguments],
    description: str,
    argv: Sequence[str] | None = None,
    default_recipe: str | Path | None = None,
) -> Recipe:
    """Reads `RECIPE [--flag value ...]`. Each field of the sections `model`, `training` and `data` is a flag.

    `output_dir` is `runs/<recipe>` unless it is given. `default_recipe` is taken where none is named; its sections
    `data` and `card` give way to `--dataset_name`.

    Raises:
        `ValueError`: No recipe, or a field that the stage does not know.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    known = {
        "model": _own_fields(config_class),
        "training": [each.name for each in fields(training_class) if each.init],
        "data": [each.name for each in fields(data_class)],
    }
    parser = RecipeParser(
        (training_class, data_class),
        prog=command,
        usage="%(prog)s RECIPE [options]",
        description=description,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="name of a recipe, or a JSON file")
    for name in known["model"]:
        parser.add_argument(f"--{name}", type=_json_value, default=argparse.SUPPRESS, help="model field, a JSON value")

    is_named = bool(argv) and not argv[0].startswith("-")
    name = argv[0] if is_named else default_recipe
    if name is not None:
        sections, name = read_recipe(name), Path(name).name.removesuffix(".json")
        flags = {word.partition("=")[0] for word in argv}
        if not is_named and "--dataset_name" in flags:
            sections |= {"data": {"validation_split": sections["data"].get("validation_split")}, "card": {}}
        if "--num_train_epochs" in flags:
            sections["training"].pop("max_steps", None)  # it would win over the flag
        for section, names in known.items():
            if unknown := sections[section].keys() - set(names):
                raise ValueError(f"Recipe '{name}', section `{section}`: there is no field `{min(unknown)}`.")
        parser.set_defaults(**{"output_dir": f"runs/{name}"} | sections["training"], **sections["data"])

    training, data, namespace = parser.parse_args_into_dataclasses(args=argv, look_for_args_file=False)
    if name is None:
        names = ", ".join(each for each in recipe_names() if ("-rqt-" in each) == command.endswith("rqt"))
        raise ValueError(f"`RECIPE` must be a JSON file or one of {names}.")
    given = {key: value for key, value in vars(namespace).items() if key != "recipe"}
    card = sections["card"]
    if training.hub_token is None:  # a card is public
        card = {"training_commands": [shlex.join([*command.split(), *argv])]} | card
    return Recipe(model=sections["model"] | given, training=training, data=data, card=card, name=name)


def start_logging(training: TrainingArguments) -> None:
    """Shows what this library and transformers log, as `--log_level` says."""
    level = training.get_process_log_level()
    logging.basicConfig(level=level, format="%(asctime)s %(name)s: %(message)s")
    transformers.logging.set_verbosity(level)


def _own_fields(config_class: type[PreTrainedConfig]) -> list[str]:
    """Fields that `config_class` adds to those of every configuration, and the class names."""
    common = {each.name for each in fields(PreTrainedConfig)} - {"id2label"}
    return [each.name for each in fields(config_class) if each.name not in common]


def _json_value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
