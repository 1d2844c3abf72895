# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What several commands share: the parser, the treatment of errors, and common options."""

import argparse
import functools
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HTTPError, StrictDataclassError
from PIL import Image
from safetensors import SafetensorError

from ..models.sampling import SAMPLING_FIELDS
from ..pipelines import CLIPRanker, ImageClassifier, RQImageGenerationPipeline

# Bad input, a file that cannot be read, fields that do not fit together, a Hub that does not answer, a missing extra.
USER_ERRORS = (ValueError, OSError, StrictDataclassError, SafetensorError, HTTPError, ImportError)
DTYPES = ("float32", "bfloat16", "float16")


def command(main: Callable) -> Callable:
    """Decorates the `main` of a command: an error of the user is one line on stderr and exit code 1."""

    @functools.wraps(main)
    def run(*args, **kwargs) -> None:
        try:
            main(*args, **kwargs)
        except USER_ERRORS as error:
            message = " ".join(str(error).split())[:1000] or type(error).__name__
            if isinstance(error, ModuleNotFoundError):
                message += "; install rq_hf with the extra train, eval or demo: pip install '.[train]' in a clone"
            sys.exit(f"error: {message}")

    return run


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
    if not text.isdecimal() or len(text) > 20 or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"must be an integer from {low} to {high}, got {text[:80]!r}")
    return int(text)


def device(text: str) -> str:
    """An argparse type: a device that torch can use."""
    try:
        return str(torch.empty(0, device=text).device)
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used: {error!s:.100}") from error


def picture_path(text: str) -> Path:
    """An argparse type: the path of a picture to write."""
    if Path(text).suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise argparse.ArgumentTypeError(f"must end in .png, .jpg, .jpeg or .webp, got {text!r}")
    return Path(text)


def one_or_more(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """An argparse type: "0.9" is a number, "0.9,0.8" a list with one number per depth."""

    def parse(text: str) -> Any:
        values = [kind(part) for part in text.split(",")]
        return values[0] if len(values) == 1 else values

    parse.__name__ = f"{kind.__name__} or comma-separated list"
    return parse


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model, its revision, dtype and device."""
    parser.add_argument("model", metavar="MODEL", help="Hub id or folder")
    parser.add_argument("--revision", help="revision on the Hub")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights (default: %(default)s)")
    parser.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu")


def load_pipeline(arguments: argparse.Namespace) -> RQImageGenerationPipeline:
    """The pipeline that the arguments of `add_model_arguments` name."""
    dtype = getattr(torch, arguments.dtype)
    pipe = RQImageGenerationPipeline.from_pretrained(arguments.model, revision=arguments.revision, dtype=dtype)
    return pipe.to(arguments.device)


def add_drawing_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds sampling settings, and what chooses among candidates."""
    for name, kind in (("temperature", float), ("top_k", int), ("top_p", float)):
        parser.add_argument(f"--{name}", type=one_or_more(kind), help="one number, or one per depth: 1,0.9,0.8")
    parser.add_argument("--guidance_scale", type=float, help="classifier-free guidance; 1 is none")
    parser.add_argument("--num_candidates", type=int, help="pictures per prompt of which the best are kept")
    parser.add_argument("--ranker", help="'likelihood', or a CLIP model; needs --num_candidates")
    parser.add_argument("--classifier", help="image classifier; needs --acceptance_rate")
    parser.add_argument("--acceptance_rate", type=float, help="share of the pictures that the classifier accepts")


def drawing_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those that were given, as arguments of the pipeline, with their models loaded."""
    names = (*SAMPLING_FIELDS, "num_candidates", "ranker", "classifier", "acceptance_rate")
    options = {name: getattr(arguments, name, None) for name in names}
    options = {name: value for name, value in options.items() if value is not None}
    if options.get("ranker", "likelihood") != "likelihood":
        options["ranker"] = CLIPRanker(options["ranker"])
    if "classifier" in options:
        options["classifier"] = ImageClassifier(options["classifier"])
    return options


def write_sheet(sheet: Image.Image, output: Path | None, stem: str) -> None:
    """Saves a sheet of pictures and prints its path; without `output` it is a new file in `out/`."""
    if output is None:
        paths = (Path("out", f"{stem}-{number}.png" if number else f"{stem}.png") for number in itertools.count())
        output = next(path for path in paths if not path.exists())
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f".unfinished-{output.name}")
    try:
        sheet.save(unfinished)
        unfinished.replace(output)
    finally:  # a full disk leaves no file
        unfinished.unlink(missing_ok=True)
    print(output)
