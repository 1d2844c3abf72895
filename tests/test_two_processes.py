# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Stage 1 in two processes on the CPU (gloo), against one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_processes.py")


def launch(folder: Path, processes: int, *arguments: str | float) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes)]
    command += ["--multi_gpu", "--main_process_port", "0"] if processes > 1 else ["--cpu"]
    return subprocess.run(
        [*command, str(SCRIPT), str(folder), *map(str, arguments)],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def train(folder: Path, processes: int, batch_size: int, adversarial_weight: float, rule: str, steps: int) -> None:
    finished = launch(folder, processes, batch_size, adversarial_weight, rule, steps)
    assert finished.returncode == 0, finished.stdout[-4000:]


def state(folder: Path, step: int, process: int = 0) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"step-{step}-process-{process}.pt")


@pytest.mark.slow
def test_processes_with_a_discriminator_stay_equal_to_the_bit(tmp_path):
    train(tmp_path, processes=2, batch_size=4, adversarial_weight=0.75, rule="per_step", steps=6)
    for step in (3, 6):
        first, second = (state(tmp_path, step, process) for process in (0, 1))
        assert any(name.startswith("discriminator.") for name in first) and "quantizer.codebook.weight" in first
        for name, value in first.items():
            assert torch.equal(value, second[name]), name
    assert not torch.equal(state(tmp_path, 3)["quantizer.codebook.weight"], first["quantizer.codebook.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["per_step", "per_depth"])
def test_two_processes_train_as_one_with_their_batches(tmp_path, rule):
    for processes, batch_size in ((1, 8), (2, 4)):
        train(tmp_path / str(processes), processes, batch_size, adversarial_weight=0.0, rule=rule, steps=50)
    alone, together = (torch.load(tmp_path / name / "history.pt") for name in "12")
    losses = [[entry["loss"] for entry in history if "loss" in entry] for history in (alone, together)]
    assert len(losses[0]) == 50 and losses[0][-1] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    usage = [[entry["code_usage"] for entry in history if "loss" in entry] for history in (alone, together)]
    assert usage[1] == pytest.approx(usage[0], abs=0.05)
    codebooks = [state(tmp_path / name, 50)["quantizer.codebook.weight"] for name in "12"]
    assert (codebooks[0] - codebooks[1]).abs().max() <= 1e-5 * codebooks[0].abs().max()


@pytest.mark.slow
def test_processes_whose_data_differ_in_length_end_with_an_error(tmp_path):
    finished = launch(tmp_path, 2, 4, 0.0, "per_step", 4, 3)
    assert finished.returncode != 0
    assert "ValueError: `train_dataset` must be the same in all processes, got [19, 16] rows." in finished.stdout
    assert not list(tmp_path.glob("checkpoint-*"))
