# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Figures of merit: how well an RQ-VAE reconstructs, how real and varied generated pictures are, and whether they show
what the prompt asked for."""

from .codes import CodeNorms, code_norms, code_usage
from .drawing import draw_pictures, drawn_batches, save_drawn_pictures
from .extractors import (
    FEATURE_EXTRACTORS,
    EfficientNetFeatures,
    FeatureExtractor,
    InceptionFeatures,
    TorchScriptFeatures,
    VisionModelFeatures,
    distance_name,
    feature_extractor,
    feature_extractors,
    processor_digest,
    weights_digest,
)
from .frechet import (
    FeatureStatistics,
    ReconstructionDistance,
    distance_between_real_pictures,
    frechet_distances,
)
from .generation import NEIGHBOURHOOD, extract, inception_score, nearest_errors, nearest_pictures, precision_recall
from .pictures import (
    picture_errors,
    pooled_pixels,
    psnr_from_mse,
    shift_down,
    stored_pictures,
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
from .reports import markdown_table, model_index, replacing, write_json, write_text
from .sheets import coarse_to_fine_sheet, code_norm_chart
from .statistics import ReferenceStatistics, load_statistics, warn_of_few_pictures
from .sweeps import lower_is_better, sweep_chart
