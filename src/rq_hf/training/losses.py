# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Perceptual and adversarial losses of the RQ-VAE (section 3.1 and App. A.3, following VQ-GAN).

Symbols: B pictures, C channels. Pixels are in [-1, 1].
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..evaluation.features import build_extractor, load_lpips
from ..images import to_rgb


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches of a picture with `num_channels` channels (PatchGAN)."""

    def __init__(self, num_channels: int = 3):
        super().__init__()
        layers = [nn.Conv2d(num_channels, 64, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for channels, wider, stride in ((64, 128, 2), (128, 256, 1)):
            convolution = nn.Conv2d(channels, wider, 4, stride=stride, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(wider), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(256, 1, 4, padding=1))
        self.apply(self._init_weights)

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, mean=1.0, std=0.02)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Logits of the patches, high for real ones: `(B, C, height, width)` to `(B, 1, h, w)`."""
        return self.layers(pixel_values)


def discriminator_loss(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """The hinge loss that the discriminator minimizes: `()`."""
    return 0.5 * (F.relu(1 - real_logits.float()).mean() + F.relu(1 + fake_logits.float()).mean())


def adversarial_loss(fake_logits: torch.Tensor) -> torch.Tensor:
    """The adversarial loss that the RQ-VAE minimizes: `()`."""
    return -fake_logits.float().mean()


def adaptive_weight(error: torch.Tensor, adversarial: torch.Tensor, last_layer: nn.Parameter) -> torch.Tensor:
    """Weight `()` in [0, 1e4] that gives both losses `()` gradients of equal norm at the decoder's last layer."""
    (error_gradient,) = torch.autograd.grad(error, last_layer, retain_graph=True)
    (adversarial_gradient,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    return (error_gradient.norm() / (adversarial_gradient.norm() + 1e-4)).clamp(0, 1e4)


class PerceptualLoss(nn.Module):
    """
    Distance of pictures in the feature maps of a frozen classifier.

    Args:
        net (`str`, defaults to `"vgg"`):
            `"vgg"` is LPIPS 0.1, the paper's choice; it is an `OSError` if its weights cannot be downloaded. `"lite0"`
            needs no download: it scales the feature vectors of EfficientNet-Lite0 to length 1 and averages their
            squared distances over positions and five maps.
    """

    def __init__(self, net: str = "vgg"):
        super().__init__()
        if net == "vgg":
            self.net = load_lpips()
        elif net == "lite0":
            self.net = build_extractor("lite0")
        else:
            raise ValueError(f"`net` must be 'vgg' or 'lite0', got {net!r}.")
        self.is_lpips = net == "vgg"
        self.requires_grad_(False).eval()

    def forward(self, reconstruction: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
        """Mean distance `()` of two batches `(B, C, height, width)` of grey or RGB pictures."""
        reconstruction, pixel_values = to_rgb(reconstruction), to_rgb(pixel_values)
        if self.is_lpips:
            return self.net(reconstruction, pixel_values).mean()
        distances = []
        for maps in zip(self.net.feature_maps(reconstruction), self.net.feature_maps(pixel_values), strict=True):
            ours, theirs = (F.normalize(each.float(), dim=1) for each in maps)
            distances.append((ours - theirs).square().sum(1).mean())
        return torch.stack(distances).mean()
