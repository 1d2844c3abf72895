# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Stage 2 stopped early, and resumed before and after that."""

import pytest
from two_processes_evaluation import Pictures

from rq_hf.training import CodeDataset, RQTransformerTrainer, RQTransformerTrainingArguments


@pytest.fixture
def make_trainer(tiny_rqvae, make_transformer, pictures, tmp_path):
    """Of trainings whose loss never falls, with an evaluation and a checkpoint at each step."""

    def make(patience: int = 3, **training) -> RQTransformerTrainer:
        arguments = RQTransformerTrainingArguments(**{
            "output_dir": str(tmp_path / "run"), "use_cpu": True, "report_to": "none", "max_steps": 8,
            "per_device_train_batch_size": 4, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1,
            "learning_rate": 0.0, "disable_tqdm": True, "eval_pictures": 0, "early_stopping_patience": patience,
            **training,
        })  # fmt: skip
        data = CodeDataset(Pictures(pictures), None, training=False)
        model = make_transformer("none", tiny_rqvae)
        return RQTransformerTrainer(
            model=model, args=arguments, rqvae=tiny_rqvae, train_dataset=data, eval_dataset=data
        )

    return make


def steps_taken(trainer: RQTransformerTrainer, resume: str) -> list[int]:
    seen = []

    def note(module, inputs):
        if module.training:
            seen.append(trainer.state.global_step + 1)

    trainer.model.register_forward_pre_hook(note)
    trainer.train(resume_from_checkpoint=resume)
    return seen


def test_a_resumed_run_goes_on_counting_and_a_stopped_one_takes_no_step(make_trainer, tmp_path):
    first = make_trainer()
    first.train()
    assert first.state.global_step == 4  # after the first evaluation, the best, three that are no better
    assert steps_taken(make_trainer(), str(tmp_path / "run" / "checkpoint-3")) == [4]
    resumed = make_trainer(eval_on_start=True)  # an evaluation more, of what has been evaluated
    assert steps_taken(resumed, str(tmp_path / "run" / "checkpoint-3")) == [4]
    resumed = make_trainer(load_best_model_at_end=True)
    assert steps_taken(resumed, "last") == [] and resumed.state.global_step == 4
    assert steps_taken(make_trainer(patience=5), "last") == [5, 6]


def test_the_same_trainer_counts_anew_in_a_new_training(make_trainer):
    trainer = make_trainer(save_strategy="no")
    for _ in range(2):
        trainer.train()
        assert trainer.state.global_step == 4


def test_a_patience_of_0_takes_back_what_a_recipe_says_and_a_negative_one_is_refused(make_trainer):
    trainer = make_trainer(patience=0)
    trainer.train()
    assert trainer.state.global_step == 8
    with pytest.raises(ValueError, match="`early_stopping_patience` must be at least 0, got -1"):
        make_trainer(patience=-1)
