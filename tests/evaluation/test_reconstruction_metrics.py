# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Metrics of an RQ-VAE's reconstructions follow their definitions, depth by depth."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from lpips import LPIPS
from picture_sets import MeanColour, Pixels
from PIL import Image
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from rq_hf.evaluation.reconstruction import (
    ReconstructionMetrics,
    coarse_to_fine_sheet,
    code_usage,
    evaluate_rqvae,
    psnr,
    squared_errors,
)
from rq_hf.images import image_grid, to_pil, to_rgb, to_uint8


class MovedLPIPS(LPIPS):
    """Knows the device that it was moved to."""

    def to(self, device):
        self.device = device
        return super().to(device)


@pytest.mark.parametrize("shared", [True, False])
def test_metrics_follow_their_definitions(make_rqvae, pictures, shared):
    rqvae = make_rqvae(shared_codebook=shared)
    results = evaluate_rqvae(rqvae, Pixels(pictures), batch_size=3)
    codes, output, originals = rqvae.encode(pictures), rqvae(pictures), to_uint8(pictures) / 255
    assert results["num_pictures"] == len(pictures) and [row["depth"] for row in results["depths"]] == [1, 2, 3]
    for row in results["depths"]:
        depth = row["depth"]
        decoded = rqvae.decode(codes[..., :depth])
        assert row["reconstruction_loss"] == pytest.approx((decoded - pictures).square().mean().item(), rel=1e-5)
        rounded = to_uint8(decoded) / 255
        assert row["mse"] == pytest.approx((rounded - originals).square().mean().item(), rel=1e-5)
        assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(rounded, originals, 1.0).item(), abs=1e-4)
        own = codes[..., depth - 1].flatten()
        assert row["codes_used"] == len(own.unique())
        vectors = rqvae.codebook[0 if shared else depth - 1][own]
        assert row["code_norm"] == pytest.approx(vectors.norm(dim=-1).mean().item(), rel=1e-5)
    metrics, rows = results["metrics"], results["depths"]
    assert rows[0]["commitment_loss"] > rows[1]["commitment_loss"] > rows[2]["commitment_loss"]
    assert all(metrics[name] == pytest.approx(rows[-1][name]) for name in ("psnr", "mse", "reconstruction_loss"))
    assert metrics["reconstruction_loss"] == pytest.approx(output.reconstruction_loss.item(), rel=1e-5)
    assert metrics["commitment_loss"] == pytest.approx(output.commitment_loss.item(), rel=1e-5)
    expected = structural_similarity_index_measure(rounded, originals, data_range=1.0)
    assert metrics["ssim"] == pytest.approx(expected.item(), rel=1e-5)
    own = codes if shared else codes + torch.arange(3) * rqvae.config.codebook_size
    assert metrics["code_usage"] == len(own.unique()) / rqvae.codebook[..., 0].numel()


@pytest.mark.parametrize("num_channels", [1, 3])
def test_lpips_and_frechet_distance_are_of_each_depth_whatever_the_batch_size(make_rqvae, pictures, num_channels):
    rqvae, pictures = make_rqvae(num_channels=num_channels), F.interpolate(pictures[:, :num_channels], (32, 32))
    lpips = MovedLPIPS(net="squeeze", pnet_rand=True, verbose=False)
    with pytest.raises(ValueError, match="`samples` must hold two pictures or more"):
        evaluate_rqvae(rqvae, Pixels(pictures[:1]), extractor=MeanColour())
    assert evaluate_rqvae(rqvae, Pixels(pictures[:1]))["num_pictures"] == 1
    options = {"extractor": MeanColour(), "lpips": lpips}
    whole, parts = (evaluate_rqvae(rqvae, Pixels(pictures), **options, batch_size=size) for size in (8, 3))
    assert lpips.device == rqvae.device
    assert parts["metrics"] == pytest.approx(whole["metrics"], rel=1e-3)
    codes, originals = rqvae.encode(pictures), to_rgb(to_uint8(pictures)) / 127.5 - 1
    for row, other in zip(whole["depths"], parts["depths"], strict=True):
        assert other == pytest.approx(row, rel=1e-3)
        decoded = to_rgb(to_uint8(rqvae.decode(codes[..., : row["depth"]]))) / 127.5 - 1
        assert row["lpips"] == pytest.approx(lpips(decoded, originals).mean().item(), rel=1e-4)
        assert row["frechet_distance_meancolour"] > 0


def test_figures_of_known_counts_and_errors(pictures):
    expected = {"codes_used": 2, "code_usage": 0.5, "code_perplexity": 2.0}
    assert code_usage(torch.tensor([4, 4, 0, 0])) == pytest.approx(expected)
    assert code_usage(torch.full((32,), 7))["code_perplexity"] == pytest.approx(32)
    assert psnr(0.02) == pytest.approx(16.9897) and psnr(1.0) == 0 and psnr(0.0) == math.inf
    assert ReconstructionMetrics(codebook_size=4, code_depth=2).compute() == {}
    white = torch.ones_like(pictures)
    assert squared_errors(white, white * 1.5).tolist() == [0] * 8  # a file holds no brighter white


@pytest.mark.parametrize("num_channels", [1, 3])
def test_evaluate_rqvae_writes_metrics_table_and_a_sheet_of_originals_and_depths(
    make_rqvae, pictures, num_channels, tmp_path
):
    rqvae, pictures = make_rqvae(num_channels=num_channels), pictures[:, :num_channels]
    output = tmp_path / "results" / "rqvae.json"
    results = evaluate_rqvae(rqvae, Pixels(pictures), extractor=MeanColour(), output=output)
    assert json.loads(output.read_text()) == results
    table = output.with_suffix(".md").read_text()
    assert f"| psnr | {results['metrics']['psnr']:.4g} |" in table and "| depth | psnr |" in table
    shown = pictures[[0, 1, 2, 4, 5, 7]]
    codes = rqvae.encode(shown)
    columns = [to_pil(shown), *(to_pil(rqvae.decode(codes[..., :depth])) for depth in (1, 2, 3))]
    images = [columns[column][row] for row in range(6) for column in range(4)]
    sheet = image_grid(images, ["original", "depth 1", "depth 2", "depth 3"] * 6, 4)
    assert Image.open(output.with_suffix(".png")).tobytes() == sheet.tobytes()
    assert coarse_to_fine_sheet(rqvae, shown).tobytes() == sheet.tobytes()
