# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Which checkpoints are whole and resumed from."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_runs import assert_equal, contextual_trainer, logged, rqt_trainer, rqvae_trainer

from rq_hf.training import resume_checkpoint
from rq_hf.training.checkpoints import MARKER, whole_checkpoints


def write_checkpoint(folder: Path, whole: bool) -> str:
    folder.mkdir()
    if whole:
        (folder / MARKER).touch()
    return str(folder)


def test_last_is_the_newest_whole_checkpoint_and_a_fresh_start_beside_one_is_refused(tmp_path, caplog):
    broken = write_checkpoint(tmp_path / "checkpoint-11", False)
    for start in ("last", None):
        assert resume_checkpoint(tmp_path, start) is None
    assert [
        text.endswith("has no whole checkpoint to resume: the training starts afresh.") for text in caplog.messages
    ] == [True]
    write_checkpoint(tmp_path / "checkpoint-9", True)
    newest = write_checkpoint(tmp_path / "checkpoint-10", True)
    write_checkpoint(tmp_path / "checkpoint-best", True)
    for last in ("last", True, "True"):
        assert resume_checkpoint(tmp_path, last) == newest
    assert resume_checkpoint(tmp_path, str(tmp_path / "checkpoint-9")) == str(tmp_path / "checkpoint-9")
    for folder in (broken, str(tmp_path / "nowhere")):
        with pytest.raises(ValueError, match="`resume_from_checkpoint` must be a whole checkpoint"):
            resume_checkpoint(tmp_path, folder)
    with pytest.raises(ValueError, match="`output_dir` must have no checkpoints for a fresh start.* with 2"):
        resume_checkpoint(tmp_path, None)


@pytest.mark.parametrize("make", [rqvae_trainer, rqt_trainer, contextual_trainer])
def test_a_resumed_training_equals_the_uninterrupted_one_to_the_bit(make, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "logging_steps": 4, "ema_decay": 0.9}
    options |= {"muon_learning_rate": 1e-2, "gradient_accumulation_steps": 2}
    options |= {"per_device_train_batch_size": 2, "warmup_steps": 2, "bf16": True}
    if make is not rqvae_trainer:
        options |= {"self_correction": 0.5, "self_correction_passes": 2}
    whole, resumed = make(tmp_path / "whole", **options), make(tmp_path / "resumed", **options)
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert len(set(logged(whole, "loss"))) == 3 and logged(resumed, "loss") == logged(whole, "loss")
    assert logged(resumed, "image_loss") == logged(whole, "image_loss") and not logged(resumed, "train_loss")
    states = []
    for trainer in (whole, resumed):
        states.append([*trainer.model.state_dict().values(), *trainer.average.shadow_params])
        if make is rqvae_trainer:
            states[-1] += trainer.accelerator.unwrap_model(trainer.discriminator).state_dict().values()
            assert trainer.discriminator_scheduler.last_epoch == 6
    assert_equal(*states)


def test_a_finished_training_that_is_resumed_takes_no_more_steps(tmp_path):
    options = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    first = rqvae_trainer(tmp_path, **options)
    first.train()
    again = rqvae_trainer(tmp_path, **options)
    again.train("last")
    assert again.state.global_step == 2 and logged(again, "loss") == logged(first, "loss")
    assert_equal(again.model.state_dict(), first.model.state_dict())


def test_a_checkpoint_loses_its_marker_before_it_is_overwritten_and_without_optimizer_has_none(tmp_path):
    trainer = rqvae_trainer(tmp_path, max_steps=1, save_strategy="steps", save_steps=1, save_only_model=True)
    checkpoint = write_checkpoint(tmp_path / "checkpoint-9", True)
    trainer.save_model(checkpoint, _internal_call=True)  # what `Trainer` writes first
    trainer.train()
    assert (tmp_path / "checkpoint-1").is_dir() and not whole_checkpoints(tmp_path)


def test_the_best_checkpoint_is_loaded_with_its_own_average(tmp_path):
    trainer = rqvae_trainer(
        tmp_path, adversarial_weight=0.0, ema_decay=0.5, save_strategy="steps", save_steps=2, eval_strategy="steps",
        eval_steps=2, load_best_model_at_end=True, metric_for_best_model="eval_psnr", greater_is_better=False,
    )  # fmt: skip
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.name == "checkpoint-2"  # the worst, so that it is not the last
    weights, average = load_file(best / "model.safetensors"), torch.load(best / "ema.pt")["shadow_params"]
    assert_equal(dict(trainer.model.state_dict()), {name: weights[name] for name in trainer.model.state_dict()})
    assert_equal(trainer.average.shadow_params, average)
    trainer.args.ema_decay = 0.25
    trainer.load_average(best)
    assert trainer.average.decay == 0.25  # the checkpoint has another
