# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Muon for the matrices of the blocks, beside the optimizer of all other weights."""

import copy

import pytest
import torch

from rq_hf.training.muon import JoinedOptimizer, block_matrices, with_muon

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch older than 2.9 has no Muon")


def loss(model, codes):
    return model(torch.zeros(len(codes), 1, dtype=torch.long), codes, labels=codes).loss


@pytest.fixture
def codes(tiny_rqvae):
    torch.manual_seed(0)
    return torch.randint(tiny_rqvae.config.codebook_size, (2, *tiny_rqvae.config.code_shape))


def test_only_matrices_inside_blocks_are_muons(make_transformer, tiny_rqvae):
    model = make_transformer("class", tiny_rqvae)
    names = {id(weight): name for name, weight in model.named_parameters()}
    config = model.config
    matrices = block_matrices(model)
    assert len(matrices) == 4 * (config.num_spatial_layers + config.num_depth_layers)
    assert all(".blocks." in names[id(matrix)] and matrix.ndim == 2 for matrix in matrices)
    optimizer = with_muon(torch.optim.AdamW(model.parameters(), 1e-3), model, 2e-3, 0.0)
    parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
    assert sorted(map(id, parameters)) == sorted(map(id, model.parameters()))
    assert [id(weight) for weight in optimizer.param_groups[-1]["params"]] == [id(matrix) for matrix in matrices]


def test_joined_steps_are_those_of_each_optimizer_alone(make_transformer, tiny_rqvae, codes):
    """With rates that a schedule changes, and with the state taken over in the middle by new ones."""
    joined = make_transformer("class", tiny_rqvae).eval()
    alone = copy.deepcopy(joined)
    start = with_muon(torch.optim.AdamW(joined.parameters(), 1e-2, weight_decay=0.1), joined, 3e-2, 0.2)
    matrices = block_matrices(alone)
    taken = {id(matrix) for matrix in matrices}
    rest = [weight for weight in alone.parameters() if id(weight) not in taken]
    separate = [
        torch.optim.AdamW(rest, 1e-2, weight_decay=0.1),
        torch.optim.Muon(matrices, 3e-2, 0.2, adjust_lr_fn="match_rms_adamw"),
    ]
    schedules = [torch.optim.lr_scheduler.ExponentialLR(each, 0.5) for each in (start, *separate)]
    optimizer = start
    for step in range(4):
        if step == 2:
            new = with_muon(torch.optim.AdamW(joined.parameters(), 1.0), joined, 1.0, 0.0)
            new.load_state_dict(copy.deepcopy(start.state_dict()))
            optimizer, schedules[0] = new, torch.optim.lr_scheduler.ExponentialLR(new, 0.5, last_epoch=1)
        for model, optimizers in ((joined, [optimizer]), (alone, separate)):
            loss(model, codes).backward()
            for each in optimizers:
                each.step()
                each.zero_grad()
        for schedule in schedules:
            schedule.step()
    for one, other in zip(joined.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_closure_is_evaluated_once():
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = JoinedOptimizer(torch.optim.SGD([weight], 0.1))
    calls = []

    def closure():
        calls.append(1)
        optimizer.zero_grad()
        value = weight.square().sum()
        value.backward()
        return value

    assert optimizer.step(closure).item() == 4 and calls == [1]
    assert weight.detach().allclose(torch.full((2, 2), 0.8))
