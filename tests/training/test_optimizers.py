# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Muon for the matrices inside a model, beside the optimizer of all other weights."""

import copy

import pytest
import torch
from training_runs import logged, make_rqvae, rqt_trainer

from rq_hf.training.optimizers import MuonWith, hidden_matrices


def taken(model: torch.nn.Module) -> set[str]:
    matrices = {id(weight) for weight in hidden_matrices(model)}
    return {name for name, weight in model.named_parameters() if id(weight) in matrices}


def test_muon_takes_the_matrices_of_blocks_and_the_kernels_not_at_the_pixels(tmp_path):
    transformer = rqt_trainer(tmp_path).model
    assert taken(transformer) == {
        name for name, weight in transformer.named_parameters() if ".blocks." in name and weight.ndim == 2
    }
    rqvae = make_rqvae()
    kernels = {name for name, weight in rqvae.named_parameters() if weight.ndim == 4}
    assert kernels - taken(rqvae) == {"encoder.conv_in.weight", "decoder.conv_out.weight"}
    rqvae.encoder.requires_grad_(False)
    assert not any(name.startswith("encoder.") for name in taken(rqvae))


def test_joined_steps_are_those_of_each_optimizer_alone():
    """With rates that a schedule changes, a state that a new optimizer takes over, and a weight without gradient."""
    kernel, bias = torch.nn.Parameter(torch.randn(4, 3, 3, 3)), torch.nn.Parameter(torch.randn(4))
    unused = torch.nn.Parameter(torch.randn(2, 2, 1, 1))
    matrix, other_bias = torch.nn.Parameter(kernel.detach().reshape(4, 27).clone()), copy.deepcopy(bias)
    before = unused.detach().clone()

    def make(learning_rate: float) -> MuonWith:
        adam = torch.optim.AdamW([kernel, bias, unused], learning_rate, weight_decay=0.1)
        return MuonWith(adam, [kernel, unused], 3 * learning_rate, 0.2)

    joined = make(1e-2)
    alone = [
        torch.optim.AdamW([other_bias], 1e-2, weight_decay=0.1),
        torch.optim.Muon([matrix], 3e-2, 0.2, adjust_lr_fn="match_rms_adamw"),
    ]
    schedules = [torch.optim.lr_scheduler.ExponentialLR(each, 0.5) for each in (joined, *alone)]
    for step in range(4):
        if step == 2:
            state = copy.deepcopy(joined.state_dict())
            joined = make(1.0)
            joined.load_state_dict(state)
            schedules[0] = torch.optim.lr_scheduler.ExponentialLR(joined, 0.5, last_epoch=1)
        kernel.grad, bias.grad = torch.randn(4, 3, 3, 3), torch.randn(4)
        matrix.grad, other_bias.grad = kernel.grad.reshape(4, 27).clone(), bias.grad.clone()
        for each in (joined, *alone, *schedules):
            each.step()
        assert torch.equal(kernel.reshape(4, 27), matrix) and torch.equal(bias, other_bias)
    assert torch.equal(unused, before)
    joined.zero_grad()
    assert kernel.grad is None


def test_a_schedule_with_a_lowest_rate_lowers_muon_to_the_same_part_of_its_own(tmp_path):
    trainer = rqt_trainer(
        tmp_path, max_steps=3, muon_learning_rate=2e-2, lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr": 1e-4},
    )  # fmt: skip
    trainer.train()
    assert logged(trainer, "learning_rate")[0] == 1e-3
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    assert rates == pytest.approx([1e-4] * (len(rates) - 1) + [2e-3])
