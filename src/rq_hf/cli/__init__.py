# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The console command `rq-hf`. Each command is the `main` of the module of its name."""

import importlib
import importlib.metadata
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..version import __version__
from .options import CommandParser

COMMANDS = {
    "train-rqvae": "train an RQ-VAE (stage 1)",
    "train-rqt": "train an RQ-Transformer (stage 2) and assemble the pipeline",
    "train-tokenizer": "train a caption tokenizer",
    "generate": "draw pictures",
    "reconstruct": "show what an RQ-VAE keeps of a picture, coarse to fine",
    "evaluate": "measure an RQ-VAE or a pipeline",
    "convert": "convert an official checkpoint",
    "push": "upload a folder to the Hub",
    "env": "print versions and device, for a report of an error",
}


def main(argv: Sequence[str] | None = None) -> None:
    """
    Runs `rq-hf [--debug] COMMAND [arguments]`. An error ends it in one line, see [`errors_in_one_line`], and a
    refused argument with status 2. `--debug` prints the traceback before that line.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    width = max(map(len, COMMANDS)) + 2
    parser = CommandParser(
        prog="rq-hf",
        usage="rq-hf [--debug] COMMAND [arguments]",
        description="RQ-VAE and RQ-Transformer: training, sampling, evaluation and sharing.",
        epilog="\n".join(["commands:", *(f"  {name:{width}}{about}" for name, about in COMMANDS.items())]),
    )
    parser.add_argument("--version", action="version", version=f"rq_hf {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error; before COMMAND")
    parser.add_argument("command", metavar="COMMAND", choices=list(COMMANDS), help="COMMAND --help says more")
    start = 2 if argv[:1] == ["--debug"] else 1
    asked = parser.parse_args(argv[:start])
    module = asked.command.replace("-", "_")  # imported here, as some need packages of an extra
    with errors_in_one_line(asked.debug):
        importlib.import_module(f".{module}", __name__).main(argv[start:])


@contextmanager
def errors_in_one_line(debug: bool = False) -> Iterator[None]:
    """Prints an error of the block as one line and ends the process: status 1, 130 for SIGINT, 143 for SIGTERM."""
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        if not isinstance(error, KeyboardInterrupt):
            sys.exit(f"error: {in_one_line(error)}")
        print("error: interrupted", file=sys.stderr)
        sys.exit(128 + (error.args or [signal.SIGINT])[0])
    finally:
        signal.signal(signal.SIGTERM, before)


def interrupt(number: int, _: Any) -> None:
    """Raises KeyboardInterrupt, so that unfinished files are removed. A second signal kills the process."""
    signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt(number)


def in_one_line(error: Exception) -> str:
    """The message of an error in one line. An unexpected error also names `--debug`."""
    text = str(error).strip()
    if "Original Traceback" in text:  # a worker of a data loader hands its traceback on
        text = text.splitlines()[-1]
    message = " ".join(text.split())[:1000]
    if isinstance(error, ImportError):
        extras = [f'`pip install ".[{extra}]"`' for extra in extras_with(error.name)]
        return message + (f"; in a clone of rq_hf it comes with {' or '.join(extras)}" if extras else "")
    if isinstance(error, (ValueError, OSError)) and message:
        return message
    if "TransportError" in [each.__name__ for each in type(error).__mro__]:  # of the Hub's client: httpx or httpx2
        return f"the Hub cannot be reached, check the network: {message or type(error).__name__}"
    return f"{type(error).__name__}: {message}; `rq-hf --debug COMMAND` shows its traceback"


def extras_with(module: str | None) -> list[str]:
    """The extras of rq_hf that install a module. Its package must have the same name."""
    package = str(module).partition(".")[0].replace("_", "-")
    try:
        needs = "\n".join(importlib.metadata.requires("rq_hf") or [])
    except importlib.metadata.PackageNotFoundError:  # a folder on the path, not installed
        return []
    return re.findall(rf'^{package}\b(?!-).*extra == "((?!dev")\w+)"', needs, re.MULTILINE)
