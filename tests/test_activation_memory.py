# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A step that keeps less for its backward pass has the same losses and gradients."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from rq_hf.activation_memory import Dropout, keeping_source


def gradients(loss: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss.square().sum(), inputs))


TOLD = pytest.mark.skipif(
    not hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks"),
    reason=f"torch {torch.__version__} does not tell whether something else decides what is kept",
)


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


class Recorded:
    """GELU, with what became of its outputs."""

    def __init__(self):
        self.outputs = []

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        output = F.gelu(inputs)
        self.outputs.append(StorageWeakRef(output.untyped_storage()))
        return output


def plain_chain(first, second, source):
    return second(first(source))


@TOLD
@pytest.mark.parametrize("chain, calls", [(keeping_source, 2), (plain_chain, 1)])
def test_what_lies_between_is_computed_again_instead_of_kept(chain, calls):
    first, second = Recorded(), nn.Linear(6, 3)
    loss = chain(first, second, torch.randn(4, 6, requires_grad=True)).sum()
    assert first.outputs[0].expired() is (chain is keeping_source)
    loss.backward()
    assert len(first.outputs) == calls


@TOLD
def test_nothing_is_computed_again_where_torch_does_not_tell_who_decides(monkeypatch):
    monkeypatch.delattr(torch._C._autograd, "_top_saved_tensors_default_hooks")
    first, second = Recorded(), nn.Linear(6, 3)
    keeping_source(first, second, torch.randn(4, 6, requires_grad=True)).sum().backward()
    assert len(first.outputs) == 1


def test_checkpointing_by_others_keeps_nothing_of_a_chain():
    first, second, sources = Recorded(), nn.Linear(6, 3), []

    def block(inputs: torch.Tensor) -> torch.Tensor:
        source = inputs + 1
        sources.append(StorageWeakRef(source.untyped_storage()))
        return keeping_source(first, second, source)

    loss = checkpoint(block, torch.randn(4, 6, requires_grad=True), use_reentrant=False).sum()
    assert first.outputs[0].expired() and sources[0].expired()
    loss.backward()
    assert len(first.outputs) == 2  # once more by the checkpoint, and not again


@TOLD
@pytest.mark.parametrize("changed", ["source", "weight"])
def test_what_was_changed_since_is_refused_as_by_autograd(changed):
    source, second = torch.randn(4, 6, requires_grad=True) * 2, nn.Linear(6, 3)
    loss = keeping_source(torch.relu, second, source).sum()
    with torch.no_grad():
        (source if changed == "source" else second.weight).mul_(3)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_under_autocast_gradients_are_those_of_the_plain_chain():
    torch.manual_seed(0)
    source, widen = torch.randn(4, 6, requires_grad=True), nn.Linear(6, 12)
    norm, second = nn.LayerNorm(12), nn.Linear(12, 3)
    results = []
    for chain in (keeping_source, plain_chain):
        with torch.autocast("cpu", torch.bfloat16):
            outputs = chain(F.gelu, second, chain(norm, nn.Identity(), widen(source)))
        results.append([outputs, *gradients(outputs.float(), source, widen.weight, second.weight)])
    for got, expected in zip(*results, strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("size", [1000, 1001])
def test_dropout_keeps_a_byte_for_each_number_and_scales(size):
    torch.manual_seed(0)
    dropout = Dropout(0.25)
    inputs = torch.ones(size, requires_grad=True)
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
