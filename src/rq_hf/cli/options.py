# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
What several commands share: the parser, types of arguments, common options.

Like the commands, it imports torch and the library in its functions: help shows up before these seconds.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

    from ..pipelines import RQImageGenerationPipeline

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
    if not text.isdecimal() or len(text) > 20 or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"must be an integer from {low} to {high}, got {text[:80]!r}")
    return int(text)


def device(text: str) -> str:
    """An argparse type: a device that torch can use."""
    import torch

    try:
        torch.zeros(1, device=text).item()  # the device "meta" holds no numbers
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used: {error!s:.100}") from error
    return text


def path_with(*suffixes: str) -> Callable[[str], Path]:
    """An argparse type: the path of a file to write, with one of these endings."""

    def parse(text: str) -> Path:
        if Path(text).suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"must end in {' or '.join(suffixes)}, got {text!r}")
        return Path(text)

    return parse


picture_path = path_with(".png", ".jpg", ".jpeg", ".webp")


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
    parser.add_argument("--device", type=device, help="such as cpu or cuda:1; by default cuda where there is one")


def load_pipeline(arguments: argparse.Namespace) -> RQImageGenerationPipeline:
    """The pipeline that the arguments of `add_model_arguments` name."""
    import torch

    from ..pipelines import RQImageGenerationPipeline

    dtype = getattr(torch, arguments.dtype)
    pipe = RQImageGenerationPipeline.from_pretrained(arguments.model, revision=arguments.revision, dtype=dtype)
    return pipe.to(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def add_drawing_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds sampling settings, and what chooses among candidates."""
    for name, kind in (("temperature", float), ("top_k", int), ("top_p", float)):
        parser.add_argument(f"--{name}", type=one_or_more(kind), help="one number, or one per depth: 1,0.9,0.8")
    parser.add_argument("--guidance_scale", type=float, help="classifier-free guidance; 1 is none")
    for name, what in (("draft_steps", "passes of the draft"), ("revise_rounds", "revisions of the whole picture")):
        parser.add_argument(f"--num_{name}", type=integer, help=f"{what}, of a contextual transformer")
    text = "take prompts as they are, where the pipeline has a prompt rewriter"
    parser.add_argument("--no_rewrite", dest="rewrite_prompt", action="store_false", default=None, help=text)
    parser.add_argument("--num_candidates", type=int, help="pictures per prompt of which the best are kept")
    parser.add_argument("--ranker", help="'likelihood', or a CLIP model; needs --num_candidates")
    parser.add_argument("--classifier", help="image classifier; needs --acceptance_rate")
    parser.add_argument("--acceptance_rate", type=float, help="share of the pictures that the classifier accepts")


def drawing_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those that were given, as arguments of the pipeline, with their models loaded."""
    from ..models.sampling import SAMPLING_FIELDS
    from ..pipelines import CLIPRanker, ImageClassifier

    names = (*SAMPLING_FIELDS, "num_draft_steps", "num_revise_rounds", "rewrite_prompt")
    names += ("num_candidates", "ranker", "classifier", "acceptance_rate")
    options = {name: getattr(arguments, name, None) for name in names}
    options = {name: value for name, value in options.items() if value is not None}
    if options.get("ranker", "likelihood") != "likelihood":
        options["ranker"] = CLIPRanker(options["ranker"])
    if "classifier" in options:
        options["classifier"] = ImageClassifier(options["classifier"])
    return options


def write_sheet(sheet: Image.Image, output: Path | None, stem: str) -> None:
    """Saves a sheet of pictures and prints its path; without `output` it is a new file in `out/`."""
    from ..files import write_whole

    if output is None:
        paths = (Path("out", f"{stem}-{number}.png" if number else f"{stem}.png") for number in itertools.count())
        output = next(path for path in paths if not path.exists())
    with write_whole(output) as unfinished:
        sheet.save(unfinished)
    print(output)
