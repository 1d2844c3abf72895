# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Perceptual and adversarial losses of stage 1."""

from types import SimpleNamespace

import pytest
import torch
import torchvision
from torchvision.models import vgg

from rq_hf.training import PatchDiscriminator, PerceptualLoss
from rq_hf.training.losses import adaptive_weight, adversarial_loss, discriminator_loss


def test_the_discriminator_is_the_published_one():
    discriminator = PatchDiscriminator()
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == 663_361
    assert discriminator(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 62, 62)


def test_the_hinge_loss_is_zero_beyond_the_margin_only():
    assert discriminator_loss(torch.full((2, 1), 1.5), torch.full((2, 1), -1.0)) == 0
    assert discriminator_loss(torch.zeros(2, 1), torch.full((2, 1), 0.5)) == pytest.approx(0.5 * (1 + 1.5))
    assert adversarial_loss(torch.tensor([1.0, 2.0])) == -1.5


def test_the_adaptive_weight_makes_both_losses_pull_equally_on_the_last_layer():
    last_layer = torch.nn.Parameter(torch.tensor([2.0, -1.0]))
    error, adversarial = (last_layer * torch.tensor([3.0, 4.0])).sum(), 1e-2 * last_layer.square().sum()
    weight = adaptive_weight(error, adversarial, last_layer)
    assert not weight.requires_grad and last_layer.grad is None
    norms = []
    for loss in (error, weight * adversarial):
        last_layer.grad = None
        loss.backward(retain_graph=True)
        norms.append(last_layer.grad.norm().item())
    assert norms[1] == pytest.approx(norms[0], rel=1e-2)
    assert adaptive_weight(error, 0 * adversarial, last_layer) == 1e4


@pytest.mark.parametrize("net", ["vgg", "lite0"])
def test_the_perceptual_loss_grows_with_the_difference_and_trains_the_reconstruction_alone(net, monkeypatch):
    """VGG has random weights, since the published ones cannot be downloaded here; LPIPS reads convolutions alone."""
    network = SimpleNamespace(features=vgg.make_layers(vgg.cfgs["D"]))
    monkeypatch.setattr(torchvision.models, "vgg16", lambda pretrained: network)
    perceptual_loss = PerceptualLoss(net)
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    noise = torch.randn(2, 3, 32, 32)
    losses = [perceptual_loss(pictures + scale * noise, pictures).item() for scale in (0.0, 0.1, 0.5)]
    assert losses[0] == pytest.approx(0, abs=1e-6) and losses[0] < losses[1] < losses[2]
    reconstruction = (pictures + 0.1 * noise).requires_grad_()
    perceptual_loss.train()  # as part of a module that trains
    perceptual_loss(reconstruction, pictures).backward()
    assert reconstruction.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in perceptual_loss.parameters())
    grey = pictures[:, :1]
    assert perceptual_loss(grey, grey.flip(-1)) > 0


def test_a_net_that_cannot_be_downloaded_or_is_unknown_is_an_error_that_names_others(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="VGG16 .* cannot be downloaded .* `--perceptual_net lite0`, or `--perceptual_w"):
        PerceptualLoss("vgg")
    with pytest.raises(ValueError, match="`net` must be 'vgg' or 'lite0', got 'alex'"):
        PerceptualLoss("alex")
