# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Calls of the pipeline that start from a picture: reconstruction and variations."""

from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from diffusers.image_processor import PipelineImageInput

from ..images import decode_image
from ..models.validation import check_integer
from .pipeline_output import RQImagePipelineOutput, check_output_type


class EditingMixin:
    """The editing calls of a pipeline with an RQ-VAE, a transformer and `__call__`."""

    @torch.no_grad()
    def reconstruct(
        self, image: PipelineImageInput, depth: int | None = None, output_type: str = "pil", return_dict: bool = True
    ) -> RQImagePipelineOutput | tuple:
        r"""Encodes pictures and decodes them from the codes of their first depths, coarse to fine (Eq. 5).

        Args:
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them):
                Pictures of one size. Pillow pictures are cropped by a few pixels to multiples of the RQ-VAE's
                `downsample_factor`. Arrays `(B, height, width, C)` and tensors `(B, C, height, width)` in [0, 1] must
                have such a size.
            depth (`int`, *optional*): Number of depths to decode, from 1 to D; all by default.
            output_type (`str`, defaults to `"pil"`):
                `"pil"`, `"np"`, `"pt"`, or `"latent"` for the codes of those depths.
            return_dict (`bool`, defaults to `True`): Whether to return an [`RQImagePipelineOutput`] or a tuple.

        Returns:
            [`RQImagePipelineOutput`] with `images`, or a tuple of them.

        Raises:
            `ValueError`: no pictures, pictures of other shapes or ranges, or a depth out of range.
        """
        check_output_type(output_type)
        depth = self.rqvae.config.code_depth if depth is None else depth
        check_integer("depth", depth, 1, self.rqvae.config.code_depth)
        images = self._decode(self.rqvae.encode(self._pixel_values(image))[..., :depth], output_type)
        self.maybe_free_model_hooks()
        return RQImagePipelineOutput(images) if return_dict else (images,)

    def vary(
        self, image: PipelineImageInput, prompt: str | list[str] | None = None, keep_depths: int = 1, **kwargs: Any
    ) -> RQImagePipelineOutput | tuple:
        r"""Draws variations of pictures: keeps the codes of the first depths and draws the others.

        The first depths hold the coarse picture, so layout and colours stay and details change.

        Args:
            image: One picture, or one per prompt, as in [`reconstruct`]. Pillow pictures of any size are cropped to a
                square and scaled to the model's size; arrays and tensors must have it.
            keep_depths (`int`, defaults to 1): Number of depths to keep, from 1 to D; D gives the reconstruction.
            prompt, kwargs: Arguments of `__call__`, whose result it returns.
        """
        check_integer("keep_depths", keep_depths, 1, self.rqvae.config.code_depth)
        mask = torch.zeros(self.transformer.config.code_shape, dtype=torch.bool)
        mask[..., :keep_depths] = True
        codes = self.rqvae.encode(self._pixel_values(image, self.rqvae.config.image_size))
        return self._draw(prompt=prompt, known_codes=codes, known_mask=mask, **kwargs)

    def _pixel_values(self, image: PipelineImageInput, size: int | None = None) -> torch.Tensor:
        """Pixels `(B, channels, height, width)` in [-1, 1]; `size` is the height and width that they must have."""
        images = list(image) if isinstance(image, (list, tuple)) else [image]
        if not images:
            raise ValueError("`image` must hold at least one picture, got an empty list.")
        if isinstance(images[0], PIL.Image.Image):
            mode = "L" if self.rqvae.config.num_channels == 1 else "RGB"
            images = [self._fit(decode_image(each, mode), size) for each in images]
        else:
            for each in images:
                is_array = isinstance(each, (np.ndarray, torch.Tensor)) and 0 not in each.shape
                if not is_array or "float" not in str(each.dtype) or not (each.min() >= 0 and each.max() <= 1):
                    got = f"{each.dtype} from {each.min()} to {each.max()}" if is_array else f"{each!r:.80}"
                    raise ValueError(f"`image` must hold pictures, or arrays of floats in [0, 1], got {got}.")
        try:
            pixel_values = self.image_processor.preprocess(images[0] if len(images) == 1 else images)
        except (ValueError, IndexError, RuntimeError) as error:
            raise ValueError(f"`image` must hold pictures of one size and shape: {error!s:.200}") from error
        height, width = pixel_values.shape[-2:]
        if size is not None and (height, width) != (size, size):
            raise ValueError(f"`image` must be of the model's size, {size} x {size} pixels, got {width} x {height}.")
        return pixel_values.to(self._execution_device, self.rqvae.dtype)

    def _fit(self, image: PIL.Image.Image, size: int | None) -> PIL.Image.Image:
        """Crops to a square of `size` pixels, or only to multiples of the downsampling factor."""
        factor = self.rqvae.config.downsample_factor
        shape = (size, size) if size else [max(length // factor, 1) * factor for length in image.size]
        return PIL.ImageOps.fit(image, shape, PIL.Image.Resampling.LANCZOS)
