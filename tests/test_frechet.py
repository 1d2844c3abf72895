# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Frechet distances, against scipy, torchmetrics and hand-computed values; the nets that make the features."""

import numpy as np
import pytest
import scipy.linalg
import torch
from feature_weights import write_inception
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchmetrics.image.fid import FrechetInceptionDistance

from rq_hf.features import EfficientNetLite0
from rq_hf.metrics import (
    FeatureStatistics,
    InceptionFeatures,
    ReconstructionDistance,
    distance_between_real_pictures,
    feature_extractor,
    frechet_distances,
)


def statistics_of(features: torch.Tensor) -> FeatureStatistics:
    statistics = FeatureStatistics()
    for part in features.split(7):
        statistics.update(part)
    return statistics


def correlated_features(count: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator)
    return torch.randn(count, width, generator=generator) @ mixing + 0.3 * torch.randn(width, generator=generator)


class MeanColours(torch.nn.Module):
    """Three features: the mean of each channel."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.float().mean((2, 3))


def noise(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 4, 4), generator=generator, dtype=torch.uint8)


def test_the_floor_of_a_set_falls_with_the_number_of_pictures_and_needs_two_on_each_side():
    features = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(400, generator=torch.Generator().manual_seed(3))
    drawn, others = features[order[:30]], features[order[30:]]
    expected = frechet_distances(statistics_of(others), [statistics_of(drawn)])
    assert [distance_between_real_pictures(features, 30, seed=3)] == pytest.approx(expected)
    means = [sum(distance_between_real_pictures(features, count, seed) for seed in range(8)) for count in (10, 100)]
    assert means[0] > 3 * means[1] > 0
    for count in (1, 399):
        with pytest.raises(ValueError, match=rf"`count` must be in 2..398, got {count}"):
            distance_between_real_pictures(features, count)


def test_statistics_are_those_of_torch_whatever_the_batches():
    features = correlated_features(50, 6, seed=0).double() + 100
    statistics = statistics_of(features)
    torch.testing.assert_close(statistics.mean, features.mean(0))
    torch.testing.assert_close(statistics.covariance, features.T.cov(), rtol=1e-9, atol=1e-9)


def test_features_that_are_not_finite_or_of_another_width_are_refused():
    statistics = statistics_of(torch.zeros(3, 6))
    with pytest.raises(ValueError, match=r"must have the width of those before, got \(5,\) after \(6,\)"):
        statistics.update(torch.zeros(2, 5))
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="Features must be finite"):
            statistics.update(torch.full((2, 6), value))
    with pytest.raises(ValueError, match=r"must be of features of one width, got \[6, 5\]"):
        frechet_distances(statistics, [statistics_of(torch.zeros(3, 5))])


@pytest.mark.parametrize("count", [200, 20], ids=["more-pictures-than-features", "fewer-pictures-than-features"])
def test_distance_is_that_of_scipy_and_torchmetrics(count):
    width = 40
    first, second = (correlated_features(count, width, seed) for seed in (0, 1))
    mean = [each.double().mean(0).numpy() for each in (first, second)]
    covariance = [each.double().T.cov().numpy() for each in (first, second)]
    if count < width:  # scipy's root needs regular matrices; FID code mends singular ones in this way
        covariance = [each + 1e-10 * np.eye(width) for each in covariance]
    root = scipy.linalg.sqrtm(covariance[0] @ covariance[1]).real
    expected = np.square(mean[0] - mean[1]).sum() + np.trace(covariance[0] + covariance[1] - 2 * root)
    (distance,) = frechet_distances(statistics_of(first), [statistics_of(second)])
    assert distance == pytest.approx(expected, rel=1e-4)

    class Same(torch.nn.Module):
        num_features = width

        def forward(self, features):
            return features

    metric = FrechetInceptionDistance(Same()).set_dtype(torch.float64)
    metric.update(first.double(), real=True)
    metric.update(second.double(), real=False)
    assert distance == pytest.approx(metric.compute().item(), rel=1e-4)


def test_distance_of_normal_distributions_with_one_feature_is_the_textbook_one():
    first, second = torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [7.0]])  # deviations sqrt(2) and sqrt(8)
    (distance,) = frechet_distances(statistics_of(first), [statistics_of(second)])
    assert distance == pytest.approx((1 - 5) ** 2 + (2**0.5 - 8**0.5) ** 2)


def test_distance_from_itself_is_zero_though_covariances_are_singular():
    statistics = statistics_of(correlated_features(5, 60, seed=0))
    (distance,) = frechet_distances(statistics, [statistics])
    assert 0 <= distance < 1e-4 * statistics.covariance.trace()
    constant = statistics_of(torch.ones(4, 60))
    assert frechet_distances(constant, [constant]) == [0.0]


def test_one_picture_has_no_covariance():
    with pytest.raises(ValueError, match=r"at least 2 pictures, got \[9, 1\]"):
        frechet_distances(statistics_of(torch.rand(9, 3)), [statistics_of(torch.rand(1, 3))])


def test_distances_of_reconstructions_and_halves_follow_their_definitions():
    originals, coarse, fine = noise(11, seed=0), noise(11, seed=1), noise(11, seed=2)
    distance = ReconstructionDistance(MeanColours(), 11, code_depth=2, seed=3)
    for part in (slice(0, 4), slice(4, 11)):
        distance.update(originals[part], [coarse[part], fine[part]])
    depths, real, reconstructed = distance.compute()
    statistics = [statistics_of(MeanColours()(each)) for each in (originals, coarse, fine)]
    assert depths == pytest.approx(frechet_distances(statistics[0], statistics[1:]))

    order = torch.randperm(11, generator=torch.Generator().manual_seed(3))
    first, second = order[:5], order[5:10]
    parts = [originals[second], originals[first], fine[first]]
    second_half, *others = [statistics_of(MeanColours()(each)) for each in parts]
    assert [real, reconstructed] == pytest.approx(frechet_distances(second_half, others))
    assert distance.half_size == 5


def test_a_perfect_reconstruction_has_no_distance_and_stands_at_the_floor():
    distance = ReconstructionDistance(MeanColours(), 12, code_depth=1)
    distance.update(noise(12, seed=0), [noise(12, seed=0)])
    (whole,), real, reconstructed = distance.compute()
    assert whole == pytest.approx(0, abs=1e-6) and real == reconstructed > 1


def test_halves_depend_on_the_seed_alone():
    values = []
    for seed in (0, 0, 1):
        distance = ReconstructionDistance(MeanColours(), 12, code_depth=1, seed=seed)
        distance.update(noise(12, seed=0), [noise(12, seed=1)])
        values.append(distance.compute())
    assert values[0] == values[1] and values[0][0] == values[2][0] and values[0][1] != values[2][1]


def test_wrong_numbers_of_pictures_are_refused():
    with pytest.raises(ValueError, match="`num_pictures` must be at least 4 for a Frechet distance, got 3"):
        ReconstructionDistance(MeanColours(), 3, code_depth=1)
    distance = ReconstructionDistance(MeanColours(), 6, code_depth=1)
    distance.update(noise(4, seed=0), [noise(4, seed=0)])
    with pytest.raises(ValueError, match="must be that of all pictures, 4, got 6"):
        distance.compute()
    with pytest.raises(ValueError, match="got 6 and more pictures"):
        distance.update(noise(4, seed=0), [noise(4, seed=0)])


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    return write_inception(tmp_path_factory.mktemp("inception"))


def test_inception_features_are_those_of_torch_fidelity_and_torchmetrics(inception_file):
    pictures = torch.randint(0, 256, (2, 3, 40, 32), dtype=torch.uint8)
    features = InceptionFeatures(inception_file)(pictures)
    assert features.shape == (2, 2048) and features.std() > 0
    expected = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(inception_file))(pictures)[0]
    assert torch.equal(features, expected)
    metric = FrechetInceptionDistance(feature_extractor_weights_path=str(inception_file), antialias=False)
    torch.testing.assert_close(features, metric.inception(pictures), rtol=1e-4, atol=1e-4)


def test_inception_weights_that_do_not_fit_or_hold_more_than_tensors_are_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        InceptionFeatures(tmp_path / "none.pth")
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="`weights` must fit Inception v3"):
        InceptionFeatures(tmp_path / "other.pth")
    torch.save({"fc.weight": pytest.approx}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="holds more"):
        InceptionFeatures(tmp_path / "code.pth")


def test_failed_download_names_the_flag_that_does_without(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.URL_INCEPTION_V3", "http://127.0.0.1:9/weights")
    with pytest.raises(OSError, match="127.0.0.1.*cannot be downloaded.*`--inception_weights`"):
        feature_extractor("inception")


def test_efficientnet_features_are_those_of_the_pictures_pixels():
    pictures = torch.randint(0, 256, (2, 3, 20, 20), dtype=torch.uint8)
    features = feature_extractor("efficientnet_lite0")(pictures)
    torch.testing.assert_close(features, EfficientNetLite0().features(pictures / 127.5 - 1))


def test_unknown_extractors_and_foreign_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`name` must be one of"):
        feature_extractor("resnet")
    with pytest.raises(ValueError, match="`weights` must be None for 'efficientnet_lite0'"):
        feature_extractor("efficientnet_lite0", tmp_path / "weights.pth")
