# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Command lines of the trainings: `RECIPE [--flag value ...]`, where flags win over the recipe."""

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, fields
from enum import EnumMeta
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import transformers
from transformers import PreTrainedConfig, TrainingArguments
from transformers.hf_argparser import string_to_bool

from ..training.arguments import (
    CodeDataArguments,
    DataArguments,
    Recipe,
    check_types,
    closest,
    is_of_type,
    read_recipe,
    recipe_names,
)
from .options import CommandParser

# (flag, section, fields): what of a recipe gives way to a flag, beside the flag's own field. `None` is all fields.
OVERRIDES = [
    ("num_train_epochs", "training", ["max_steps"]),  # which would win over the epochs
    ("caption_column", "data", ["label_column"]),
    ("label_column", "data", ["caption_column"]),
    ("model_name_or_path", "model", None),  # a pipeline brings its architecture, its RQ-VAE and its tokenizer
    ("model_name_or_path", "data", ["rqvae_name_or_path", "tokenizer_name_or_path"]),
]
# The default recipe describes one data set. For another one only its name of the validation split is kept.
OVERRIDES_OF_DEFAULT = [
    ("dataset_name", "data", [each.name for each in fields(CodeDataArguments) if each.name != "validation_split"]),
    ("dataset_name", "sampling", None),
    ("dataset_name", "card", None),
]
NOT_GIVEN = object()


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults and keeps the line breaks of the description."""


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

    Flags win over the recipe, and [`OVERRIDES`] lists what else gives way to them. Without `--output_dir` the output
    goes to `runs/<recipe>`. Without `--validation_split` rows are held out where the recipe's split is missing.
    `default_recipe` is taken where no recipe is named.

    Raises:
        `ValueError`: No recipe, an unknown field, or a value of the wrong type or range.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    is_named = bool(argv) and not argv[0].startswith("-")
    name = argv[0] if is_named else default_recipe
    members = {"model": _model_fields(config_class), "training": fields(training_class), "data": fields(data_class)}
    hints = get_type_hints(training_class) | get_type_hints(data_class)
    types = {section: {each.name: hints.get(each.name, Any) for each in listed} for section, listed in members.items()}
    parser = _build_parser(command, description, members, types)
    flags = _given_flags(parser, argv[is_named:], {name for names in types.values() for name in names})
    if name is None:
        names = ", ".join(each for each in recipe_names() if ("-rqt-" in each) == command.endswith("rqt"))
        raise ValueError(f"`RECIPE` must be a JSON file or one of {names}.")

    sections, name = read_recipe(name), Path(name).name.removesuffix(".json")
    for section, hints in types.items():
        check_types(sections[section], hints, f"Recipe '{name}', section `{section}`: ")
    for flag, section, names in OVERRIDES + ([] if is_named else OVERRIDES_OF_DEFAULT):
        if flag in flags:
            kept = [] if names is None else sections[section].keys() - names
            sections[section] = {each: sections[section][each] for each in kept}
    defaults = {"output_dir": f"runs/{name}", "hold_out": "validation_split" not in flags}
    values = {
        section: {
            each: given[each] for given in (defaults, sections[section], flags) for each in given if each in hints
        }
        for section, hints in types.items()
    }
    training, data = training_class(**values["training"]), data_class(**values["data"])
    card = sections["card"]
    if training.hub_token is None:  # a card is public
        words = [Path(word).name if Path(word).is_absolute() else word for word in argv]
        card = {"training_commands": [shlex.join([*command.split(), *words])]} | card
    return Recipe(training, data, values["model"], card, sections["sampling"], name)


def start_logging(training: TrainingArguments) -> None:
    """Shows what this library and transformers log, as `--log_level` says."""
    level = training.get_process_log_level()
    logging.basicConfig(level=level, format="%(asctime)s %(name)s: %(message)s")
    transformers.logging.set_verbosity(level)


def _build_parser(command: str, description: str, members: dict[str, list[Field]], types: dict) -> CommandParser:
    """A parser with a flag for each field, in groups."""
    usage = "%(prog)s RECIPE [options]"
    parser = CommandParser(prog=command, usage=usage, description=description, formatter_class=HelpFormatter)
    base = get_type_hints(TrainingArguments)
    groups = {
        "data": members["data"],
        "training of this stage": [each for each in members["training"] if each.name not in base],
        "model": members["model"],
        "training in general (transformers.TrainingArguments)": [
            each for each in members["training"] if each.name in base
        ],
    }
    hints = types["model"] | types["training"] | types["data"]
    for title, flags in groups.items():
        group = parser.add_argument_group(title)
        for each in flags:
            _add_flag(group, each, hints[each.name])
    return parser


def _add_flag(group: Any, field: Field, hint: Any) -> None:
    """Adds the flag of a field. Types are checked where the field is declared, as those of recipes are."""
    default = field.default if field.default_factory is MISSING else field.default_factory()
    kinds = (hint, *get_args(hint))
    options = {
        "type": partial(_read_value, hint=hint),
        "help": field.metadata.get("help", "model field, a JSON value"),
    }
    if bool in kinds and str not in kinds:
        options |= {"type": string_to_bool, "nargs": "?", "const": True}
    elif list in map(get_origin, kinds) and str not in kinds:
        options["nargs"] = "+"
    if choices := field.metadata.get("choices") or _choices(hint):
        options["metavar"] = f"{{{','.join(choices)}}}"
    names = dict.fromkeys((f"--{field.name}", f"--{field.name.replace('_', '-')}"))
    group.add_argument(*names, default=default, **options)
    if hint is bool and default is True:
        group.add_argument(f"--no_{field.name}", dest=field.name, action="store_false", default=argparse.SUPPRESS)


def _choices(hint: Any) -> list[str]:
    """The texts that a type hint allows, if it lists any."""
    if isinstance(hint, EnumMeta):
        return [each.value for each in hint]
    inner = get_args(hint)
    return (
        list(map(str, inner)) if get_origin(hint) is Literal else [text for each in inner for text in _choices(each)]
    )


def _read_value(text: str, hint: Any) -> Any:
    """The value of a flag: a text or a JSON value, whichever has the type of the field."""
    if hint is not Any and is_of_type(text, hint):
        return text
    for read in (json.loads, float):
        try:
            value = read(text)
        except ValueError:
            continue
        if is_of_type(value, hint):
            return value
    return text


def _given_flags(parser: argparse.ArgumentParser, argv: Sequence[str], names: Iterable[str]) -> dict[str, Any]:
    """The flags of a command line without those that have their defaults."""
    namespace, unknown = parser.parse_known_args(argv, argparse.Namespace(**dict.fromkeys(names, NOT_GIVEN)))
    if unknown and not unknown[0].startswith("-"):
        parser.error(f"RECIPE must come first, before all flags, got {unknown[0]!r}")
    if unknown:
        hint = closest(unknown[0].partition("=")[0].removeprefix("--"), names)
        parser.error(f"unknown argument {unknown[0]!r}{hint}")
    return {name: value for name, value in vars(namespace).items() if value is not NOT_GIVEN}


def _model_fields(config_class: type[PreTrainedConfig]) -> list[Field]:
    """Fields that `config_class` adds to those of every configuration, and the class names."""
    common = {each.name for each in fields(PreTrainedConfig)} - {"id2label"}
    return [each for each in fields(config_class) if each.name not in common]
