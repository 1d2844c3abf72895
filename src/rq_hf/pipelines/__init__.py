# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The pipeline from captions, class labels or nothing to pictures, and selection among candidates."""

from .loading import load_component
from .pipeline_output import RQImagePipelineOutput
from .pipeline_rq_image_generation import RQImageGenerationPipeline
from .selection import CLIPRanker, ImageClassifier

__all__ = ["CLIPRanker", "ImageClassifier", "RQImageGenerationPipeline", "RQImagePipelineOutput", "load_component"]
