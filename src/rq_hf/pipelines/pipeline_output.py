# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""What a call of the pipeline returns."""

from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from diffusers import ImagePipelineOutput


@dataclass
class RQImagePipelineOutput(ImagePipelineOutput):
    """
    What a pipeline returns.

    Args:
        images (`list[PIL.Image.Image]`, `np.ndarray` or `torch.Tensor`): The pictures, or their codes.
        scores (`torch.FloatTensor` of shape `(B,)`, *optional*):
            Scores of pictures that were selected among candidates, the best of a prompt first.
    """

    images: list[PIL.Image.Image] | np.ndarray | torch.Tensor
    scores: torch.Tensor | None = None


def check_output_type(output_type: str) -> None:
    """Raises a `ValueError` unless the pipeline can return this kind of images."""
    if output_type not in ("pil", "np", "pt", "latent"):
        raise ValueError(f"`output_type` must be 'pil', 'np', 'pt' or 'latent', got {output_type!r:.80}.")
