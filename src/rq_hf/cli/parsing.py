# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Command lines of the trainings: `RECIPE [--flag value ...]`, where flags win over the recipe."""

import argparse
import logging
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, get_type_hints

import transformers
from transformers import PreTrainedConfig, TrainingArguments
from transformers.hf_argparser import string_to_bool

from ..training.arguments import (
    DataArguments,
    Recipe,
    check_types,
    closest,
    is_of_type,
    model_kinds,
    read_recipe,
    recipe_names,
)
from .options import CommandParser, read_json

# (flag, section, fields): a given flag also removes these fields of the recipe; `None` removes the whole section.
OVERRIDES = [
    ("num_train_epochs", "training", ["max_steps"]),  # which would win over the epochs
    ("caption_column", "data", ["label_column"]),
    ("label_column", "data", ["caption_column"]),
    ("model_name_or_path", "model", None),  # a pipeline brings all its components
    ("model_name_or_path", "data", ["rqvae_name_or_path", "tokenizer_name_or_path", "text_encoder"]),
]


def parse_recipe(
    command: str,
    config_class: type[PreTrainedConfig],
    training_class: type[TrainingArguments],
    data_class: type[DataArguments],
    description: str,
    argv: Sequence[str] | None = None,
) -> Recipe:
    """Reads `RECIPE [--flag value ...]`. Each field of the sections `model`, `training` and `data` is a flag.

    Flags win over the recipe; [`OVERRIDES`] lists the other fields that a flag removes. Without `--validation_split`,
    a data set that lacks the recipe's validation split has rows held out.

    Raises:
        `ValueError`: No recipe, an unknown field, or a value of the wrong type or range.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    name = argv[0] if argv and not argv[0].startswith("-") else None
    common = {each.name for each in fields(PreTrainedConfig)} - {"id2label"}
    of_models = {each.name: each for kind in model_kinds(config_class).values() for each in fields(kind)}
    members = {
        "model": [each for name, each in of_models.items() if name not in common],
        "training": fields(training_class),
        "data": fields(data_class),
    }
    hints = get_type_hints(training_class) | get_type_hints(data_class)
    flags = _read_flags(command, description, members, hints, argv[name is not None :])
    types = {section: {each.name: hints.get(each.name, Any) for each in listed} for section, listed in members.items()}
    if name is None:
        names = ", ".join(each for each in recipe_names() if ("rqt-" in each) == command.endswith("rqt"))
        raise ValueError(f"`RECIPE` must be a JSON file or one of {names}.")

    sections, name = read_recipe(name), Path(name).name.removesuffix(".json")
    for section, expected in types.items():
        check_types(sections[section], expected, f"Recipe '{name}', section `{section}`: ")
    for flag, section, names in OVERRIDES:
        if flag in flags:
            kept = [] if names is None else sections[section].keys() - names
            sections[section] = {each: sections[section][each] for each in kept}
    defaults = {"output_dir": f"runs/{name}", "hold_out": "validation_split" not in flags}
    for section, expected in types.items():
        values = defaults | sections[section] | flags
        sections[section] = {each: value for each, value in values.items() if each in expected}
    training, data = training_class(**sections["training"]), data_class(**sections["data"])
    card = sections["card"]
    if training.hub_token is None:  # a card is public
        words = [Path(word).name if Path(word).is_absolute() else word for word in argv]
        card = {"training_commands": [shlex.join([*command.split(), *words])]} | card
    return Recipe(training, data, sections["model"], card, sections["sampling"], name)


def start_logging(training: TrainingArguments) -> None:
    """Shows the logs of this library and of transformers from `--log_level` on."""
    level = training.get_process_log_level()
    logging.basicConfig(level=level, format="%(asctime)s %(name)s: %(message)s")
    transformers.logging.set_verbosity(level)


def _read_flags(
    command: str, description: str, members: dict[str, Iterable[Field]], hints: dict[str, Any], argv: Sequence[str]
) -> dict[str, Any]:
    """Returns the given flags. Every field is a flag. An unknown flag is an error that names the closest one."""
    usage = "%(prog)s RECIPE [options]"
    parser = CommandParser(prog=command, usage=usage, description=description, argument_default=argparse.SUPPRESS)
    titles = ("data", "training of this stage", "model", "training in general (transformers.TrainingArguments)")
    data, own, model, general = (parser.add_argument_group(title) for title in titles)
    groups, inherited = {"data": data, "training": own, "model": model}, get_type_hints(TrainingArguments)
    for section, listed in members.items():
        for each in listed:
            is_general = section == "training" and each.name in inherited
            _add_flag(general if is_general else groups[section], each, hints.get(each.name, Any))
    flags, unknown = parser.parse_known_args(argv)
    if unknown and not unknown[0].startswith("-"):
        parser.error(f"RECIPE must come first, before all flags, got {unknown[0]!r}")
    if unknown:
        known = [each.name for listed in members.values() for each in listed]
        word = unknown[0].partition("=")[0].removeprefix("--")
        parser.error(f"unknown argument {unknown[0]!r}{closest(word, known)}")
    return vars(flags)


def _add_flag(group: Any, field: Field, hint: Any) -> None:
    """Adds the flag of a field. Its type is checked later, together with those of the recipe."""
    default = field.default if field.default_factory is MISSING else field.default_factory()
    about = field.metadata.get("help", "model field, a JSON value")
    is_text = hint is not Any and (is_of_type("", hint) or is_of_type([""], hint))
    options = {"type": str if is_text else read_json, "help": f"{about} (default: {default})"}
    if not is_of_type("", hint):
        if is_of_type(True, hint):
            options |= {"type": string_to_bool, "nargs": "?", "const": True}
        elif is_of_type([], hint):
            options["nargs"] = "+"
    group.add_argument(f"--{field.name}", **options)
