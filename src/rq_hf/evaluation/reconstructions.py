# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`evaluate.py reconstructions`: rFID of an RQ-VAE (Table 4), in shares of processes."""

import argparse
from typing import Any

import torch
from accelerate import PartialState

from .. import metrics
from ..modeling_rqvae import RQVAEModel
from ..pipeline_rq_image_generation import load_component
from .models import device_of
from .reference import DETAILS, picture_protocol
from .rows import filtered, load_splits, picture_dataset
from .shards import Shards


def evaluate_reconstructions(arguments: argparse.Namespace, state: PartialState) -> dict[str, Any] | None:
    """Distance of a split's pictures from their reconstructions; `None` on all processes but the main one."""
    device, dtype = device_of(arguments, state), getattr(torch, arguments.dtype)
    rqvae = load_component(RQVAEModel, arguments.model, "rqvae", revision=arguments.revision, dtype=dtype)
    rqvae.to(device).eval()
    extractor = metrics.feature_extractor(arguments.feature_extractor, arguments.inception_weights).to(device)
    rows = filtered(load_splits(arguments, "image_column")[arguments.split], arguments)
    pictures = picture_dataset(rows, rqvae, arguments)

    @torch.no_grad()
    def tensors(indices: range) -> dict[str, torch.Tensor]:
        pixel_values = torch.stack([pictures[index]["pixel_values"] for index in indices]).to(device)
        real = metrics.stored_pictures(pixel_values)
        reconstructed = metrics.stored_pictures(rqvae.decode(rqvae.encode(pixel_values)))
        return {
            "features": metrics.extract(extractor, metrics.to_rgb(real))["features"],
            "reconstructed": metrics.extract(extractor, metrics.to_rgb(reconstructed))["features"],
            "mse": metrics.picture_errors(reconstructed, real),
        }

    config = rqvae.config
    settings = {
        **picture_protocol(extractor, config.image_size, config.num_channels, arguments.transform),
        **{name: getattr(arguments, name) for name in DETAILS},
        "rqvae": metrics.weights_digest(rqvae),
        "dtype": arguments.dtype,
        "device": device.type,
        "fingerprint": rows._fingerprint,
    }
    shards = Shards(arguments.work_dir, len(rows), arguments.batch_size, settings, state)
    shards.make(tensors, "Reconstructing")
    if not state.is_main_process:
        return None
    statistics = {name: metrics.FeatureStatistics() for name in ("features", "reconstructed")}
    for name, summed in statistics.items():
        for batch in shards.batches(name):
            summed.update(batch)
    real, reconstructed = statistics.values()
    metrics.warn_of_few_pictures("real", real.count, len(real.mean))
    (distance,) = metrics.frechet_distances(real, [reconstructed])
    mse = shards.read("mse").mean().item()
    figures = {metrics.distance_name(extractor.name, "rfid"): distance, "psnr": metrics.psnr_from_mse(mse), "mse": mse}
    return {"num_pictures": len(rows), "protocol": "reconstructions", "metrics": figures}
