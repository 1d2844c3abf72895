# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Image processors of the RQ-VAE: images of any size to pixels in [-1, 1]."""

from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_utils import PILImageResampling

from .configuration_rqvae import RQVAEConfig


class RQVAEImageSettings:
    """What both processors do by default: shorter side to 256 pixels, centre crop, RGB, [-1, 1]."""

    do_convert_rgb = do_resize = do_center_crop = do_rescale = do_normalize = True
    resample = PILImageResampling.BICUBIC
    size = {"shortest_edge": 256}
    default_to_square = False
    crop_size = {"height": 256, "width": 256}
    image_mean = image_std = [0.5, 0.5, 0.5]

    @classmethod
    def from_rqvae_config(cls, config: RQVAEConfig):
        """The processor for the training images of a model: its `image_size` and `num_channels`."""
        size, channels = config.image_size, config.num_channels
        sizes = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
        return cls(do_convert_rgb=channels == 3, image_mean=[0.5] * channels, image_std=[0.5] * channels, **sizes)


class RQVAEImageProcessor(RQVAEImageSettings, TorchvisionBackend):
    r"""
    Prepares images for an [`RQVAEModel`]: shorter side resized (bicubic), centre cropped, pixels in [-1, 1].

    `AutoImageProcessor.from_pretrained` finds it beside a model, or [`RQVAEImageProcessorPil`] without torchvision.

    Example:

    ```python
    >>> import numpy as np
    >>> from rq_hf import RQVAEConfig, RQVAEImageProcessor
    >>> processor = RQVAEImageProcessor.from_rqvae_config(RQVAEConfig(image_size=64))
    >>> processor(np.zeros((100, 80, 3), dtype=np.uint8), return_tensors="pt").pixel_values.shape
    torch.Size([1, 3, 64, 64])
    ```
    """


class RQVAEImageProcessorPil(RQVAEImageSettings, PilBackend):
    """[`RQVAEImageProcessor`] with Pillow and NumPy in place of torchvision."""
