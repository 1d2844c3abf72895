# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Evaluates an RQ-VAE and leaves its figures; `accelerate launch` starts it.

python tests/two_processes_evaluation.py FOLDER
"""

import json
import sys
from pathlib import Path

import torch
from gloo_threads import gloo_threads

from rq_hf import RQVAEModel
from rq_hf.training import RQVAETrainer, RQVAETrainingArguments


class Pictures(torch.utils.data.Dataset):
    def __init__(self, pictures: torch.Tensor):
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.pictures[index]}


def main(folder: str) -> None:
    arguments = RQVAETrainingArguments(
        output_dir=folder, use_cpu=True, report_to="none", per_device_eval_batch_size=2, disable_tqdm=True,
        perceptual_weight=0.0, adversarial_weight=0.0,
    )  # fmt: skip
    model = RQVAEModel.from_pretrained(Path(folder, "rqvae"))
    pictures = Pictures(torch.load(Path(folder, "pictures.pt")))
    trainer = RQVAETrainer(model=model, args=arguments, eval_dataset=pictures)
    metrics = trainer.evaluate()
    Path(folder, f"metrics-{arguments.process_index}.json").write_text(json.dumps(metrics))
    trainer.finish()
    assert not gloo_threads()  # one of them could abort the process while it exits


if __name__ == "__main__":
    main(*sys.argv[1:])
