# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
r"""Makes a data set of the four files of Fashion-MNIST: 70,000 grey pictures of 28x28, ten kinds of clothing.

python scripts/prepare_fashion_mnist.py --input_dir /usr/share/datasets/fashion-mnist --output_dir data/fashion-mnist

The files are those of https://github.com/zalandoresearch/fashion-mnist (MIT); Debian's package `dataset-fashion-mnist`
has them. Load the folder with `datasets.load_dataset(folder)`: `train` (55,000), `validation` (the last 5,000 of the
published training set) and `test` (10,000), with columns `image` and `label`. On the Hub the set is
`zalando-datasets/fashion_mnist`, without a validation split.
"""

import argparse
import gzip
import math
import os
import signal
import sys
import tempfile
import zlib
from pathlib import Path

import datasets
import numpy as np

LABELS = ["T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
NUM_VALIDATION = 5000
# The numbers that each file begins with: a mark of its kind, then the array's shape.
HEADERS = {
    "train-images-idx3-ubyte.gz": (2051, 60000, 28, 28),
    "train-labels-idx1-ubyte.gz": (2049, 60000),
    "t10k-images-idx3-ubyte.gz": (2051, 10000, 28, 28),
    "t10k-labels-idx1-ubyte.gz": (2049, 10000),
}


def read_array(path: Path) -> np.ndarray:
    """The array of one of the files."""
    header = HEADERS[path.name]
    if not path.is_file():
        raise ValueError(f"`--input_dir` must hold {sorted(HEADERS)}, '{path}' does not exist.")
    try:
        content = gzip.decompress(path.read_bytes())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"'{path}' is damaged: {error}") from error
    start = 4 * len(header)
    begins = len(content) >= start and tuple(np.frombuffer(content[:start], ">u4")) == header
    if not begins or len(content) != start + math.prod(header[1:]):
        raise ValueError(f"'{path}' must begin with the numbers {header} and hold an array of that shape.")
    return np.frombuffer(content[start:], np.uint8).reshape(header[1:])


def build(images: np.ndarray, labels: np.ndarray) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=LABELS)})
    rows = {"image": list(images), "label": labels.tolist()}
    return datasets.Dataset.from_dict(rows, features=features)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input_dir", type=Path, required=True, help="folder of the four files")
    parser.add_argument("--output_dir", type=Path, required=True, help="new folder to write")
    options = parser.parse_args(argv)
    output_dir = options.output_dir.resolve()
    try:
        if output_dir.exists():
            raise ValueError(f"`--output_dir` must not exist, got '{output_dir}'.")
        train, test = (
            [read_array(options.input_dir / f"{part}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1")]
            for part in ("train", "t10k")
        )
        kept = len(train[0]) - NUM_VALIDATION
        splits = {
            "train": [array[:kept] for array in train],
            "validation": [array[kept:] for array in train],
            "test": test,
        }
        output_dir.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output_dir.name}-", dir=output_dir.parent) as workspace:
            built = Path(workspace, "built")
            built.mkdir()
            for name, arrays in splits.items():
                build(*arrays).to_parquet(built / f"{name}.parquet")
            os.replace(built, output_dir)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    print(f"written to {output_dir}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that the workspace is removed
    main()
