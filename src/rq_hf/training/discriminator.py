# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The adversarial part of stage 1 (section 3.1, following VQ-GAN): a patch discriminator and its hinge loss."""

import torch
import torch.nn.functional as F
from torch import nn


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches of a picture (PatchGAN): 4x4 convolutions, of which the first `num_layers` halve the
    size.

    Args:
        num_channels (`int`, defaults to 3): of the pictures.
        base_channels (`int`, defaults to 64): of the first layer; each further one doubles them, up to eightfold.
        num_layers (`int`, defaults to 2): layers of stride 2.
    """

    def __init__(self, num_channels: int = 3, base_channels: int = 64, num_layers: int = 2):
        super().__init__()
        self.smallest_picture = 3 * 2**num_layers
        layers = [nn.Conv2d(num_channels, base_channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        channels = base_channels
        for layer in range(1, num_layers + 1):
            wider = base_channels * min(2**layer, 8)
            stride = 2 if layer < num_layers else 1
            layers += [
                nn.Conv2d(channels, wider, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(wider),
                nn.LeakyReLU(0.2),
            ]
            channels = wider
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 4, padding=1))
        self.apply(self._init_weights)

    @staticmethod
    def _init_weights(module: nn.Module):
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, mean=1.0, std=0.02)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Logits of the patches, high for real ones: `(B, channels, height, width)` to `(B, 1, h, w)`.

        Raises:
            `ValueError`: pictures smaller than 12 pixels, 3 after the layers of stride 2.
        """
        if min(pixel_values.shape[2:]) < self.smallest_picture:
            raise ValueError(
                f"Pictures must have at least {self.smallest_picture} pixels each way for the discriminator, got "
                f"{tuple(pixel_values.shape)}."
            )
        return self.layers(pixel_values)


def hinge_loss(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """What the discriminator minimizes, a scalar."""
    return 0.5 * (F.relu(1 - real_logits.float()).mean() + F.relu(1 + fake_logits.float()).mean())


def generator_loss(fake_logits: torch.Tensor) -> torch.Tensor:
    """What the RQ-VAE minimizes, a scalar."""
    return -fake_logits.float().mean()
