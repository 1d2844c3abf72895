# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Upload a folder with a pipeline, a model, a LoRA adapter or a caption tokenizer to a repository on the Hub.

    rq-hf push runs/mine --repo_id you/mine --with_code

Checkpoints of a training, hidden files and pickles are not uploaded. A card is written where there is none.
"""

from collections.abc import Sequence
from pathlib import Path

from ..hub import push_folder
from .options import CommandParser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `rq-hf push`."""
    parser = CommandParser(prog="rq-hf push", usage="%(prog)s FOLDER --repo_id NAME [options]", description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--repo_id", required=True, help="repository; made where it is missing")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    parser.add_argument("--revision", help="branch; made where it is missing")
    parser.add_argument("--with_code", action="store_true", help="add code, so that it loads without rq_hf")
    parser.add_argument("--license", help="of the weights, for the card, such as cc-by-4.0")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request")
    parser.add_argument("--commit_message")
    options = vars(parser.parse_args(argv))
    print(push_folder(options.pop("folder"), options.pop("repo_id"), **options).commit_url)
