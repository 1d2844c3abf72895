# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A step that keeps less for its backward pass has the same losses and gradients."""

import copy

import pytest
import torch
from torch import nn

from rq_hf.activation_memory import Dropout, keeping_source


def gradients(loss: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss.square().sum(), inputs))


@pytest.mark.parametrize("first", [nn.GELU(), nn.LayerNorm(6), nn.Identity(), lambda x: x.transpose(0, 1) * 2])
def test_the_gradients_are_those_of_the_plain_chain(first):
    torch.manual_seed(0)
    source = torch.randn(5, 4, 6, requires_grad=True)
    second = nn.Linear(6, 3)
    wanted = [source, second.weight, second.bias]
    plain = second(first(source))
    lean = keeping_source(first, second, source)
    assert torch.equal(lean, plain)
    for got, expected in zip(gradients(lean, *wanted), gradients(plain, *wanted), strict=True):
        assert torch.equal(got, expected)


def test_what_lies_between_is_computed_again_instead_of_kept():
    calls = []

    def first(inputs: torch.Tensor) -> torch.Tensor:
        calls.append(inputs)
        return inputs.relu()

    second = nn.Linear(6, 3)
    loss = keeping_source(first, second, torch.randn(4, 6, requires_grad=True)).sum()
    assert len(calls) == 1
    loss.backward()
    assert len(calls) == 2


def test_an_input_changed_in_place_is_not_read_wrongly():
    """The plain chain keeps what it computed before; the lean one must not compute it from other numbers."""
    source = torch.randn(4, 6)
    source.requires_grad_()
    doubled = source * 2
    loss = keeping_source(nn.GELU(), nn.Linear(6, 3), doubled).sum()
    with torch.no_grad():
        doubled.mul_(3)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_dropout_keeps_a_byte_for_each_number_and_scales():
    torch.manual_seed(0)
    dropout = Dropout(0.25)
    inputs = torch.ones(1000, requires_grad=True)
    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = dropout(inputs)
    assert sum(tensor.nbytes for tensor in kept) == inputs.numel()
    assert set(outputs.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert (outputs > 0).float().mean().item() == pytest.approx(0.75, abs=0.05)
    assert torch.equal(gradients(outputs, inputs)[0], 2 * outputs * outputs)
    assert torch.equal(dropout.eval()(inputs), inputs)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_step_is_the_same_with_checkpointing(make_transformer, dropout):
    """Checkpointing takes the plain way through a block."""
    model = make_transformer(dropout=dropout).train()
    checkpointed = copy.deepcopy(model)
    checkpointed.gradient_checkpointing_enable()
    config = model.config
    input_ids = torch.randint(config.vocab_size, (3, config.condition_length))
    codes = torch.randint(config.codebook_size, (3, *config.code_shape))
    losses = []
    for each in (model, checkpointed):
        torch.manual_seed(1)
        losses.append(each(input_ids, codes, labels=codes).loss)
        losses[-1].backward()
    assert torch.equal(*losses)
    for parameter, other in zip(model.parameters(), checkpointed.parameters(), strict=True):
        if parameter.requires_grad:
            assert torch.equal(parameter.grad, other.grad)
