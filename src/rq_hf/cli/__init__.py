# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The console command `rq-hf`. Each command is a function of a module, which takes `argv`."""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

from .. import __version__
from .options import CommandParser, command

# command: (module, its function, what it does)
COMMANDS = {
    "train-rqvae": ("train", "train_rqvae", "train an RQ-VAE (stage 1)"),
    "train-rqt": ("train", "train_rqt", "train an RQ-Transformer (stage 2) and assemble the pipeline"),
    "train-tokenizer": ("train_tokenizer", "main", "train a caption tokenizer"),
    "generate": ("generate", "main", "draw pictures"),
    "reconstruct": ("reconstruct", "main", "show what an RQ-VAE keeps of a picture, coarse to fine"),
    "evaluate": ("evaluate", "main", "measure an RQ-VAE or a pipeline"),
    "convert": ("convert", "main", "convert an official checkpoint"),
    "push": ("push", "main", "upload a folder to the Hub"),
    "app": ("app", "main", "serve a page in the browser that draws"),
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
        epilog="\n".join(["commands:", *(f"  {name:{width}}{about}" for name, (*_, about) in COMMANDS.items())]),
    )
    parser.add_argument("--version", action="version", version=f"rq_hf {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=list(COMMANDS), help="COMMAND --help says more")
    module, function, _ = COMMANDS[parser.parse_args(argv[:1]).command]
    getattr(importlib.import_module(f".{module}", __name__), function)(argv[1:], **options)
