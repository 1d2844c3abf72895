# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Evaluations: of several data sets, under any name, with averaged and with rounded weights."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from two_processes_evaluation import Pictures

from rq_hf.training import RQTrainer, RQTransformerTrainingArguments, RQVAETrainer, RQVAETrainingArguments


@pytest.fixture
def make_trainer(make_rqvae, pictures, tmp_path):
    def make(**training) -> RQVAETrainer:
        arguments = RQVAETrainingArguments(**{
            "output_dir": str(tmp_path / "run"), "use_cpu": True, "report_to": "none", "max_steps": 2,
            "per_device_train_batch_size": 4, "per_device_eval_batch_size": 3, "learning_rate": 1e-2,
            "save_strategy": "no", "disable_tqdm": True, "perceptual_weight": 0.0, "adversarial_weight": 0.0,
            **training,
        })  # fmt: skip
        data = Pictures(pictures)
        return RQVAETrainer(model=make_rqvae(), args=arguments, train_dataset=data, eval_dataset=data)

    return make


@torch.no_grad()
def reconstruction_loss(trainer: RQVAETrainer, pictures: torch.Tensor) -> float:
    with trainer.averaged_weights():
        return trainer.model.eval()(pictures).reconstruction_loss.item()


def snapshot(trainer: RQVAETrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_unchanged(trainer: RQVAETrainer, before: dict[str, torch.Tensor]) -> None:
    after = trainer.model.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert value.dtype == after[name].dtype and torch.equal(value, after[name]), name


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_each_of_several_data_sets_has_the_parts_of_its_own_loss(make_trainer, pictures, ema_decay):
    trainer = make_trainer(ema_decay=ema_decay)
    trainer.train()
    before = snapshot(trainer)
    sets = {"faces": pictures[:4], "houses": -pictures[4:]}
    metrics = trainer.evaluate({name: Pictures(each) for name, each in sets.items()})
    assert_unchanged(trainer, before)
    logged = trainer.state.log_history[-2:]
    for (name, each), entry in zip(sets.items(), logged, strict=True):
        expected = pytest.approx(reconstruction_loss(trainer, each), abs=2e-6)
        assert metrics[f"eval_{name}_reconstruction_loss"] == entry[f"eval_{name}_reconstruction_loss"] == expected
    assert "eval_reconstruction_loss" not in metrics
    assert metrics["eval_faces_reconstruction_loss"] != metrics["eval_houses_reconstruction_loss"]


def test_an_evaluation_by_another_name_leaves_nothing_to_the_next(make_trainer, pictures):
    trainer = make_trainer()
    metrics = trainer.evaluate(Pictures(-pictures), metric_key_prefix="test")
    assert metrics["test_reconstruction_loss"] == pytest.approx(reconstruction_loss(trainer, -pictures), abs=2e-6)
    assert trainer.state.log_history[-1]["test_reconstruction_loss"] == metrics["test_reconstruction_loss"]
    predicted = trainer.predict(Pictures(-pictures)).metrics
    assert predicted["test_reconstruction_loss"] == metrics["test_reconstruction_loss"]
    metrics = trainer.evaluate()
    assert metrics["eval_reconstruction_loss"] == pytest.approx(reconstruction_loss(trainer, pictures), abs=2e-6)


@pytest.mark.parametrize("ema_decay", [None, 0.5])
@pytest.mark.parametrize("name, dtype", [("bf16_full_eval", torch.bfloat16), ("fp16_full_eval", torch.float16)])
def test_weights_that_an_evaluation_rounds_are_as_before_afterwards(make_trainer, name, dtype, ema_decay):
    trainer = make_trainer(ema_decay=ema_decay, **{name: True})
    seen = set()
    trainer.model.register_forward_pre_hook(lambda module, _: seen.add(module.encoder.conv_in.weight.dtype))
    for step in range(2):  # before a training and after it
        before = snapshot(trainer)
        for evaluate in (trainer.evaluate, lambda trainer=trainer: trainer.predict(trainer.eval_dataset)):
            seen.clear()
            evaluate()
            assert_unchanged(trainer, before)
            assert dtype in seen
        if step == 0:
            trainer.train()
            seen.clear()
    optimized = [weight for group in trainer.optimizer.param_groups for weight in group["params"]]
    assert {id(weight) for weight in trainer.model.parameters()} == {id(weight) for weight in optimized}


def test_rounded_evaluations_of_shards_are_refused(make_trainer, monkeypatch):
    def shard(trainer):
        create(trainer)
        trainer.is_fsdp_enabled = True  # FSDP needs several processes

    create = RQTrainer.create_accelerator_and_postprocess
    monkeypatch.setattr(RQTrainer, "create_accelerator_and_postprocess", shard)
    with pytest.raises(ValueError, match="`bf16_full_eval` and `fp16_full_eval` must be False with FSDP, got True"):
        make_trainer(bf16_full_eval=True)


def test_evaluations_see_the_rows_that_training_leaves_out(make_trainer, pictures):
    trainer = make_trainer(
        load_best_model_at_end=True, save_strategy="steps", eval_strategy="steps", save_steps=1, eval_steps=1
    )
    assert trainer.args.dataloader_drop_last
    for rows in (8, 7, 2):  # of batches of three
        expected = pytest.approx(reconstruction_loss(trainer, pictures[:rows]), abs=2e-6)
        assert trainer.evaluate(Pictures(pictures[:rows]))["eval_reconstruction_loss"] == expected
        assert trainer.predict(Pictures(pictures[:rows])).metrics["test_reconstruction_loss"] == expected
    assert trainer.args.dataloader_drop_last
    trainer.eval_dataset = Pictures(pictures[:2])
    trainer.train()
    assert trainer.state.best_metric is not None


def test_data_without_a_whole_batch_are_refused_unless_fewer_are_wanted(make_trainer, pictures):
    trainer = make_trainer()
    trainer.train_dataset = Pictures(pictures[:3])
    with pytest.raises(ValueError, match="`train_dataset` must hold a whole batch, 4 rows for each of 1 proc.*got 3"):
        trainer.train()
    trainer = make_trainer(dataloader_drop_last=False)
    trainer.train_dataset = Pictures(pictures[:3])
    trainer.train()
    assert trainer.state.global_step == 2


@pytest.mark.parametrize(
    "metric, greater",
    [("image_loss_nearest_codes", False), ("eval_image_loss_depth_2", False), ("mse", False), ("eval_mse", False),
     ("loss", False), ("psnr", True), ("eval_codes_used_depth_1", True)],
)  # fmt: skip
def test_figures_by_which_the_best_model_is_chosen_have_a_direction(make_trainer, metric, greater):
    options = {
        "load_best_model_at_end": True,
        "save_strategy": "steps",
        "eval_strategy": "steps",
        "save_steps": 1,
        "eval_steps": 1,
    }
    assert make_trainer(metric_for_best_model=metric, **options).args.greater_is_better is greater
    chosen = make_trainer(metric_for_best_model=metric, greater_is_better=not greater, **options)
    assert chosen.args.greater_is_better is not greater


def test_arguments_that_change_nothing_or_cannot_work_are_refused(
    make_rqvae, make_trainer, pictures, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for options, message in (
        ({"label_smoothing_factor": 0.5}, "`label_smoothing_factor` must be 0, got 0.5"),
        ({"remove_unused_columns": True}, "`remove_unused_columns` must be False, got True"),
        (
            {"optim": "schedule_free_adamw", "muon_learning_rate": 1e-3},
            "`optim` must have no mode of training beside M",
        ),
        (
            {"optim": "schedule_free_sgd", "adversarial_weight": 1.0},
            "`optim` must have no mode of training beside a d",
        ),
        ({"optim": "schedule_free_sgd", "ema_decay": 0.5}, "`optim` must have no mode of training beside `ema_decay`"),
    ):
        with pytest.raises(ValueError, match=message):
            make_trainer(**options)
    with pytest.raises(ValueError, match="`args` must be RQVAETrainingArguments, got NoneType"):
        RQVAETrainer(make_rqvae(), train_dataset=Pictures(pictures))
    assert not Path("tmp_trainer").exists()  # the default of the base class
    with pytest.raises(ValueError, match="`compute_loss_func` must be None, got .*: RQVAETrainer has a loss of its o"):
        RQVAETrainer(make_rqvae(), make_trainer().args, compute_loss_func=lambda *_: None)
    with pytest.raises(ValueError, match="`compute_metrics` must be None, got .*: RQVAETrainer keeps no predictions"):
        RQVAETrainer(make_rqvae(), make_trainer().args, compute_metrics=lambda *_: {})
    other = RQTransformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match="`args` must be RQVAETrainingArguments, got RQTransformerTrainingArguments"):
        RQVAETrainer(make_rqvae(), other)
    for name, value, expected in (
        ("ema_decay", "0.9", "a number"), ("muon_learning_rate", True, "a number"), ("l1_weight", None, "a number"),
        ("discriminator_start_step", 1.5, "an integer"), ("train_decoder_only", "no", "True or False"),
        ("model_name_or_path", 3, "text"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"`{name}` must be {expected}, got {value!r}"):
            make_trainer(**{name: value})
    arguments = make_trainer(ema_decay=0.5).args
    with pytest.raises(ValueError, match="`model_init` must be None with `ema_decay`"):
        RQVAETrainer(model_init=lambda: make_rqvae(), args=arguments, train_dataset=Pictures(pictures))
    arguments = make_trainer(adversarial_weight=1.0).args
    with pytest.raises(ValueError, match="`model_init` must be None with a discriminator"):
        RQVAETrainer(model_init=lambda: make_rqvae(), args=arguments, train_dataset=Pictures(pictures))
    with pytest.raises(ValueError, match="`output_dir` must have a checkpoint to resume from, got .* with none"):
        make_trainer().train(resume_from_checkpoint=True)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch older than 2.9 has no Muon")
def test_muon_is_refused_with_an_optimizer_that_is_given(make_rqvae, make_trainer):
    given = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    with pytest.raises(ValueError, match="`muon_learning_rate` must be None with an optimizer that is given, got 0.1"):
        RQVAETrainer(make_rqvae(), make_trainer(muon_learning_rate=0.1).args, optimizers=(given, None))


def test_fields_of_subclasses_may_have_any_default_and_numpys_numbers(tmp_path):
    @dataclass
    class Own(RQVAETrainingArguments):
        teacher: str = field(default=None)

    options = {"output_dir": str(tmp_path), "use_cpu": True}
    arguments = Own(**options, ema_decay=np.float32(0.5), train_decoder_only=np.bool_(False))
    assert arguments.teacher is None and Own(**options, teacher="it").teacher == "it"
    with pytest.raises(ValueError, match="`teacher` must be text, got 3"):
        Own(**options, teacher=3)


def test_parts_are_those_of_the_loss_that_is_logged(make_trainer):
    """Steps of unequally many batches, and a second training: nothing of the first is left in its log."""
    trainer = make_trainer(gradient_accumulation_steps=3, max_steps=2, logging_steps=2, save_strategy="no")
    for _ in range(2):
        trainer.train()
        logged = next(entry for entry in trainer.state.log_history if "loss" in entry)
        parts = logged["reconstruction_loss"] + trainer.model.config.commitment_weight * logged["commitment_loss"]
        assert logged["loss"] == pytest.approx(parts, abs=2e-4)
        trainer._recorded["reconstruction_loss"] = (torch.tensor(100.0), 1)  # as after steps that were not logged


def test_a_resumed_average_has_the_decay_that_is_asked_for_now(make_trainer):
    options = {"save_strategy": "steps", "save_steps": 1}
    make_trainer(ema_decay=0.5, **options).train()
    trainer = make_trainer(ema_decay=0.9, max_steps=3, **options)
    trainer.train(resume_from_checkpoint="last")
    assert trainer.average.decay == 0.9
