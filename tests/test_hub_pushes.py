# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Both trainings push at every save what they push at their end, and no push that fails ends them."""

import logging
import re
import threading
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, list_repo_commits, snapshot_download
from test_checkpoints import make_trainer  # noqa: F401  a fixture
from test_finetuning import base, concept, train  # noqa: F401  two of them fixtures
from transformers import TrainerCallback

from rq_hf import RQImageGenerationPipeline, RQVAEModel
from rq_hf.training import (
    DataArguments,
    RQTransformerTrainer,
    RQTransformerTrainingArguments,
    RQVAETrainingArguments,
    ScriptArguments,
    hub_pushes,
    resume_checkpoint,
    write_card,
)
from rq_hf.training.lora import add_lora

PUSHING = {"push_to_hub": True, "hub_model_id": "me/run", "hub_always_push": True}


def pushed_steps(revision: str = "main") -> dict[int, str]:
    """The commit of each step that was pushed."""
    found = {}
    for commit in list_repo_commits("me/run", revision=revision):
        if match := re.fullmatch(r"Training in progress, step (\d+)", commit.title):
            found[int(match[1])] = commit.commit_id
    return found


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.state_dict().items())


def test_each_save_of_stage_1_is_pushed_with_the_averaged_weights(make_trainer, hub, tmp_path):  # noqa: F811
    trainer = make_trainer(**PUSHING, ema_decay=0.9, hub_private_repo=True)
    trainer.train()
    trainer.push_to_hub()
    assert hub.repository("me/run").private
    steps = pushed_steps()
    assert sorted(steps) == [2, 4, 6]
    for step, commit in steps.items():
        pushed = RQVAEModel.from_pretrained("me/run", revision=commit)
        plain = RQVAEModel.from_pretrained(tmp_path / "run" / f"checkpoint-{step}")
        assert not same_weights(pushed, plain)
    last = RQVAEModel.from_pretrained("me/run", revision=steps[6])
    assert same_weights(last, RQVAEModel.from_pretrained("me/run"))
    assert not same_weights(last, RQVAEModel.from_pretrained("me/run", revision=steps[2]))
    files = {path for commit in steps.values() for path in hub.files("me/run", commit)} | set(hub.files("me/run"))
    assert "training_args.json" in files
    assert not any(path.endswith((".bin", ".pt", ".pth")) for path in files)


def test_without_averages_the_weights_of_the_checkpoint_are_pushed(make_trainer, hub, tmp_path):  # noqa: F811
    make_trainer(**PUSHING, hub_revision="trial").train()
    steps = pushed_steps("trial")
    for step, commit in steps.items():
        pushed = RQVAEModel.from_pretrained("me/run", revision=commit)
        assert same_weights(pushed, RQVAEModel.from_pretrained(tmp_path / "run" / f"checkpoint-{step}"))
    assert sorted(steps) == [2, 4, 6] and "model.safetensors" not in hub.files("me/run")


def test_an_adapter_is_pushed_at_every_save_and_options_of_a_push_are_heeded(
    hub, make_pipeline, tmp_path, caplog, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    arguments = RQTransformerTrainingArguments(
        output_dir=".", use_cpu=True, report_to="none", max_steps=2, save_steps=1, stochastic_codes=False,
        soft_labels=False, lora_rank=2, model_name_or_path="base", push_to_hub=True, hub_always_push=True,
        per_device_train_batch_size=2, disable_tqdm=True,
    )  # fmt: skip
    pipeline = make_pipeline("class")
    model = pipeline.transformer
    codes = torch.zeros(*model.config.code_shape, dtype=torch.long)
    rows = [{"input_ids": torch.tensor([index % 4]), "codes": codes + index} for index in range(8)]
    adapted = add_lora(model, arguments)
    trainer = RQTransformerTrainer(model=adapted, args=arguments, rqvae=pipeline.rqvae, train_dataset=rows)
    trainer.train()
    trainer.push_to_hub(private=True, tags="emoji", language="en")
    name = f"tester/{tmp_path.name}"
    titles = [commit.title for commit in list_repo_commits(name)]
    assert {"Training in progress, step 1", "Training in progress, step 2"} <= set(titles)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(hub.files(name))
    assert "These arguments have no effect on the card: language." in caplog.text


def test_the_strategy_end_pushes_once(make_trainer, hub, tmp_path):  # noqa: F811
    trainer = make_trainer(**PUSHING, hub_strategy="end", hub_revision="trial")
    trainer.train()
    torch.save({"weight": torch.zeros(2)}, tmp_path / "run" / "state.pt")
    assert set(hub.repository("me/run").branches) == {"main"}
    commit = trainer.push_to_hub()
    assert same_weights(trainer.model, RQVAEModel.from_pretrained("me/run", revision="trial"))
    assert "model.safetensors" not in hub.files("me/run") and "state.pt" not in hub.files("me/run", commit.oid)
    trainer.push_to_hub(revision="main", blocking=False).result()
    assert same_weights(trainer.model, RQVAEModel.from_pretrained("me/run"))


def test_what_is_shared_instead_of_the_model_is_pushed_at_the_end_too(make_trainer, hub, tmp_path):  # noqa: F811
    trainer = make_trainer(**PUSHING, hub_strategy="end", ema_decay=0.9)
    trainer.train()

    def write_shared(model: RQVAEModel) -> Path:
        model.save_pretrained(tmp_path / "shared")
        return tmp_path / "shared"

    trainer.write_shared = write_shared
    trainer.push_to_hub()
    pushed = RQVAEModel.from_pretrained("me/run")
    assert not same_weights(trainer.model, pushed)
    with trainer.averaged_weights():
        assert same_weights(trainer.model, pushed)


def test_a_checkpoint_stays_until_it_is_uploaded(make_trainer, hub, tmp_path, monkeypatch):  # noqa: F811
    trainer = make_trainer(**PUSHING | {"hub_always_push": False}, hub_strategy="checkpoint", save_total_limit=1)
    go_on, push = threading.Event(), hub_pushes.push_run

    def slow_push(*args, **kwargs):
        go_on.wait(60)
        return push(*args, **kwargs)

    monkeypatch.setattr(hub_pushes, "push_run", slow_push)
    left: dict[int, list[str]] = {}

    class Note(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            left[state.global_step] = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
            if state.global_step == 4:
                go_on.set()

    trainer.add_callback(Note())
    trainer.train()
    assert left[4] == ["checkpoint-2", "checkpoint-4"]
    assert "last-checkpoint/model.safetensors" in hub.files("me/run")


@pytest.mark.parametrize(
    ("strategy", "folders"),
    [("checkpoint", ["last-checkpoint"]), ("all_checkpoints", ["checkpoint-3", "checkpoint-6"])],
)
def test_checkpoints_are_pushed_without_their_pickles(make_trainer, hub, tmp_path, strategy, folders):  # noqa: F811
    make_trainer(**PUSHING, hub_strategy=strategy, save_steps=3).train()
    assert (tmp_path / "run" / "checkpoint-6" / "optimizer.pt").exists()
    pushed = {path for path in hub.files("me/run") if "checkpoint" in path}
    assert sorted({path.split("/")[0] for path in pushed}) == folders
    assert {Path(path).suffix for path in hub.files("me/run")} <= {".json", ".safetensors", ".md", ".png"}
    for folder, step in zip(folders, (6,) if strategy == "checkpoint" else (3, 6), strict=True):
        assert {f"{folder}/config.json", f"{folder}/model.safetensors"} <= pushed
        plain = RQVAEModel.from_pretrained(tmp_path / "run" / f"checkpoint-{step}")
        assert same_weights(RQVAEModel.from_pretrained("me/run", subfolder=folder), plain)
    downloaded = Path(snapshot_download("me/run"))
    with pytest.raises(ValueError, match="complete checkpoint, got .*, where no states of optimizers are"):
        resume_checkpoint(str(tmp_path / "other"), str(downloaded / folders[-1]))


def test_a_push_that_fails_is_reported_and_the_training_goes_on(make_trainer, hub, caplog):  # noqa: F811
    trainer = make_trainer(**PUSHING)
    hub.fail("status", "POST", "/commit/", status=403, times=1)
    with caplog.at_level(logging.ERROR):
        trainer.train()
    assert "A push to the Hub failed, and the training goes on: 403" in caplog.text
    assert sorted(pushed_steps()) == [4, 6]
    trainer.push_to_hub()
    assert same_weights(trainer.model, RQVAEModel.from_pretrained("me/run"))


def test_each_save_of_stage_2_is_pushed_as_a_pipeline(hub, base, concept, tmp_path):  # noqa: F811
    _, start = base("text")
    flags = {"caption_column": "text", "tokenizer_name_or_path": str(start), "save_strategy": "steps", "save_steps": 1}
    train(start, concept, tmp_path / "run", **flags, **PUSHING, ema_decay=0.5, max_steps=3)
    steps = pushed_steps()
    assert sorted(steps) == [1, 2, 3]
    pushed = {
        step: RQImageGenerationPipeline.from_pretrained("me/run", revision=commit).transformer
        for step, commit in steps.items()
    }
    final = RQImageGenerationPipeline.from_pretrained("me/run")
    assert same_weights(pushed[3], final.transformer) and not same_weights(pushed[2], final.transformer)
    assert final("a red heart").images[0].size == (16, 16)
    assert not any(path.endswith((".bin", ".pt", ".pth")) for path in hub.files("me/run"))


def test_each_save_of_an_adapter_is_pushed_alone(hub, base, concept, tmp_path):  # noqa: F811
    _, start = base("text")
    flags = {"caption_column": "text", "tokenizer_name_or_path": str(start), "save_strategy": "steps", "save_steps": 1}
    train(start, concept, tmp_path / "run", **flags, **PUSHING, lora_rank=2)
    assert sorted(pushed_steps()) == [1, 2]
    assert set(hub.files("me/run")) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}


def test_the_card_of_a_run_tells_hours_hardware_emissions_and_what_was_measured(hub, base, concept, tmp_path):  # noqa: F811
    _, start = base("text")
    train(
        start, concept, tmp_path / "run", caption_column="text", tokenizer_name_or_path=str(start), **PUSHING,
        validation_split="train", eval_pictures=2,
    )  # fmt: skip
    card = ModelCard.load("me/run")
    assert "| Hours | " in card.text and "CPU (" in card.text
    assert "Emissions" not in card.text  # the recipe does not say what the hardware draws
    assert {result.metric_type for result in card.data.eval_results} >= {"loss", "image_loss"}
    picture = re.search(r"!\[.*\]\((pictures/.*\.png)\)", card.text)[1]
    assert picture in hub.files("me/run")
    assert 'from_pretrained("me/run")' in card.text


def test_emissions_are_estimated_where_the_recipe_says_what_the_hardware_draws(tmp_path):
    arguments = ScriptArguments(
        training=RQVAETrainingArguments(output_dir=str(tmp_path), use_cpu=True),
        data=DataArguments(dataset_name="you/emoji"),
        card={"footprint": {"hardware": "2 CPU cores", "power_watts": 30}},
    )
    first = write_card("rqvae", arguments, None, None)
    assert "Hours" not in first
    end = {"history": [{"eval_loss": 0.5, "eval_runtime": 1.0}], "seconds": 7200.0}
    write_card("rqvae", arguments, None, None, **end)
    card = ModelCard.load(tmp_path / "README.md")
    assert "| Hours | 2 |" in card.text and "0.06 kWh at 30 W" in card.text
    assert "0.0288 kg CO2eq at 0.48 kg per kWh" in card.text
    assert card.data.co2_eq_emissions["emissions"] == 28.8
    assert [(result.dataset_name, result.metric_value) for result in card.data.eval_results] == [("emoji", 0.5)]
    (tmp_path / "README.md").write_text("# My own\n")
    write_card("rqvae", arguments, None, None, **end)
    assert (tmp_path / "README.md").read_text() == "# My own\n"
