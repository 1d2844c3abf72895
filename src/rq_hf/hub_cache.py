# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Options of downloads and pushes, and checks of what arrives: the Hub's client compares the sizes of files, and not
what is in them, and `from_pretrained` draws weights at random that no file has."""

import hashlib
import re
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedModel

# Of a push, which `save_pretrained(..., push_to_hub=True)` takes too.
PUSH_OPTIONS = (
    "repo_id", "private", "revision", "token", "with_code", "evaluations", "tags", "variants", "create_pr",
    "commit_message", "commit_description",
)  # fmt: skip
# Nanoseconds for which a file in the cache counts as new, and when this process began, or nearly so.
NEW, BEGUN = 24 * 3600 * 10**9, time.time_ns()
# Files that were compared, by path, time of change and inode.
_compared: set[tuple[Path, tuple[int, int]]] = set()

# Of a download, under these names in transformers, diffusers and the Hub's client.
DOWNLOAD_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")


def download_options(options: Mapping[str, Any], *others: str) -> dict[str, Any]:
    """Those of `from_pretrained` that say where a file comes from, as far as they are given, and `others` of them."""
    return {name: options[name] for name in (*DOWNLOAD_OPTIONS, *others) if options.get(name) is not None}


def load_whole(
    model_class: Any, name_or_path: str | Path, optional: str | None = None, **kwargs: Any
) -> PreTrainedModel:
    """A model of which no weight is missing in the files; `from_pretrained` alone would draw such weights at random.

    Args:
        model_class: a class with `from_pretrained`, also of the Auto classes.
        name_or_path: Hub id or folder.
        optional: a module that is set to `None` where its weights are missing.
        kwargs: of `from_pretrained`; `use_safetensors` is `True` unless given.

    Raises:
        `ValueError`: weights are missing.
    """
    options = {"use_safetensors": True, **kwargs, "output_loading_info": True}
    with checked_downloads(name_or_path, kwargs):
        model, loaded = model_class.from_pretrained(name_or_path, **options)
    missing = loaded["missing_keys"]
    if optional is not None and any(key.startswith(f"{optional}.") for key in missing):
        setattr(model, optional, None)
        missing = [key for key in missing if not key.startswith(f"{optional}.")]
    check_whole(model, missing, name_or_path)
    return model


def check_whole(model: PreTrainedModel, missing: Iterable[str], name_or_path: str | Path) -> None:
    """Raises a `ValueError` where weights of a model are missing, but for counts of batches."""
    missing = sorted(key for key in missing if not key.endswith(".num_batches_tracked"))
    if missing:
        raise ValueError(
            f"{str(name_or_path)!r} must hold a whole {type(model).__name__}, but lacks weights such as "
            f"`{missing[0]}` ({len(missing)} are missing)."
        )


def check_generation_config(model: PreTrainedModel) -> None:
    """Raises a `ValueError` where a model's sampling settings cannot be saved, before anything else of it is."""
    config = getattr(model, "generation_config", None)
    if config is not None:
        config.validate(strict=True)
        try:
            config.to_json_string()
        except TypeError as error:
            raise ValueError(
                f"`generation_config` must have plain numbers to be saved, got {vars(config)}."
            ) from error


@contextmanager
def checked_downloads(
    name_or_path: str | Path | None, options: Mapping[str, Any] | None = None, weights: bool = True
) -> Iterator[None]:
    """Compares what is in the cache of a model with its hash when it ends, and deletes what arrived corrupt.

    The cache names each file's content by its hash: SHA-256 for large files, Git's for small ones. Files are read for
    it once in a process, and only those that are younger than a day. So what other classes have just downloaded, such
    as diffusers' pipeline or transformers' configuration, is compared as well. Deleted is what was written since this
    process began, or before where the load fails; somebody may have edited a file, of which there is a warning.

    Args:
        name_or_path: Hub id of a model, or a folder in the cache; nothing is done for other folders.
        options: of `from_pretrained`; `cache_dir` and `local_files_only` are heeded.
        weights: compare large files too.

    Raises:
        `OSError`: a file arrived corrupt. It is deleted, so that a second attempt downloads it anew.
    """
    options = options or {}
    blobs = _blobs(name_or_path, options.get("cache_dir"))
    if blobs is None:
        yield
        return
    known, failed = _versions(blobs), True
    try:
        yield
        failed = False
    finally:
        offline = constants.HF_HUB_OFFLINE or options.get("local_files_only")
        corrupt = []
        for path, version in _versions(blobs).items():
            arrived = known.get(path) != version or version[0] >= BEGUN
            young = arrived or time.time_ns() - version[0] < NEW
            if not young or (path, version) in _compared or not (weights or len(path.name) == 40):
                continue
            if _has_its_hash(path):
                _compared.add((path, version))
            elif (arrived or failed) and not offline:
                corrupt.append(path)
            else:
                _compared.add((path, version))
                warnings.warn(f"{path} has other bytes than the Hub had; delete it to download it anew.", stacklevel=3)
        for path in corrupt:
            path.unlink(missing_ok=True)
        if corrupt:
            names = [path.name for path in corrupt]
            raise OSError(
                f"{len(corrupt)} of the files of {str(name_or_path)!r} arrived with other bytes than the Hub has, and "
                f"were deleted from the cache; load it again. Their hashes should be {names}."
            )


def _blobs(name_or_path: str | Path | None, cache_dir: str | Path | None) -> Path | None:
    """Where the cache keeps the files of a Hub id, or of a folder of it; `None` for what is neither."""
    if name_or_path is None:
        return None
    if Path(name_or_path).is_dir():
        path = Path(name_or_path).absolute()
        repositories = [parent.parent for parent in (path, *path.parents) if parent.name == "snapshots"]
        blobs = [repository / "blobs" for repository in repositories if repository.name.startswith("models--")]
        return blobs[0] if blobs else None
    try:
        validate_repo_id(str(name_or_path))
    except HFValidationError:
        return None
    cache = Path(cache_dir if cache_dir is not None else constants.HF_HUB_CACHE)
    return cache / repo_folder_name(repo_id=str(name_or_path), repo_type="model") / "blobs"


def _versions(blobs: Path) -> dict[Path, tuple[int, int]]:
    """The complete files of a cache, with what changes when one is written anew."""
    versions = {}
    for path in blobs.glob("*"):
        if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", path.name):
            with suppress(FileNotFoundError):  # deleted by another process
                stat = path.stat()
                versions[path] = (stat.st_mtime_ns, stat.st_ino)
    return versions


def _has_its_hash(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            if len(path.name) == 64:
                return hashlib.file_digest(file, "sha256").hexdigest() == path.name
            digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
            while block := file.read(2**20):
                digest.update(block)
    except FileNotFoundError:  # deleted by another process
        return True
    return digest.hexdigest() == path.name
