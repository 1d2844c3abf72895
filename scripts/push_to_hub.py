# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Uploads a folder with a pipeline, a model, a LoRA adapter or a caption tokenizer to a repository on the Hub.

    python scripts/push_to_hub.py checkpoints/emoji-64 --repo_id you/emoji-64 --with_code

The folder stays as it is. Its weights have to be safetensors; pickles, checkpoints of a training and hidden files are
not uploaded. A card is written where neither the folder nor the repository has one.
"""

import argparse
import sys
from pathlib import Path

from huggingface_hub.errors import HTTPError

from rq_hf.command_line import INPUT_ERRORS
from rq_hf.sharing import VARIANTS, push_folder


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repo_id", required=True, help="repository, made if it is missing")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    parser.add_argument("--revision", help="branch, made if it is missing; main by default")
    parser.add_argument("--with_code", action="store_true", help="add code, so that it loads without rq_hf")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=[], help="add half-precision weights")
    parser.add_argument("--max_shard_size", help="split larger weights, such as 2GB")
    parser.add_argument(
        "--evaluations", nargs="+", type=Path, default=[], help="JSON files of scripts/evaluate.py for the card"
    )
    parser.add_argument("--commit_message")
    return parser.parse_args(argv)


def main(argv=None) -> None:
    options = vars(parse_arguments(argv))
    print(push_folder(options.pop("folder"), options.pop("repo_id"), **options).commit_url)


if __name__ == "__main__":
    try:
        main()
    except (*INPUT_ERRORS, HTTPError) as error:  # the last also where nothing answers
        sys.exit(f"{type(error).__name__}: {error}")
