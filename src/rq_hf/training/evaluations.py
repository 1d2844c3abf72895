# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Evaluations of both stages: by averaged weights, without a trace in the weights; and the parts of losses."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from accelerate.utils.operations import recursively_apply
from torch import nn
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput

# Of each part of a loss: the sum, and what it is to be divided by.
Sums = dict[str, tuple[torch.Tensor, int | torch.Tensor]]


@contextmanager
def weights_as_they_are(model: nn.Module) -> Iterator[None]:
    """When it ends, the model has the weights and buffers that it had: `model.to(dtype)` rounds them in place."""
    kept = [
        (module, name, tensor, tensor.data)
        for module in model.modules()
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    ]
    try:
        yield
    finally:
        for module, name, tensor, data in kept:
            tensor.data = data
            setattr(module, name, tensor)


def _fill_up(values: torch.Tensor, rows: int) -> torch.Tensor:
    """`values` with their first one again up to `rows`."""
    return torch.cat([values, values[:1].expand(rows - len(values), *values.shape[1:])])


class Evaluations:
    """For a `Trainer` with `averaged_weights`: evaluates with these, keeps the weights from being rounded, counts each
    row once, and gives the parts of a loss beside it, in training, too."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._recorded: Sums = {}  # of training, since the last log
        self._evaluated: Sums = {}  # of the evaluation that lasts
        self._evaluated_rows = 0  # of the batch that is evaluated: how many are not there to fill it up

    def evaluate_and_save(self) -> None:
        """Evaluates, where there are data for it, logs what comes out and writes it to eval_results.json."""
        if self.eval_dataset is not None:
            metrics = self.evaluate()
            self.log_metrics("eval", metrics)
            self.save_metrics("eval", metrics)

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """As in the base class, with the averaged weights; what `bf16_full_eval` and `fp16_full_eval` round is as it
        was afterwards."""
        with self._evaluated_weights():
            return super().evaluate(*args, **kwargs)

    def predict(self, *args, **kwargs) -> PredictionOutput:
        """As in the base class, with the weights of [`evaluate`]."""
        with self._evaluated_weights():
            return super().predict(*args, **kwargs)

    @contextmanager
    def _evaluated_weights(self) -> Iterator[None]:
        is_rounded = self.args.bf16_full_eval or self.args.fp16_full_eval
        with self.averaged_weights(), weights_as_they_are(self.model) if is_rounded else nullcontext():
            yield

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """As in the base class, with the means of what was recorded."""
        self._evaluated.clear()  # what an evaluation left that broke off
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        means = self._take_means(self._evaluated)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in means.items()})
        return output

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """As in the base class, but losses are of the rows alone that are not there to fill up the last batch.

        Predictions are gathered from all processes, which then must have equally many: they are filled up themselves.
        """
        state, rows = self.accelerator.gradient_state, len(next(iter(inputs.values())))
        self._evaluated_rows = rows
        if state.in_dataloader and state.end_of_dataloader and state.remainder > 0:
            self._evaluated_rows = min(rows, max(0, state.remainder - rows * self.args.process_index))
            if self._evaluated_rows > 0:
                inputs = {name: values[: self._evaluated_rows] for name, values in inputs.items()}
        loss, *predictions = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if 0 < self._evaluated_rows < rows:
            predictions = recursively_apply(_fill_up, predictions, rows)
        return loss, *predictions

    def record(self, model: nn.Module, weight: torch.Tensor | None = None, **values: torch.Tensor) -> None:
        """Adds scalars to the means that the next log will show, in training of steps, as the loss is; in evaluation
        weighted by rows, or by `weight`, a number of something in these rows; no device sync."""
        sums = self._recorded if model.training else self._evaluated
        if weight is None or self._evaluated_rows == 0:
            batches = getattr(self, "current_gradient_accumulation_steps", 1)  # of this step
            weight = 1 / batches if model.training else self._evaluated_rows
        for name, value in values.items():
            total, count = sums.get(name, (0.0, 0))
            sums[name] = (total + weight * value.detach().float(), count + weight)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in the base class, with the means of what was recorded in training."""
        if "loss" in logs:
            logs.update(self._take_means(self._recorded))
        super().log(logs, start_time)

    def _take_means(self, sums: Sums) -> dict[str, float]:
        """Those of all processes; `sums` are empty afterwards."""
        means = {}
        for name, (total, count) in sums.items():
            summed = self.accelerator.reduce(torch.stack([total, torch.as_tensor(count).to(total)]), "sum")
            means[name] = round((summed[0] / summed[1].clamp(min=1)).item(), 6)  # 0 of nothing
        sums.clear()
        return means
