# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run: which are whole, and which one to resume from.

The trainer writes a marker file into a checkpoint last, and removes it before it overwrites the checkpoint. A training
that is killed while it saves therefore leaves a checkpoint without a marker.
"""

from pathlib import Path

from transformers.utils import logging

logger = logging.get_logger(__name__)

MARKER = "checkpoint_is_whole"


def whole_checkpoints(output_dir: str | Path) -> list[Path]:
    """The whole checkpoints of a run by step."""
    steps = [path.parent.name.removeprefix("checkpoint-") for path in Path(output_dir).glob(f"checkpoint-*/{MARKER}")]
    return [Path(output_dir, f"checkpoint-{step}") for step in sorted(int(each) for each in steps if each.isdigit())]


def resume_checkpoint(output_dir: str | Path, resume_from_checkpoint: str | bool | None) -> str | None:
    """The checkpoint folder to start from, or `None`.

    Args:
        output_dir (`str` or `Path`): folder of the run.
        resume_from_checkpoint (`str` or `bool`, *optional*):
            A checkpoint folder, or `"last"` or `True` for the newest whole one of `output_dir`, if there is any.
            `None` or `False` starts afresh, which is refused where `output_dir` has whole checkpoints.
    """
    whole = whole_checkpoints(output_dir)
    if resume_from_checkpoint in (None, False, "False", "false"):
        if whole:
            raise ValueError(
                f"`output_dir` must have no checkpoints for a fresh start, got {str(output_dir)!r} with {len(whole)}; "
                "resume with `--resume_from_checkpoint last`, or choose another folder."
            )
        return None
    if resume_from_checkpoint in (True, "True", "true", "last"):
        if not whole:
            logger.warning(f"{str(output_dir)!r} has no whole checkpoint to resume: the training starts afresh.")
        return str(whole[-1]) if whole else None
    if not Path(resume_from_checkpoint, MARKER).is_file():
        raise ValueError(
            f"`resume_from_checkpoint` must be a whole checkpoint, with a file {MARKER}, got "
            f"{resume_from_checkpoint!r}; a training that was killed while it saved leaves others."
        )
    return str(resume_from_checkpoint)
