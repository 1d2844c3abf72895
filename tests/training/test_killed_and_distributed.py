# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Trainings that are killed, and trainings of two processes (gloo), against one that is left alone."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from training_runs import assert_equal

from rq_hf.training.checkpoints import whole_checkpoints

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[1] / "training_runs.py"
# Everything random is on, and as much state as there can be.
OPTIONS = {
    "rqvae": {"ema_decay": 0.9, "muon_learning_rate": 1e-2, "warmup_steps": 2},
    "rqt": {"ema_decay": 0.9, "self_correction": 0.5, "gradient_accumulation_steps": 2, "warmup_steps": 2},
}


@pytest.fixture(scope="module")
def train() -> Callable[..., None]:
    """Runs a training of tests/training_runs.py in forks, which end well or are killed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, str(SCRIPT)], env=environment, **pipes) as process:

        def run(stage: str, folder: Path, processes: int = 1, **options) -> None:
            job = {"stage": stage, "folder": str(folder), "processes": processes, **options}
            print(json.dumps(job), file=process.stdin, flush=True)
            statuses, log = json.loads(process.stdout.readline()), Path(f"{folder}.0.log").read_text()[-4000:]
            assert statuses == [0] * processes or "kill_at" in options and statuses == [-9], log

        assert process.stdout.readline() == "ready\n"
        yield run
        process.stdin.close()


def weights(folder: Path, process: int = 0) -> dict[str, torch.Tensor]:
    return torch.load(f"{folder}.{process}.pt")


@pytest.mark.parametrize("stage", ["rqvae", "rqt"])
def test_a_training_killed_at_random_moments_and_resumed_ends_with_the_same_weights_and_losses(train, tmp_path, stage):
    options = OPTIONS[stage] | {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2, "logging_steps": 4}
    train(stage, tmp_path / "whole", **options)
    expected, generator, resumed_from = weights(tmp_path / "whole"), random.Random(0), set()
    for number in range(10):
        folder, moment = tmp_path / str(number), [1 + number % 6, generator.uniform(0, 0.1)]
        train(stage, folder, kill_at=moment, **options)  # it may end first
        whole = whole_checkpoints(folder)
        resumed_from.add(whole[-1].name if whole else None)
        train(stage, folder, resume="last", **options)
        assert_equal(weights(folder), expected)
    print("resumed from", resumed_from)
    assert len(resumed_from) >= 3


@pytest.mark.parametrize("stage", ["rqvae", "rqt"])
def test_two_processes_train_as_one_with_their_batches(train, tmp_path, stage):
    """Without what each process draws or judges for itself: dropout, stochastic codes, the discriminator."""
    options = {"rqvae": {"adversarial_weight": 0.0}, "rqt": {"stochastic_codes": False, "model": {"dropout": 0.0}}}
    for processes in (1, 2):
        batch = {"per_device_train_batch_size": 8 // processes, "max_steps": 20, "dataloader_drop_last": True}
        train(stage, tmp_path / str(processes), processes, **options[stage], **batch)
    alone, together = weights(tmp_path / "1"), weights(tmp_path / "2")
    assert_equal(together, weights(tmp_path / "2", process=1))
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)


def test_processes_with_a_discriminator_and_own_codes_stay_equal_to_the_bit_and_resume(train, tmp_path):
    for stage, options in OPTIONS.items():
        folder = tmp_path / stage
        job = {"processes": 2, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 3}
        job |= options | {"per_device_eval_batch_size": 2}
        train(stage, folder, **job)
        expected = weights(folder)
        assert_equal(expected, weights(folder, process=1))
        resumed = {"processes": 2, "resume": str(folder / "checkpoint-4"), **options}
        train(stage, tmp_path / f"{stage}-resumed", **resumed)
        assert_equal(weights(tmp_path / f"{stage}-resumed"), expected)


def test_two_processes_evaluate_every_row_once(train, tmp_path):
    figures = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        job = {"max_steps": 1, "adversarial_weight": 0.0, "eval_on_start": True}
        train("rqvae", folder, processes, save_strategy="steps", save_steps=1, **job)
        history = json.loads((folder / "checkpoint-1" / "trainer_state.json").read_text())["log_history"]
        figures.append(next(entry for entry in history if "eval_psnr" in entry))
    for name in ("eval_psnr", "eval_mse", "eval_codes_used", "eval_code_perplexity_depth_1"):
        assert figures[1][name] == pytest.approx(figures[0][name], rel=1e-4), name


def test_sharded_processes_train_as_one_with_their_batches(train, tmp_path):
    for processes in (1, 2):
        train("sharded", tmp_path / str(processes), processes)
    alone, first, second = (weights(tmp_path / name, process) for name, process in (("1", 0), ("2", 0), ("2", 1)))
    losses = alone.pop("losses"), (first.pop("losses") + second.pop("losses")) / 2
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
    assert losses[0][3] < losses[0][0]
    torch.testing.assert_close(first, alone, rtol=1e-3, atol=1e-4)
