# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Evaluations: of several data sets, under any name, with averaged and with rounded weights."""

import pytest
import torch
from two_processes_evaluation import Pictures

from rq_hf.training import RQTrainer, RQVAETrainer, RQVAETrainingArguments


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
