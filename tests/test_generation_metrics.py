# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Inception score, CLIP score, precision, recall and nearest pictures against other implementations; feature nets."""

import numpy as np
import pytest
import scipy.linalg
import torch
from feature_weights import write_inception
from scorers import tiny_classifier, tiny_clip
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.inception import InceptionScore
from torchmetrics.multimodal import CLIPScore
from transformers import ViTConfig, ViTForImageClassification

from rq_hf import CLIPRanker
from rq_hf.metrics import (
    FeatureStatistics,
    InceptionFeatures,
    TorchScriptFeatures,
    VisionModelFeatures,
    distance_name,
    feature_extractor,
    feature_extractors,
    frechet_distances,
    inception_score,
    nearest_errors,
    nearest_pictures,
    picture_errors,
    precision_recall,
    weights_digest,
)
from rq_hf.selection import to_levels


def noise(count: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


class AsItIs(torch.nn.Module):
    num_features = 6

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values


def test_fid_is_torch_fidelitys_and_scipys():
    first, second = noise(300, 20), noise(250, 20, seed=1) * 1.3 + 0.2
    statistics = []
    for features in (first, second):
        statistics.append(FeatureStatistics())
        for part in features.split(64):
            statistics[-1].update(part)
    (distance,) = frechet_distances(statistics[0], statistics[1:])
    theirs = [fid_features_to_statistics(features.double()) for features in (first, second)]
    expected = fid_statistics_to_metric(*theirs, verbose=False)["frechet_inception_distance"]
    assert distance == pytest.approx(expected, rel=1e-4)
    root = scipy.linalg.sqrtm(theirs[0]["sigma"] @ theirs[1]["sigma"]).real
    traces = np.trace(theirs[0]["sigma"] + theirs[1]["sigma"] - 2 * root)
    assert distance == pytest.approx(np.square(theirs[0]["mu"] - theirs[1]["mu"]).sum() + traces, rel=1e-4)


def test_inception_score_is_its_formula_and_torchmetrics():
    logits = noise(205, 6) * 3
    mean, deviation = inception_score(logits)
    order = np.random.RandomState(2020).permutation(205)
    probabilities = torch.softmax(logits.double(), 1).numpy()[order]
    scores = []
    for part in range(10):
        own = probabilities[part * 205 // 10 : (part + 1) * 205 // 10]
        scores.append(np.exp((own * (np.log(own) - np.log(own.mean(0)))).sum(1).mean()))
    assert (mean, deviation) == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-4)

    metric = InceptionScore(AsItIs(), splits=1)  # of one part, its shuffling changes nothing
    metric.update(logits)
    assert inception_score(logits, splits=1)[0] == pytest.approx(metric.compute()[0].item(), rel=1e-4)
    with pytest.raises(ValueError, match=r"at least `splits` \(10\) pictures, got 9"):
        inception_score(logits[:9])


def test_precision_and_recall_are_their_definition():
    generated, real = noise(70, 3) * 0.6, noise(90, 3, seed=1)

    def inside(points: torch.Tensor, centres: torch.Tensor) -> float:
        own = (centres[:, None] - centres[None]).norm(dim=-1).sort(1).values[:, 3]  # the third but for itself
        return ((points[:, None] - centres[None]).norm(dim=-1) <= own).any(1).double().mean().item()

    expected = inside(generated, real), inside(real, generated)
    for block in (16, 1000):
        assert precision_recall(generated, real, block=block) == pytest.approx(expected, rel=1e-4)
    assert expected[0] > 0.9 > 0.7 > expected[1]  # less varied than real: precise, and much is missing
    with pytest.raises(ValueError, match="more than 3 pictures of each kind, got 3 and 90"):
        precision_recall(generated[:3], real)


class OfOlderTransformers(torch.nn.Module):
    """CLIP with outputs as torchmetrics 1.9 expects them: tensors."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def get_image_features(self, pixel_values):
        return self.model.get_image_features(pixel_values).pooler_output

    def get_text_features(self, input_ids, attention_mask):
        return self.model.get_text_features(input_ids, attention_mask).pooler_output


def test_clip_score_is_torchmetrics(tiny_tokenizer, pictures):
    ranker = CLIPRanker(*tiny_clip(tiny_tokenizer))
    texts = [["a red heart", "rocket"][index % 2] for index in range(len(pictures))]
    scores = ranker.score(pictures, texts)
    metric = CLIPScore(lambda: (OfOlderTransformers(ranker.model), ranker.processor))
    expected = []
    for picture, text in zip(to_levels(pictures), texts, strict=True):
        metric.reset()
        metric.update(picture, text)
        expected.append(metric.compute().item() / 100)  # percent, and nothing below 0
    assert scores.clamp(min=0).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert (scores > 0).any() and len(scores.unique()) == len(scores)


def test_nearest_pictures_are_found_in_blocks_and_a_copy_has_distance_0():
    real = noise(50, 4)
    generated = torch.cat([real[[17]], noise(5, 4, seed=1)])
    distances = (generated[:, None] - real[None]).norm(dim=-1).double()
    expected = distances.topk(3, largest=False)
    for block in (7, 100):
        found, places = nearest_pictures(generated, real, 3, block)
        torch.testing.assert_close(found, expected.values, rtol=1e-5, atol=1e-6)
        assert torch.equal(places, expected.indices)
    assert found[0, 0] == 0 and places[0, 0] == 17
    with pytest.raises(ValueError, match="`count` must be from 1 to the 50 real pictures, got 51"):
        nearest_pictures(generated, real, 51)


def test_nearest_errors_are_exact_in_blocks():
    generator = torch.Generator().manual_seed(0)
    real, generated = (torch.randint(0, 256, (n, 3, 5, 4), dtype=torch.uint8, generator=generator) for n in (50, 6))
    generated[2] = real[17]
    generated[3] = real[31]
    generated[3, 0, 0, 0] = real[31, 0, 0, 0] ^ 1
    expected = torch.stack([picture_errors(each.expand_as(real), real) for each in generated]).min(1).values
    for block, size in ((4, 7), (100, 100)):
        errors = nearest_errors(generated, real.split(size), block)
        torch.testing.assert_close(errors, expected, rtol=1e-12, atol=0)
        assert errors[2] == 0 < errors[3]
    with pytest.raises(ValueError, match=r"must be uint8 of one shape, .* and torch.uint8 \(50, 3, 5, 2\)"):
        nearest_errors(generated, [real[..., :2]])
    with pytest.raises(ValueError, match="must be uint8 of one shape, got torch.float32"):
        nearest_errors(generated / 255, [real])
    with pytest.raises(ValueError, match="`real_batches` must hold a real picture, got none"):
        nearest_errors(generated, [])


def test_nets_of_one_name_are_refused(tmp_path):
    paths = [tmp_path / folder / "colours.pt" for folder in ("first", "second")]
    for path in paths:
        path.parent.mkdir()
        torch.jit.script(Colours()).save(path)
    assert [net.name for net in feature_extractors(["none", paths[0], paths[0]])] == ["colours"]
    with pytest.raises(ValueError, match="different names, got two called 'colours'"):
        feature_extractors(paths)


def test_only_inceptions_distance_is_called_fid():
    assert distance_name("inception") == "fid" and distance_name("inception", "rfid") == "rfid"
    assert distance_name("efficientnet_lite0") == "frechet_distance_efficientnet_lite0"


class Colours(torch.nn.Module):
    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.float().mean((2, 3)) * 2


def test_a_torchscript_file_gives_features(tmp_path):
    path = tmp_path / "My Colours.pt"
    torch.jit.script(Colours()).save(path)
    net = feature_extractor(path)
    levels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert isinstance(net, TorchScriptFeatures) and net.name == "my_colours"
    torch.testing.assert_close(net(levels), levels.float().mean((2, 3)) * 2)
    (tmp_path / "no.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="`name` must be a TorchScript file where it is a file, got .*no.pt"):
        feature_extractor(tmp_path / "no.pt")


def test_a_vision_model_gives_what_its_head_is_given(tiny_tokenizer, tmp_path):
    levels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    model, processor = tiny_classifier()
    for part in (model, processor):
        part.save_pretrained(tmp_path / "ResNet-tiny")
    net = feature_extractor(tmp_path / "ResNet-tiny")
    assert isinstance(net, VisionModelFeatures) and net.name == "resnet_tiny"
    inputs = processor(list(levels), return_tensors="pt", input_data_format="channels_first")
    assert net(levels).shape == (2, 16)
    torch.testing.assert_close(model.classifier(net(levels)), model(**inputs).logits)
    for part in tiny_clip(tiny_tokenizer):
        part.save_pretrained(tmp_path / "clip")
    assert feature_extractor(tmp_path / "clip")(levels).shape == (2, 8)  # image embeddings
    with pytest.raises(
        ValueError, match="`name` must be one of .*, a TorchScript file, or a vision model.*got .*none"
    ):
        feature_extractor(tmp_path / "none")
    with pytest.raises(ValueError, match="`weights` must be None for 'efficientnet_lite0'"):
        feature_extractor("efficientnet_lite0", "weights.pth")


def test_a_classifier_without_a_pooler_gives_its_class_token(tmp_path):
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8
    )
    model, processor = ViTForImageClassification(config).eval(), tiny_classifier()[1]
    for part in (model, processor):
        part.save_pretrained(tmp_path / "vit")
    first, second = (feature_extractor(tmp_path / "vit") for _ in range(2))
    assert first.digest == second.digest
    levels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    inputs = processor(list(levels), return_tensors="pt", input_data_format="channels_first")
    torch.testing.assert_close(model.classifier(first(levels)), model(**inputs).logits)
    whole = model.state_dict()
    model.save_pretrained(
        tmp_path / "vit", state_dict={name: whole[name] for name in whole if name != "vit.layernorm.bias"}
    )
    with pytest.raises(ValueError, match="must hold a whole ViTModel, but lacks weights such as `layernorm.bias`"):
        feature_extractor(tmp_path / "vit")


def test_a_file_or_folder_is_never_called_as_a_built_in_net(tmp_path):
    torch.jit.script(Colours()).save(tmp_path / "Inception.pt")
    net = feature_extractor(tmp_path / "Inception.pt")
    assert net.name == "inception_file" and distance_name(net.name, "rfid") == "frechet_distance_inception_file"
    for part in tiny_classifier():
        part.save_pretrained(tmp_path / "efficientnet-lite0")
    assert feature_extractor(tmp_path / "efficientnet-lite0").name == "efficientnet_lite0_file"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value):
    bad, good = torch.full((12, 4), value), torch.randn(12, 4)
    with pytest.raises(ValueError, match="`logits` must be finite"):
        inception_score(bad)
    with pytest.raises(ValueError, match="`features` must be finite"):
        precision_recall(bad, good)
    with pytest.raises(ValueError, match="`real_features` must be finite"):
        precision_recall(good, bad)
    with pytest.raises(ValueError, match="must be of one width"):
        precision_recall(good, good[:, :3])


def test_the_digest_of_the_default_net_is_the_same_on_every_machine():
    """References that one machine has made are for all: the folded weights must not depend on its processor."""
    assert feature_extractor("efficientnet_lite0").digest == "fb048b2ea13b7cca"


def test_a_digest_tells_weights_apart():
    first, second = (tiny_classifier(seed=seed)[0] for seed in (0, 1))
    digest = weights_digest(first)
    assert digest == weights_digest(tiny_classifier(seed=0)[0]) != weights_digest(second)
    largest = max(first.parameters(), key=torch.numel)
    middle = largest.data.flatten()[largest.numel() // 2 :]
    middle[:2] = middle[:2].flip(0)  # two weights that change places
    assert weights_digest(first) != digest
    for value in (torch.tensor(2**24), torch.zeros(0, 3), torch.tensor(True), torch.tensor(1.0, dtype=torch.float64)):
        digests = []
        for other in (value, value + 1 if value.numel() else torch.zeros(0, 4)):
            first.register_buffer("extra", other)
            digests.append(weights_digest(first))
        assert digests[0] != digests[1] or value.dtype == torch.bool
    half = tiny_classifier(seed=0)[0].half()
    assert weights_digest(half) == weights_digest(half.float())


@pytest.mark.slow
def test_inception_gives_features_and_logits_of_one_pass(tmp_path):
    net = InceptionFeatures(write_inception(tmp_path))
    levels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    features, logits = net.features_and_logits(levels)
    assert torch.equal(features, net(levels)) and logits.shape == (2, 1008)
    torch.testing.assert_close(features @ net.net.fc.weight.T, logits)
