# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Painting inside a picture: the white part of a mask is drawn anew, all other pixels stay as they are.

Symbols: N pictures, H x W positions.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import PIL.Image
import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import PipelineImageInput
from PIL import ImageChops, ImageFilter
from transformers import GenerationConfig
from transformers.utils import logging

from ..images import decode_image
from ..models.validation import check_integer
from .pipeline_output import RQImagePipelineOutput, check_output_type
from .pipeline_rq_image_generation import RQImageGenerationPipeline
from .selection import CLIPRanker, ImageClassifier

logger = logging.get_logger(__name__)

Box = tuple[int, int, int, int]  # left, upper, right and lower edge in pixels


class RQInpaintPipeline(RQImageGenerationPipeline):
    r"""
    Draws a part of a picture anew. It has the components of an [`RQImageGenerationPipeline`].

    A contextual transformer fills a hole from all sides. An autoregressive one reads only what is above a position and
    to the left of it, so the right and lower edges of a hole may show.

    Example:

    ```python
    >>> from diffusers import AutoPipelineForInpainting
    >>> from PIL import Image, ImageDraw
    >>> from rq_hf import RQImageGenerationPipeline
    >>> pipe = AutoPipelineForInpainting.from_pipe(
    ...     RQImageGenerationPipeline.from_pretrained("checkpoints/emoji-64")
    ... )
    >>> image, mask = Image.new("RGB", (300, 200), "white"), Image.new("L", (300, 200), 0)
    >>> ImageDraw.Draw(mask).rectangle((100, 50, 200, 150), fill=255)
    >>> pipe("a red heart", image, mask).images[0].size
    (300, 200)
    ```
    """

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        image: PipelineImageInput | None = None,
        mask_image: PipelineImageInput | None = None,
        height: int | None = None,
        width: int | None = None,
        padding_mask_crop: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[DiffusionPipeline, int, int, dict[str, Any]], dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: list[str] | tuple[str, ...] = ("codes",),
        class_labels: int | str | list[int | str] | torch.Tensor | None = None,
        rewrite_prompt: bool = True,
        temperature: float | list[float] | None = None,
        top_k: int | list[int] | None = None,
        top_p: float | list[float] | None = None,
        num_draft_steps: int | None = None,
        num_revise_rounds: int | None = None,
        num_revise_steps: int | None = None,
        revise_temperature: float | list[float] | None = None,
        revise_guidance_scale: float | None = None,
        generation_config: GenerationConfig | None = None,
        num_candidates: int | None = None,
        ranker: CLIPRanker | Literal["likelihood"] | None = None,
        classifier: ImageClassifier | None = None,
        acceptance_rate: float | None = None,
    ) -> RQImagePipelineOutput | tuple:
        r"""Draws the white part of `mask_image` anew.

        The transformer sees a square of the picture, scaled to its size. Its result is scaled back and pasted inside
        the mask only, where it fades in over a few pixels.

        Args:
            prompt (`str` or `list[str]`, *optional*): Captions of the whole pictures, one or one per picture.
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of Pillow pictures):
                Pictures of any size. Arrays `(N, height, width, 3)` and tensors `(N, 3, height, width)` are in [0, 1].
            mask_image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of Pillow pictures):
                White is drawn anew, black is kept. One mask, or one per picture, of the picture's size. Arrays and
                tensors `(height, width)` or `(N, height, width)` are in [0, 1].
            padding_mask_crop (`int`, *optional*):
                Margin in pixels round the white part. The transformer then sees only that square and draws small parts
                sharper; by default it sees the largest square near the white part.
            height, width (`int`, *optional*): The size of `image`; others are refused.
            output_type (`str`, defaults to `"pil"`):
                As in [`RQImageGenerationPipeline.__call__`]. Arrays and tensors need pictures of one size.

        All other arguments are those of [`RQImageGenerationPipeline.__call__`].

        Returns:
            [`RQImagePipelineOutput`] with `images` of the size of the given ones, or codes for `"latent"`,
            `num_images_per_prompt` for each.

        Raises:
            `ValueError`: no picture or mask, a mask of another size or without white, or another wrong argument.
        """
        given = {
            "guidance_scale": guidance_scale, "negative_prompt": negative_prompt, "generator": generator,
            "num_images_per_prompt": num_images_per_prompt, "prompt_embeds": prompt_embeds,
            "negative_prompt_embeds": negative_prompt_embeds, "callback_on_step_end": callback_on_step_end,
            "callback_on_step_end_tensor_inputs": callback_on_step_end_tensor_inputs, "class_labels": class_labels,
            "rewrite_prompt": rewrite_prompt, "temperature": temperature, "top_k": top_k, "top_p": top_p,
            "num_draft_steps": num_draft_steps, "num_revise_rounds": num_revise_rounds,
            "num_revise_steps": num_revise_steps, "revise_temperature": revise_temperature,
            "revise_guidance_scale": revise_guidance_scale, "generation_config": generation_config,
            "num_candidates": num_candidates, "ranker": ranker, "classifier": classifier,
            "acceptance_rate": acceptance_rate,
        }  # fmt: skip
        check_output_type(output_type)
        if padding_mask_crop is not None:
            check_integer("padding_mask_crop", padding_mask_crop, 0, 10**6)
        images = pillow_images("image", image, "RGB")
        masks = pillow_images("mask_image", mask_image, "L")
        masks = [mask.point(lambda value: 255 * (value >= 128)) for mask in masks]
        masks = masks * len(images) if len(masks) == 1 else masks
        if [mask.size for mask in masks] != [each.size for each in images]:
            sizes = [mask.size for mask in masks], [each.size for each in images]
            raise ValueError("`mask_image` must have the size of `image`, got {} for {}.".format(*sizes))
        if any(width not in (None, each.width) or height not in (None, each.height) for each in images):
            raise ValueError(f"`height` and `width` must be those of `image`, got {height} and {width}.")
        if not all(mask.getbbox() for mask in masks):
            raise ValueError("`mask_image` must have a white part, got a black mask.")
        if self.transformer.is_causal:
            logger.warning_once(
                "This transformer draws from the upper left, so new parts may not fit what is right of them or below. "
                "A contextual transformer fills holes from all sides."
            )

        boxes = [square_box(mask, padding_mask_crop) for mask in masks]
        size, (height, width, _) = self.rqvae.config.image_size, self.transformer.config.code_shape
        squares = [
            crop(each, box).resize((size, size), PIL.Image.Resampling.LANCZOS)
            for each, box in zip(images, boxes, strict=True)
        ]
        codes = self.rqvae.encode(self._pixel_values(squares, size))
        is_kept = [~hidden_positions(crop(mask, box), height, width) for mask, box in zip(masks, boxes, strict=True)]
        known_mask = torch.stack(is_kept)[..., None].expand(codes.shape)  # (N, H, W, D)
        is_latent = output_type == "latent"
        result = super().__call__(
            prompt, known_codes=codes, known_mask=known_mask, output_type="latent" if is_latent else "pil", **given
        )
        if not is_latent:
            count = len(result.images) // len(images)
            result.images = [
                paste(new, images[index // count], masks[index // count], boxes[index // count])
                for index, new in enumerate(result.images)
            ]
            if output_type != "pil":
                result.images = self.image_processor.pil_to_numpy(result.images)
                if output_type == "pt":
                    result.images = self.image_processor.numpy_to_pt(result.images)
        return result if return_dict else result.to_tuple()


def pillow_images(name: str, images: PipelineImageInput | None, mode: str) -> list[PIL.Image.Image]:
    """Pillow pictures of a mode, from any pictures that a pipeline takes."""
    if isinstance(images, torch.Tensor):
        images = images.detach().cpu().float().numpy()
        images = np.moveaxis(images, -3, -1) if mode == "RGB" and images.ndim >= 3 else images
    if isinstance(images, np.ndarray):
        is_single = images.ndim == (3 if mode == "RGB" else 2)
        images = list(images[None] if is_single else images)
        if not all(each.size and 0 <= each.min() and each.max() <= 1 for each in images):
            raise ValueError(f"`{name}` must hold floats in [0, 1].")
        images = [PIL.Image.fromarray((each.squeeze() * 255).round().astype("uint8")) for each in images]
    images = images if isinstance(images, (list, tuple)) else [images]
    if not images or not all(isinstance(each, PIL.Image.Image) for each in images):
        raise ValueError(f"`{name}` must be a picture, or pictures, got {images!r:.80}.")
    if mode == "L" and any(each.mode in ("I", "F") for each in images):
        raise ValueError(f"`{name}` must have a mode with a known white, such as 'L', got 'I' or 'F'.")
    return [decode_image(each, mode) for each in images]


def square_box(mask: PIL.Image.Image, padding: int | None) -> Box:
    """The square that the transformer sees: with `padding` the white part with so many pixels round it, else the
    largest square of the picture near the white part, or one round the whole picture if that part is larger."""
    (width, height), (left, upper, right, lower) = mask.size, mask.getbbox()
    part = max(right - left, lower - upper)
    if padding is not None:
        side = part + 2 * int(padding)
    else:
        side = min(width, height) if part <= min(width, height) else max(width, height)
    starts = []
    for low, high, length in ((left, right, width), (upper, lower, height)):
        start = (low + high - side) // 2
        starts.append(min(max(start, 0), length - side) if side <= length else (length - side) // 2)
    return (*starts, starts[0] + side, starts[1] + side)


def crop(image: PIL.Image.Image, box: Box) -> PIL.Image.Image:
    """The box of a picture. What lies outside the picture repeats its edge."""
    left, upper, right, lower = box
    rows = np.arange(upper, lower).clip(0, image.height - 1)
    columns = np.arange(left, right).clip(0, image.width - 1)
    return PIL.Image.fromarray(np.asarray(image)[rows][:, columns])


def hidden_positions(mask: PIL.Image.Image, height: int, width: int) -> torch.BoolTensor:
    """Positions `(H, W)` that a white pixel of a square mask falls into."""
    rows, columns = np.nonzero(np.asarray(mask))
    hidden = torch.zeros(height, width, dtype=torch.bool)
    hidden[rows * height // mask.height, columns * width // mask.width] = True
    return hidden


def paste(new: PIL.Image.Image, image: PIL.Image.Image, mask: PIL.Image.Image, box: Box) -> PIL.Image.Image:
    """The picture with the white part of the mask taken from `new`, which fades in from the edge of that part."""
    side = box[2] - box[0]
    canvas = image.copy()
    canvas.paste(new.convert("RGB").resize((side, side), PIL.Image.Resampling.LANCZOS), box[:2])
    fade = ImageChops.darker(mask.filter(ImageFilter.GaussianBlur(max(1, side / 64))), mask)
    return PIL.Image.composite(canvas, image, fade)
