# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The cooldown at the end of any schedule: its rates, also of Muon and a discriminator, also resumed."""

import copy

import pytest
import torch
from accelerate.scheduler import AcceleratedScheduler
from transformers import TrainerCallback, get_scheduler
from two_processes_evaluation import Pictures

from rq_hf.training import RQVAETrainer, RQVAETrainingArguments
from rq_hf.training.schedules import cool_down, set_rates

HAS_MUON = hasattr(torch.optim, "Muon")  # torch 2.9


def rates(name: str, steps: int, cooldown: int | None, **options) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 2.0)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=3, num_training_steps=steps, **options)
    if cooldown is not None:
        cool_down(scheduler, steps, cooldown)
    found = []
    for _ in range(steps + 2):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("cooldown", [1, 4, 20])
@pytest.mark.parametrize("name", ["constant", "inverse_sqrt", "cosine"])
def test_rates_are_the_schedules_and_fall_linearly_at_the_end(name, cooldown):
    plain = rates(name, 20, None)
    found = rates(name, 20, cooldown)
    assert found[: 21 - cooldown] == plain[: 21 - cooldown]
    factors = [max(0.0, (20 - step) / cooldown) for step in range(21 - cooldown, 22)]
    assert found[21 - cooldown :] == pytest.approx(
        [a * b for a, b in zip(plain[21 - cooldown :], factors, strict=True)]
    )
    assert found[20:] == [0.0, 0.0]


def test_rates_are_set_through_a_wrapped_scheduler(make_trainer):
    trainer = make_trainer("wrapped", adversarial_weight=0.0, lr_scheduler_type="constant")
    trainer.create_optimizer_and_scheduler(6)
    trainer.lr_scheduler.last_epoch = 4
    set_rates(AcceleratedScheduler(trainer.lr_scheduler, trainer.optimizer))
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(5e-4)
    assert trainer.lr_scheduler.get_last_lr() == [group["lr"] for group in trainer.optimizer.param_groups]


def test_no_cooldown_leaves_every_schedule_as_it_is():
    assert rates("inverse_sqrt", 9, 0) == rates("inverse_sqrt", 9, None)
    assert rates("cosine_with_restarts", 9, 0) == rates("cosine_with_restarts", 9, None)


@pytest.fixture
def make_trainer(tiny_rqvae, pictures, tmp_path):
    def make(name: str, **changes) -> RQVAETrainer:
        options = {"max_steps": 6, "lr_scheduler_type": "inverse_sqrt", "cooldown_steps": 4}
        options |= {"save_steps": 3, "adversarial_weight": 0.5} | ({"muon_learning_rate": 2e-3} if HAS_MUON else {})
        arguments = RQVAETrainingArguments(
            output_dir=str(tmp_path / name), use_cpu=True, report_to="none", disable_tqdm=True, learning_rate=1e-3,
            per_device_train_batch_size=4, logging_steps=1, perceptual_weight=0.0,
            **options | changes,
        )  # fmt: skip
        return RQVAETrainer(model=copy.deepcopy(tiny_rqvae), args=arguments, train_dataset=Pictures(pictures))

    return make


def logged_rates(trainer: RQVAETrainer) -> list[float]:
    return [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]


def test_all_optimizers_cool_down_and_a_resumed_run_goes_on(make_trainer, tmp_path, caplog):
    whole = make_trainer("whole")
    whole.train()
    plain = make_trainer("plain", cooldown_steps=0)
    plain.train()
    factors = [1, 1, 1, 0.75, 0.5, 0.25]  # of the rates of steps 1 to 6, logged before the schedule's next
    expected = [rate * factor for rate, factor in zip(logged_rates(plain), factors, strict=True)]
    assert logged_rates(whole) == pytest.approx(expected)
    groups = [*whole.optimizer.param_groups, *whole.discriminator_optimizer.param_groups]
    assert [group["lr"] for group in groups] == [0.0] * len(groups)  # after the last step
    resumed = make_trainer("resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert "at once" not in caplog.text
    assert logged_rates(resumed) == logged_rates(whole)
    for first, second in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)


def test_a_discriminator_that_starts_later_ends_its_cooldown_with_the_model(make_trainer):
    trainer = make_trainer("later", discriminator_start_step=3, lr_scheduler_type="constant")
    seen = []

    class Record(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            seen.append(trainer.discriminator_scheduler.get_last_lr()[0])

    trainer.add_callback(Record())
    trainer.train()
    assert seen == pytest.approx([1e-3 * factor for factor in (1, 1, 1, 2 / 3, 1 / 3, 0)])


@pytest.mark.parametrize("cooled", [False, True], ids=["without", "with"])
def test_a_run_is_resumed_in_its_cooldown_at_once(make_trainer, tmp_path, cooled, caplog):
    """Whatever rate its checkpoint has: of no cooldown, or of one that was to end there."""
    make_trainer("run", cooldown_steps=3 if cooled else 0, max_steps=3).train()
    trainer = make_trainer("run", cooldown_steps=6, lr_scheduler_type="constant", adversarial_weight=0.0)
    trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert f"The learning rate goes from {0 if cooled else 0.001:.3g} to 0.0005 at once" in caplog.text
    assert logged_rates(trainer)[3:] == pytest.approx([1e-3 * factor for factor in (3 / 6, 2 / 6, 1 / 6)])


def test_a_run_without_a_cooldown_may_be_resumed_with_one(make_trainer, tmp_path):
    make_trainer("run", cooldown_steps=0).train()
    longer = make_trainer("run", max_steps=12)
    longer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-6"))
    at_once = make_trainer("at-once", max_steps=12)
    at_once.train()
    assert logged_rates(longer)[6:] == pytest.approx(logged_rates(at_once)[6:])


def test_bad_cooldowns_are_named(make_trainer):
    for value in (0.2, None, "4", True):
        with pytest.raises(ValueError, match=f"`cooldown_steps` must be an integer, got {value!r}"):
            make_trainer("bad", cooldown_steps=value)
    with pytest.raises(ValueError, match="`cooldown_steps` must be at least 0, got -1"):
        make_trainer("bad", cooldown_steps=-1)
    with pytest.raises(ValueError, match="`cooldown_steps` must be at most the training's 6 steps, got 7"):
        make_trainer("long", cooldown_steps=7).train()
    with pytest.raises(ValueError, match="`lr_scheduler_type` must be a function of the step with `cooldown_steps`"):
        make_trainer(
            "plateau", lr_scheduler_type="reduce_lr_on_plateau", eval_strategy="steps", eval_steps=3,
            adversarial_weight=0.0,
        )  # fmt: skip
    given = make_trainer("given", adversarial_weight=0.0)
    given.create_optimizer()
    given.lr_scheduler = torch.optim.lr_scheduler.StepLR(given.optimizer, 1)
    with pytest.raises(ValueError, match="`cooldown_steps` must be 0 with a scheduler that is given.* got 4"):
        given.train()
    with pytest.raises(ValueError, match="`cooldown_steps` needs an `lr_scheduler_type` by the step .*, got StepLR"):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
        cool_down(torch.optim.lr_scheduler.StepLR(optimizer, 1), 4, 2)
