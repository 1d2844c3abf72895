# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Muon for the weights inside a model beside another optimizer for all others."""

from dataclasses import dataclass, field

import torch
from torch import nn
from transformers.integrations import is_deepspeed_zero3_enabled

from ..modeling_rqvae import RQVAEModel
from ..transformer_blocks import TransformerBlock
from .trainer import RQTrainer, RQTrainingArguments, refuse_label_smoothing


class JoinedOptimizer(torch.optim.Optimizer):
    """Optimizers of different parameters as one: schedules, `Trainer` and its checkpoints see all parameter groups.

    Args:
        optimizers: whose parameter groups follow each other in this order. They keep no state of their own. `defaults`
            are those of the first one: a schedule that takes its lowest rate as a part of `defaults["lr"]` lowers each
            group to that part of its own rate.
    """

    def __init__(self, *optimizers: torch.optim.Optimizer):
        self.optimizers = optimizers
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})
        self.defaults = optimizers[0].defaults  # afterwards: no group is to be filled up with them

    def step(self, closure=None):
        """A step of each, with the groups and states of this one: loading a checkpoint replaces them here alone."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        first = 0
        for optimizer in self.optimizers:
            last = first + len(optimizer.param_groups)
            optimizer.param_groups, optimizer.state = self.param_groups[first:last], self.state
            optimizer.step()
            first = last
        return loss


class MatrixMuon(torch.optim.Optimizer):
    """[`torch.optim.Muon`](https://arxiv.org/abs/2502.16982) for weights `(out, ...)` of any shape, each of which it
    sees as a matrix: the kernel `(out, in, height, width)` of a convolution is one of `out` rows.

    Args:
        weights: contiguous.
        learning_rate: steps are scaled to the size that AdamW's have at this rate.
        weight_decay: decoupled.

    Raises:
        `ValueError`: a weight that is not contiguous, as those of a model in `channels_last`.
    """

    def __init__(self, weights: list[nn.Parameter], learning_rate: float, weight_decay: float):
        for weight in weights:
            if not weight.is_contiguous():
                raise ValueError(
                    f"`weights` must be contiguous, got strides {weight.stride()} for {tuple(weight.shape)}; "
                    "`model.to(memory_format=torch.contiguous_format)` makes them so."
                )
        self.muon = torch.optim.Muon(
            [nn.Parameter(weight.detach().view(len(weight), -1)) for weight in weights],
            learning_rate,
            weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        super().__init__([{**group, "params": weights} for group in self.muon.param_groups], {})

    def step(self, closure=None):
        """A step on the weights' own storage, with the groups and states of this optimizer."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group, of_matrices in zip(self.param_groups, self.muon.param_groups, strict=True):
            of_matrices.update({name: value for name, value in group.items() if name != "params"})
            for weight, matrix in zip(group["params"], of_matrices["params"], strict=True):
                matrix.data = weight.detach().view(len(weight), -1)
                matrix.grad = None if weight.grad is None else weight.grad.reshape(matrix.shape)
                self.muon.state[matrix] = self.state[weight]
        self.muon.step()
        self.muon.zero_grad()
        return loss


def block_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The trained weights `(out, in)` of the linear maps inside the spatial and depth transformers' blocks."""
    blocks = [module for module in model.modules() if isinstance(module, TransformerBlock)]
    return [weight for block in blocks for weight in block.parameters() if weight.ndim == 2 and weight.requires_grad]


def inner_kernels(model: RQVAEModel) -> list[nn.Parameter]:
    """The trained weights `(out, in, height, width)` of all convolutions but those that take and give the pixels."""
    outer = (model.encoder.conv_in, model.decoder.conv_out)
    kernels = [module for module in model.modules() if isinstance(module, nn.Conv2d) and module not in outer]
    return [convolution.weight for convolution in kernels if convolution.weight.requires_grad]


def with_muon(
    optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], learning_rate: float, weight_decay: float
) -> JoinedOptimizer:
    """Leaves some weights to [`MatrixMuon`].

    Args:
        optimizer: new, of all parameters; the weights are taken out of its groups.
        weights, learning_rate, weight_decay: of Muon.
    """
    taken = {id(weight) for weight in weights}
    for group in optimizer.param_groups:
        group["params"] = [weight for weight in group["params"] if id(weight) not in taken]
    return JoinedOptimizer(optimizer, MatrixMuon(weights, learning_rate, weight_decay))


@dataclass
class MuonTrainingArguments(RQTrainingArguments):
    """`TrainingArguments` of both stages, with Muon's rate."""

    muon_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Train the kernels inside the RQ-VAE, or the matrices inside the transformer's blocks, by Muon at "
            "this rate, scaled to AdamW's, and all other weights by `optim` at `learning_rate`; by default, or at 0, "
            "`optim` trains all. A schedule's lowest rate (`min_lr`, `lr_end`) is for `learning_rate`; Muon's falls "
            "to the same part of its own. Needs torch 2.9."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        refuse_label_smoothing(self, "codes have soft labels of their own.")
        if self.remove_unused_columns:
            raise ValueError("`remove_unused_columns` must be False, got True: the data set gives what is used.")
        self.muon_learning_rate = self.muon_learning_rate or None  # a flag of 0 takes back what a recipe says
        if self.muon_learning_rate is not None:
            if not self.muon_learning_rate > 0:
                raise ValueError(f"`muon_learning_rate` must be at least 0, got {self.muon_learning_rate}.")
            if str(self.optim.value).startswith("schedule_free"):
                raise ValueError(f"`optim` must have no mode of training beside Muon, got {self.optim.value!r}.")
            if not hasattr(torch.optim, "Muon"):
                raise ValueError(f"`muon_learning_rate` needs torch 2.9 or newer, got torch {torch.__version__}.")


class MuonTrainer(RQTrainer):
    """An [`RQTrainer`] that leaves some weights to Muon where `muon_learning_rate` is given."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        rate = self.args.muon_learning_rate
        if rate is not None and self.optimizer is not None:
            raise ValueError(f"`muon_learning_rate` must be None with an optimizer that is given, got {rate}.")
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled or is_deepspeed_zero3_enabled()
        if rate is not None and sharded:
            raise ValueError(
                f"`muon_learning_rate` must be None with FSDP and DeepSpeed, got {rate}: Muon needs each matrix whole."
            )

    def muon_weights(self, model: nn.Module) -> list[nn.Parameter]:
        """The weights of the model that are left to Muon."""
        raise NotImplementedError

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As in the base class, with Muon for its weights."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new and self.args.muon_learning_rate is not None:
            weights = self.muon_weights(self.model if model is None else model)
            self.optimizer = with_muon(optimizer, weights, self.args.muon_learning_rate, self.args.weight_decay)
        return self.optimizer
