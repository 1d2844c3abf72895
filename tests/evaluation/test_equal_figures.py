# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Figures of both ways to draw depend neither on the size of a batch nor on the number of processes."""

import json
import subprocess
import sys

import pytest
import torch
from torch.utils.data import Dataset

from rq_hf import RQImageGenerationPipeline
from rq_hf.evaluation.generation import evaluate_likelihood
from rq_hf.training.trainer_rq_transformer import RQTransformerTrainer, RQTransformerTrainingArguments

KINDS = pytest.mark.parametrize("kind, contextual", [("none", False), ("none", True), ("text", False)])


class Pictures(Dataset):
    """Seven random pictures, with captions of 0 to 5 tokens that are padded with 0, or with the start id 0."""

    def __init__(self, pipe: RQImageGenerationPipeline):
        self.size, self.length = pipe.rqvae.config.image_size, pipe.transformer.config.condition_length

    def __len__(self):
        return 7

    def __getitem__(self, index):
        pixels = torch.rand(3, self.size, self.size, generator=torch.Generator().manual_seed(index)) * 2 - 1
        ids = torch.tensor([0, *range(3, 3 + index), *[0] * self.length])
        return {"pixel_values": pixels, "input_ids": ids[: self.length]}


def eval_losses(folder: str, batch_size: int) -> dict[str, float]:
    """The evaluation losses of a saved pipeline's transformer."""
    pipe = RQImageGenerationPipeline.from_pretrained(folder)
    options = {"report_to": "none", "use_cpu": True, "per_device_eval_batch_size": batch_size, "eval_pictures": 0}
    arguments = RQTransformerTrainingArguments(f"{folder}/run", soft_labels=False, **options)
    trainer = RQTransformerTrainer(pipe.transformer, arguments, rqvae=pipe.rqvae, eval_dataset=Pictures(pipe))
    return {name: value for name, value in trainer.evaluate().items() if "loss" in name}


@KINDS
def test_likelihood_and_evaluation_losses_are_equal_for_all_sizes_of_a_batch(
    make_pipeline, tmp_path, kind, contextual
):
    pipe = make_pipeline(kind, contextual=contextual)
    pipe.save_pretrained(tmp_path)
    figures = [evaluate_likelihood(pipe, Pictures(pipe), batch_size=size)["metrics"] for size in (1, 3, 64)]
    assert figures[1] == pytest.approx(figures[0], rel=1e-5) and figures[2] == pytest.approx(figures[0], rel=1e-5)
    losses = [eval_losses(str(tmp_path), size) for size in (1, 3, 64)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and losses[2] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.slow
@KINDS
def test_evaluation_losses_are_equal_for_one_and_two_processes(make_pipeline, tmp_path, kind, contextual):
    make_pipeline(kind, contextual=contextual).save_pretrained(tmp_path)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run = subprocess.run([*launch, __file__, str(tmp_path)], capture_output=True, text=True, timeout=300)
    losses = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    assert len(losses) == 2, run.stderr
    for each in losses:
        assert each == pytest.approx(eval_losses(str(tmp_path), 3), rel=1e-5)


if __name__ == "__main__":
    print(json.dumps(eval_losses(sys.argv[1], 2)), flush=True)
