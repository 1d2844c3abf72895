# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the pipeline makes of given pictures: reconstruction, completion, variations and mixtures of two.

Codes are drawn from the top left to the bottom right, and depth by depth. So a completion sees what is kept above it
and to its left, never what is kept below or to its right; and a variation can keep first depths, never last ones.

Symbols: B pictures, H x W positions, D code depth. z-hat^(d) sum of the first d code vectors.
"""

from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers.image_processor import PipelineImageInput

from .picture_decoding import decode_picture
from .selection import RQImagePipelineOutput


class EditingMixin:
    """Calls of [`RQImageGenerationPipeline`] that begin with a picture."""

    @torch.no_grad()
    def reconstruct(
        self,
        image: PipelineImageInput,
        depth: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> RQImagePipelineOutput | tuple:
        r"""Encodes pictures and decodes them from their first codes, coarse to fine (Eq. 5).

        Args:
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them):
                Pictures of one size, a multiple of the RQ-VAE's `downsample_factor` each way; arrays
                `(B, height, width, 3)` and tensors `(B, 3, height, width)` in [0, 1]. Transparent parts are laid on
                white, 16-bit grey is scaled and the orientation in EXIF data is applied, as in training.
            depth (`int`, *optional*):
                Number of depths to decode, from 1 to D; all by default.
            output_type (`str`, defaults to `"pil"`): as in `__call__`; `"latent"` gives the codes of those depths.
            return_dict (`bool`, defaults to `True`): [`RQImagePipelineOutput`] or a tuple.

        Returns:
            [`RQImagePipelineOutput`] with `images`, or a tuple of them.

        Raises:
            `ValueError`: bad input, each named.
        """
        self._require("rqvae")
        depth = self.rqvae.config.code_depth if depth is None else self._checked_depth("depth", depth)
        self._check_output_type(output_type)
        codes = self.rqvae.encode(self._pixel_values(image))[..., :depth]
        images = codes if output_type == "latent" else self._postprocess(self.rqvae.decode(codes), output_type)
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
        r"""Draws anew the parts of a picture that are not kept.

        Kept codes stay exactly as they are. Each new one is drawn after those above it and to its left, kept or new,
        and knows nothing of what is kept below it or to its right. So whatever is below a kept part continues it; a
        hole is filled to fit above and to the left, and may not fit at its other edges; what is above a kept part is
        drawn as if that were not there.

        The decoder sees all codes at once: pixels of the kept part change a little where others change.

        Args:
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them):
                One picture, or one per prompt, as in [`reconstruct`], of the model's size.
            prompt (`str` or `list[str]`, *optional*): as in `__call__`.
            mask (`torch.BoolTensor` of shape `(H, W)`):
                `True` where codes are kept, `False` where they are drawn.
            class_labels (*optional*): as in `__call__`.
            kwargs: other arguments of `__call__`; `num_images_per_prompt` completions of each picture.

        Returns:
            [`RQImagePipelineOutput`] with `images`, or a tuple of them.

        Raises:
            `ValueError`: bad input, each named.
        """
        self._require("rqvae", "transformer")
        shape = self.transformer.config.code_shape[:2]
        if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool or tuple(mask.shape) != shape:
            got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, torch.Tensor) else f"{mask!r:.80}"
            raise ValueError(f"`mask` must be a bool tensor of shape {shape}, one entry per code position, got {got}.")
        codes = self._codes_of_the_models_size(image)
        return self(prompt, class_labels, known_codes=codes, known_mask=mask, **kwargs)

    def vary(
        self,
        image: PipelineImageInput,
        prompt: str | list[str] | None = None,
        keep_depths: int = 1,
        class_labels: int | str | list[int | str] | None = None,
        **kwargs: Any,
    ) -> RQImagePipelineOutput | tuple:
        r"""Draws variations of a picture that share its first codes at every position.

        The first depths hold the coarse picture, so layout and colours stay and details change; the more depths are
        kept, the fewer. What the first depth already shows cannot change, and there is no way to keep the details and
        change the layout.

        Args:
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of them):
                One picture, or one per prompt, as in [`reconstruct`], of the model's size.
            prompt (`str` or `list[str]`, *optional*): as in `__call__`.
            keep_depths (`int`, defaults to 1): depths to keep, from 1 to D; D gives the reconstruction.
            class_labels (*optional*): as in `__call__`.
            kwargs: other arguments of `__call__`; `num_images_per_prompt` variations of each picture.

        Returns:
            [`RQImagePipelineOutput`] with `images`, or a tuple of them.

        Raises:
            `ValueError`: bad input, each named.
        """
        self._require("rqvae", "transformer")
        keep_depths = self._checked_depth("keep_depths", keep_depths)
        mask = torch.zeros(self.transformer.config.code_shape, dtype=torch.bool)
        mask[..., :keep_depths] = True
        codes = self._codes_of_the_models_size(image)
        return self(prompt, class_labels, known_codes=codes, known_mask=mask, **kwargs)

    @torch.no_grad()
    def interpolate(
        self,
        image: PipelineImageInput,
        other: PipelineImageInput,
        weights: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
        depth: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> RQImagePipelineOutput | tuple:
        r"""Mixes two pictures in the space of the code vectors: decodes (1 - w) z-hat^(d) + w z-hat'^(d).

        Weights 0 and 1 give the reconstructions. Between them the two pictures are laid over each other, position by
        position: nothing moves, and the transformer has no part in it.

        Args:
            image, other (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or lists of one):
                The two pictures, of one size, as in [`reconstruct`].
            weights (`Sequence[float]`): the weights w of `other`, in [0, 1], one picture each.
            depth (`int`, *optional*): d, from 1 to D; D by default. The fewer, the coarser what is mixed.
            output_type (`str`, defaults to `"pil"`):
                As in `__call__`; `"latent"` gives the codes of each mixture, found depth by depth as those of a
                picture are, and at weights 0 and 1 the pictures' own.
            return_dict (`bool`, defaults to `True`): [`RQImagePipelineOutput`] or a tuple.

        Returns:
            [`RQImagePipelineOutput`] with one of `images` per weight, or a tuple of them.

        Raises:
            `ValueError`: bad input, each named.
        """
        self._require("rqvae")
        depth = self.rqvae.config.code_depth if depth is None else self._checked_depth("depth", depth)
        self._check_output_type(output_type)
        weights = weights.tolist() if hasattr(weights, "tolist") else weights
        weights = list(weights) if isinstance(weights, Iterable) else [weights]
        if not weights or not all(isinstance(weight, Real) and 0 <= weight <= 1 for weight in weights):
            raise ValueError(f"`weights` must be one or more numbers in [0, 1], got {weights!r}.")
        first, second = (self.rqvae.encode(self._pixel_values(each))[..., :depth] for each in (image, other))
        if first.shape != second.shape or len(first) != 1:
            raise ValueError(
                "`image` and `other` must be one picture each, of one size, got codes of shape "
                f"{tuple(first.shape)} and {tuple(second.shape)}."
            )
        vectors = [self.rqvae.quantizer.embed(codes) for codes in (first, second)]  # z-hat^(d), (1, H, W, n_z)
        part = torch.tensor(weights, dtype=vectors[0].dtype, device=vectors[0].device).view(-1, 1, 1, 1)
        mixtures = (1 - part) * vectors[0] + part * vectors[1]
        if output_type == "latent":
            images = self.rqvae.quantize(mixtures)[0][..., :depth]
            for index, weight in enumerate(weights):
                if weight in (0, 1):  # of what a sum of code vectors is, the search may find other codes
                    images[index] = (first, second)[int(weight)][0]
        else:
            images = self._postprocess(self.rqvae.decode_quantized(mixtures), output_type)
        self.maybe_free_model_hooks()
        return RQImagePipelineOutput(images=images) if return_dict else (images,)

    def _require(self, *components: str) -> None:
        for name in components:
            if getattr(self, name) is None:
                raise ValueError(f"`{name}` must be loaded, got None.")

    def _checked_depth(self, name: str, depth: int) -> int:
        code_depth = self.rqvae.config.code_depth
        if isinstance(depth, bool) or not isinstance(depth, Integral) or not 1 <= depth <= code_depth:
            raise ValueError(f"`{name}` must be an integer from 1 to {code_depth}, got {depth!r}.")
        return depth

    def _codes_of_the_models_size(self, image: PipelineImageInput) -> torch.LongTensor:
        codes = self.rqvae.encode(self._pixel_values(image))
        if tuple(codes.shape[1:]) != tuple(self.transformer.config.code_shape):
            side, factor = self.rqvae.config.image_size, self.rqvae.config.downsample_factor
            got = f"{codes.shape[2] * factor} x {codes.shape[1] * factor}"
            raise ValueError(f"`image` must be of the model's size, {side} x {side} pixels, got {got}.")
        return codes

    def _pixel_values(self, image: PipelineImageInput) -> torch.Tensor:
        """Pixels `(B, channels, height, width)` in [-1, 1] of pictures of any kind that diffusers takes."""
        images = image if isinstance(image, (list, tuple)) else [image]
        mode = "L" if self.rqvae.config.num_channels == 1 else "RGB"
        try:
            images = [decode_picture(each, mode) if isinstance(each, PIL.Image.Image) else each for each in images]
        except ValueError as error:
            raise ValueError(f"`image` must be of integers of 8 or 16 bits, got {error}") from error
        # Arrays may be views that torch cannot take, such as mirrored ones.
        images = [np.ascontiguousarray(each) if isinstance(each, np.ndarray) else each for each in images]
        sizes = {each.size if isinstance(each, PIL.Image.Image) else tuple(each.shape)[-3:] for each in images
                 if isinstance(each, (PIL.Image.Image, np.ndarray, torch.Tensor))}  # fmt: skip
        if not images or len(sizes) > 1:
            raise ValueError(f"`image` must be one or more pictures of one size, got sizes {sorted(sizes)}.")
        for each in images:
            if isinstance(each, (np.ndarray, torch.Tensor)):
                values = torch.as_tensor(each)
                if values.ndim < (2 if isinstance(each, np.ndarray) else 3):
                    raise ValueError(f"`image` must have height, width and channels, got shape {tuple(values.shape)}.")
                if values.numel() == 0 or not values.is_floating_point():
                    got = f"{values.dtype} of shape {tuple(values.shape)}"
                    raise ValueError(f"`image` must hold floats where it is an array or a tensor, got {got}.")
                if not (values.min() >= 0 and values.max() <= 1):
                    got = f"{values.dtype} from {values.min():.4g} to {values.max():.4g}"
                    raise ValueError(
                        f"`image` must hold floats in [0, 1] where it is an array or a tensor, got {got}."
                    )
        pixel_values = self.image_processor.preprocess(images if isinstance(image, (list, tuple)) else images[0])
        return pixel_values.to(self._execution_device, self.rqvae.dtype)

    def _postprocess(self, pixel_values: torch.Tensor, output_type: str):
        return self.image_processor.postprocess(pixel_values.float(), output_type=output_type)
