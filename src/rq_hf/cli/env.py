# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Print the versions and the device that whoever reads a report of an error needs to know."""

import importlib.metadata
import platform
from collections.abc import Sequence

import torch

from ..version import __version__
from .options import CommandParser

PACKAGES = ("torch", "transformers", "diffusers", "accelerate", "datasets", "tokenizers", "peft", "gradio")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `rq-hf env`."""
    CommandParser(prog="rq-hf env", description=__doc__).parse_args(argv)
    installed = {each.name.lower(): each.version for each in importlib.metadata.distributions()}
    versions = {"platform": platform.platform(), "python": platform.python_version(), "rq_hf": __version__}
    versions |= {name: installed.get(name, "not installed") for name in PACKAGES}
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    for name, version in (versions | {"device": ", ".join(devices) or "cpu"}).items():
        print(f"- {name}: {version}")
