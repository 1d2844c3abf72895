# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Writes the keys of a stream's first batches that each process gets; `torchrun` starts it.

torchrun --nproc_per_node 2 tests/streaming_processes.py SHARDS FOLDER
"""

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from rq_hf.training.arguments import DataArguments
from rq_hf.training.data import PictureStream, SampleReader, load_splits
from rq_hf.training.transforms import PictureTransform


def read_key(row: dict, generator: torch.Generator) -> torch.Tensor:
    return torch.tensor([int(row["__key__"])])


def main(shards: str, folder: str) -> None:
    rows = load_splits(DataArguments(shards, image_column="jpg", streaming=True))["train"]
    stream = PictureStream(rows, SampleReader(PictureTransform(16), read_key, "jpg"), shuffle_buffer_size=5)
    accelerator = Accelerator(cpu=True)
    batches = iter(accelerator.prepare(DataLoader(stream, batch_size=3, num_workers=1)))
    keys = [next(batches)["input_ids"].flatten().tolist() for _ in range(4)]
    Path(folder, f"{accelerator.process_index}.json").write_text(json.dumps(keys))
    accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])
