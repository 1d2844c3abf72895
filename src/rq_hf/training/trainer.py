# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the trainers of both stages share."""

import json
import math
from pathlib import Path

import torch
from torch import nn
from transformers import Trainer, TrainerCallback


class SetEpoch(TrainerCallback):
    """Tells the training data set which epoch begins: the data loader does so on some set-ups only."""

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        if hasattr(train_dataloader.dataset, "set_epoch"):
            train_dataloader.dataset.set_epoch(int(state.epoch + 1e-6))


class RQTrainer(Trainer):
    """A `Trainer` whose batches have no label columns, which logs the parts of its loss, and which saves no pickle of
    its arguments."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.args.label_names = self.label_names = []
        self.can_return_loss = True  # the loss needs no label column
        self.add_callback(SetEpoch())
        self._recorded: dict[str, tuple[torch.Tensor, int]] = {}

    def record(self, model: nn.Module, **values: torch.Tensor) -> None:
        """Adds scalars to the means that the next log of training, or of evaluation, will show; no device sync."""
        for name, value in values.items():
            name = name if model.training else f"eval_{name}"
            total, count = self._recorded.get(name, (0.0, 0))
            self._recorded[name] = (total + value.detach().float(), count + 1)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in the base class, with the recorded means."""
        evaluation = any(name.startswith("eval_") for name in logs)
        if evaluation or "loss" in logs:
            for name in [name for name in self._recorded if name.startswith("eval_") == evaluation]:
                total, count = self._recorded.pop(name)
                mean = self.accelerator.reduce(torch.stack([total, total.new_tensor(count)]), "sum")
                logs[name] = round((mean[0] / mean[1]).item(), 6)
            if evaluation and (error := logs.get("eval_reconstruction_loss", 0.0)) > 0:
                logs["eval_psnr"] = round(10 * math.log10(4 / error), 3)  # of pixels in [-1, 1], not clamped
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)
        (folder / "training_args.bin").unlink(missing_ok=True)
        (folder / "training_args.json").write_text(
            json.dumps(self.args.to_sanitized_dict(), indent=2, default=str) + "\n"
        )

    def create_model_card(self, *args, **kwargs) -> None:
        """Leaves the card alone: the scripts render it from `model_cards/`."""


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
    found = [folder for folder in Path(output_dir).glob("checkpoint-*") if _is_complete(folder)]
    if resume_from_checkpoint in (None, False, "False", "false"):
        if found:
            raise ValueError(
                f"`output_dir` must have no checkpoints for a fresh start, got {output_dir!r} with {len(found)}; give "
                "`--resume_from_checkpoint last` or another folder."
            )
        return None
    if resume_from_checkpoint in (True, "True", "true", "last"):
        return str(max(found, key=lambda folder: int(folder.name.rpartition("-")[2]))) if found else None
    if not _is_complete(Path(resume_from_checkpoint)):
        raise ValueError(f"`resume_from_checkpoint` must be a complete checkpoint, got {resume_from_checkpoint!r}.")
    return resume_from_checkpoint


def _is_complete(folder: Path) -> bool:
    """Whether the last file that a checkpoint gets is there and whole."""
    try:
        json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return False
    return True
