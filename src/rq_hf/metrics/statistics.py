# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Mean and covariance of the features of real pictures as files, with what was done to get them.

Symbols: N pictures, F features of each.
"""

import io
import json
import logging
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .frechet import FeatureStatistics
from .reports import replacing

logger = logging.getLogger(__name__)

FORMAT = "rq_hf reference statistics, version 1"
# Of the official archive: float pictures of 256 pixels, not rounded, resized as pytorch-fid does.
OFFICIAL_PROTOCOL = {"feature_extractor": "inception", "image_size": 256}


@dataclass(frozen=True)
class ReferenceStatistics:
    """
    Mean and covariance of the features of a set of pictures, and how they came about.

    Args:
        mean (`torch.DoubleTensor` of shape `(F,)`): mean of the features.
        covariance (`torch.DoubleTensor` of shape `(F, F)`): their unbiased covariance.
        count (`int`, *optional*): N, where it is known.
        protocol (`dict`): what has to agree for a comparison: `feature_extractor`, `weights`, `image_size`, ...
        details (`dict`): what else is known: the data set, its split, ...
        features (`torch.FloatTensor` of shape `(N, F)`, *optional*): for precision, recall and nearest neighbours.
    """

    mean: torch.Tensor
    covariance: torch.Tensor
    count: int | None
    protocol: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    features: torch.Tensor | None = None

    @classmethod
    def of(
        cls,
        statistics: FeatureStatistics,
        protocol: Mapping[str, Any],
        details: Mapping[str, Any],
        features: torch.Tensor | None = None,
    ) -> "ReferenceStatistics":
        """Of what [`FeatureStatistics`] has summed."""
        return cls(statistics.mean, statistics.covariance, statistics.count, dict(protocol), dict(details), features)

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file with the protocol in its header, as a whole or not at all."""
        path = Path(path)
        tensors = {"mean": self.mean.contiguous(), "covariance": self.covariance.contiguous()}
        if self.features is not None:
            tensors["features"] = self.features.contiguous()
        metadata = {
            "format": FORMAT,
            "count": json.dumps(self.count),
            "protocol": json.dumps(self.protocol),
            "details": json.dumps(self.details),
        }
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata)

    def check(self, protocol: Mapping[str, Any]) -> None:
        """Refuses a comparison with pictures of another protocol.

        Args:
            protocol (`Mapping[str, Any]`): of the pictures to compare with.

        Raises:
            `ValueError`: an entry that both have differs.
        """
        differing = {
            name: (self.protocol[name], value)
            for name, value in protocol.items()
            if name in self.protocol and self.protocol[name] != value
        }
        if differing:
            texts = [f"`{name}` {theirs!r} and not {ours!r}" for name, (theirs, ours) in differing.items()]
            raise ValueError(
                f"The reference statistics must be of the same protocol as the pictures, got {', '.join(texts)}."
            )


def load_statistics(path: str | Path) -> ReferenceStatistics:
    """Reference statistics of a file.

    Args:
        path (`str` or `Path`):
            A file of [`ReferenceStatistics.save`]; an `.npz` file with `mu` and `sigma`, as pytorch-fid and the
            official code have them; or such a file in a tar archive, `fid_stats.tar.gz:imagenet_256_train.npz`.

    Raises:
        `ValueError`: no such file, or another content.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    archive, _, member = str(path).rpartition(":")
    if archive and not path.is_file():
        return _from_npz(_read_member(Path(archive), member), member)
    if not path.is_file():
        raise ValueError(f"`reference` must be a .safetensors or .npz file, got '{path}', which does not exist.")
    if path.suffix != ".npz" and tarfile.is_tarfile(path):
        with tarfile.open(path) as tar:
            names = [name for name in tar.getnames() if name.endswith(".npz")]
        example = f", such as '{path}:{names[0]}'" if names else ""
        raise ValueError(f"`reference` must name an .npz file of the archive{example}, of {names}.")
    return _from_npz(path.read_bytes(), path.name)


def _load_safetensors(path: Path) -> ReferenceStatistics:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no dictionary
    except (OSError, SafetensorError) as error:
        raise ValueError(f"`reference` must be a file of statistics, got '{path}': {error}") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"`reference` must be of the format {FORMAT!r}, got {metadata.get('format')!r} in '{path}'.")
    try:
        parts = {name: json.loads(metadata[name]) for name in ("count", "protocol", "details")}
        statistics = ReferenceStatistics(**tensors, **parts)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"`reference` must be whole statistics, '{path}' lacks or adds something: {error}") from error
    _check_finite(statistics, path.name)
    return statistics


def _read_member(archive: Path, member: str) -> bytes:
    try:
        with tarfile.open(archive) as tar:
            names = [name for name in tar.getnames() if name == member or name.endswith(f"/{member}")]
            if len(names) != 1:
                raise ValueError(f"`reference` must name one file of {sorted(tar.getnames())}, got {member!r}.")
            if not tar.getmember(names[0]).isfile():
                raise ValueError(f"`reference` must name a plain file of '{archive}', got {member!r}.")
            return tar.extractfile(names[0]).read()
    except (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError) as error:
        raise ValueError(f"`reference` must be a file in a tar archive, got '{archive}': {error}") from error


def _from_npz(content: bytes, name: str) -> ReferenceStatistics:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            mean, covariance = (torch.from_numpy(arrays[key]).double() for key in ("mu", "sigma"))
    # of what is no archive, an array alone or of no numbers, and what is damaged
    except (KeyError, OSError, EOFError, ValueError, TypeError, IndexError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"`reference` must be an .npz file with `mu` and `sigma`, '{name}' is none: {error}"
        ) from error
    # Some have (1, F), and numpy's covariance of one feature is a number.
    mean = mean.flatten() if mean.squeeze().ndim < 2 else mean
    covariance = covariance.reshape(1, 1) if covariance.numel() == 1 else covariance.squeeze()
    width = len(mean)
    if mean.ndim != 1 or tuple(covariance.shape) != (width, width):
        shapes = f"{tuple(mean.shape)} and {tuple(covariance.shape)}"
        raise ValueError(f"`mu` and `sigma` of '{name}' must have shapes (F,) and (F, F), got {shapes}.")
    protocol = dict(OFFICIAL_PROTOCOL) if width == 2048 else {}
    if "_256_" not in name:
        protocol.pop("image_size", None)
    logger.warning(
        "'%s' does not tell how it was made: it is taken for features of Inception as pytorch-fid resizes pictures, "
        "from which FIDs of torch-fidelity's resizing differ a little, and for enough pictures for a full covariance.",
        name,
    )
    details = {"dataset": Path(name).stem, "split": None}
    statistics = ReferenceStatistics(mean, covariance, None, protocol, details)
    _check_finite(statistics, name)
    return statistics


def _check_finite(statistics: ReferenceStatistics, name: str) -> None:
    if not (statistics.mean.isfinite().all() and statistics.covariance.isfinite().all()):
        raise ValueError(f"`reference` must hold finite numbers, '{name}' holds NaN or infinite ones.")


def warn_of_few_pictures(name: str, count: int | None, width: int) -> None:
    """Logs a warning where pictures are too few for a covariance of full rank: the distance is then too large.

    Args:
        name (`str`): what the pictures are, for the text.
        count (`int`, *optional*): N, where it is known.
        width (`int`): F.
    """
    if count is not None and count <= width:
        logger.warning(
            "%d %s pictures are too few for a covariance of full rank of %d features (at least %d): the Frechet "
            "distance is too large, and comparable only to those of equally many pictures.",
            count,
            name,
            width,
            width + 1,
        )
