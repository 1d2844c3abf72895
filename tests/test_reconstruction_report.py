# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What is measured and drawn of an RQ-VAE's reconstructions and codes."""

import copy
import math

import numpy as np
import pytest
import torch
from feature_weights import write_vgg16
from PIL import Image
from torchmetrics.functional.image import structural_similarity_index_measure

from rq_hf import RQVAEModel
from rq_hf.features import PerceptualLoss
from rq_hf.metrics import (
    CodeNorms,
    coarse_to_fine_sheet,
    code_norm_chart,
    code_norms,
    measure_reconstruction,
    reconstruction_distances,
    to_uint8,
)

EFFICIENTNET = "frechet_distance_efficientnet_lite0"


@pytest.fixture(scope="module")
def vgg16_file(tmp_path_factory):
    return write_vgg16(tmp_path_factory.mktemp("vgg16"))


@pytest.mark.parametrize("shared", [True, False])
def test_figures_follow_their_definitions(make_rqvae, pictures, shared):
    rqvae = make_rqvae(shared_codebook=shared)
    report = measure_reconstruction(rqvae, [pictures])
    codes, output = rqvae.encode(pictures), rqvae(pictures)
    originals = to_uint8((pictures + 1) / 2)
    assert [row["depth"] for row in report.depths] == [1, 2, 3] and report.num_pictures == len(pictures)
    for row in report.depths:
        depth = row["depth"]
        decoded = rqvae.decode(codes[..., :depth])
        assert row["reconstruction_loss"] == pytest.approx((decoded - pictures).square().mean().item(), rel=1e-5)
        decoded = to_uint8((decoded + 1) / 2)
        assert row["mse"] == pytest.approx((decoded / 255 - originals / 255).square().mean().item(), rel=1e-5)
        assert row["psnr"] == pytest.approx(-10 * math.log10(row["mse"]))
        own = codes[..., depth - 1].flatten()
        assert row["codes_used"] == len(own.unique())
        frequencies = own.bincount() / len(own)
        assert row["code_entropy"] == pytest.approx(-torch.xlogy(frequencies, frequencies).sum().item(), rel=1e-5)
        vectors = rqvae.codebook[0 if shared else depth - 1][own]
        assert row["code_norm"] == pytest.approx(vectors.norm(dim=-1).mean().item(), rel=1e-5)
    totals, rows = report.metrics, report.depths
    assert all(totals[name] == rows[-1][name] for name in ("psnr", "mse", "reconstruction_loss"))
    assert totals["reconstruction_loss"] == pytest.approx(output.reconstruction_loss.item(), rel=1e-5)
    assert totals["commitment_loss"] == pytest.approx(output.commitment_loss.item(), rel=1e-5)
    assert rows[0]["commitment_loss"] > rows[1]["commitment_loss"] > rows[2]["commitment_loss"]
    expected = structural_similarity_index_measure(decoded / 255, originals / 255, data_range=1.0)
    assert totals["ssim"] == pytest.approx(expected.item(), rel=1e-5)
    own = codes if shared else codes + torch.arange(3) * rqvae.config.codebook_size
    assert totals["codes_used"] == len(own.unique())
    assert totals["code_usage"] == totals["codes_used"] / rqvae.codebook[..., 0].numel()
    assert report.halves == {} and EFFICIENTNET not in totals and "lpips" not in totals


def test_distances_and_lpips_are_of_each_depth_and_do_not_depend_on_batches(tiny_rqvae, pictures, vgg16_file):
    lpips = PerceptualLoss("vgg16", vgg16_file)
    reports = []
    for batches in ([pictures], [pictures[:1], pictures[1:6], pictures[6:]]):
        distances = reconstruction_distances(tiny_rqvae, len(pictures), ["efficientnet_lite0"], seed=1)
        reports.append(measure_reconstruction(tiny_rqvae, batches, distances, lpips))
    whole, parts = reports
    assert parts.metrics == pytest.approx(whole.metrics, rel=1e-3)
    pairs = zip(parts.depths, whole.depths, strict=True)
    assert all(part == pytest.approx(row, rel=1e-3) for part, row in pairs)
    assert parts.halves[EFFICIENTNET] == pytest.approx(whole.halves[EFFICIENTNET], rel=1e-3)

    codes = tiny_rqvae.encode(pictures)
    originals = to_uint8((pictures + 1) / 2) / 127.5 - 1
    for row in whole.depths:
        decoded = to_uint8((tiny_rqvae.decode(codes[..., : row["depth"]]) + 1) / 2) / 127.5 - 1
        assert row["lpips"] == pytest.approx(lpips(decoded, originals).item(), rel=1e-4)
        assert row[EFFICIENTNET] > 0
    assert whole.metrics["lpips"] == whole.depths[-1]["lpips"]
    assert whole.metrics[EFFICIENTNET] == whole.depths[-1][EFFICIENTNET]
    assert whole.halves["num_pictures"] == len(pictures) // 2
    assert set(whole.halves[EFFICIENTNET]) == {"real", "reconstructed"}


def test_grey_pictures_are_measured_and_drawn(tiny_rqvae, pictures):
    config = copy.deepcopy(tiny_rqvae.config)
    config.num_channels = 1
    rqvae, grey = RQVAEModel(config).eval(), pictures[:, :1]
    distances = reconstruction_distances(rqvae, len(grey), ["efficientnet_lite0"])
    report = measure_reconstruction(rqvae, [grey], distances, PerceptualLoss("efficientnet_lite0"))
    assert math.isfinite(report.metrics[EFFICIENTNET]) and report.metrics["lpips"] > 0
    sheet = np.asarray(coarse_to_fine_sheet(rqvae, grey[:2]))
    assert (sheet[..., 0] == sheet[..., 1]).all() and sheet.std() > 10


def test_no_pictures_or_broken_weights_are_refused(tiny_rqvae, pictures):
    with pytest.raises(ValueError, match="at least one picture"):
        measure_reconstruction(tiny_rqvae, [])
    for part in (tiny_rqvae.post_quant_conv, tiny_rqvae.quant_conv):
        part.weight.data.fill_(math.nan)
        with pytest.raises(ValueError, match="finite"):
            measure_reconstruction(tiny_rqvae, [pictures])


def test_code_norms_of_known_codes():
    codebook = torch.tensor([[[3.0, 4.0], [0.0, 1.0], [0.0, 100.0], [0.6, 0.8]]])  # norms 5, 1, 100, 1
    counts = torch.tensor([[3, 1, 0, 0], [0, 1, 0, 1]])  # the long vector is not used
    norms = code_norms(codebook, counts, num_bins=4)
    assert norms.means == pytest.approx([4.0, 1.0])
    assert norms.edges == pytest.approx([1, 2, 3, 4, 5])
    assert norms.shares[0] == pytest.approx([0.25, 0, 0, 0.75]) and norms.shares[1] == pytest.approx([1, 0, 0, 0])
    separate = code_norms(torch.cat([codebook, 2 * codebook]), counts, num_bins=4)
    assert separate.means == pytest.approx([4.0, 2.0])
    alone = code_norms(codebook, torch.tensor([[0, 7, 0, 0]]))
    assert alone.means == [1.0] and sum(alone.shares[0]) == 1 and alone.edges[0] < alone.edges[-1]


def test_sheet_has_a_row_per_picture_with_the_original_and_each_depth(tiny_rqvae, pictures):
    sheet = coarse_to_fine_sheet(tiny_rqvae, pictures[:2])
    pixels = np.asarray(sheet)
    side, margin = 128, 8
    assert sheet.width == 4 * (side + margin) + margin and 2 * side < sheet.height < 2.6 * side
    codes = tiny_rqvae.encode(pictures[:2])
    shown = [pictures[:2], *(tiny_rqvae.decode(codes[..., :depth]) for depth in (1, 2, 3))]
    pitch = (sheet.height - margin) // 2
    for row in range(2):
        for column, expected in enumerate(shown):
            left, top = margin + column * (side + margin), margin + row * pitch
            tile = pixels[top : top + side, left : left + side]
            small = to_uint8((expected[row] + 1) / 2).permute(1, 2, 0).numpy()
            assert (tile[4::8, 4::8] == small).all()  # each pixel of 16x16 is a block of 8x8


@pytest.mark.parametrize("depth", [1, 3, 16])
def test_chart_shows_each_depth_in_its_colour_as_high_as_its_share(depth):
    peaks = [1 + 4 * index for index in range(depth)]
    shares = [[0.5 if abs(bin_index - peak) < 1 else 0.0 for bin_index in range(66)] for peak in peaks]
    chart = code_norm_chart(CodeNorms([float(peak) for peak in peaks], [float(edge) for edge in range(67)], shares))
    assert chart.size == (960, 560) and chart.mode == "RGB"
    pixels = np.asarray(chart).astype(int)
    coloured = (pixels.max(-1) - pixels.min(-1)) > 100
    colours, counts = np.unique(pixels[coloured], axis=0, return_counts=True)
    lines = sorted(counts, reverse=True)[:depth]  # the smoothed edges have many more colours, of few pixels each
    assert len(lines) == depth and lines[-1] > 200
    rows = coloured[:, :480].any(1).nonzero()[0]
    assert rows[-1] - rows[0] > 400  # left of the legend the lines go from the axis almost to the top


def test_chart_of_one_code_alone_is_drawn():
    chart = code_norm_chart(code_norms(torch.ones(1, 2, 4), torch.tensor([[5, 0], [0, 5]])))
    assert isinstance(chart, Image.Image) and np.asarray(chart).std() > 10
