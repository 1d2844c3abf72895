# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The loss that computes its gradients in the same pass, against torch's own."""

import functools

import pytest
import torch
import torch.nn.functional as F

from rq_hf.fused_cross_entropy import FusedCrossEntropy

ROWS, WIDTH, SIZE = 12, 8, 20
KINDS = pytest.mark.parametrize("is_soft", [False, True], ids=["hard", "soft"])
BLOCKS = [slice(0, 5), slice(5, 12)]
STRIDED = [slice(start, ROWS, 3) for start in range(3)]


def inputs(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Rows, weight and bias."""
    torch.manual_seed(0)
    shapes = [(ROWS, WIDTH), (SIZE, WIDTH), (SIZE,)]
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


def targets(is_soft: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if is_soft:
        return torch.randn(ROWS, SIZE, generator=generator).mul(3).softmax(-1)
    return torch.randint(SIZE, (ROWS,), generator=generator)


def fused(
    tensors: list[torch.Tensor], wanted: torch.Tensor, blocks: list[slice], count: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    makers = [(block, functools.partial(wanted.__getitem__, block)) for block in blocks]
    return FusedCrossEntropy.apply(*tensors, makers, len(wanted) if count is None else count)


@KINDS
@pytest.mark.parametrize("blocks", [[slice(0, ROWS)], BLOCKS, STRIDED], ids=["one", "two", "strided"])
def test_losses_and_gradients_are_those_of_torch(is_soft, blocks):
    tensors, wanted = inputs(), targets(is_soft)
    plain = F.cross_entropy(F.linear(*tensors), wanted, reduction="none")
    loss, losses = fused(tensors, wanted, blocks)
    torch.testing.assert_close(losses, plain.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loss, plain.mean(), rtol=1e-6, atol=0)
    got, expected = torch.autograd.grad(3 * loss, tensors), torch.autograd.grad(3 * plain.mean(), tensors)
    for one, other in zip(got, expected, strict=True):
        assert (one - other).norm() <= 1e-6 * other.norm()
    assert not losses.requires_grad


@KINDS
def test_large_logits_do_not_overflow(is_soft):
    tensors, wanted = inputs(), targets(is_soft)
    with torch.no_grad():
        tensors[1] *= 1000
    loss, losses = fused(tensors, wanted, BLOCKS)
    torch.testing.assert_close(losses, F.cross_entropy(F.linear(*tensors), wanted, reduction="none").detach())
    assert all(torch.isfinite(each).all() for each in torch.autograd.grad(loss, tensors))


@KINDS
@pytest.mark.parametrize("way", ["autocast", "weights"])
def test_bf16_rounds_products_alone(is_soft, way):
    """Losses are summed in fp32, and gradients over blocks; those of the weights have the weights' dtype."""
    dtype = torch.bfloat16 if way == "weights" else torch.float32
    tensors, wanted = inputs(dtype), targets(is_soft)
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        loss, losses = fused(tensors, wanted, BLOCKS)
        expected = F.cross_entropy(F.linear(*tensors).float(), wanted)
    assert loss.dtype == losses.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    got, theirs = torch.autograd.grad(loss, tensors), torch.autograd.grad(expected, tensors)
    for one, other in zip(got, theirs, strict=True):
        assert one.dtype == dtype
        assert (one.float() - other.float()).norm() <= 0.01 * other.float().norm()


@pytest.mark.parametrize("frozen", [(0,), (1, 2), (0, 1)])
def test_what_is_frozen_gets_no_gradient(frozen):
    tensors, wanted = inputs(), targets(True)
    expected = torch.autograd.grad(F.cross_entropy(F.linear(*tensors), wanted), tensors)
    for index in frozen:
        tensors[index].requires_grad_(False)
    fused(tensors, wanted, BLOCKS)[0].backward()
    for index, (tensor, gradient) in enumerate(zip(tensors, expected, strict=True)):
        if index in frozen:
            assert tensor.grad is None
        else:
            torch.testing.assert_close(tensor.grad, gradient, rtol=1e-5, atol=1e-7)


def test_a_second_backward_pass_is_refused():
    """The kept gradients have been scaled in place."""
    loss, _ = fused(inputs(), targets(True), BLOCKS)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="must go backward once, got a second backward pass"):
        loss.backward()


def test_fp16_gradients_neither_overflow_nor_vanish():
    """No loss scale has reached them when they are computed."""
    tensors = [torch.full((70_000, 4), 3.0), torch.zeros(2, 4), torch.zeros(2)]
    tensors = [each.requires_grad_() for each in tensors]
    wanted = torch.zeros(70_000, dtype=torch.long)
    with torch.autocast("cpu", torch.float16):
        loss, _ = fused(tensors, wanted, [slice(0, 70_000)])
    of_rows, of_weight, of_bias = torch.autograd.grad(loss, tensors)
    torch.testing.assert_close(of_weight, torch.tensor([[-1.5], [1.5]]).expand(2, 4), rtol=1e-3, atol=0)
    torch.testing.assert_close(of_bias, torch.tensor([-0.5, 0.5]))


def test_rows_without_a_target_do_not_count():
    """As those of torch, -100 being no class."""
    tensors, wanted = inputs(), targets(False)
    wanted[[2, 7]] = -100
    logits = F.linear(*tensors)
    plain = F.cross_entropy(logits, wanted)
    loss, losses = fused(tensors, wanted, BLOCKS, ROWS - 2)
    torch.testing.assert_close(losses, F.cross_entropy(logits, wanted, reduction="none").detach())
    torch.testing.assert_close(loss, plain)
    got, expected = torch.autograd.grad(loss, tensors), torch.autograd.grad(plain, tensors)
    torch.testing.assert_close(got, expected)


def test_targets_are_made_once_and_block_by_block():
    made, wanted = [], targets(True)

    def make(block: slice) -> torch.Tensor:
        made.append(block)
        return wanted[block]

    loss, _ = FusedCrossEntropy.apply(*inputs(), [(block, functools.partial(make, block)) for block in BLOCKS], ROWS)
    loss.backward()
    assert made == BLOCKS
