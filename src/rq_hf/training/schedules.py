# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A cooldown at the end of any schedule of transformers that goes by the step."""

import functools
from collections.abc import Callable

from accelerate.scheduler import AcceleratedScheduler
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

# Schedules that follow the evaluations, not the steps.
BY_EVALUATIONS = ("reduce_lr_on_plateau", "greedy")


def cool_down(scheduler: LRScheduler, num_training_steps: int, cooldown_steps: int) -> None:
    """Multiplies all rates of a schedule by a factor that falls linearly over the last steps.

    With `inverse_sqrt` that is the schedule of Zhai et al. (2022, "Scaling Vision Transformers"): the steps before the
    cooldown do not depend on how many will follow.

    Args:
        scheduler (`LambdaLR`): as `get_scheduler` makes it, at step 0; it is changed.
        num_training_steps (`int`): after the last of which the rates are 0, as those of the schedule `linear`; the
            last step itself has 1 / `cooldown_steps` of its rate.
        cooldown_steps (`int`): 0 leaves the schedule as it is.

    Raises:
        `ValueError`: a cooldown longer than the training, or a schedule that is no function of the step.
    """
    if cooldown_steps == 0:
        return
    if cooldown_steps > num_training_steps:
        raise ValueError(
            f"`cooldown_steps` must be at most the training's {num_training_steps} steps, got {cooldown_steps}."
        )
    if not isinstance(scheduler, LambdaLR):
        raise ValueError(
            "`cooldown_steps` needs an `lr_scheduler_type` by the step and an `optim` with one schedule for all "
            f"weights, got {type(scheduler).__name__}."
        )
    scheduler.lr_lambdas = [
        functools.partial(_cooled, schedule, num_training_steps, cooldown_steps) for schedule in scheduler.lr_lambdas
    ]


def set_rates(scheduler: LambdaLR | AcceleratedScheduler) -> tuple[float, float]:
    """Gives the optimizer the rates that the schedule has at its step, where a checkpoint brought those of another.

    Returns:
        The first of the rates before and after.
    """
    scheduler = getattr(scheduler, "scheduler", scheduler)  # DeepSpeed's comes wrapped by accelerate
    before = float(scheduler.optimizer.param_groups[0]["lr"])
    for group, base, schedule in zip(
        scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
    ):
        group["lr"] = base * schedule(scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]
    return before, scheduler._last_lr[0]


def _cooled(schedule: Callable[[int], float], num_training_steps: int, cooldown_steps: int, step: int) -> float:
    return schedule(step) * min(1.0, max(0, num_training_steps - step) / cooldown_steps)
