# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Options of downloads, and checks: the Hub's client compares the sizes of files, and not what is in them, and
`from_pretrained` draws weights at random that no file has."""

import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedModel

# Of a push, which `save_pretrained(..., push_to_hub=True)` takes too.
PUSH_OPTIONS = (
    "repo_id", "private", "revision", "token", "tags", "create_pr", "commit_message", "commit_description"
)  # fmt: skip
# Nanoseconds for which a file in the cache counts as just downloaded.
NEW = 24 * 3600 * 10**9
# Files that have their hash, by path, time of change and inode.
_compared: set[tuple[Path, tuple[int, int]]] = set()

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
    model, loaded = model_class.from_pretrained(name_or_path, **options)
    missing = [key for key in sorted(loaded["missing_keys"]) if not key.endswith(".num_batches_tracked")]
    if optional is not None and any(key.startswith(f"{optional}.") for key in missing):
        setattr(model, optional, None)
        missing = [key for key in missing if not key.startswith(f"{optional}.")]
    if missing:
        raise ValueError(
            f"{str(name_or_path)!r} must hold a whole {type(model).__name__}, but lacks weights such as "
            f"`{missing[0]}` ({len(missing)} are missing)."
        )
    return model


@contextmanager
def checked_downloads(name_or_path: str | Path | None, cache_dir: str | Path | None = None) -> Iterator[None]:
    """Compares what is in the cache of a model with its hash, and deletes what does not have it, at its end.

    The cache names each file's content by its hash: SHA-256 for large files, Git's for small ones. A file is read for
    it once in a process, and where it is older than a day not at all. So what other classes have just downloaded,
    such as diffusers' pipeline or transformers' configuration, is compared as well.

    Args:
        name_or_path: Hub id of a model, or a folder in the cache; nothing is done for other folders.
        cache_dir: as in `from_pretrained`.

    Raises:
        `OSError`: a file arrived corrupt. It is deleted, so that a second attempt downloads it anew.
    """
    blobs = _blobs(name_or_path, cache_dir)
    if blobs is None:
        yield
        return
    known = _versions(blobs)
    try:
        yield
    finally:
        corrupt = []
        for path, version in _versions(blobs).items():
            is_new = known.get(path) != version or time.time_ns() - version[0] < NEW
            if is_new and (path, version) not in _compared:
                if _has_its_hash(path):
                    _compared.add((path, version))
                else:
                    corrupt.append(path)
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
    files = [path for path in blobs.glob("*") if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", path.name)]
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}


def _has_its_hash(path: Path) -> bool:
    with path.open("rb") as file:
        if len(path.name) == 64:
            return hashlib.file_digest(file, "sha256").hexdigest() == path.name
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest() == path.name
