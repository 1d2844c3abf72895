# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Files and folders that appear whole or not at all."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def write_whole(path: str | Path, new_folder: bool = False) -> Iterator[Path]:
    """
    Gives a temporary path. At the end of the block, the file or folder written there moves to `path` in one step.

    If the block raises, as on a full disk or an interruption, nothing stays behind and an older file is kept.

    Args:
        path (`str` or `Path`): File or folder to write. Missing parent folders are made.
        new_folder (`bool`, *optional*, defaults to `False`): Whether it is a folder, which must be new or empty.

    Raises:
        `ValueError`: If `path` must be a new folder and is a file, a folder with content or the working folder.
    """
    target = Path(path).resolve()
    if new_folder and target.exists():  # the working folder cannot be replaced
        if not target.is_dir() or any(target.iterdir()) or target == Path.cwd():
            raise ValueError(f"The output must be a new or empty folder, got {str(path)!r}.")
    parent = next(folder for folder in target.parents if folder.exists())
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=parent) as place:
        unfinished = Path(place, target.name)
        yield unfinished
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished.replace(target)
