# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Checkpoints of a run: which are complete, which one to go on from."""

import json
import os
import re
from pathlib import Path

STATE_FILE = "trainer_state.json"


def resume_checkpoint(output_dir: str, resume_from_checkpoint: str | bool | None) -> str | None:
    """The checkpoint to start from.

    Args:
        output_dir: where earlier checkpoints may be.
        resume_from_checkpoint: a checkpoint folder, "last" (or `True`) for the newest complete one of `output_dir`, or
            `None` to start afresh.

    Returns:
        A folder, or `None` where there is none yet.

    Raises:
        `ValueError`: `resume_from_checkpoint` is no complete checkpoint, or `None` while `output_dir` has some, which
        a fresh start would mix with its own.
    """
    found = complete_checkpoints(Path(output_dir))
    if resume_from_checkpoint in (None, False, "False", "false"):
        if found:
            raise ValueError(
                f"`output_dir` must have no checkpoints for a fresh start, got {output_dir!r} with {len(found)}; give "
                "`--resume_from_checkpoint last` or another folder."
            )
        return None
    if resume_from_checkpoint in (True, "True", "true", "last"):
        if not found:
            return None
        resume_from_checkpoint = str(found[-1])
    if not is_complete(Path(resume_from_checkpoint)):
        raise ValueError(
            f"`resume_from_checkpoint` must be a complete checkpoint, got {resume_from_checkpoint!r}, which was cut "
            "short, or comes from the Hub, where no states of optimizers are."
        )
    if not has_optimizer(Path(resume_from_checkpoint)):
        raise ValueError(
            "`resume_from_checkpoint` must hold the states of optimizer and schedule, got "
            f"{resume_from_checkpoint!r} without them (`save_only_model`): go on from its weights by "
            "`--model_name_or_path`, in another `output_dir`."
        )
    return resume_from_checkpoint


def saved_state(checkpoint: str, name: str) -> Path:
    """The file `name` of a checkpoint.

    Raises:
        `ValueError`: the checkpoint has none.
    """
    path = Path(checkpoint, name)
    if not path.is_file():
        raise ValueError(f"`resume_from_checkpoint` must hold {name}, as this training needs it, got {checkpoint!r}.")
    return path


def complete_checkpoints(run_folder: Path) -> list[Path]:
    """The complete checkpoints of a run, by step."""
    numbered = [folder for folder in run_folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", folder.name)]
    return sorted(filter(is_complete, numbered), key=lambda folder: int(folder.name.rpartition("-")[2]))


def is_complete(folder: Path) -> bool:
    """Whether the file that `Trainer` writes last is there and whole: others write in place, and may be cut short."""
    try:
        json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def has_optimizer(folder: Path) -> bool:
    """Whether there is a state to go on with: `Trainer` does without, but then begins the schedule anew."""
    of_shards = ("global_step*", "optimizer_0", "optimizer.bin")  # of DeepSpeed and FSDP
    is_whole = (folder / "optimizer.pt").is_file() and (folder / "scheduler.pt").is_file()
    return is_whole or any(any(folder.glob(name)) for name in of_shards)


def flush_to_disk(folder: Path) -> None:
    """Waits until the files of `folder` are on the disk: some file systems report only then that it is full."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("r+b") as file:
                os.fsync(file.fileno())
