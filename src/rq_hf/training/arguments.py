# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Command lines of the training scripts: `script.py [CONFIG.json] [--flag value ...]`, flags win."""

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import transformers
from transformers import HfArgumentParser, PreTrainedConfig, TrainingArguments

from ..card_metadata import TrainingFootprint
from ..configuration_common import SAMPLING_DEFAULTS, unknown_field_message
from .data import DataArguments

SECTIONS = ("model", "training", "data", "card")
# Of a default configuration: what goes with its data set, not with another.
OF_ITS_ROWS = ("caption_column", "num_caption_variants", "label_column", "filter", "transform")
# What a card is made of, what a recipe of the paper says of its origin, and what its transformer stands on.
CARD_FIELDS = (
    "license", "language", "dataset", "model_name", "summary", "training_data", "training_procedure", "attribution",
    "intended_use", "limitations", "example_input", "training_commands", "sampling", "footprint",
    "paper", "published", "released", "notes", "processes", "global_batch_size", "rqvae",
)  # fmt: skip


@dataclass
class ScriptArguments:
    """What a training script was asked for."""

    training: TrainingArguments
    data: DataArguments
    model: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    command: str = ""


def _json_value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def own_fields(config_class: type[PreTrainedConfig]) -> list[str]:
    """Fields that `config_class` adds to those of every configuration."""
    common = {each.name for each in fields(PreTrainedConfig)}
    return [each.name for each in fields(config_class) if each.name not in common or each.name == "id2label"]


def read_config(path: str | Path) -> dict[str, dict[str, Any]]:
    """A training configuration file as its four sections; paths in section `data` that begin with "." are relative
    to the file.

    Raises:
        `ValueError`: not a JSON object of known sections.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"The configuration must be a JSON file, got {str(path)!r}, which is none.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"The configuration {str(path)!r} is not valid JSON: {error}") from error
    if not isinstance(config, dict) or not all(isinstance(section, dict) for section in config.values()):
        raise ValueError(
            f"The configuration {str(path)!r} must be an object of the sections {SECTIONS}, objects themselves, got "
            f"{config!r:.200}."
        )
    for name in config:
        if name not in SECTIONS:
            raise ValueError(unknown_field_message(f"The configuration {str(path)!r}", name, list(SECTIONS)))
    if "data" in config:
        config["data"] = _resolved(config["data"], path.parent)
    _check_card(path, config.get("card", {}))
    return {name: config.get(name, {}) for name in SECTIONS}


def _resolved(value: Any, folder: Path) -> Any:
    """Paths that begin with "." are relative to the folder, also those in objects and lists."""
    if isinstance(value, str):
        return str((folder / value).resolve()) if value.startswith(".") else value
    if isinstance(value, dict):
        return {name: _resolved(each, folder) for name, each in value.items()}
    return [_resolved(each, folder) for each in value] if isinstance(value, list) else value


def _check_card(path: Path, card: dict[str, Any]) -> None:
    """Refuses before the training what would be found wrong after it."""
    footprint = [each.name for each in fields(TrainingFootprint) if each.name != "hours"]
    known = {"": CARD_FIELDS, "sampling": SAMPLING_DEFAULTS, "footprint": footprint}
    for section, names in known.items():
        values = card.get(section, {}) if section else card
        if not isinstance(values, dict):
            raise ValueError(f"`{section}` of section `card` of {str(path)!r} must be an object, got {values!r}.")
        for name in values:
            if name not in names:
                place = f"`{section}` of section `card`" if section else "Section `card`"
                raise ValueError(unknown_field_message(f"{place} of {str(path)!r}", name, list(names)))
    TrainingFootprint(**{"hours": 0.0, "hardware": "", **card.get("footprint", {})})


def start_logging(training: TrainingArguments) -> None:
    """Shows what this package and transformers tell of a training, as `--log_level` asks for."""
    level = training.get_process_log_level()
    logging.basicConfig(level=level, format="%(asctime)s %(name)s: %(message)s")
    transformers.logging.set_verbosity(level)


def parse_arguments(
    config_class: type[PreTrainedConfig],
    training_class: type[TrainingArguments],
    data_class: type[DataArguments],
    default_config: str | Path,
    description: str,
    argv: Sequence[str] | None = None,
) -> ScriptArguments:
    """Reads `[CONFIG.json] [--flag value ...]`.

    Args:
        config_class: the model's configuration; its fields are flags with JSON values.
        training_class: the stage's `TrainingArguments`.
        data_class: the stage's `DataArguments`.
        default_config: configuration file used where the command line names none; without its model and card where
            that names a pretrained one, without what belongs to its rows and its card where it names a data set.
        description: first line of `--help`.
        argv: arguments instead of the command line's.

    Raises:
        `ValueError`: an unknown key or flag, named with the closest known one.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    command = shlex.join([sys.argv[0], *argv])
    named = bool(argv) and not argv[0].startswith("-")
    path = argv.pop(0) if named else default_config
    sections = read_config(path)
    flags = {word.partition("=")[0] for word in argv}
    if "--num_train_epochs" in flags and "--max_steps" not in flags:  # which would win, also over a flag
        sections["training"].pop("max_steps", None)
    if not named:
        if "--model_name_or_path" in flags:
            sections |= {"model": {}, "card": {}}
        if "--dataset_name" in flags:
            data = {name: value for name, value in sections["data"].items() if name not in OF_ITS_ROWS}
            sections |= {"data": data, "card": {}}

    parser = HfArgumentParser(
        (training_class, data_class),
        description=description,
        allow_abbrev=False,
        usage="%(prog)s [CONFIG.json] [options]",
    )
    known = {
        "model": own_fields(config_class),
        "training": [each.name for each in fields(training_class) if each.init],
        "data": [each.name for each in fields(data_class)],
    }
    for section, names in known.items():
        for name in sections[section]:
            if name not in names:
                raise ValueError(unknown_field_message(f"Section `{section}` of {str(path)!r}", name, names))
    for name in known["model"]:
        parser.add_argument(f"--{name}", type=_json_value, default=argparse.SUPPRESS, help="model field, a JSON value")
    parser.set_defaults(**sections["training"], **sections["data"])

    training, data, *rest = parser.parse_args_into_dataclasses(
        args=argv, return_remaining_strings=True, look_for_args_file=False
    )
    *namespace, remaining = rest
    for text in remaining:
        if text.startswith("--"):
            flags = [name for names in known.values() for name in names]
            raise ValueError(unknown_field_message("The command line", text.lstrip("-").split("=")[0], flags))
    if remaining:
        raise ValueError(f"The command line takes one configuration file, first; got also {' '.join(remaining)}.")
    model = {**sections["model"], **(vars(namespace[0]) if namespace else {})}
    return ScriptArguments(training=training, data=data, model=model, card=sections["card"], command=command)
