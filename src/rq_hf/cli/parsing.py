# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Command lines of the trainings: `RECIPE [--flag value ...]`, where flags win over the recipe."""

import argparse
import difflib
import json
import logging
import shlex
import sys
from collections.abc import Iterable, Sequence
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
    """An `HfArgumentParser` with the errors of a command, whose help has the flags in groups: titles with names."""

    def __init__(self, *args, groups: dict[str, Iterable[str]], **options):
        self.titles = {name: title for title, names in groups.items() for name in names}
        self.groups: dict[str, Any] = {}
        super().__init__(*args, **options)

    def add_argument(self, *names, **options) -> argparse.Action:
        """Adds an argument to its group."""
        if not self.groups:  # `--help` is the first argument
            self.groups = {title: self.add_argument_group(title) for title in dict.fromkeys(self.titles.values())}
        name = names[0].removeprefix("--")
        title = self.titles.get(name, self.titles.get(name.removeprefix("no_")))
        return (self.groups[title] if title else super()).add_argument(*names, **options)


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
    `data` and `card` give way to `--dataset_name`. `--model_name_or_path` replaces the recipe's architecture, RQ-VAE
    and tokenizer. Without the validation split that a recipe names, rows for validation are held out.

    Raises:
        `ValueError`: No recipe, or a field that the stage does not know.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    flags = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in argv if word.startswith("--")}
    known = {
        "model": _own_fields(config_class),
        "training": [each.name for each in fields(training_class) if each.init],
        "data": [each.name for each in fields(data_class)],
    }
    base = {each.name for each in fields(TrainingArguments)}
    parser = RecipeParser(
        (training_class, data_class),
        groups={
            "data": known["data"],
            "training of this stage": [each for each in known["training"] if each not in base],
            "model": known["model"],
            "training in general (transformers.TrainingArguments)": base,
        },
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
        if not is_named and "dataset_name" in flags:
            sections |= {"data": {"validation_split": sections["data"].get("validation_split")}, "card": {}}
        if "num_train_epochs" in flags:
            sections["training"].pop("max_steps", None)  # it would win over the flag
        for column, other in (("caption_column", "label_column"), ("label_column", "caption_column")):
            if column in flags:
                sections["data"].pop(other, None)
        for section, names in known.items():
            if unknown := sections[section].keys() - set(names):
                hint = _closest(min(unknown), names)
                raise ValueError(f"Recipe '{name}', section `{section}`: there is no field `{min(unknown)}`{hint}.")
        if "model_name_or_path" in flags:
            sections["model"] = {}
            sections["data"] = {key: each for key, each in sections["data"].items() if "_name_or_path" not in key}
        defaults = {"output_dir": f"runs/{name}", "hold_out": "validation_split" not in flags}
        parser.set_defaults(**defaults | sections["training"] | sections["data"])

    if unknown := parser.parse_known_args(argv)[1]:
        hint = _closest(unknown[0].partition("=")[0].removeprefix("--"), sum(known.values(), []))
        parser.error(f"unknown argument {unknown[0]!r}{hint}")
    training, data, namespace = parser.parse_args_into_dataclasses(args=argv, look_for_args_file=False)
    if namespace.recipe is not None and not is_named:
        parser.error(f"RECIPE must come first, before all flags, got {namespace.recipe!r}")
    if name is None:
        names = ", ".join(each for each in recipe_names() if ("-rqt-" in each) == command.endswith("rqt"))
        raise ValueError(f"`RECIPE` must be a JSON file or one of {names}.")
    given = {key: value for key, value in vars(namespace).items() if key != "recipe"}
    card = sections["card"]
    if training.hub_token is None:  # a card is public
        words = [Path(word).name if Path(word).is_absolute() else word for word in argv]
        card = {"training_commands": [shlex.join([*command.split(), *words])]} | card
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


def _closest(name: str, known: Sequence[str]) -> str:
    """The end of an error about an unknown name."""
    return "".join(f"; the closest one is `{close}`" for close in difflib.get_close_matches(name, known, 1))


def _json_value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
