# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Data sets by name, for training and evaluation alike: Hub ids, folders and tar shards."""

import json
from contextlib import suppress
from pathlib import Path

import datasets
from datasets.data_files import DataFilesDict, get_data_patterns

Rows = datasets.Dataset | datasets.IterableDataset


def read_dataset(
    name: str,
    config_name: str | None = None,
    data_files: str | None = None,
    split: str | None = None,
    streaming: bool = False,
) -> dict[str, Rows] | Rows:
    """A data set with all of its splits, or one split of it.

    Args:
        name (`str`): Hub id or folder; of a folder that has tar shards only these are read.
        config_name (`str`, *optional*): its configuration.
        data_files (`str`, *optional*):
            Pattern or address of files of it, a JSON list of these, or a JSON object of them by split.
        split (`str`, *optional*): as `datasets.load_dataset` takes it.
        streaming (`bool`, defaults to `False`): read it as it comes.

    Raises:
        `FileNotFoundError`, `ValueError`: none that can be read, or a split without rows.
    """
    source, files = name, data_files
    if data_files is not None and data_files.lstrip().startswith("{"):
        try:
            files = json.loads(data_files)
        except json.JSONDecodeError as error:
            raise ValueError(f"`data_files` must be valid JSON, got {data_files!r}: {error}") from error
    elif data_files is not None and data_files.lstrip().startswith("["):
        with suppress(json.JSONDecodeError):  # a pattern, such as "[0-9]*.tar"
            files = json.loads(data_files)
    if data_files is None and (shards := _tar_shards(Path(name))):
        source, files = "webdataset", shards
    return datasets.load_dataset(source, config_name, data_files=files, split=split, streaming=streaming)


def _tar_shards(folder: Path) -> dict[str, list[str]]:
    """Tar shards of a folder by split; `datasets` itself prefers tables, and img2dataset leaves some beside them."""
    if not any(any(folder.glob(pattern)) for pattern in ("*.tar", "*/*.tar")):
        return {}
    files = DataFilesDict.from_patterns(get_data_patterns(str(folder)), base_path=str(folder))
    shards = {split: [file for file in found if file.endswith(".tar")] for split, found in files.items()}
    return {split: found for split, found in shards.items() if found}
