# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Train the caption tokenizer of a text-to-image model on the captions of a data set.

rq-hf train-tokenizer --dataset_name data/mine
"""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .options import CommandParser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `rq-hf train-tokenizer`."""
    parser = CommandParser(prog="rq-hf train-tokenizer", description=__doc__)
    parser.add_argument("--dataset_name", required=True, help="Hub id or folder of a data set")
    parser.add_argument("--split", default="train", help="split to read (default: %(default)s)")
    parser.add_argument("--caption_column", default="text", help="texts, or lists of them (default: %(default)s)")
    parser.add_argument("--streaming", action="store_true", help="read the data set without a copy on disk")
    parser.add_argument("--vocab_size", type=int, default=16384, help="entries, at most (default: %(default)s)")
    parser.add_argument("--max_length", type=int, default=32, help="tokens of a caption (default: %(default)s)")
    parser.add_argument("--output_dir", default="runs/tokenizer", help="new or empty folder (default: %(default)s)")
    arguments = parser.parse_args(argv)

    from ..caption_tokenizer import train_caption_tokenizer
    from ..files import write_whole
    from ..training.data import read_dataset

    with write_whole(arguments.output_dir, new_folder=True) as unfinished:
        column = arguments.caption_column
        dataset = read_dataset(arguments.dataset_name, split=arguments.split, streaming=arguments.streaming)
        if column not in (columns := list(dataset.features or [column])):  # a stream may not know its columns
            raise ValueError(f"`--caption_column` must be one of the columns {columns}, got {column!r}.")
        dataset = dataset.select_columns(column)  # leaves pictures undecoded
        sizes = {"vocab_size": arguments.vocab_size, "max_length": arguments.max_length}
        tokenizer = train_caption_tokenizer(read_captions(dataset, column), **sizes, show_progress=True)
        tokenizer.save_pretrained(unfinished)
    words = ["rq-hf", "train-rqt", "small-rqt-64", "--dataset_name", arguments.dataset_name]
    words += ["--caption_column", column, "--tokenizer_name_or_path", arguments.output_dir]
    print(f"{len(tokenizer)} entries saved in {arguments.output_dir}. Next: {shlex.join(words)}")


def read_captions(dataset: Iterable[dict[str, Any]], column: str) -> Iterator[str]:
    """The captions of all rows, each of which holds a text or a list of texts; missing ones are left out."""
    for row in dataset:
        captions = row[column] if isinstance(row[column], list) else [row[column]]
        yield from (caption for caption in captions if caption is not None)
