# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the trainers of both stages share."""

import gc
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from diffusers.training_utils import EMAModel
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.trainer_jit_checkpoint import JITCheckpointCallback
from transformers.trainer_utils import TrainOutput, has_length

from ..metrics.sweeps import lower_is_better
from .callbacks import SetEpoch, Stopwatch, UpdateAverage, trained_parameters
from .checkpoints import STATE_FILE, complete_checkpoints, flush_to_disk, resume_checkpoint, saved_state
from .evaluations import Evaluations
from .field_types import check_field_types
from .hub_pushes import HubPushes
from .schedules import BY_EVALUATIONS, cool_down, set_rates
from .sharding import gather_model, is_sharded, round_weights_alone
from .streaming import CodeStream, PictureStream

logger = logging.getLogger(__name__)

EMA_FILE = "ema.pt"
# Folder of a run for a checkpoint that is not yet, or no longer, whole. `Trainer` pushes nothing that begins with "_".
INCOMPLETE_FOLDER = "_incomplete"
# Part of a learning rate whose change at once, on resuming, is warned of: more than a step of any long schedule.
SUDDEN = 0.02


def refuse_label_smoothing(args: TrainingArguments, reason: str) -> None:
    """For trainers with a loss of their own, which the base class would not smooth."""
    if args.label_smoothing_factor != 0:
        raise ValueError(f"`label_smoothing_factor` must be 0, got {args.label_smoothing_factor}: {reason}")


@dataclass
class RQTrainingArguments(TrainingArguments):
    """`TrainingArguments` of both stages."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Fine-tune this model, a Hub id or a folder, or that of a pipeline; model fields given beside it "
            "replace its own where its weights fit them, as another picture size or code depth."
        },
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "Decay of a moving average of the weights, with which the model is evaluated and published."
        },
    )
    cooldown_steps: int = field(
        default=0,
        metadata={
            "help": "Let the learning rates of any schedule by the step fall to 0 over the last so many steps, "
            "linearly. Before them a schedule such as inverse_sqrt does not depend on how many will follow."
        },
    )
    dataloader_drop_last: bool = field(
        default=True,
        metadata={
            "help": "Leave out an epoch's last batch where it is not whole, of all processes together: they would "
            "fill it up with rows of the beginning, and train otherwise than one process. Accumulated batches at an "
            "epoch's end may be fewer. Evaluations see all rows."
        },
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "The data set gives only what is used."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "Every parameter is used."})
    ddp_broadcast_buffers: bool | None = field(
        default=False, metadata={"help": "The codebook is constant, or brought up to date on all processes alike."}
    )

    def __post_init__(self):
        metric = self.metric_for_best_model
        if self.greater_is_better is None and metric is not None and lower_is_better(metric):
            self.greater_is_better = False  # the base class looks at the name's end alone
        super().__post_init__()
        check_field_types(self, TrainingArguments)
        for each in fields(self):  # the command line checks flags alone, no configuration
            choices, value = each.metadata.get("choices"), getattr(self, each.name)
            if choices is not None and value is not None and value not in choices:
                raise ValueError(f"`{each.name}` must be one of {list(choices)}, got {value!r}.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"`ema_decay` must be between 0 and 1, got {self.ema_decay}.")
        if self.cooldown_steps < 0:
            raise ValueError(f"`cooldown_steps` must be at least 0, got {self.cooldown_steps}.")
        if self.cooldown_steps > 0 and self.lr_scheduler_type in BY_EVALUATIONS:
            raise ValueError(
                "`lr_scheduler_type` must be a function of the step with `cooldown_steps`, got "
                f"{str(self.lr_scheduler_type.value)!r}, which follows the evaluations."
            )
        if self.ema_decay is not None and str(self.optim.value).startswith("schedule_free"):
            raise ValueError(
                f"`optim` must have no mode of training beside `ema_decay`, got {self.optim.value!r}, which has an "
                "average of its own."
            )


class RQTrainer(HubPushes, Evaluations, Trainer):
    """A `Trainer` whose batches have no label columns, which logs the parts of its loss, keeps a moving average of the
    weights if asked to, saves no pickle of its arguments, and leaves no checkpoint that is not whole."""

    arguments_class: type[RQTrainingArguments] = RQTrainingArguments

    def __init__(self, model: Any = None, args: RQTrainingArguments | None = None, *more_args, **kwargs):
        if not isinstance(args, self.arguments_class):  # without any, the base class would make a folder and go on
            raise ValueError(f"`args` must be {self.arguments_class.__name__}, got {type(args).__name__}.")
        super().__init__(model, args, *more_args, **kwargs)
        has_own_loss = type(self).compute_loss is not Trainer.compute_loss
        if self.compute_metrics is not None and has_own_loss:
            raise ValueError(
                f"`compute_metrics` must be None, got {self.compute_metrics!r}: {type(self).__name__} keeps no "
                "predictions of an evaluation, which are as large as all its pictures' logits."
            )
        if self.compute_loss_func is not None and has_own_loss:
            raise ValueError(  # the base class would not divide the loss by the accumulated batches
                f"`compute_loss_func` must be None, got {self.compute_loss_func!r}: {type(self).__name__} has a loss "
                "of its own; override `compute_loss`."
            )
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, JITCheckpointCallback):  # only between steps is a checkpoint one that is resumed
                callback.on_pre_optimizer_step = lambda args, state, control, **kwargs: control
        if self.args.n_gpu > 1:
            raise ValueError(
                f"A process must train on one GPU, got {self.args.n_gpu}: start by `accelerate launch`, which makes "
                "a process for each, or name one in CUDA_VISIBLE_DEVICES."
            )
        self._model_class = type(self.model)
        self.args.label_names = self.label_names = []
        self.can_return_loss = True  # the loss needs no label column
        self.add_callback(SetEpoch())
        self.add_callback(Stopwatch())
        self._incomplete: Path | None = None  # while a checkpoint is written: where
        if self.is_fsdp_enabled and (self.args.bf16_full_eval or self.args.fp16_full_eval):
            raise ValueError(
                "`bf16_full_eval` and `fp16_full_eval` must be False with FSDP, got True: shards would stay rounded."
            )
        self.average: EMAModel | None = None
        if self.args.ema_decay is not None:
            if self.has_shards:
                raise ValueError(
                    f"`ema_decay` must be None with FSDP and ZeRO-3, got {self.args.ema_decay}: the average is one of "
                    "whole weights, the model has shards."
                )
            if self.args.load_best_model_at_end and self.args.save_only_model:
                raise ValueError(
                    "`save_only_model` must be False with `ema_decay` and `load_best_model_at_end`, got True: the "
                    "average of the best checkpoint is needed at the end."
                )
            if self.model_init is not None:
                raise ValueError("`model_init` must be None with `ema_decay`: the average is one of this model.")
            self.average = EMAModel(trained_parameters(self.model), decay=self.args.ema_decay, foreach=True)
            self.add_callback(UpdateAverage(self.average))

    @property
    def has_shards(self) -> bool:
        """Whether processes share the weights, by FSDP or ZeRO-3."""
        return self.is_fsdp_enabled or is_deepspeed_zero3_enabled()

    @property
    def stopwatch(self) -> Stopwatch:
        """Tells the seconds that the training has taken."""
        return next(each for each in self.callback_handler.callbacks if isinstance(each, Stopwatch))

    def create_accelerator_and_postprocess(self) -> None:
        """As in the base class; under FSDP2 only weights are rounded, see [`round_weights_alone`]."""
        super().create_accelerator_and_postprocess()
        if self.is_fsdp_enabled:
            plugin = self.accelerator.state.fsdp_plugin
            if plugin.fsdp_version != 2:
                raise ValueError(f"`fsdp_version` must be 2, got {plugin.fsdp_version}.")
            round_weights_alone(plugin)

    def get_train_dataloader(self) -> DataLoader:
        """As in the base class; a stream of pictures is this process's own part already, which must not be dealt out
        once more."""
        if not isinstance(self.train_dataset, PictureStream | CodeStream):
            loader = super().get_train_dataloader()
            if not has_length(self.train_dataset):
                return loader
            if len(loader) == 0 and len(self.train_dataset) > 0:
                raise ValueError(
                    f"`train_dataset` must hold a whole batch, {self._train_batch_size} rows for each of "
                    f"{self.args.world_size} processes, got {len(self.train_dataset)} rows; with "
                    "`--dataloader_drop_last false` fewer are trained on."
                )
            return loader
        self.train_dataset.batch_size = self._train_batch_size  # another one after `auto_find_batch_size`
        loader = DataLoader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )
        return prepare_data_loader(
            loader, self.args.device, num_processes=1, process_index=0, put_on_device=True, dispatch_batches=False
        )

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """As in the base class, with the cooldown."""
        is_new = self.lr_scheduler is None
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if is_new:
            cool_down(scheduler, num_training_steps, self.args.cooldown_steps)
        elif self.args.cooldown_steps > 0 and not self._created_lr_scheduler:
            raise ValueError(
                "`cooldown_steps` must be 0 with a scheduler that is given, or DeepSpeed's own, got "
                f"{self.args.cooldown_steps}."
            )
        return scheduler

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """As in the base class, of all rows."""
        with self._all_rows():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """As in the base class, of all rows."""
        with self._all_rows():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _all_rows(self) -> Iterator[None]:
        """`dataloader_drop_last` is for training."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drop_last

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """As in the base class; what may be resumed from is told by [`resume_checkpoint`].

        Raises:
            `ValueError`: nothing to resume from, or processes whose data differ in length.
        """
        if resume_from_checkpoint not in (None, False):
            checkpoint = resume_checkpoint(self.args.output_dir, resume_from_checkpoint)
            if resume_from_checkpoint is True and checkpoint is None:
                raise ValueError(
                    f"`output_dir` must have a checkpoint to resume from, got {self.args.output_dir!r} with none."
                )
            resume_from_checkpoint = checkpoint
        self._check_common_data()
        self._recorded.clear()  # what an earlier training has left
        if self.args.should_save:  # what a killed run left
            shutil.rmtree(Path(self.args.output_dir, INCOMPLETE_FOLDER), ignore_errors=True)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _check_common_data(self) -> None:
        """Processes deal one set out among themselves; where theirs differ they would wait for each other for ever."""
        for name in ("train_dataset", "eval_dataset"):
            data = getattr(self, name)
            if self.args.world_size == 1 or data is None or not has_length(data):
                continue
            rows = self.accelerator.gather(torch.tensor([len(data)], device=self.args.device)).tolist()
            if len(set(rows)) > 1:
                raise ValueError(f"`{name}` must be the same in all processes, got {rows} rows.")

    def _run_epoch(self, *args, **kwargs) -> None:
        """As in the base class, but nothing where all steps are done or a callback has stopped the training at its
        begin, which that notices only after one more step."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    def _finalize_training(self, trial: Any, num_train_samples: int, start_time: float) -> TrainOutput:
        """As in the base class, which with a limit of 1 would delete all folders named as checkpoints but the best,
        the newest and such as are none among them."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(trial, num_train_samples, start_time)
        finally:
            self.args.save_total_limit = limit

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As in the base class, but a checkpoint gets its name when all processes have written all of it, and only
        then are older ones deleted. What a kill or a full disk cuts short is never in the place of a checkpoint."""
        run_folder = Path(self._get_output_dir(trial))
        run_folder.mkdir(parents=True, exist_ok=True)
        incomplete = run_folder / INCOMPLETE_FOLDER
        checkpoint = run_folder / f"checkpoint-{self.state.global_step}"
        written = incomplete / checkpoint.name
        self._incomplete = incomplete
        try:
            if self.args.should_save:
                shutil.rmtree(incomplete, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            best = run_folder / f"checkpoint-{self.state.best_global_step}"  # the base class saw `incomplete`
            if best == checkpoint or best.exists():
                self.state.best_model_checkpoint = str(best)
            if self.args.should_save:
                self.state.save_to_json(str(written / STATE_FILE))
                flush_to_disk(written)
                if checkpoint.exists():  # of an earlier run that went on from before it
                    checkpoint.rename(incomplete / f"old-{checkpoint.name}")
                written.rename(checkpoint)
        except BaseException as error:
            free = shutil.disk_usage(run_folder).free
            shutil.rmtree(incomplete, ignore_errors=True)
            error.add_note(
                f"{checkpoint} could not be written, with {free / 1e9:.3f} GB free on its disk, and nothing of it is "
                "left. Earlier checkpoints are whole: `--resume_from_checkpoint last` goes on from the newest."
            )
            raise
        finally:
            self._incomplete = None
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint))
        if self.args.should_save:
            self._delete_old_checkpoints(checkpoint)
            shutil.rmtree(incomplete, ignore_errors=True)

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._incomplete is None else str(self._incomplete)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As in the base class, once the checkpoint is where it stays: the upload goes on in the background."""
        if self._incomplete is None:
            super()._push_from_checkpoint(checkpoint_folder)

    def _delete_old_checkpoints(self, newest: Path) -> None:
        """Keeps `save_total_limit` checkpoints, `newest`, the best one and one that is being uploaded among them;
        counts complete ones only."""
        limit = self.args.save_total_limit
        if limit is None or limit <= 0:
            return
        kept = {newest.name, Path(self.state.best_model_checkpoint or newest).name, self.checkpoint_being_uploaded}
        checkpoints = complete_checkpoints(newest.parent)
        others = [folder for folder in checkpoints if folder.name not in kept]
        others.sort(key=lambda folder: (folder / STATE_FILE).stat().st_mtime)  # stable: by step where times are equal
        for folder in others[: max(0, len(checkpoints) - limit)]:
            incomplete = newest.parent / INCOMPLETE_FOLDER
            incomplete.mkdir(exist_ok=True)
            shutil.rmtree(folder.rename(incomplete / folder.name), ignore_errors=True)

    @contextmanager
    def averaged_weights(self):
        """While it lasts the model has the averaged weights, where there are any; may be nested."""
        if self.average is None or self.average.temp_stored_params is not None:
            yield
            return
        parameters = trained_parameters(self.model)
        self.average.store(parameters)
        self.average.copy_to(parameters)
        try:
            yield
        finally:
            self.average.restore(parameters)

    def whole_model(self) -> PreTrainedModel | None:
        """The trained model in one piece; all processes have to call this.

        Returns:
            The model itself where it is whole. Where processes share its weights, a new one on the CPU on the first
            process, and `None` on the others.
        """
        model = self.accelerator.unwrap_model(self.model)
        return gather_model(self._model_class, self.model_wrapped, self.accelerator) if is_sharded(model) else model

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in the base class, with the averaged weights; checkpoints keep the others, to resume from."""
        if _internal_call and output_dir is not None:  # a checkpoint; a push to the Hub names no folder
            return super().save_model(output_dir, _internal_call=True)
        with self.averaged_weights():
            super().save_model(output_dir, _internal_call=_internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.average is not None and self.args.should_save:
            torch.save(self.average.state_dict(), Path(output_dir, EMA_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._load_average(checkpoint)
            if self.args.cooldown_steps > 0:
                before, after = set_rates(self.lr_scheduler)
                if abs(after - before) > SUDDEN * before:
                    logger.warning(
                        "The learning rate goes from %.3g to %.3g at once: the checkpoint %s is of a run with another "
                        "schedule or cooldown.", before, after, checkpoint,
                    )  # fmt: skip

    def _load_best_model(self) -> None:
        """As in the base class, and the average of the same checkpoint."""
        super()._load_best_model()
        self._load_average(self.state.best_model_checkpoint)

    def _load_average(self, checkpoint: str) -> None:
        if self.average is not None:
            self.average.load_state_dict(torch.load(saved_state(checkpoint, EMA_FILE), "cpu", weights_only=True))
            self.average.decay = self.args.ema_decay  # which may be another now
            self.average.to(self.args.device)

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)
        (folder / "training_args.bin").unlink(missing_ok=True)
        (folder / "training_args.json").write_text(
            json.dumps(self.args.to_sanitized_dict(), indent=2, default=str) + "\n"
        )

    def finish(self) -> None:
        """To be called last: waits for all processes, closes the connections between them and ends their threads.

        A thread of gloo that lets go of a tensor while Python shuts down aborts its process. Such threads end with
        their process group, which lives as long as a model that is wrapped for it.
        """
        self.accelerator.wait_for_everyone()
        for name, value in list(vars(self).items()):
            if isinstance(value, DistributedDataParallel):
                setattr(self, name, value.module)
        self.accelerator.end_training()
        self.accelerator.free_memory()
        gc.collect()

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """0, not counted: the base class would take every number of a batch for a token of a language model."""
        return 0

    def create_model_card(self, *args, **kwargs) -> None:
        """Leaves the card alone: the scripts render it from `model_cards/`."""
