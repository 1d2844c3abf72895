# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Figures of both ways to draw depend neither on the size of a batch nor on the number of processes."""

import subprocess
import sys

import pytest
import torch
from torch.utils.data import Dataset

from rq_hf import RQImageGenerationPipeline
from rq_hf.evaluation.generation import evaluate_likelihood
from rq_hf.training.trainer_rq_transformer import RQTransformerTrainer, RQTransformerTrainingArguments


class Pictures(Dataset):
    """Seven random pictures."""

    def __init__(self, size: int):
        self.size = size

    def __len__(self):
        return 7

    def __getitem__(self, index):
        pixels = torch.rand(3, self.size, self.size, generator=torch.Generator().manual_seed(index)) * 2 - 1
        return {"pixel_values": pixels, "input_ids": torch.zeros(1, dtype=torch.long)}


def eval_loss(folder: str, batch_size: int) -> float:
    """The evaluation loss of a saved pipeline's transformer."""
    pipe = RQImageGenerationPipeline.from_pretrained(folder)
    options = {"report_to": "none", "use_cpu": True, "per_device_eval_batch_size": batch_size, "eval_pictures": 0}
    arguments = RQTransformerTrainingArguments(f"{folder}/run", soft_labels=False, **options)
    pictures = Pictures(pipe.rqvae.config.image_size)
    return RQTransformerTrainer(pipe.transformer, arguments, rqvae=pipe.rqvae, eval_dataset=pictures).evaluate()[
        "eval_loss"
    ]


@pytest.mark.parametrize("contextual", [False, True])
def test_likelihood_and_evaluation_loss_are_equal_for_all_sizes_of_a_batch(make_pipeline, tmp_path, contextual):
    pipe = make_pipeline("none", contextual=contextual)
    pipe.save_pretrained(tmp_path)
    pictures = Pictures(pipe.rqvae.config.image_size)
    figures = [evaluate_likelihood(pipe, pictures, batch_size=size)["metrics"] for size in (1, 3, 64)]
    assert figures[1] == pytest.approx(figures[0], rel=1e-5) and figures[2] == pytest.approx(figures[0], rel=1e-5)
    losses = [eval_loss(str(tmp_path), size) for size in (1, 3, 64)]
    assert losses == pytest.approx(3 * losses[:1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("contextual", [False, True])
def test_evaluation_loss_is_equal_for_one_and_two_processes(make_pipeline, tmp_path, contextual):
    make_pipeline("none", contextual=contextual).save_pretrained(tmp_path)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29617"]
    run = subprocess.run([*command, __file__, str(tmp_path)], capture_output=True, text=True, timeout=300)
    losses = [float(line.split()[1]) for line in run.stdout.splitlines() if line.startswith("eval_loss ")]
    assert losses == pytest.approx(2 * [eval_loss(str(tmp_path), 3)], rel=1e-5), run.stderr


if __name__ == "__main__":
    print(f"eval_loss {eval_loss(sys.argv[1], 2)}", flush=True)
