# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Figures of many pictures in parts that are files: processes share them out, and a killed run goes on with the rest.

A part is a batch, and a batch is the same whatever process makes it. So the figures of several processes, or of a run
that was killed and resumed, are those of one process to the bit, where each computes with equally many threads.
"""

import gc
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from ..metrics import replacing, write_text

SETTINGS_FILE = "settings.json"


class Shards:
    """
    Tensors of N pictures, a file for each batch.

    Args:
        folder (`Path`): where the files are, made if it is missing.
        num_pictures (`int`): N.
        batch_size (`int`): pictures in each file but the last.
        settings (`Mapping[str, Any]`): all that the tensors depend on, what JSON can hold.
        state (`PartialState`): of the processes.

    Raises:
        `ValueError`: the folder holds parts of a run with other settings.
    """

    def __init__(
        self,
        folder: Path,
        num_pictures: int,
        batch_size: int,
        settings: Mapping[str, Any],
        state: PartialState,
    ):
        self.folder, self.num_pictures, self.batch_size = Path(folder), num_pictures, batch_size
        self.state = state
        settings = {**settings, "num_pictures": num_pictures, "batch_size": batch_size}
        settings = json.loads(json.dumps(settings))  # as they will be read
        path = self.folder / SETTINGS_FILE
        if state.is_main_process and not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(settings, indent=2) + "\n")
        state.wait_for_everyone()
        earlier = json.loads(path.read_text(encoding="utf-8"))
        differing = sorted(
            name for name in {*settings, *earlier} if settings.get(name, "none") != earlier.get(name, "none")
        )
        if differing:
            texts = [
                f"{name} {_differing(earlier.get(name, 'none'), settings.get(name))} and not "
                f"{_differing(settings.get(name), earlier.get(name))}"
                for name in differing
            ]
            raise ValueError(
                f"`--work_dir` must be a new folder or one of the same settings, '{self.folder}' has parts of a run "
                f"with {'; '.join(texts)}."
            )

    def __len__(self) -> int:
        return -(-self.num_pictures // self.batch_size)

    def indices(self, part: int) -> range:
        """The pictures of a part."""
        start = part * self.batch_size
        return range(start, min(start + self.batch_size, self.num_pictures))

    def path(self, part: int) -> Path:
        """The file of a part."""
        return self.folder / f"{part:06d}.safetensors"

    def make(self, function: Callable[[range], dict[str, torch.Tensor]], description: str) -> None:
        """Makes the parts that are missing, each process its share; returns when all have them.

        Args:
            function: gives the tensors of pictures, named, the first dimension that of the pictures.
            description (`str`): for the progress bar.
        """
        missing = [part for part in range(len(self)) if not self._is_whole(part)]
        self.state.wait_for_everyone()  # all have looked before any writes
        share = missing[self.state.process_index :: self.state.num_processes]
        is_main = self.state.is_main_process
        total = sum(len(self.indices(part)) for part in share)
        with tqdm(total=total, desc=description, unit="picture", disable=not is_main) as progress:
            for part in share:
                indices = self.indices(part)
                self._write(part, {**function(indices), "index": torch.tensor(indices)})
                progress.update(len(indices))
        self.state.wait_for_everyone()

    def batches(self, name: str) -> Iterator[torch.Tensor]:
        """A tensor of each part, in the order of the pictures, whoever made it and whenever.

        Raises:
            `ValueError`: a part that holds other pictures.
        """
        for part in range(len(self)):
            tensors = load_file(self.path(part))
            if tensors["index"].tolist() != list(self.indices(part)):
                raise ValueError(f"'{self.path(part)}' must hold the pictures {self.indices(part)}, it holds others.")
            yield tensors[name]

    def read(self, name: str) -> torch.Tensor:
        """A tensor of all pictures; no more than one part is in memory twice."""
        whole = None
        for part, values in enumerate(self.batches(name)):
            if whole is None:
                whole = values.new_empty(self.num_pictures, *values.shape[1:])
            indices = self.indices(part)
            whole[indices.start : indices.stop] = values
        return whole

    def _is_whole(self, part: int) -> bool:
        """Whether a file is there and can be read: a disk that was full may have left a stump."""
        try:
            return len(load_file(self.path(part))["index"]) == len(self.indices(part))
        except (OSError, SafetensorError, KeyError):
            return False

    def _write(self, part: int, tensors: dict[str, torch.Tensor]) -> None:
        with replacing(self.path(part)) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)


def _differing(value: Any, other: Any) -> str:
    """A setting for a message: of two lists, such as of a path and a digest of weights, what is not in the other."""
    if isinstance(value, list) and isinstance(other, list):
        value = [each for each in value if each not in other] or value
    return f"{value!r:.80}"


def finish(state: PartialState) -> None:
    """To be called last: ends the connections between processes, and gloo's threads, before Python shuts down."""
    state.wait_for_everyone()
    state.destroy_process_group()
    gc.collect()
