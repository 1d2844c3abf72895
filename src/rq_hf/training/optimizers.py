# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Muon for the matrices inside a model, beside another optimizer for all other weights."""

from collections.abc import Callable

import torch
from torch import nn

from ..models.modeling_rqvae import RQVAEModel
from ..models.transformer_blocks import TransformerBlock


class MuonWith(torch.optim.Optimizer):
    """
    [Muon](https://arxiv.org/abs/2502.16982) for some weights and another optimizer for the others, as one optimizer.

    Schedules and checkpoints see the parameter groups of both, Muon's last. A kernel `(out, in, height, width)` of a
    convolution is a matrix of `out` rows. Muon's steps are as large as AdamW's at the same `learning_rate`.

    Args:
        optimizer (`torch.optim.Optimizer`): a new optimizer of all parameters. `weights` are taken out of it.
        weights (`list[nn.Parameter]`): the weights for Muon, with `learning_rate` and decoupled `weight_decay`.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], learning_rate: float, weight_decay: float
    ):
        taken = {id(weight) for weight in weights}
        for group in optimizer.param_groups:
            group["params"] = [weight for weight in group["params"] if id(weight) not in taken]
        self.other = optimizer
        self.matrices = [nn.Parameter(weight.detach().view(len(weight), -1)) for weight in weights]
        self.muon = torch.optim.Muon(self.matrices, learning_rate, weight_decay, adjust_lr_fn="match_rms_adamw")
        super().__init__([*optimizer.param_groups, {**self.muon.param_groups[0], "params": weights}], {})
        self.defaults = optimizer.defaults  # schedules read a lowest rate relative to `defaults["lr"]`

    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:
        """One step of both optimizers, with the groups and states that schedules and checkpoints set on this one."""
        *other_groups, muon_group = self.param_groups
        self.other.param_groups, self.other.state = other_groups, self.state
        loss = self.other.step(closure)
        self.muon.param_groups[0].update({name: value for name, value in muon_group.items() if name != "params"})
        for weight, matrix in zip(muon_group["params"], self.matrices, strict=True):
            matrix.data = weight.detach().view(matrix.shape)  # shares the weight's storage
            matrix.grad = None if weight.grad is None else weight.grad.reshape(matrix.shape)
            self.muon.state[matrix] = self.state[weight]
        self.muon.step()
        return loss


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Weights for Muon: an RQ-VAE's kernels except the two at the pixels, or the matrices in transformer blocks."""
    if isinstance(model, RQVAEModel):
        at_pixels = (model.encoder.conv_in, model.decoder.conv_out)
        convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        weights = [module.weight for module in convolutions if module not in at_pixels]
    else:
        blocks = [module for module in model.modules() if isinstance(module, TransformerBlock)]
        weights = [weight for block in blocks for weight in block.parameters() if weight.ndim == 2]
    return [weight for weight in weights if weight.requires_grad]
