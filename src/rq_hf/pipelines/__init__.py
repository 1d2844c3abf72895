# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Pipelines from captions, class labels or nothing to pictures, and painting inside a picture."""

from .loading import load_component
from .pipeline_output import RQImagePipelineOutput
from .pipeline_rq_image_generation import RQImageGenerationPipeline
from .pipeline_rq_inpaint import RQInpaintPipeline
from .selection import CLIPRanker, ImageClassifier

__all__ = [
    "CLIPRanker",
    "ImageClassifier",
    "RQImageGenerationPipeline",
    "RQImagePipelineOutput",
    "RQInpaintPipeline",
    "load_component",
]
