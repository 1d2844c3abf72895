# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Figures of merit: how well an RQ-VAE reconstructs, and whether generated pictures show what the prompt asked for."""

from .codes import CodeNorms, code_norms, code_usage
from .drawing import drawn_batches, picture_generator, save_drawn_pictures
from .frechet import (
    FEATURE_EXTRACTORS,
    EfficientNetFeatures,
    FeatureStatistics,
    InceptionFeatures,
    ReconstructionDistance,
    feature_extractor,
    frechet_distances,
)
from .pictures import (
    picture_errors,
    pooled_pixels,
    psnr_from_mse,
    shift_down,
    structural_similarity,
    to_rgb,
    to_uint8,
)
from .prompt_accuracy import PromptAccuracy, PromptScores
from .reconstruction import (
    ReconstructionReport,
    measure_reconstruction,
    reconstruction_distances,
)
from .reports import markdown_table, write_json
from .sheets import coarse_to_fine_sheet, code_norm_chart
