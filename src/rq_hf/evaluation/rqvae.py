# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`evaluate.py rqvae`: how well an RQ-VAE reconstructs."""

import argparse
from typing import Any

import torch

from .. import metrics
from ..features import PerceptualLoss
from ..modeling_rqvae import RQVAEModel
from ..pipeline_rq_image_generation import load_component
from .rows import choose_rows, filtered, load_splits, picture_batches, picture_dataset


def evaluate_rqvae(arguments: argparse.Namespace) -> dict[str, Any]:
    """Figures of an RQ-VAE, and its pictures beside `--output`."""
    dtype = getattr(torch, arguments.dtype)
    rqvae = load_component(RQVAEModel, arguments.model, "rqvae", revision=arguments.revision, dtype=dtype)
    rqvae.to(arguments.device).eval()
    lpips = PerceptualLoss("vgg16", arguments.lpips_weights).to(arguments.device) if arguments.lpips else None
    rows = filtered(load_splits(arguments, "image_column")[arguments.split], arguments)
    distances = metrics.reconstruction_distances(
        rqvae, len(rows), arguments.feature_extractor, arguments.inception_weights, arguments.seed
    )
    pictures = picture_dataset(rows, rqvae, arguments)
    report = metrics.measure_reconstruction(rqvae, picture_batches(pictures, arguments), distances, lpips)
    results = {
        "num_pictures": report.num_pictures,
        "metrics": report.metrics,
        "depths": report.depths,
        "halves": report.halves,
        "code_norms": {"edges": report.norms.edges, "shares": report.norms.shares},
    }
    if arguments.output is not None:
        chosen = choose_rows(len(rows), min(len(rows), arguments.num_pictures), arguments.seed)
        pixel_values = torch.stack([pictures[index]["pixel_values"] for index in chosen])
        figures = {
            "reconstructions": metrics.coarse_to_fine_sheet(rqvae, pixel_values),
            "code-norms": metrics.code_norm_chart(report.norms),
        }
        for name, figure in figures.items():
            figure.save(arguments.output.with_name(f"{arguments.output.stem}-{name}.png"))
    return results
