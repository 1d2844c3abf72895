# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Leaves what the trainer's data loader gives each process of a stream's first epoch; `accelerate launch` starts it.

python tests/streaming_processes.py SHARDS FOLDER
"""

import json
import sys
from itertools import islice
from pathlib import Path

import torch
from gloo_threads import gloo_threads

from rq_hf import RQVAEConfig, RQVAEModel
from rq_hf.training import (
    DataArguments,
    PictureStream,
    RQVAETrainer,
    RQVAETrainingArguments,
    load_dataset_splits,
    training_pictures,
)


class KeyStream(PictureStream):
    """Gives numbers, (epoch, shard, key), with the pixels."""

    def __iter__(self):
        for sample, row, words in self.samples():
            shard = int(Path(row["__url__"]).stem)
            yield {**sample, "numbers": torch.tensor([words[1], shard, int(row["__key__"])])}


def main(shards: str, folder: str) -> None:
    arguments = RQVAETrainingArguments(
        output_dir=folder, use_cpu=True, report_to="none", max_steps=4, per_device_train_batch_size=4,
        perceptual_weight=0.0, adversarial_weight=0.0,
    )  # fmt: skip
    config = RQVAEConfig(
        image_size=16, base_channels=8, channel_multiplier=[1, 2], norm_num_groups=4, attention_levels=[]
    )
    data = DataArguments(shards, image_column="jpg", streaming=True)
    stream = training_pictures(load_dataset_splits(data)["train"], data, arguments, config.image_size, 3)
    stream.__class__ = KeyStream
    trainer = RQVAETrainer(model=RQVAEModel(config), args=arguments, train_dataset=stream)
    batches = islice(trainer.get_train_dataloader(), 6)
    numbers = [entry for batch in batches for entry in batch["numbers"].tolist() if entry[0] == 0]
    found = {"shards": [shard for _, shard, _ in numbers], "keys": [key for _, _, key in numbers]}
    Path(folder, f"{arguments.process_index}.json").write_text(json.dumps(found))
    trainer.finish()
    assert not gloo_threads()  # one of them could abort the process while it exits


if __name__ == "__main__":
    main(*sys.argv[1:])
