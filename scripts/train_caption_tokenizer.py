# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
r"""Train the caption tokenizer of a text-to-image model on a data set's captions.

python scripts/train_caption_tokenizer.py --dataset_name emoji64 --caption_column captions \
    --vocab_size 2048 --max_length 16 --output_dir caption-tokenizer
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from datasets import Dataset, IterableDataset

from rq_hf.caption_tokenizer import train_caption_tokenizer
from rq_hf.data_sources import read_dataset
from rq_hf.sharing import push_folder

NUM_MEASURED_CAPTIONS = 10_000


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", required=True, help="data set: a Hub id or a local folder")
    parser.add_argument("--dataset_config_name", help="configuration of the data set, if it has several")
    parser.add_argument("--split", default="train", help="split to read (default: %(default)s)")
    parser.add_argument(
        "--caption_column", default="text", help="column of captions or of lists of them (%(default)s)"
    )
    parser.add_argument("--streaming", action="store_true", help="read the data set without downloading it first")
    parser.add_argument("--vocab_size", type=int, default=16384, help="largest number of entries (%(default)s)")
    parser.add_argument("--max_length", type=int, default=32, help="ids in a row (%(default)s)")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to save the tokenizer in")
    parser.add_argument("--overwrite", action="store_true", help="replace a tokenizer that is in --output_dir")
    parser.add_argument("--push_to_hub", action="store_true", help="upload the tokenizer to the Hub")
    parser.add_argument("--hub_model_id", help="repository to upload to (default: the name of --output_dir)")
    return parser.parse_args(arguments)


def check_output_dir(output_dir: Path, overwrite: bool) -> None:
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"`--output_dir` must be a folder, got the file {output_dir}.")
    existing = [name for name in ("tokenizer.json", "tokenizer_config.json") if (output_dir / name).exists()]
    if existing and not overwrite:
        raise ValueError(f"`--output_dir` {output_dir} already contains {existing}: use --overwrite to replace them.")


def iterate_captions(dataset: Dataset | IterableDataset, caption_column: str) -> Iterator[str]:
    """Yield the captions of each row: the column holds a string or a list of strings; missing ones are passed over."""
    for index, row in enumerate(dataset):
        captions = row[caption_column] if isinstance(row[caption_column], list) else [row[caption_column]]
        for caption in captions:
            if caption is None:
                continue
            if not isinstance(caption, str):
                raise ValueError(
                    f"`--caption_column` {caption_column!r} must hold strings or lists of strings, "
                    f"got {caption!r} in row {index}."
                )
            yield caption


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    check_output_dir(args.output_dir, args.overwrite)

    dataset = read_dataset(args.dataset_name, args.dataset_config_name, split=args.split, streaming=args.streaming)
    column_names = dataset.column_names or list(next(iter(dataset), {}))  # a stream may not know its columns
    if args.caption_column not in column_names:
        raise ValueError(f"`--caption_column` must be one of {column_names}, got {args.caption_column!r}.")
    dataset = dataset.select_columns(args.caption_column)  # leaves pictures undecoded

    tokenizer = train_caption_tokenizer(
        iterate_captions(dataset, args.caption_column),
        vocab_size=args.vocab_size,
        max_length=args.max_length,
        show_progress=True,
    )
    tokenizer.save_pretrained(args.output_dir)

    measured = list(islice(iterate_captions(dataset, args.caption_column), NUM_MEASURED_CAPTIONS))
    lengths = sorted(len(input_ids) for input_ids in tokenizer(measured, verbose=False).input_ids)
    too_long = sum(length > args.max_length for length in lengths) / len(lengths)
    print(f"{len(tokenizer)} entries saved in {args.output_dir}.")
    print(
        f"The first {len(lengths)} captions have {lengths[len(lengths) // 2]} tokens (median), at most {lengths[-1]}; "
        f"{too_long:.2%} are cut at {args.max_length}."
    )
    if args.push_to_hub:
        push_folder(args.output_dir, args.hub_model_id or args.output_dir.resolve().name)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
