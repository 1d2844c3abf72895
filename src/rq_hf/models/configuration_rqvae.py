# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Configuration of the RQ-VAE."""

from huggingface_hub.dataclasses import strict
from transformers.utils.type_validators import interval

from .base import RQConfig


@strict
class RQVAEConfig(RQConfig):
    r"""
    Configuration of an [`RQVAEModel`] (section 3.1). The defaults are the ImageNet RQ-VAE with 8x8x4 codes.

    Args:
        image_size (`int`, defaults to 256):
            Height and width of the training images; it fixes `code_shape`. The model takes any multiples of
            `downsample_factor`.
        num_channels (`int`, defaults to 3): Channels of a picture: 3 for RGB, 1 for grey.
        base_channels (`int`, defaults to 128): Level i is `base_channels * channel_multiplier[i]` wide.
        channel_multiplier (`list[int]`, defaults to `(1, 1, 2, 2, 4, 4)`): Each level but the last halves the size.
        num_res_blocks (`int`, defaults to 2): Residual blocks per level of the encoder (the decoder has one more).
        attention_levels (`list[int]`, defaults to `(5,)`): Indexes of the levels with self-attention; `(4,)` for FFHQ.
        latent_channels (`int`, defaults to 256): Channels of the encoder's output, before those of the codebook.
        norm_num_groups (`int`, defaults to 32): Groups of group normalizations; must divide each level's width.
        codebook_size (`int`, defaults to 16384): Codes in a codebook, K.
        codebook_dim (`int`, defaults to 256): Width of a code vector, n_z.
        code_depth (`int`, defaults to 4): Codes per position, D.
        shared_codebook (`bool`, defaults to `True`): One codebook for all depths, or one for each (ablation C.3).
        codebook_decay (`float`, defaults to 0.99): Decay of the codebook's moving averages, in [0, 1).
        codebook_epsilon (`float`, defaults to 1e-5): Laplace smoothing of the cluster sizes, > 0.
        restart_unused_codes (`bool`, defaults to `True`): Replace rarely used codes by random residuals of the batch.
        commitment_weight (`float`, defaults to 0.25): Weight beta of the commitment loss (Eq. 7).

    Example:

    ```python
    >>> from rq_hf import RQVAEConfig
    >>> RQVAEConfig(image_size=64, channel_multiplier=[1, 2, 4, 4], attention_levels=[3], code_depth=8).code_shape
    (8, 8, 8)
    ```
    """

    model_type = "rqvae"

    image_size: int = interval(min=1)(default=256)
    num_channels: int = interval(min=1)(default=3)
    base_channels: int = interval(min=1)(default=128)
    channel_multiplier: list[int] | tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    num_res_blocks: int = interval(min=1, max=500)(default=2)
    attention_levels: list[int] | tuple[int, ...] = (5,)
    latent_channels: int = interval(min=1)(default=256)
    norm_num_groups: int = interval(min=1)(default=32)
    codebook_size: int = interval(min=1)(default=16384)
    codebook_dim: int = interval(min=1)(default=256)
    code_depth: int = interval(min=1)(default=4)
    shared_codebook: bool = True
    codebook_decay: float | int = interval(min=0, max=1, exclude_max=True)(default=0.99)
    codebook_epsilon: float | int = interval(min=0, exclude_min=True)(default=1e-5)
    restart_unused_codes: bool = True
    commitment_weight: float | int = interval(min=0)(default=0.25)

    def __post_init__(self, **kwargs):
        self.channel_multiplier = tuple(self.channel_multiplier)
        self.attention_levels = tuple(self.attention_levels)
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        super().validate_architecture()
        levels = len(self.channel_multiplier)
        has_widths = levels >= 1 and min(self.channel_multiplier) >= 1
        self._require(has_widths, "channel_multiplier", "a list of integers of at least 1")
        are_levels = all(0 <= level < levels for level in self.attention_levels)
        self._require(are_levels, "attention_levels", f"indexes of the {levels} levels of `channel_multiplier`")
        factor = self.downsample_factor
        self._require(self.image_size % factor == 0, "image_size", f"a multiple of the downsample factor {factor}")
        widths = [self.base_channels * factor for factor in self.channel_multiplier]
        divides = all(width % self.norm_num_groups == 0 for width in widths)
        self._require(divides, "norm_num_groups", f"a divisor of each level's width, {widths}")

    @property
    def downsample_factor(self) -> int:
        """Pixels per code position along each side."""
        return 2 ** (len(self.channel_multiplier) - 1)

    @property
    def code_shape(self) -> tuple[int, int, int]:
        """(H, W, D) of the codes of an `image_size` picture."""
        side = self.image_size // self.downsample_factor
        return side, side, self.code_depth
