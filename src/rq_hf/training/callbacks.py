# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the trainers do at the begin and end of trainings, epochs and steps."""

import time
from typing import Any

from diffusers.training_utils import EMAModel
from torch import nn
from torch.utils.data import ConcatDataset, Subset
from transformers import TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState


class SetEpoch(TrainerCallback):
    """Tells the training data set which epoch begins: the data loader does so on some set-ups only."""

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        self._set_epoch(train_dataloader.dataset, int(state.epoch + 1e-6))

    def _set_epoch(self, data: Any, epoch: int) -> None:
        """Of a data set, or of those that `Subset` and `ConcatDataset` are made of."""
        if hasattr(data, "set_epoch"):
            data.set_epoch(epoch)
        elif isinstance(data, Subset):
            self._set_epoch(data.dataset, epoch)
        elif isinstance(data, ConcatDataset):
            for part in data.datasets:
                self._set_epoch(part, epoch)


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


class UpdateAverage(TrainerCallback):
    """Brings the moving average of the weights up to date after each step."""

    def __init__(self, average: EMAModel):
        self.average = average

    def on_train_begin(self, args, state, control, **kwargs):
        self.average.to(args.device)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.average.step(trained_parameters(model))


def resumed_attributes(callback: ExportableState, state: TrainerState) -> dict[str, Any] | None:
    """What a callback had exported to the checkpoint that a training goes on from, where it did.

    From here on `state` has an entry for it, as `Trainer` expects it where it writes one: a checkpoint of a training
    without the callback has none.
    """
    name = type(callback).__name__
    saved = state.stateful_callbacks.get(name) if state.global_step > 0 else None
    state.stateful_callbacks.setdefault(name, callback.state())
    return saved["attributes"] if saved is not None else None


class Stopwatch(TrainerCallback, ExportableState):
    """Seconds that a training takes, those before it was resumed included."""

    def __init__(self):
        self._before, self._start = 0.0, None

    @property
    def seconds(self) -> float:
        return self._before + (time.monotonic() - self._start if self._start is not None else 0.0)

    def on_train_begin(self, args, state, control, **kwargs):
        saved = resumed_attributes(self, state)
        self._before = saved["_before"] if saved is not None else 0.0
        self._start = time.monotonic()

    def on_train_end(self, args, state, control, **kwargs):
        self._before, self._start = self.seconds, None

    def state(self) -> dict:
        return {"args": {}, "attributes": {"_before": self.seconds}}
