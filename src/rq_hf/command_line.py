# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Command-line options that several scripts share."""

import argparse
import io
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image

from .configuration_common import SAMPLING
from .likelihood_ranking import LIKELIHOOD
from .selection import CLIPRanker, ImageClassifier

# What a script ends with in one line: bad input, a file that cannot be read, a configuration that does not fit.
INPUT_ERRORS = (ValueError, OSError, StrictDataclassError)
RANKER = f"Hub id or folder of a CLIP-like model, or {LIKELIHOOD!r}: the model itself; needs --num_candidates"
LIKELIHOOD_WEIGHT = "so many times the model's own log-likelihood is added to the cosines of --ranker"


def one_or_more(kind):
    """An argparse type: "0.9" is a number, "0.9,0.8" a list of one per depth."""

    def parse(text: str):
        values = [kind(part) for part in text.split(",")]
        return values[0] if len(values) == 1 else values

    parse.__name__ = f"{kind.__name__} or comma-separated list"
    return parse


def picture_file(text: str) -> Path:
    """An argparse type: a path whose suffix tells a format that pictures can be written in."""
    path = Path(text)
    try:
        Image.new("RGB", (1, 1)).save(io.BytesIO(), Image.registered_extensions().get(path.suffix.lower(), ""))
    except (KeyError, ValueError, OSError) as error:  # no format, one that is read only, one without colours
        message = f"must be a file of a picture, such as pictures.png, got '{text}'"
        raise argparse.ArgumentTypeError(message) from error
    return path


def positive(text: str) -> int:
    """An argparse type: a whole number from 1."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def device(text: str) -> str:
    """An argparse type: a device that there is."""
    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise argparse.ArgumentTypeError(f"must be a device of this machine, got '{text}': {error}") from error
    return text


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the device, by default the first GPU where there is one."""
    parser.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu")


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the sampling settings; one that is not given is the checkpoint's own."""
    parser.add_argument("--temperature", type=one_or_more(float), help="one number, or one per depth: 1,1,0.9,0.8")
    parser.add_argument("--top_k", type=one_or_more(int), help="one number, or one per depth")
    parser.add_argument("--top_p", type=one_or_more(float), help="one number, or one per depth")
    parser.add_argument("--guidance_scale", type=float, help="classifier-free guidance, 1: off")


def sampling_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The sampling settings as arguments of the pipeline."""
    return {name: getattr(arguments, name) for name in SAMPLING}


def add_selection_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what chooses among candidates: a ranker, or a classifier of labels."""
    parser.add_argument("--num_candidates", type=int, help="pictures per prompt or label, of which the ranker chooses")
    parser.add_argument("--ranker", help=RANKER)
    parser.add_argument("--likelihood_weight", type=float, help=LIKELIHOOD_WEIGHT)
    parser.add_argument("--acceptance_rate", type=float, help="part of the pictures that the classifier accepts")
    parser.add_argument("--classifier", help="Hub id or folder of an image classifier; needs --acceptance_rate")


def loaded_ranker(name: str | None) -> CLIPRanker | str | None:
    """What `--ranker` stands for: a model, loaded, or a name that the pipeline knows."""
    return name if name in (None, LIKELIHOOD) else CLIPRanker(name)


def selection_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those as arguments of the pipeline, models loaded; only what was given."""
    settings = {
        "num_candidates": arguments.num_candidates,
        "ranker": loaded_ranker(arguments.ranker),
        "likelihood_weight": arguments.likelihood_weight,
        "acceptance_rate": arguments.acceptance_rate,
        "classifier": ImageClassifier(arguments.classifier) if arguments.classifier is not None else None,
    }
    return {name: value for name, value in settings.items() if value is not None}
