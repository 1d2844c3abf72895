# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The parser, types of arguments and options that several commands share."""

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..files import write_whole
from ..models import RQGenerationConfig
from ..pipelines import CLIPRanker, ImageClassifier, RQImageGenerationPipeline

DTYPES = ("float32", "bfloat16", "float16")


class CommandParser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are one line and whose description keeps its line breaks."""

    def __init__(self, *args, **options):
        options = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False} | options
        super().__init__(*args, **options)

    def error(self, message: str) -> None:
        """Prints the message without the usage; exit code 2."""
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def integer(text: str, low: int = 0, high: int = 2**32) -> int:
    """An argparse type: an integer from `low` to `high`."""
    if not text.isdecimal() or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"must be an integer from {low} to {high}, got {text[:80]!r}")
    return int(text)


def path_with(*suffixes: str) -> Callable[[str], Path]:
    """An argparse type: the path of a file to write, with one of these endings."""

    def parse(text: str) -> Path:
        if Path(text).suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"must end in {' or '.join(suffixes)}, got {text!r}")
        return Path(text)

    return parse


picture_path = path_with(".png", ".jpg", ".jpeg", ".webp")


def read_json(text: str) -> Any:
    """An argparse type: JSON or another way to write a number, or else the text."""
    for read in (json.loads, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def one_or_more(text: str) -> Any:
    """An argparse type: "0.9" is a number, "0.9,0.8" a list with one number per depth."""
    values = [read_json(part) for part in text.split(",")]
    return values[0] if len(values) == 1 else values


CHOOSING_ARGUMENTS = {
    "num_candidates": (int, "pictures per prompt of which the best are kept"),
    "ranker": (str, "'likelihood' (the default), or a CLIP model; needs --num_candidates"),
    "classifier": (str, "image classifier; needs --acceptance_rate"),
    "acceptance_rate": (float, "share of the pictures that the classifier accepts"),
}


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model, its revision, dtype and device."""
    parser.add_argument("model", metavar="MODEL", help="Hub id or folder")
    parser.add_argument("--revision", help="revision on the Hub")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights (default: %(default)s)")
    parser.add_argument("--device", help="such as cpu or cuda:1; by default cuda where there is one")


def load_pipeline(arguments: argparse.Namespace) -> RQImageGenerationPipeline:
    """Loads the pipeline that the arguments of `add_model_arguments` name."""
    dtype = getattr(torch, arguments.dtype)
    pipe = RQImageGenerationPipeline.from_pretrained(arguments.model, revision=arguments.revision, dtype=dtype)
    return pipe.to(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def add_drawing_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the settings of `RQGenerationConfig`, and what chooses among candidates."""
    settings = parser.add_argument_group("settings of RQGenerationConfig, one number, or one per depth: 1,0.9,0.8")
    for name, default in RQGenerationConfig.defaults.items():
        settings.add_argument(f"--{name}", type=one_or_more, help=f"by default the model's own, else {default}")
    for name, (kind, text) in CHOOSING_ARGUMENTS.items():
        parser.add_argument(f"--{name}", type=kind, help=text)
    text = "take prompts as they are, where the pipeline has a prompt rewriter"
    parser.add_argument("--no_rewrite", dest="rewrite_prompt", action="store_false", default=None, help=text)


def drawing_options(arguments: argparse.Namespace, pipe: RQImageGenerationPipeline) -> dict[str, Any]:
    """Those that were given, as arguments of the pipeline, with their models loaded."""
    options = {name: getattr(arguments, name) for name in (*CHOOSING_ARGUMENTS, "rewrite_prompt")}
    options = {name: value for name, value in options.items() if value is not None}
    settings = {name: getattr(arguments, name) for name in RQGenerationConfig.defaults}
    options["generation_config"] = pipe.transformer.settings_of_call(**settings)
    if options.get("ranker", "likelihood") != "likelihood":
        options["ranker"] = CLIPRanker(options["ranker"])
    if "classifier" in options:
        options["classifier"] = ImageClassifier(options["classifier"])
    return options


def write_sheet(sheet: Any, output: Path | None, stem: str) -> None:
    """Saves a Pillow picture and prints its path; without `output` it is a new file in `out/`."""
    if output is None:
        paths = (Path("out", f"{stem}-{number}.png" if number else f"{stem}.png") for number in itertools.count())
        output = next(path for path in paths if not path.exists())
    with write_whole(output) as unfinished:
        sheet.save(unfinished)
    print(output)
