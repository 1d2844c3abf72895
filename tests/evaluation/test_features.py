# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Features of pictures, against other implementations and definitions."""

import pytest
import torch
from conftest import LeavesAMark
from picture_sets import Pixels, write_inception
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from rq_hf.evaluation.features import EfficientNetLite0, ImageFiles, build_extractor, distance_name, extract_features
from rq_hf.images import to_pil


@pytest.fixture(scope="module")
def lite0() -> EfficientNetLite0:
    return build_extractor("lite0")


def test_lite0_has_the_features_of_its_weights_reference_implementation(lite0):
    # Recorded with the network of efficientnet-lite-pytorch 0.1.0, by rq_hf at commit 6974aec.
    picture = (torch.arange(3 * 40 * 48) * 7919 % 251).to(torch.uint8).view(1, 3, 40, 48)
    features = lite0(picture)[0]
    assert features.shape == (lite0.num_features,)
    expected = torch.tensor([5.276654, 4.911534, 4.480617, 4.442507])
    torch.testing.assert_close(features[[687, 1244, 701, 838]], expected, rtol=1e-4, atol=0)
    assert features.sum().item() == pytest.approx(243.3224, rel=1e-4)


def test_lite0_maps_halve_the_size_and_pass_gradients_to_the_pixels_alone(lite0):
    pixel_values = torch.rand(2, 3, 64, 48, requires_grad=True)
    maps = lite0.feature_maps(pixel_values)
    shapes = [tuple(features.shape[1:]) for features in maps]
    assert shapes == [(16, 32, 24), (24, 16, 12), (40, 8, 6), (112, 4, 3), (320, 2, 2)]
    sum(features.square().mean() for features in maps).backward()
    assert pixel_values.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in lite0.parameters())


def test_pixel_features_are_the_means_of_cells_whatever_the_size():
    extractor = build_extractor("pixels")
    pictures = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    cells = pictures.double().view(2, 3, 16, 4, 16, 4).mean((3, 5)) / 255
    torch.testing.assert_close(extractor(pictures).double(), cells.flatten(1), rtol=0, atol=1e-6)
    larger = pictures.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(extractor(larger), extractor(pictures))


def test_inception_gives_torch_fidelitys_features_and_logits(tmp_path):
    weights = write_inception(tmp_path)
    extractor = build_extractor(weights)
    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], str(weights)).eval()
    pictures = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        features, logits = network(pictures)
        torch.testing.assert_close(extractor(pictures), features)
        torch.testing.assert_close(extractor.logits(features), logits)
    assert distance_name(extractor) == "fid" and distance_name(extractor, "rfid") == "rfid"


def test_names_of_no_extractor_and_files_of_no_inception_weights_are_refused_and_run_no_code(tmp_path):
    with pytest.raises(ValueError, match="`name` must be one of .*lite0.* got 'resnet'"):
        build_extractor("resnet")
    torch.save({"weight": LeavesAMark(tmp_path / "ran")}, tmp_path / "inception.pth")
    to_pil(torch.zeros(1, 3, 8, 8))[0].save(tmp_path / "picture.png")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    for name in ("inception.pth", "picture.png", "other.pth"):
        with pytest.raises(ValueError, match=f"`name` must be a file of Inception weights, got '.*{name}'"):
            build_extractor(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_features_do_not_depend_on_the_batch_size_and_grey_is_repeated(lite0, pictures):
    samples = [sample | {"style": str(index)} for index, sample in enumerate(Pixels(pictures))]
    whole, parts = (extract_features(lite0, samples, batch_size) for batch_size in (8, 3))
    torch.testing.assert_close(whole["features"], parts["features"], rtol=1e-4, atol=1e-4)
    assert whole["style"] == parts["style"] == list("01234567")
    grey, rgb = (extract_features(lite0, Pixels(pictures[:, channels])) for channels in ([0], [0, 0, 0]))
    torch.testing.assert_close(grey["features"], rgb["features"])


def test_pictures_of_other_ranges_or_several_sizes_and_features_that_are_not_finite_are_refused(pictures):
    for wrong in (pictures * torch.nan, pictures * 127.5 + 127.5, pictures - 0.5):
        with pytest.raises(ValueError, match=r"`pixel_values` must be in \[-1, 1\], got pixels from "):
            extract_features(build_extractor("pixels"), Pixels(wrong))
    mixed = [*Pixels(pictures[:2]), *Pixels(pictures[:1, :, :8])]
    with pytest.raises(ValueError, match=r"must have one shape, got \[\(3, 8, 16\), \(3, 16, 16\)\]"):
        extract_features(build_extractor("pixels"), mixed, batch_size=2)
    broken = torch.nn.Sequential(build_extractor("pixels"), torch.nn.Threshold(2, torch.nan))
    with pytest.raises(ValueError, match="`features` must be finite"):
        extract_features(broken, Pixels(pictures))


def test_picture_files_are_read_in_order_as_they_were_written(pictures, tmp_path):
    for number, image in enumerate(to_pil(pictures)):
        image.save(tmp_path / f"{number:06d}.png")
    (tmp_path / "prompts.jsonl").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="got none"):
        ImageFiles(tmp_path / "empty")
    files = ImageFiles(tmp_path)
    assert len(files) == len(pictures)
    read = torch.stack([files[index]["pixel_values"] for index in range(len(files))])
    assert (read - pictures).abs().max() <= 0.5 / 127.5 + 1e-6
    assert to_pil(read)[2].tobytes() == to_pil(pictures)[2].tobytes()


def test_weights_that_cannot_be_downloaded_are_an_error_that_names_what_needs_none(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="The weights of Inception cannot be downloaded .* `lite0`, which needs none"):
        build_extractor("inception")
