# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Checkpoints: kills at any moment, full disks, which are kept, pushed and resumed from."""

import inspect
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer
from two_processes import Pictures

from rq_hf import RQVAEModel
from rq_hf.training import RQTrainer, RQVAETrainer, RQVAETrainingArguments, resume_checkpoint

SCRIPT = Path(__file__).with_name("killed_training.py")


@pytest.fixture(scope="module")
def train() -> Callable[..., list[int]]:
    """Trains as tests/killed_training.py says, in forks of one process; returns what they ended with."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, str(SCRIPT)], env=environment, **pipes) as process:

        def run(folder: Path, **job) -> list[int]:
            print(json.dumps({"folder": str(folder), **job}), file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        yield run
        process.stdin.close()


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train(folder) == [0], log(folder)
    return folder


@pytest.fixture(scope="module")
def begun(train, tmp_path_factory) -> Path:
    """A run killed between its first checkpoint and the second."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    assert train(folder, die_after=3) == [-signal.SIGKILL], log(folder)
    assert names(folder) == {"checkpoint-2"}
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def log(folder: Path, process: int = 0) -> str:
    return Path(f"{folder}.{process}.log").read_text()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def states(checkpoint: Path) -> dict:
    """All that a step changes: both models, averages, Adam's moments of both, schedules."""
    loaded = {name: torch.load(checkpoint / f"{name}.pt", weights_only=True) for name in ("optimizer", "scheduler")}
    discriminator = torch.load(checkpoint / "discriminator_optimizer.pt", weights_only=True)
    return {
        "model": load_file(checkpoint / "model.safetensors"),
        "discriminator": load_file(checkpoint / "discriminator.safetensors"),
        "average": torch.load(checkpoint / "ema.pt", weights_only=True)["shadow_params"],
        "optimizer": loaded["optimizer"]["state"],
        "discriminator_optimizer": discriminator["optimizer"]["state"],
        "steps": [loaded["scheduler"]["last_epoch"], discriminator["scheduler"]["last_epoch"]],
    }


def log_history(checkpoint: Path) -> list[dict]:
    return json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]


def assert_same_end(folder: Path, whole: Path) -> None:
    """Both runs have the same losses and end with the same states, and nothing else is left."""
    assert names(folder) == names(whole) == {"checkpoint-6"}
    ours, theirs = folder / "checkpoint-6", whole / "checkpoint-6"
    assert names(ours) == names(theirs)
    histories = [log_history(path) for path in (ours, theirs)]
    for name in ("loss", "discriminator_loss"):
        values = [[entry[name] for entry in history] for history in histories]
        assert len(values[1]) == 6 and values[0] == pytest.approx(values[1], abs=1e-5)
    ended = states(ours)
    assert "quantizer.codebook.weight" in ended["model"] and ended["steps"] == [6, 6]
    torch.testing.assert_close(ended, states(theirs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_a_run_killed_at_a_random_step_goes_on_as_if_it_had_not_been(train, whole, tmp_path, seed):
    step = random.Random(seed).randint(1, 5)
    print(f"killed after step {step}")
    folder = tmp_path / "run"
    assert train(folder, die_after=step) == [-signal.SIGKILL], log(folder)
    assert train(folder, resume="last") == [0], log(folder)
    assert_same_end(folder, whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_transformer_killed_at_a_random_step_goes_on_as_if_it_had_not_been(train, tmp_path, workers):
    job = {"model": "transformer", "workers": workers}
    step = random.Random(workers).randint(1, 5)
    print(f"killed after step {step}")
    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert train(whole, **job) == [0], log(whole)
    assert train(folder, die_after=step, **job) == [-signal.SIGKILL], log(folder)
    assert train(folder, resume="last", **job) == [0], log(folder)
    assert names(folder) == names(whole) == {"checkpoint-2", "checkpoint-4", "checkpoint-6"}
    ours, theirs = folder / "checkpoint-6", whole / "checkpoint-6"
    for name in ("loss", "text_loss", "image_loss_depth_1", "image_loss_depth_2"):
        resumed, uninterrupted = ([entry[name] for entry in log_history(path)] for path in (ours, theirs))
        assert len(set(uninterrupted)) == 6 and resumed == pytest.approx(uninterrupted, abs=1e-5)
    weights = [load_file(path / "model.safetensors") for path in (ours, theirs)]
    averages = [torch.load(path / "ema.pt", weights_only=True)["shadow_params"] for path in (ours, theirs)]
    torch.testing.assert_close((weights[0], averages[0]), (weights[1], averages[1]), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_run_killed_at_any_moment_of_a_save_goes_on_as_if_it_had_not_been(train, whole, begun, tmp_path):
    watched = shutil.copytree(begun, tmp_path / "watched")
    assert train(watched, resume="last", watch=4) == [0], log(watched)
    acts = list(dict.fromkeys(json.loads(Path(f"{watched}.acts.json").read_text())))
    files = {act.rpartition("/")[2] for act in acts if act.startswith(("write ", "open "))}
    assert files == names(whole / "checkpoint-6") | {"training_args.bin"}, "each file is written once in the middle"
    deleted = [act for act in acts if re.fullmatch(r"remove [^/]*", act)]  # files of checkpoint-2
    assert len(deleted) == len(files) - 1
    resumed_from = {}
    for act in [act for act in acts if act not in deleted[1:] and not act.startswith("mkdir ")]:
        folder = shutil.copytree(begun, tmp_path / "run")
        assert train(folder, resume="last", watch=4, die_at=act) == [-signal.SIGKILL], (act, log(folder))
        resumed_from[act] = Path(resume_checkpoint(str(folder), "last")).name
        assert train(folder, resume="last") == [0], (act, log(folder))
        assert_same_end(folder, whole)
        shutil.rmtree(folder)
    before = list(resumed_from).index("rename _incomplete/checkpoint-4") + 1
    expected = ["checkpoint-2"] * before + ["checkpoint-4"] * (len(resumed_from) - before)
    assert list(resumed_from.values()) == expected


@pytest.mark.parametrize(
    "file, error",
    [
        ("config.json", "OSError"),
        ("model.safetensors", "SafetensorError"),
        ("optimizer.pt", "RuntimeError"),
        ("discriminator.safetensors", "SafetensorError"),
        ("discriminator_optimizer.pt", "RuntimeError"),
    ],
)
def test_a_file_that_cannot_be_written_leaves_the_checkpoint_before_and_says_so(
    train, whole, begun, tmp_path, file, error
):
    folder = shutil.copytree(begun, tmp_path / "run")
    largest_file = (whole / "checkpoint-6" / file).stat().st_size - 1
    assert train(folder, resume="last", largest_file=largest_file) == [1]
    assert re.search(rf"{error}: .*\n{folder}/checkpoint-4 could not be written, .* GB free", log(folder)), log(folder)
    assert names(folder) == {"checkpoint-2"}
    assert contents(folder / "checkpoint-2") == contents(begun / "checkpoint-2")
    assert train(folder, resume="last") == [0], log(folder)
    assert_same_end(folder, whole)


@pytest.fixture
def disk(tmp_path):
    """A folder on a disk of its own that has room for one checkpoint and a half."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=14m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no disk may be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_up_leaves_the_checkpoint_before_and_room_for_its_resumption(train, whole, disk):
    assert train(disk) == [1]
    assert re.search(rf"{disk}/checkpoint-4 could not be written, with 0\.00. GB free", log(disk)), log(disk)
    assert names(disk) == {"checkpoint-2"}
    assert resume_checkpoint(str(disk), True) == str(disk / "checkpoint-2")
    subprocess.run(["mount", "-o", "remount,size=40m", disk], check=True)
    assert train(disk, resume="last") == [0], log(disk)
    assert_same_end(disk, whole)


def test_a_checkpoint_needs_the_files_of_every_process(train, tmp_path):
    def train_both(folder: Path, **job) -> list[int]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        return train(folder, processes=2, port=port, dying_process=1, **job)

    assert train_both(tmp_path / "whole") == [0, 0], log(tmp_path / "whole")
    act = "write _incomplete/checkpoint-4/rng_state_1.pth"
    first, second = train_both(tmp_path / "run", watch=4, die_at=act)
    assert first != 0 and second == -signal.SIGKILL, log(tmp_path / "run")
    assert names(tmp_path / "run") - {"_incomplete"} == {"checkpoint-2"}
    assert train_both(tmp_path / "run", resume="last") == [0, 0], log(tmp_path / "run")
    assert_same_end(tmp_path / "run", tmp_path / "whole")


@pytest.fixture
def make_trainer(make_rqvae, tmp_path):
    def make(**training) -> RQVAETrainer:
        torch.manual_seed(0)
        arguments = RQVAETrainingArguments(**{
            "output_dir": str(tmp_path / "run"), "use_cpu": True, "report_to": "none", "max_steps": 6, "seed": 3,
            "per_device_train_batch_size": 4, "learning_rate": 1e-3, "save_steps": 2, "disable_tqdm": True,
            "perceptual_weight": 0.0, "adversarial_weight": 0.0, **training,
        })  # fmt: skip
        data = Pictures()
        return RQVAETrainer(model=make_rqvae(), args=arguments, train_dataset=data, eval_dataset=data)

    return make


def make_checkpoint(folder: Path, state: str = "{}") -> str:
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(state)
    for name in ("optimizer.pt", "scheduler.pt"):
        (folder / name).touch()
    return str(folder)


def test_resuming_takes_the_newest_complete_checkpoint(tmp_path):
    assert resume_checkpoint(str(tmp_path), "last") is None
    old, new = (make_checkpoint(tmp_path / f"checkpoint-{step}") for step in (90, 1000))
    cut_short = make_checkpoint(tmp_path / "checkpoint-2000", '{"step": ')
    make_checkpoint(tmp_path / "checkpoint-best")
    make_checkpoint(tmp_path / "_incomplete" / "checkpoint-3000")
    for newest in ("last", True, "true"):
        assert resume_checkpoint(str(tmp_path), newest) == new
    assert resume_checkpoint(str(tmp_path), old) == old
    with pytest.raises(ValueError, match="complete checkpoint"):
        resume_checkpoint(str(tmp_path), cut_short)
    with pytest.raises(ValueError, match="fresh start"):
        resume_checkpoint(str(tmp_path), None)
    (Path(new) / "optimizer.pt").unlink()
    for asked in ("last", new):
        with pytest.raises(ValueError, match="states of optimizer and schedule, got .*checkpoint-1000' without them"):
            resume_checkpoint(str(tmp_path), asked)
    for name in ("optimizer_0", "optimizer.bin", "global_step1000"):  # of FSDP and DeepSpeed
        (Path(new) / name).mkdir()
        assert resume_checkpoint(str(tmp_path), "last") == new
        (Path(new) / name).rmdir()


def test_the_time_before_a_run_was_resumed_counts(make_trainer, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def timed(**options) -> RQVAETrainer:
        trainer = make_trainer(**options)
        trainer.model.register_forward_pre_hook(lambda *_: now.__setitem__(0, now[0] + 10))
        return trainer

    trainer = timed(max_steps=4)
    trainer.train()
    now[0] += 1000
    assert trainer.stopwatch.seconds == 40
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    trainer = timed()
    trainer.train(resume_from_checkpoint="last")  # from step 2
    assert trainer.stopwatch.seconds == 20 + 40


def test_a_checkpoint_without_the_states_of_callbacks_is_gone_on_from(make_trainer, tmp_path):
    """Such as one of a training that another version began."""
    make_trainer(max_steps=2).train()
    path = tmp_path / "run" / "checkpoint-2" / "trainer_state.json"
    state = json.loads(path.read_text())
    del state["stateful_callbacks"]["Stopwatch"]
    path.write_text(json.dumps(state))
    make_trainer().train(resume_from_checkpoint="last")
    assert names(tmp_path / "run") >= {"checkpoint-4", "checkpoint-6"}


def test_trainer_itself_resumes_from_the_newest_complete_checkpoint(make_trainer, tmp_path):
    make_trainer(max_steps=2).train()
    make_checkpoint(tmp_path / "run" / "checkpoint-4", '{"step": ')
    trainer = make_trainer()
    seen = []
    trainer.model.register_forward_hook(lambda *_: seen.append(trainer.state.global_step))
    trainer.train(resume_from_checkpoint=True)
    assert seen == [2, 3, 4, 5]
    with pytest.raises(ValueError, match="complete checkpoint"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "none"))


def test_a_finished_run_that_is_resumed_stays_as_it_is(make_trainer, tmp_path):
    options = {"max_steps": 5, "per_device_train_batch_size": 2, "save_total_limit": 1}  # 4 steps an epoch
    make_trainer(**options).train()
    last = tmp_path / "run" / "checkpoint-5"
    before = contents(last)
    trainer = make_trainer(**options)
    trainer.model.register_forward_hook(lambda *_: pytest.fail("a step beyond the last"))
    trainer.train(resume_from_checkpoint="last")
    assert trainer.state.global_step == 5
    assert names(tmp_path / "run") == {"checkpoint-5"} and contents(last) == before


def test_what_a_checkpoint_lacks_is_named(make_trainer):
    make_trainer(max_steps=2).train()
    for options, name in (({"ema_decay": 0.9}, "ema.pt"), ({"adversarial_weight": 0.5}, "discriminator.safetensors")):
        with pytest.raises(ValueError, match=f"must hold {name}"):
            make_trainer(**options).train(resume_from_checkpoint=True)


def test_the_best_checkpoint_is_loaded_with_its_own_averages(make_trainer, tmp_path):
    trainer = make_trainer(
        ema_decay=0.5, load_best_model_at_end=True, eval_strategy="steps", eval_steps=2,
        metric_for_best_model="loss", greater_is_better=True,
    )  # fmt: skip
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.name != "checkpoint-6"
    trainer.save_model()
    saved, at_best = load_file(tmp_path / "run" / "model.safetensors"), load_file(best / "model.safetensors")
    averages = torch.load(best / "ema.pt", weights_only=True)["shadow_params"]
    for (name, _), average in zip(trainer.model.named_parameters(), averages, strict=True):
        assert torch.equal(saved[name], average) and not torch.equal(average, at_best[name]), name
    assert torch.equal(saved["quantizer.codebook.weight"], at_best["quantizer.codebook.weight"])
    with pytest.raises(ValueError, match="save_only_model"):
        make_trainer(
            ema_decay=0.5, load_best_model_at_end=True, eval_strategy="steps", eval_steps=2, save_only_model=True
        )


def test_what_is_no_complete_checkpoint_is_neither_counted_nor_deleted(make_trainer, tmp_path):
    run = tmp_path / "run"
    for name in ("checkpoint-1", "checkpoint-best", "checkpoint-99"):
        (run / name).mkdir(parents=True)
        (run / name / "model.safetensors").write_text("mine")
    make_trainer(save_total_limit=2).train()
    assert names(run) == {"checkpoint-1", "checkpoint-best", "checkpoint-99", "checkpoint-4", "checkpoint-6"}
    assert (run / "checkpoint-1" / "model.safetensors").read_text() == "mine"


def test_a_checkpoint_of_the_same_step_is_replaced_as_a_whole(make_trainer, tmp_path):
    make_trainer(max_steps=4).train()
    stale = tmp_path / "run" / "checkpoint-4" / "stale.pt"
    stale.write_text("of another run")
    make_trainer(max_steps=4).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert names(tmp_path / "run") == {"checkpoint-2", "checkpoint-4"} and not stale.exists()
    assert resume_checkpoint(str(tmp_path / "run"), "last") == str(stale.parent)


def test_the_best_checkpoint_is_kept_and_loaded_at_the_end(make_trainer, tmp_path):
    trainer = make_trainer(
        save_total_limit=2, load_best_model_at_end=True, eval_strategy="steps", eval_steps=2,
        metric_for_best_model="loss", greater_is_better=True,  # the worst, and so the first
    )  # fmt: skip
    trainer.train()
    best = tmp_path / "run" / "checkpoint-2"
    assert {name for name in names(tmp_path / "run") if "checkpoint" in name} == {"checkpoint-2", "checkpoint-6"}
    for folder in (best, tmp_path / "run" / "checkpoint-6"):
        assert json.loads((folder / "trainer_state.json").read_text())["best_model_checkpoint"] == str(best)
    loaded = RQVAEModel.from_pretrained(best).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in trainer.model.state_dict().items())


def test_the_best_checkpoint_is_kept_where_the_run_has_moved(make_trainer, tmp_path):
    settings = {
        "save_total_limit": 2, "load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2,
        "metric_for_best_model": "loss", "greater_is_better": True,
    }  # fmt: skip
    make_trainer(max_steps=4, **settings).train()
    (tmp_path / "run").rename(tmp_path / "moved")
    trainer = make_trainer(output_dir=str(tmp_path / "moved"), **settings)
    trainer.train(resume_from_checkpoint=True)
    best = tmp_path / "moved" / "checkpoint-2"  # the worst, and so the first
    assert trainer.state.best_model_checkpoint == str(best)
    assert {name for name in names(tmp_path / "moved") if "checkpoint" in name} == {"checkpoint-2", "checkpoint-6"}
    loaded = RQVAEModel.from_pretrained(best).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in trainer.model.state_dict().items())


def test_the_end_of_training_deletes_nothing_that_a_limit_of_one_keeps(make_trainer, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoint-99").mkdir(parents=True)
    (run / "checkpoint-99" / "model.safetensors").write_text("mine")
    trainer = make_trainer(
        save_total_limit=1, eval_strategy="steps", eval_steps=2, metric_for_best_model="loss", greater_is_better=True
    )  # the worst is the best, and so the first
    trainer.train()
    assert {name for name in names(run) if "checkpoint" in name} == {"checkpoint-2", "checkpoint-6", "checkpoint-99"}
    assert trainer.state.best_model_checkpoint == str(run / "checkpoint-2") and trainer.args.save_total_limit == 1
    assert resume_checkpoint(str(run), "last") == str(run / "checkpoint-6")
    assert (run / "checkpoint-99" / "model.safetensors").read_text() == "mine"


def test_the_checkpoint_is_pushed_from_where_it_stays(make_trainer, hub, tmp_path):
    trainer = make_trainer(push_to_hub=True, hub_model_id="me/run", hub_strategy="checkpoint", hub_always_push=True)
    trainer.train()
    pushed = {path: file.read_bytes() for path, file in hub.files("me/run").items()}
    prefix = "last-checkpoint/"
    checkpoint = {path.removeprefix(prefix): data for path, data in pushed.items() if path.startswith(prefix)}
    files = contents(tmp_path / "run" / "checkpoint-6")
    shared = {path for path in files if path.endswith((".json", ".safetensors"))} - {"trainer_state.json"}
    assert {"config.json", "model.safetensors"} <= shared < set(files)
    assert checkpoint == {path: files[path] for path in shared}
    assert not any("_incomplete" in path for path in pushed)


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("_save_checkpoint", ["model", "trial"]),
        ("_finalize_training", ["trial", "num_train_samples", "start_time"]),
        ("_get_output_dir", ["trial"]),
        ("_push_from_checkpoint", ["checkpoint_folder"]),
        ("_save_optimizer_and_scheduler", ["output_dir"]),
        ("_load_optimizer_and_scheduler", ["checkpoint"]),
        ("_save", ["output_dir", "state_dict"]),
        ("save_model", ["output_dir", "_internal_call"]),
    ],
)
def test_what_is_overridden_and_not_documented_is_what_trainer_has(name, parameters):
    for owner in (Trainer, RQTrainer):
        assert list(inspect.signature(getattr(owner, name)).parameters) == ["self", *parameters]


def test_a_checkpoint_on_a_signal_is_one_between_steps(make_trainer, tmp_path):
    def losses(trainer: RQVAETrainer) -> list[float]:
        """Of the steps after the signal, whose own loss was not logged yet."""
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry and entry["step"] > 2]

    options = {"save_steps": 100, "max_steps": 4, "logging_steps": 1, "enable_jit_checkpoint": True}
    whole = make_trainer(**options, output_dir=str(tmp_path / "whole"))
    whole.train()
    stopped = make_trainer(**options)
    manager = next(each.jit_manager for each in stopped.callback_handler.callbacks if hasattr(each, "jit_manager"))

    def ask(module, inputs):
        manager.is_checkpoint_requested |= module.training and stopped.state.global_step == 1  # in the second step

    stopped.model.register_forward_pre_hook(ask)
    stopped.train()
    assert stopped.state.global_step == 2 and (tmp_path / "run" / "checkpoint-2").is_dir()
    resumed = make_trainer(**options)
    resumed.train(resume_from_checkpoint="last")
    assert len(losses(whole)) == 2 and losses(resumed)[-1] == pytest.approx(losses(whole)[-1], abs=1e-6)
