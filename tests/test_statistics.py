# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Reference statistics as files: whole, with their protocol, refused where it is another; official archives."""

import logging
import tarfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rq_hf.metrics import (
    FeatureStatistics,
    ReferenceStatistics,
    frechet_distances,
    load_statistics,
    warn_of_few_pictures,
)
from rq_hf.metrics.statistics import FORMAT

PROTOCOL = {"feature_extractor": "inception", "weights": "0123", "image_size": 256, "transform": "cc3m"}


def statistics(count: int = 30, width: int = 5, keep: bool = False) -> ReferenceStatistics:
    features = torch.randn(count, width, generator=torch.Generator().manual_seed(0))
    summed = FeatureStatistics()
    summed.update(features)
    return ReferenceStatistics.of(
        summed, PROTOCOL, {"dataset_name": "cc3m", "split": "val"}, features if keep else None
    )


@pytest.mark.parametrize("keep", [True, False])
def test_a_file_gives_back_what_was_saved(keep, tmp_path):
    before = statistics(keep=keep)
    before.save(tmp_path / "reference.safetensors")
    after = load_statistics(tmp_path / "reference.safetensors")
    assert torch.equal(after.mean, before.mean) and torch.equal(after.covariance, before.covariance)
    assert (after.count, after.protocol, after.details) == (before.count, before.protocol, before.details)
    assert (after.features is None) is (not keep) and (not keep or torch.equal(after.features, before.features))
    assert frechet_distances(after, [before]) == pytest.approx([0], abs=1e-9)
    assert [path.name for path in tmp_path.iterdir()] == ["reference.safetensors"]


@pytest.mark.parametrize(
    "name, value", [("feature_extractor", "resnet"), ("weights", "4567"), ("image_size", 64), ("transform", "ffhq")]
)
def test_another_protocol_is_refused(name, value):
    reference = statistics()
    reference.check(PROTOCOL)
    with pytest.raises(ValueError, match=f"same protocol.*`{name}` {PROTOCOL[name]!r} and not {value!r}"):
        reference.check({**PROTOCOL, name: value})


def write_npz(path, width: int = 6, **change) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    factor = generator.normal(size=(width, width))
    arrays = {"mu": generator.normal(size=(1, width)), "sigma": factor @ factor.T, **change}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return arrays


def test_official_files_are_read_alone_and_from_their_archive(tmp_path, caplog):
    arrays = write_npz(tmp_path / "imagenet_256_train.npz")
    (tmp_path / "other.npz").write_bytes((tmp_path / "imagenet_256_train.npz").read_bytes())
    archive = tmp_path / "fid_stats.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("imagenet_256_train.npz", "other.npz"):
            tar.add(tmp_path / name, f"fid_stats/{name}")
    for path in (tmp_path / "imagenet_256_train.npz", f"{archive}:imagenet_256_train.npz"):
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            read = load_statistics(path)
        assert "pytorch-fid" in caplog.text
        assert torch.equal(read.mean, torch.from_numpy(arrays["mu"][0]))
        assert torch.equal(read.covariance, torch.from_numpy(arrays["sigma"])) and read.count is None
    with pytest.raises(ValueError, match="must name an .npz file of the archive, such as .*imagenet_256_train.npz"):
        load_statistics(archive)
    with pytest.raises(ValueError, match="must name one file of .*, got 'ffhq_256_train.npz'"):
        load_statistics(f"{archive}:ffhq_256_train.npz")


def test_distances_are_measured_from_official_files(tmp_path):
    ours = statistics(width=5)
    write_npz(tmp_path / "ours.npz", mu=ours.mean.numpy(), sigma=ours.covariance.numpy())
    theirs = load_statistics(tmp_path / "ours.npz")  # of an unknown number of pictures
    other = statistics(count=20, width=5)
    assert frechet_distances(theirs, [ours, other]) == pytest.approx(frechet_distances(ours, [ours, other]), abs=1e-9)


def test_official_statistics_are_of_inception_and_256_pixels(tmp_path):
    write_npz(tmp_path / "ffhq_256_train.npz", width=2048, sigma=np.eye(2048))
    reference = load_statistics(tmp_path / "ffhq_256_train.npz")
    reference.check(PROTOCOL)
    with pytest.raises(ValueError, match="`image_size` 256 and not 64"):
        reference.check({**PROTOCOL, "image_size": 64})
    (tmp_path / "other.npz").write_bytes((tmp_path / "ffhq_256_train.npz").read_bytes())
    reference = load_statistics(tmp_path / "other.npz")  # of pictures of any size
    reference.check({**PROTOCOL, "image_size": 64})
    with pytest.raises(ValueError, match="`feature_extractor` 'inception' and not 'resnet50'"):
        reference.check({**PROTOCOL, "feature_extractor": "resnet50"})


def test_numbers_stand_for_one_feature(tmp_path):
    write_npz(tmp_path / "one.npz", mu=np.array(2.0), sigma=np.array(3.0))
    reference = load_statistics(tmp_path / "one.npz")
    assert (reference.mean.tolist(), reference.covariance.tolist()) == ([2.0], [[3.0]])


def test_damaged_files_are_refused(tmp_path):
    write_npz(tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "empty_folder").mkdir()
    with tarfile.open(tmp_path / "folders.tar", "w") as tar:
        tar.add(tmp_path / "empty_folder", "empty.npz")
    with tarfile.open(tmp_path / "whole.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "whole.npz", "whole.npz")
    damaged = {
        "truncated.npz": whole[: len(whole) // 2],
        "empty.npz": b"",
        "array.npz": (tmp_path / "array.npy").read_bytes(),
        "checksum.npz": whole[:200] + bytes(20) + whole[220:],
        "truncated.tar.gz": (tmp_path / "whole.tar.gz").read_bytes()[:150],
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
    save_file({"mean": torch.zeros(2)}, tmp_path / "headless.safetensors", {"format": FORMAT})
    write_npz(tmp_path / "infinite.npz", mu=np.full(6, np.inf))
    for name, match in {
        "truncated.npz": "'truncated.npz' is none",
        "empty.npz": "'empty.npz' is none",
        "array.npz": "'array.npz' is none",
        "checksum.npz": "'checksum.npz' is none",
        "truncated.tar.gz:whole.npz": "must be a file in a tar archive",
        "folders.tar:empty.npz": "must name a plain file of '.*folders.tar', got 'empty.npz'",
        "headless.safetensors": "lacks or adds something: 'count'",
        "infinite.npz": "must hold finite numbers, 'infinite.npz' holds NaN or infinite ones",
    }.items():
        with pytest.raises(ValueError, match=match):
            load_statistics(tmp_path / name)
    (tmp_path / "run:1.npz").write_bytes(whole)  # no archive called "run"
    assert load_statistics(tmp_path / "run:1.npz").mean.shape == (6,)


def test_other_files_are_refused(tmp_path):
    write_npz(tmp_path / "no_sigma.npz", sigma=None)
    write_npz(tmp_path / "wide.npz", sigma=np.eye(7))
    save_file({"mean": torch.zeros(2)}, tmp_path / "weights.safetensors")
    np.savez(tmp_path / "pickled.npz", mu=np.array([{}], dtype=object), sigma=np.eye(1))
    (tmp_path / "text.safetensors").write_text("no")
    for name, match in {
        "no_sigma.npz": "with `mu` and `sigma`, 'no_sigma.npz' is none",
        "wide.npz": r"must have shapes \(F,\) and \(F, F\), got \(6,\) and \(7, 7\)",
        "pickled.npz": "'pickled.npz' is none",
        "weights.safetensors": "must be of the format",
        "text.safetensors": "must be a file of statistics",
        "missing.npz": "does not exist",
        "missing.tar.gz:a.npz": "must be a file in a tar archive",
    }.items():
        with pytest.raises(ValueError, match=match):
            load_statistics(tmp_path / name)


@pytest.mark.parametrize("count, warned", [(5, True), (6, False), (None, False)])
def test_too_few_pictures_for_a_covariance_of_full_rank_are_warned_of(count, warned, caplog):
    with caplog.at_level(logging.WARNING):
        warn_of_few_pictures("reference", count, width=5)
    assert ("5 reference pictures are too few for a covariance of full rank of 5 features" in caplog.text) is warned
    if count is not None:  # the rule is that of the rank itself
        rank = torch.linalg.matrix_rank(statistics(count).covariance)
        assert bool(rank < 5) is warned
