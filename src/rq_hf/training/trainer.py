# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""What the trainers of both stages share: averaged weights, logged parts of the loss, checkpoints that are whole."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainingArguments,
)
from transformers.trainer_utils import EvalLoopOutput, TrainOutput
from transformers.utils import is_torch_bf16_gpu_available, logging
from transformers.utils.type_validators import interval

from ..models.sampling import seeded_generator
from .arguments import check_fields, setting
from .checkpoints import MARKER, resume_checkpoint
from .optimizers import MuonWith, hidden_matrices

logger = logging.get_logger(__name__)

AVERAGE_FILE = "ema.pt"


@dataclass
class RQTrainingArguments(TrainingArguments):
    """`TrainingArguments` of both stages."""

    model_name_or_path: str | None = setting(None, "Fine-tune this model or that of this pipeline.")
    ema_decay: float | None = setting(
        None, "Decay of averaged weights; they are published.", interval(min=0, max=1, exclude_max=True)
    )
    muon_learning_rate: float | None = setting(
        None, "Train matrices and kernels by Muon at this rate.", interval(min=0)
    )
    early_stopping_patience: int | None = setting(
        None,
        "Stop after this many evaluations without a better one. Each is saved; the best is kept.",
        interval(min=1),
    )
    # Fields of the base class, with other defaults or with ranges.
    remove_unused_columns: bool = setting(False, "The data sets have no unused columns.")
    label_names: list[str] | None = field(default_factory=list, metadata={"help": "Batches have no label columns."})
    ddp_find_unused_parameters: bool | None = setting(False, "Every parameter is used.")
    ddp_broadcast_buffers: bool | None = setting(False, "All processes update the codebook alike.")
    hub_strategy: str = setting("end", "One push, after the training.")
    logging_nan_inf_filter: bool = setting(False, "A loss that is not finite ends the training.")
    log_level_replica: str = setting("error", "One warns for all.")
    num_train_epochs: float = setting(3.0, "Epochs, unless --max_steps is given.", interval(min=0, exclude_min=True))
    per_device_train_batch_size: int = setting(8, "Pictures of each process at once.", interval(min=1))
    per_device_eval_batch_size: int = setting(8, "Pictures of each process at once in evaluations.", interval(min=1))
    gradient_accumulation_steps: int = setting(1, "Batches of a step.", interval(min=1))
    learning_rate: float = setting(5e-5, "Learning rate of AdamW.", interval(min=0))
    seed: int = setting(42, "Seed of all random choices.", interval(min=0, max=2**32 - 1))
    save_total_limit: int | None = setting(None, "Checkpoints to keep, the one being written too.", interval(min=2))

    def __post_init__(self):
        check_fields(self)
        if self.max_steps == 0:
            raise ValueError("`max_steps` must be at least 1, or -1 to train for `num_train_epochs`, got 0.")
        if self.early_stopping_patience is not None:
            if self.eval_strategy == "no":
                raise ValueError("`eval_strategy` must not be 'no' with `early_stopping_patience`.")
            self.metric_for_best_model = self.metric_for_best_model or "loss"
            self.load_best_model_at_end = True
            self.save_strategy, self.save_steps = self.eval_strategy, self.eval_steps or self.logging_steps
        if self.muon_learning_rate and not hasattr(torch.optim, "Muon"):
            raise ValueError(f"`muon_learning_rate` needs torch 2.9 or newer, got {torch.__version__}.")
        # `Trainer` takes bf16 on a CPU only with `use_cpu`.
        self.use_cpu |= self.bf16 and not torch.accelerator.is_available() and cpu_has_bf16()
        lacks_bf16 = self.bf16 and not self.use_cpu and not is_torch_bf16_gpu_available()
        self.bf16 = self.bf16 and not lacks_bf16
        super().__post_init__()
        if lacks_bf16 and self.should_log:
            logger.warning(f"The training runs in fp32, as no `bf16` was found on this {self.device.type}.")
        self.dataloader_pin_memory = self.dataloader_pin_memory and self.device.type != "cpu"
        if self.n_gpu > 1:
            raise ValueError(f"A process must train on one GPU, got {self.n_gpu}; start it by `accelerate launch`.")


def cpu_has_bf16() -> bool:
    """Whether the processor has bf16 instructions; older versions of torch do not tell, and it is `False`."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return any(value for name, value in capabilities.items() if "bf16" in name)


class TrainerEvents(TrainerCallback):
    """Calls an [`RQTrainer`] at moments for which `Trainer` has no public method."""

    def __init__(self, trainer: "RQTrainer"):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if self.trainer.resumed_checkpoint is not None:
            self.trainer.load_own_state(Path(self.trainer.resumed_checkpoint))

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        dataset = train_dataloader.dataset  # the data loader calls `set_epoch` of some classes only
        if hasattr(dataset, "set_epoch"):
            dataset.set_epoch(int(state.epoch + 1e-6))

    def on_step_begin(self, args, state, control, **kwargs):
        self.trainer.generator = seeded_generator(args.seed, state.global_step, args.process_index, device=args.device)
        self.trainer.log_start = self.trainer.log_start or time.perf_counter()

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if self.trainer.average is not None:
            self.trainer.average.step(trained_parameters(model))
        log_at_saves_and_evaluations(control)

    def on_epoch_end(self, args, state, control, **kwargs):
        log_at_saves_and_evaluations(control)

    def on_save(self, args, state, control, **kwargs):
        checkpoint = Path(args.output_dir, f"checkpoint-{state.global_step}")
        if args.should_save:
            self.trainer.save_own_state(checkpoint)
        self.trainer.accelerator.wait_for_everyone()
        if args.should_save and not args.save_only_model:  # without an optimizer nothing can be resumed
            (checkpoint / MARKER).touch()

    def on_train_end(self, args, state, control, **kwargs):
        is_early = state.global_step < state.max_steps and state.best_metric is not None
        if is_early and args.early_stopping_patience and state.is_world_process_zero:
            logger.warning(
                f"Stopped early, at step {state.global_step} of {state.max_steps}. The weights of step "
                f"{state.best_global_step} are kept: best {args.metric_for_best_model}, {state.best_metric:.4g}."
            )
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self.trainer.load_average(Path(state.best_model_checkpoint))


def log_at_saves_and_evaluations(control: TrainerControl) -> None:
    """Logs at each checkpoint and evaluation, so that a resumed training has the logs of an uninterrupted one."""
    control.should_log = control.should_log or control.should_save or control.should_evaluate


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@dataclass
class CheckedCollator:
    """Refuses pixels outside [-1, 1] and NaN. Workers check them on the CPU."""

    collate: Callable[[list[Any]], dict[str, Any]]

    def __call__(self, samples: list[Any]) -> dict[str, Any]:
        batch = self.collate(samples)
        if "pixel_values" in batch:
            low, high = (limit.item() for limit in batch["pixel_values"].aminmax())
            if not (-1.01 <= low <= high <= 1.01):  # False for NaN
                raise ValueError(f"`pixel_values` must be in [-1, 1], got values from {low:.4g} to {high:.4g}.")
        return batch


class RQTrainer(Trainer):
    """
    A `Trainer` that logs the parts of its loss and can average the weights and train by Muon.

    A resumed training takes the same steps as an uninterrupted one. Evaluations and [`save_model`] use the averaged
    weights if there are any; checkpoints keep both.

    Attributes:
        average (`EMAModel` or `None`): the moving average of the trained parameters.
        generator (`torch.Generator`): random numbers of a step, seeded by (seed, step, process).
    """

    def __init__(self, model: PreTrainedModel, args: RQTrainingArguments, **kwargs):
        super().__init__(model, args, **kwargs)
        self.can_return_loss = True  # in evaluations, without label columns
        self.data_collator = CheckedCollator(self.data_collator)
        self.average: EMAModel | None = None
        self.generator: torch.Generator | None = None
        self.resumed_checkpoint: str | None = None
        self.log_start: float | None = None  # when the first step since the last log began
        self._sums: dict[str, dict[str, torch.Tensor]] = {"train": {}, "eval": {}}
        if self.is_sharded:
            for name in ("ema_decay", "muon_learning_rate", "self_correction", "lora_rank"):
                if getattr(args, name, None):
                    raise ValueError(f"`{name}` must be off with FSDP and DeepSpeed: it needs whole weights.")
        if args.ema_decay:
            self.average = EMAModel(trained_parameters(model), decay=args.ema_decay, foreach=True)
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience))
        self.add_callback(TrainerEvents(self))

    @property
    def is_sharded(self) -> bool:
        """Whether FSDP or DeepSpeed trains: they may spread the weights over processes."""
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new and self.args.muon_learning_rate:
            weights = hidden_matrices(self.model)
            self.optimizer = MuonWith(optimizer, weights, self.args.muon_learning_rate, self.args.weight_decay)
        return self.optimizer

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        if self.state.global_step >= self.state.max_steps:  # a finished training that is resumed takes no more steps
            return [], None
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs) -> TrainOutput:
        """Trains, from the start or from a checkpoint: a folder, or `"last"` for the newest whole one."""
        if resume_from_checkpoint:
            resume_from_checkpoint = resume_checkpoint(self.args.output_dir, resume_from_checkpoint)
        self.resumed_checkpoint = resume_from_checkpoint or None
        return super().train(self.resumed_checkpoint, **kwargs)

    def save_own_state(self, checkpoint: Path) -> None:
        """Adds the averaged weights to a checkpoint; only the main process calls this."""
        if self.average is not None:
            torch.save(self.average.state_dict(), checkpoint / AVERAGE_FILE)

    def load_own_state(self, checkpoint: Path) -> None:
        """Reads what [`save_own_state`] wrote; all processes call this."""
        self.load_average(checkpoint)

    def load_average(self, checkpoint: Path) -> None:
        """Reads the averaged weights of a checkpoint, if the training keeps any. The decay stays that of `args`."""
        if self.average is not None:
            state = torch.load(checkpoint / AVERAGE_FILE, map_location="cpu", weights_only=True)
            self.average.load_state_dict({**state, "decay": self.args.ema_decay})
            self.average.to(self.args.device)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Gives the model the averaged weights for a while, if there are any."""
        if self.average is None or self.average.temp_stored_params is not None:  # none, or they are in use
            yield
            return
        parameters = trained_parameters(self.model)
        self.average.store(parameters)
        self.average.copy_to(parameters)
        try:
            yield
        finally:
            self.average.restore(parameters)

    def evaluation_loop(self, dataloader, *args, metric_key_prefix="eval", **kwargs) -> EvalLoopOutput:
        with self.averaged_weights():
            output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
            means, _ = self._take_means(self._sums["eval"])
            metrics = means | self.end_evaluation(dataloader.dataset, means)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    def end_evaluation(self, dataset: Dataset, means: dict[str, float]) -> dict[str, float]:
        """Metrics of an evaluation beside the means of [`record`]; may also write pictures."""
        return {}

    def num_real_rows(self, num_rows: int) -> int:
        """Rows of an evaluation batch, without the last ones that accelerate repeats to give each process as many."""
        state = self.accelerator.gradient_state
        if not state.end_of_dataloader or state.remainder <= 0:
            return num_rows
        return min(max(state.remainder - self.accelerator.process_index * num_rows, 0), num_rows)

    def record(self, model: nn.Module, num_rows: int, **values: torch.Tensor) -> None:
        """Adds scalars of a batch to the means that the next log or evaluation reports, weighted by `num_rows`."""
        sums = self._sums["train" if model.training else "eval"]
        for name, value in values.items():
            value = value.detach().float()
            sums[name] = sums.get(name, 0) + torch.stack([num_rows * value, torch.full_like(value, num_rows)])

    def _take_means(self, sums: dict[str, torch.Tensor]) -> tuple[dict[str, float], float]:
        """Means over the rows of all processes since the last call, and the number of these rows."""
        totals = {name: self.accelerator.reduce(total, "sum").tolist() for name, total in sums.items()}
        sums.clear()
        means = {name: round(total / max(count, 1), 6) for name, (total, count) in totals.items()}
        return means, max((count for _, count in totals.values()), default=0)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            means, pictures = self._take_means(self._sums["train"])
            logs.update(means, pictures_per_second=round(pictures / (time.perf_counter() - self.log_start), 2))
            self.log_start = None
            if not math.isfinite(logs["loss"]):
                step = f"got {logs['loss']} by step {self.state.global_step}"
                raise ValueError(f"The loss must be finite, {step}; lower the learning rate, or check the data.")
        logs.pop("train_loss", None)  # the mean of the steps since a resume only
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model with the averaged weights, if there are any; a checkpoint gets the trained ones."""
        is_checkpoint = _internal_call and output_dir is not None
        if is_checkpoint and self.args.should_save:
            Path(output_dir, MARKER).unlink(missing_ok=True)
        with nullcontext() if is_checkpoint else self.averaged_weights():
            super().save_model(output_dir, _internal_call=True)

    def evaluate_and_save(self) -> dict[str, float]:
        """Evaluates after a training, if there are data for it, and writes the metrics to `eval_results.json`."""
        self.save_state()
        metrics = self.evaluate() if self.eval_dataset is not None else {}
        if metrics:
            self.save_metrics("eval", metrics)
        return metrics

    def save_sheet(self, sheet: Image.Image) -> None:
        """Writes the pictures of an evaluation to `pictures/step-N.png`."""
        folder = Path(self.args.output_dir, "pictures")
        folder.mkdir(parents=True, exist_ok=True)
        sheet.save(folder / f"step-{self.state.global_step}.png")
