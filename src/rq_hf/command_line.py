# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Command-line options that several scripts share."""

import argparse
from typing import Any

SAMPLING = ("temperature", "top_k", "top_p", "guidance_scale")


def one_or_more(kind):
    """An argparse type: "0.9" is a number, "0.9,0.8" a list of one per depth."""

    def parse(text: str):
        values = [kind(part) for part in text.split(",")]
        return values[0] if len(values) == 1 else values

    parse.__name__ = f"{kind.__name__} or comma-separated list"
    return parse


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the sampling settings; one that is not given is the checkpoint's own."""
    parser.add_argument("--temperature", type=one_or_more(float), help="one number, or one per depth: 1,1,0.9,0.8")
    parser.add_argument("--top_k", type=one_or_more(int), help="one number, or one per depth")
    parser.add_argument("--top_p", type=one_or_more(float), help="one number, or one per depth")
    parser.add_argument("--guidance_scale", type=float, help="classifier-free guidance, 1: off")


def sampling_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The sampling settings as arguments of the pipeline."""
    return {name: getattr(arguments, name) for name in SAMPLING}
