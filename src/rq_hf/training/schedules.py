# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the schedules of transformers lack: a cooldown after any of them."""

import functools
from collections.abc import Callable

from torch.optim.lr_scheduler import LambdaLR, LRScheduler

# Schedules that follow the evaluations, not the steps.
BY_EVALUATIONS = ("reduce_lr_on_plateau", "greedy")


def cool_down(scheduler: LRScheduler, num_training_steps: int, cooldown_steps: int) -> None:
    """Lets all rates of a schedule fall to 0 over the last steps, by a factor that falls linearly.

    With `inverse_sqrt` that is the schedule of Zhai et al. (2022, "Scaling Vision Transformers"): the steps before the
    cooldown do not depend on how many will follow.

    Args:
        scheduler (`LambdaLR`): as `get_scheduler` makes it, at step 0; it is changed.
        num_training_steps (`int`): at the last of which the rates are 0.
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
        raise ValueError(f"`cooldown_steps` needs a schedule by the step, got {type(scheduler).__name__}.")
    scheduler.lr_lambdas = [
        functools.partial(_cooled, schedule, num_training_steps, cooldown_steps) for schedule in scheduler.lr_lambdas
    ]


def _cooled(schedule: Callable[[int], float], num_training_steps: int, cooldown_steps: int, step: int) -> float:
    return schedule(step) * min(1.0, max(0, num_training_steps - step) / cooldown_steps)
