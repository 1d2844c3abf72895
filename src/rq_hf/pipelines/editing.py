# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Calls of the pipeline that start from a picture: reconstruction, completion and variations.

Codes are drawn row by row from the top left, and at each position depth by depth. A new code depends on what is kept
before it in this order, never on what is kept after it.
"""

from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers.image_processor import PipelineImageInput

from ..images import decode_picture
from .selection import RQImagePipelineOutput


class EditingMixin:
    """The editing calls of [`RQImageGenerationPipeline`]."""

    @torch.no_grad()
    def reconstruct(
        self,
        image: PipelineImageInput,
        depth: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> RQImagePipelineOutput | tuple:
        r"""Encodes pictures and decodes them from the codes of their first depths, coarse to fine (Eq. 5).

        Args:
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them):
                Pictures of one size, a multiple of the RQ-VAE's `downsample_factor` in each direction; arrays
                `(B, height, width, 3)` and tensors `(B, 3, height, width)` in [0, 1].
            depth (`int`, *optional*): Number of depths to decode, from 1 to D; all by default.
            output_type (`str`, defaults to `"pil"`):
                `"pil"`, `"np"`, `"pt"`, or `"latent"` for the codes of those depths.
            return_dict (`bool`, defaults to `True`): Whether to return an [`RQImagePipelineOutput`] or a tuple.

        Returns:
            [`RQImagePipelineOutput`] with `images`, or a tuple of them.
        """
        self._check_output_type(output_type)
        depth = self.rqvae.config.code_depth if depth is None else depth
        self._check_depth("depth", depth)
        codes = self.rqvae.encode(self._pixel_values(image))[..., :depth]
        images = self._postprocess(codes if output_type == "latent" else self.rqvae.decode(codes), output_type)
        self.maybe_free_model_hooks()
        return RQImagePipelineOutput(images=images) if return_dict else (images,)

    def complete(
        self,
        image: PipelineImageInput,
        prompt: str | list[str] | None = None,
        mask: torch.BoolTensor | None = None,
        class_labels: int | str | list[int | str] | None = None,
        **kwargs: Any,
    ) -> RQImagePipelineOutput | tuple:
        r"""Draws the masked-out parts of pictures anew.

        Kept codes stay exactly as they are. Their pixels change a little, since the decoder sees all codes at once.
        New codes continue what is kept above or left of them. They may not fit what is kept below or right of them.

        Args:
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them):
                One picture, or one per prompt, of the model's size; see [`reconstruct`].
            mask (`torch.BoolTensor` of shape `(H, W)`): `True` where codes are kept, `False` where they are drawn.
            prompt, class_labels, kwargs:
                Arguments of `__call__`. `num_images_per_prompt` pictures are drawn from each picture.

        Returns:
            [`RQImagePipelineOutput`] with `images`, or a tuple of them.
        """
        shape = self.transformer.config.code_shape[:2]
        if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool or mask.shape != shape:
            got = (mask.dtype, tuple(mask.shape)) if isinstance(mask, torch.Tensor) else type(mask).__name__
            raise ValueError(f"`mask` must be a bool tensor of shape {shape}, got {got}.")
        codes = self.rqvae.encode(self._pixel_values(image, self.rqvae.config.image_size))
        return self(prompt, class_labels, known_codes=codes, known_mask=mask, **kwargs)

    def vary(
        self,
        image: PipelineImageInput,
        prompt: str | list[str] | None = None,
        keep_depths: int = 1,
        class_labels: int | str | list[int | str] | None = None,
        **kwargs: Any,
    ) -> RQImagePipelineOutput | tuple:
        r"""Draws variations of pictures: keeps the codes of the first depths and draws the others.

        The first depths hold the coarse picture, so layout and colours stay and details change.

        Args:
            image, prompt, class_labels, kwargs:
                As in [`complete`].
            keep_depths (`int`, defaults to 1): Number of depths to keep, from 1 to D; D gives the reconstruction.

        Returns:
            [`RQImagePipelineOutput`] with `images`, or a tuple of them.
        """
        self._check_depth("keep_depths", keep_depths)
        mask = torch.zeros(self.transformer.config.code_shape, dtype=torch.bool)
        mask[..., :keep_depths] = True
        codes = self.rqvae.encode(self._pixel_values(image, self.rqvae.config.image_size))
        return self(prompt, class_labels, known_codes=codes, known_mask=mask, **kwargs)

    @staticmethod
    def _check_output_type(output_type: str) -> None:
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"`output_type` must be 'pil', 'np', 'pt' or 'latent', got {output_type!r:.80}.")

    def _check_depth(self, name: str, depth: int) -> None:
        code_depth = self.rqvae.config.code_depth
        if not isinstance(depth, int) or not 1 <= depth <= code_depth:
            raise ValueError(f"`{name}` must be an integer from 1 to {code_depth}, got {depth!r}.")

    def _pixel_values(self, image: PipelineImageInput, size: int | None = None) -> torch.Tensor:
        """Pixels `(B, channels, height, width)` in [-1, 1]; `size` is the height and width that they must have."""
        images = list(image) if isinstance(image, (list, tuple)) else [image]
        if not images:
            raise ValueError("`image` must hold at least one picture, got an empty list.")
        if isinstance(images[0], PIL.Image.Image):
            mode = "L" if self.rqvae.config.num_channels == 1 else "RGB"
            images = [decode_picture(each, mode) for each in images]
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
