# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The RQ-VAE (section 3.1): a convolutional encoder and decoder around a residual quantizer.

Symbols: B pictures, H x W positions, D code depth, K codebook size, n_z codebook width.
z latents, z-hat^(d) partial sums of code vectors. Pixels are in [-1, 1], channels first.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.vae import Decoder, Encoder
from diffusers.models.unets.unet_2d_blocks import AttnDownEncoderBlock2D, DownEncoderBlock2D, UNetMidBlock2D
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .base import RQPreTrainedModel
from .configuration_rqvae import RQVAEConfig
from .image_processing_rqvae import RQVAEImageProcessorPil
from .residual_quantizer import Codebook, ResidualQuantizer
from .validation import check_integer


@dataclass
class RQVAEOutput(ModelOutput):
    """
    Output of [`RQVAEModel`].

    Args:
        loss (`torch.FloatTensor` of shape `()`):
            `reconstruction_loss + commitment_weight * commitment_loss` (Eq. 6 and 7).
        reconstruction (`torch.FloatTensor` of shape `(B, num_channels, height, width)`):
            Decoded pictures, about in [-1, 1], not clamped.
        codes (`torch.LongTensor` of shape `(B, H, W, D)`): Codes of the pictures.
        reconstruction_loss (`torch.FloatTensor` of shape `()`): Mean squared error of the pixels.
        commitment_loss (`torch.FloatTensor` of shape `()`):
            Mean squared error between latents and partial sums, averaged over depths.
        hidden_states (`tuple` of `torch.FloatTensor`, *optional*):
            Feature maps of the encoder after its first convolution, each level and the middle block; sizes differ.
    """

    loss: torch.FloatTensor | None = None
    reconstruction: torch.FloatTensor | None = None
    codes: torch.LongTensor | None = None
    reconstruction_loss: torch.FloatTensor | None = None
    commitment_loss: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None


class RQVAEModel(RQPreTrainedModel):
    r"""
    Residual-quantized variational autoencoder (section 3.1). It turns a picture into an H x W map of D codes, which
    decodes coarse to fine.

    Example:

    ```python
    >>> import torch
    >>> from rq_hf import RQVAEConfig, RQVAEModel
    >>> config = RQVAEConfig(image_size=32, base_channels=32, channel_multiplier=[1, 2, 2], attention_levels=[2])
    >>> model = RQVAEModel(config).eval()
    >>> codes = model.encode(torch.rand(2, 3, 32, 32) * 2 - 1)
    >>> codes.shape, model.decode(codes[..., :2]).shape
    (torch.Size([2, 8, 8, 4]), torch.Size([2, 3, 32, 32]))
    ```
    """

    config_class = RQVAEConfig
    base_model_prefix = "rqvae"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": OutputRecorder(
            (DownEncoderBlock2D, AttnDownEncoderBlock2D, UNetMidBlock2D), layer_name="encoder"
        )
    }
    _keep_in_fp32_modules_strict = ["quantizer"]
    _no_split_modules = ["UNetMidBlock2D"]
    _group_offload_block_modules = ["encoder", "decoder", "quant_conv", "post_quant_conv", "quantizer", "codebook"]

    def __init__(self, config: RQVAEConfig):
        super().__init__(config)
        attention = [level in config.attention_levels for level in range(len(config.channel_multiplier))]
        towers = {
            "block_out_channels": [config.base_channels * factor for factor in config.channel_multiplier],
            "layers_per_block": config.num_res_blocks,
            "norm_num_groups": config.norm_num_groups,
        }
        self.encoder = Encoder(
            in_channels=config.num_channels,
            out_channels=config.latent_channels,
            down_block_types=["AttnDownEncoderBlock2D" if here else "DownEncoderBlock2D" for here in attention],
            double_z=False,
            **towers,
        )
        self.quant_conv = nn.Conv2d(config.latent_channels, config.codebook_dim, 1)
        self.quantizer = ResidualQuantizer(
            config.codebook_size, config.codebook_dim, config.code_depth, config.shared_codebook,
            config.codebook_decay, config.codebook_epsilon, config.restart_unused_codes,
        )  # fmt: skip
        self.post_quant_conv = nn.Conv2d(config.codebook_dim, config.latent_channels, 1)
        self.decoder = Decoder(
            in_channels=config.latent_channels,
            out_channels=config.num_channels,
            up_block_types=["AttnUpDecoderBlock2D" if here else "UpDecoderBlock2D" for here in reversed(attention)],
            **towers,
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if isinstance(module, (nn.Conv2d, nn.Linear)):  # torch's own initialization, which the base class replaces
            init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                bound = module.weight[0].numel() ** -0.5
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, Codebook):
            init.normal_(module.weight)
        elif isinstance(module, ResidualQuantizer):
            init.zeros_(module.cluster_size)
            init.zeros_(module.num_updates)
            init.copy_(module.embedding_sum, module.codebook.weight)
        else:
            super()._init_weights(module)

    @functools.wraps(RQPreTrainedModel.save_pretrained, assigned=())  # diffusers reads the names of its arguments
    def save_pretrained(self, save_directory, *args, **kwargs):
        """Saves the model, and beside it its [`RQVAEImageProcessor`]; see [`PreTrainedModel.save_pretrained`]."""
        super().save_pretrained(save_directory, *args, **kwargs)
        RQVAEImageProcessorPil.from_rqvae_config(self.config).save_pretrained(save_directory)

    @property
    def codebook(self) -> torch.Tensor:
        """Code vectors `(1, K, n_z)`, or `(D, K, n_z)` with one codebook per depth."""
        return self.quantizer.codebook.weight

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.conv_in

    @apply_forward_hook
    @torch.no_grad()
    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Codes of pictures.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, num_channels, height, width)`):
                Pixels in [-1, 1]. Height and width are multiples of `config.downsample_factor`.

        Returns:
            `torch.LongTensor` of shape `(B, H, W, D)`.

        Raises:
            `ValueError`: wrong shape, pixels out of range, or latents that are not finite.
        """
        self._check_pixel_shape(pixel_values)
        low, high = pixel_values.float().aminmax()
        if not (low >= -1 - 1e-3 and high <= 1 + 1e-3):
            raise ValueError(f"`pixel_values` must be in [-1, 1], got values from {low:.4g} to {high:.4g}.")
        return self.quantizer.quantize(self.encode_latents(pixel_values))[0]

    @apply_forward_hook
    def encode_latents(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encoder output z, before quantization: `(B, num_channels, height, width)` in [-1, 1] to `(B, H, W, n_z)`."""
        self._check_pixel_shape(pixel_values)
        latents = self.quant_conv(self.encoder(pixel_values.to(self.quant_conv.weight.dtype)))  # (B, n_z, H, W)
        return latents.permute(0, 2, 3, 1)  # (B, H, W, n_z)

    @apply_forward_hook
    def quantize(
        self,
        latents: torch.Tensor,
        temperature: float | Sequence[float] | None = None,
        stochastic: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes and residuals of latents; see [`ResidualQuantizer.quantize`]."""
        return self.quantizer.quantize(latents, temperature, stochastic, generator)

    @apply_forward_hook
    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Pictures of codes. `decode(codes[..., :d])` is the picture of the first d depths, coarse to fine (Eq. 5).

        Args:
            codes (`torch.LongTensor` of shape `(B, H, W, d)`): Codes in [0, K), 1 <= d <= D.

        Returns:
            `torch.Tensor` of shape `(B, num_channels, height, width)`, about in [-1, 1], not clamped.

        Raises:
            `ValueError`: wrong shape, dtype or range of the codes, or pixels that are not finite.
        """
        size, depth = self.config.codebook_size, self.config.code_depth
        if not isinstance(codes, torch.Tensor):
            raise ValueError(f"`codes` must be a tensor, got {type(codes).__name__}.")
        if codes.ndim != 4 or not 1 <= codes.shape[-1] <= depth or 0 in codes.shape:
            expected = f"(batch_size, height, width, depth) with depth from 1 to {depth}"
            raise ValueError(f"`codes` must have shape {expected}, got {tuple(codes.shape)}.")
        if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            raise ValueError(f"`codes` must be integers, got {codes.dtype}.")
        codes = codes.long()
        if not torch.compiler.is_compiling() and not (0 <= codes.min() and codes.max() < size):
            raise ValueError(f"`codes` must be in [0, {size}), got values from {codes.min()} to {codes.max()}.")
        pixel_values = self._decode_quantized(self.quantizer.embed(codes))
        if not torch.compiler.is_compiling() and not pixel_values.isfinite().all():  # NaN would become a black picture
            raise ValueError(f"The pixels of `decode` must be finite, got NaN or infinity in {pixel_values.dtype}.")
        return pixel_values

    @capture_outputs
    def forward(
        self,
        pixel_values: torch.Tensor,
        codebook_update: Literal["per_depth", "per_step"] | None = None,
        depth: int | None = None,
        output_hidden_states: bool | None = None,
    ) -> RQVAEOutput:
        r"""Reconstructs pictures and computes the losses of the model (Eq. 6 and 7).

        Args:
            pixel_values (`torch.Tensor` of shape `(B, num_channels, height, width)`):
                Pixels in [-1, 1]. Values are not checked, as that would make a GPU wait.
            codebook_update, depth (*optional*): See [`ResidualQuantizer.forward`].
            output_hidden_states (`bool`, *optional*): Whether to return feature maps of the encoder.

        Returns:
            [`RQVAEOutput`], or a tuple with `return_dict=False`.

        Raises:
            `ValueError`: wrong shape.
        """
        latents = self.encode_latents(pixel_values)  # (B, H, W, n_z)
        if depth is not None:
            check_integer("depth", depth, 1, self.config.code_depth)
        quantized, codes, commitment_loss = self.quantizer(latents, codebook_update, depth)
        reconstruction = self._decode_quantized(quantized)  # (B, num_channels, height, width)
        reconstruction_loss = F.mse_loss(reconstruction.float(), pixel_values.float())  # Eq. 6
        loss = reconstruction_loss + self.config.commitment_weight * commitment_loss
        return RQVAEOutput(loss, reconstruction, codes, reconstruction_loss, commitment_loss)

    def _decode_quantized(self, quantized: torch.Tensor) -> torch.Tensor:
        channels_first = quantized.permute(0, 3, 1, 2).to(self.post_quant_conv.weight.dtype)  # (B, n_z, H, W)
        return self.decoder(self.post_quant_conv(channels_first))

    def _check_pixel_shape(self, pixel_values: torch.Tensor) -> None:
        channels, factor = self.config.num_channels, self.config.downsample_factor
        if not isinstance(pixel_values, torch.Tensor) or not pixel_values.is_floating_point():
            got = getattr(pixel_values, "dtype", type(pixel_values).__name__)
            raise ValueError(f"`pixel_values` must be a tensor of floats, got {got}.")
        shape = tuple(pixel_values.shape)
        if len(shape) != 4 or shape[1] != channels or shape[2] % factor or shape[3] % factor or 0 in shape:
            expected = f"(batch_size, {channels}, height, width) with height and width multiples of {factor}"
            raise ValueError(f"`pixel_values` must have shape {expected}, got {shape}.")
