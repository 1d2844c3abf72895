# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The console command `rq-hf`. Each command is the `main` of the module of its name."""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

from .. import __version__
from .options import CommandParser, command

COMMANDS = {
    "train-rqvae": "train an RQ-VAE (stage 1)",
    "train-rqt": "train an RQ-Transformer (stage 2) and assemble the pipeline",
    "train-tokenizer": "train a caption tokenizer",
    "generate": "draw pictures",
    "reconstruct": "show what an RQ-VAE keeps of a picture, coarse to fine",
    "evaluate": "measure an RQ-VAE or a pipeline",
    "convert": "convert an official checkpoint",
    "push": "upload a folder to the Hub",
    "app": "serve a page in the browser that draws",
}


@command
def main(argv: Sequence[str] | None = None, **options: Any) -> None:
    """Runs `rq-hf COMMAND [arguments]`; `options` are those of the command's function."""
    argv = list(sys.argv[1:] if argv is None else argv)
    width = max(map(len, COMMANDS)) + 2
    parser = CommandParser(
        prog="rq-hf",
        usage="rq-hf COMMAND [arguments]",
        description="RQ-VAE and RQ-Transformer: training, sampling, evaluation and sharing.",
        epilog="\n".join(["commands:", *(f"  {name:{width}}{about}" for name, about in COMMANDS.items())]),
    )
    parser.add_argument("--version", action="version", version=f"rq_hf {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=list(COMMANDS), help="COMMAND --help says more")
    module = parser.parse_args(argv[:1]).command.replace("-", "_")
    importlib.import_module(f".{module}", __name__).main(argv[1:], **options)
