# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the trainer of stage 1 shows while it trains: figures, and pictures in files and loggers."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers.integrations import WandbCallback
from two_processes_evaluation import Pictures, classifier_trainer

from rq_hf.metrics import coarse_to_fine_sheet, measure_reconstruction
from rq_hf.training import RQVAETrainer, RQVAETrainingArguments


@pytest.fixture
def make_trainer(make_rqvae, pictures, tmp_path):
    def make(rqvae=None, **training) -> RQVAETrainer:
        arguments = RQVAETrainingArguments(**{
            "output_dir": str(tmp_path / "run"), "use_cpu": True, "report_to": "none", "max_steps": 2,
            "per_device_train_batch_size": 4, "per_device_eval_batch_size": 3, "eval_strategy": "steps",
            "eval_steps": 1, "learning_rate": 1e-2, "save_strategy": "no", "disable_tqdm": True,
            "perceptual_weight": 0.0, "adversarial_weight": 0.0, **training,
        })  # fmt: skip
        data = Pictures(pictures)
        model = rqvae if rqvae is not None else make_rqvae()
        return RQVAETrainer(model=model, args=arguments, train_dataset=data, eval_dataset=data)

    return make


@pytest.mark.parametrize("shared", [True, False])
def test_evaluation_gives_the_figures_of_the_report(make_trainer, make_rqvae, pictures, shared):
    rqvae = make_rqvae(shared_codebook=shared)
    metrics = make_trainer(rqvae).evaluate()
    report = measure_reconstruction(rqvae, [pictures])
    first = measure_reconstruction(rqvae, [pictures[:3]])
    assert metrics["eval_mse"] == pytest.approx(report.metrics["mse"], abs=1e-6)
    assert metrics["eval_code_usage"] == pytest.approx(report.metrics["code_usage"], abs=1e-6)
    for row, first_row in zip(report.depths, first.depths, strict=True):
        depth = row["depth"]
        for name in ("code_usage", "code_entropy"):
            assert metrics[f"eval_{name}_depth_{depth}"] == pytest.approx(row[name], abs=1e-6)
        assert metrics[f"eval_first_batch_psnr_depth_{depth}"] == pytest.approx(first_row["psnr"], abs=1e-4)


def test_pixels_outside_the_range_of_pictures_do_not_count_as_errors(make_trainer, make_rqvae, pictures):
    rqvae = make_rqvae()
    rqvae.decoder.conv_out.weight.data.zero_()
    rqvae.decoder.conv_out.bias.data.fill_(3.0)  # all reconstructions are whiter than white
    trainer = make_trainer(rqvae)
    trainer.eval_dataset = Pictures(torch.ones_like(pictures))
    metrics = trainer.evaluate()
    assert metrics["eval_mse"] == 0 and metrics["eval_first_batch_psnr_depth_1"] == math.inf
    assert metrics["eval_reconstruction_loss"] == pytest.approx(4)


def test_each_evaluation_while_training_leaves_a_sheet_of_the_first_pictures(make_trainer, pictures, tmp_path):
    trainer = make_trainer()
    trainer.train()
    files = sorted((tmp_path / "run" / "pictures").iterdir())
    assert [path.name for path in files] == ["step-1.png", "step-2.png"]
    assert files[0].read_bytes() != files[1].read_bytes()
    with Image.open(files[1]) as sheet:
        expected = coarse_to_fine_sheet(trainer.model.eval(), pictures[:3])
        assert np.array_equal(np.asarray(sheet), np.asarray(expected))
    logged = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(logged) == 2 and all("eval_code_entropy_depth_3" in entry for entry in logged)


def test_figures_and_sheet_are_of_the_averaged_weights(make_trainer, pictures, tmp_path):
    trainer = make_trainer(ema_decay=0.9, max_steps=4, eval_steps=4)
    trainer.train()
    with trainer.averaged_weights():
        expected = coarse_to_fine_sheet(trainer.model.eval(), pictures[:3])
        report = measure_reconstruction(trainer.model, [pictures])
    with Image.open(tmp_path / "run" / "pictures" / "step-4.png") as sheet:
        assert np.array_equal(np.asarray(sheet), np.asarray(expected))
    (logged,) = [entry for entry in trainer.state.log_history if "eval_mse" in entry]
    assert logged["eval_mse"] == pytest.approx(report.metrics["mse"], abs=1e-6)
    other = measure_reconstruction(trainer.model, [pictures])
    assert abs(other.metrics["mse"] - report.metrics["mse"]) > 2e-6


@pytest.mark.parametrize("precision", ["bf16", "bf16_full_eval"])
def test_evaluation_works_in_bf16(make_trainer, tmp_path, precision):
    metrics = make_trainer(**{precision: True}).evaluate()
    assert 0 < metrics["eval_mse"] < 1 and math.isfinite(metrics["eval_first_batch_psnr_depth_3"])
    assert (tmp_path / "run" / "pictures" / "step-0.png").exists()


def test_broken_weights_are_shown_as_nan_and_do_not_end_the_training(make_trainer, make_rqvae, tmp_path, caplog):
    rqvae = make_rqvae()
    rqvae.post_quant_conv.weight.data.fill_(math.nan)
    metrics = make_trainer(rqvae).evaluate()
    assert math.isnan(metrics["eval_mse"]) and math.isnan(metrics["eval_first_batch_psnr_depth_1"])
    assert not (tmp_path / "run" / "pictures").exists()
    assert "No sheet of reconstructions at step 0: `pictures` must be finite" in caplog.text


def test_several_data_sets_have_sheets_of_their_own(make_trainer, pictures, tmp_path):
    trainer = make_trainer()
    metrics = trainer.evaluate({"faces": Pictures(pictures[:4]), "houses": Pictures(-pictures[:4])})
    assert metrics["eval_faces_mse"] != metrics["eval_houses_mse"]
    names = sorted(path.name for path in (tmp_path / "run" / "pictures").iterdir())
    assert names == ["step-0-faces.png", "step-0-houses.png"]


def test_tensorboard_gets_the_sheet(make_trainer, monkeypatch, tmp_path):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    make_trainer(report_to=["tensorboard"]).train()
    board = EventAccumulator(str(tmp_path / "board"), size_guidance={"images": 0}).Reload()
    images = board.Images("eval/reconstructions")
    assert [image.step for image in images] == [1, 2]
    with Image.open(tmp_path / "run" / "pictures" / "step-2.png") as sheet:
        assert (images[1].width, images[1].height) == sheet.size
    assert [scalar.step for scalar in board.Scalars("eval/code_entropy_depth_1")] == [1, 2]


def test_weights_and_biases_gets_the_sheet_while_a_run_is_open(make_trainer, monkeypatch):
    sent = []
    wandb = SimpleNamespace(run=object(), Image=lambda picture: picture, log=sent.append)
    monkeypatch.setitem(sys.modules, "wandb", wandb)  # is not installed here

    class Reporting(WandbCallback):
        def __init__(self):
            self._wandb = None  # the base class then does nothing itself

    trainer = make_trainer()
    trainer.add_callback(Reporting())
    trainer.evaluate()
    (message,) = sent
    assert message["train/global_step"] == 0 and message["eval/reconstructions"].size[0] > 4 * 128
    wandb.run = None
    trainer.evaluate()
    assert len(sent) == 1


def test_a_smaller_last_batch_counts_by_its_pictures(make_trainer, make_rqvae, pictures):
    rqvae = make_rqvae()
    metrics = make_trainer(rqvae).evaluate()  # 3, 3 and 2 pictures
    with torch.no_grad():
        outputs = rqvae(pictures)
    assert metrics["eval_reconstruction_loss"] == pytest.approx(outputs.reconstruction_loss.item(), abs=2e-6)
    assert metrics["eval_commitment_loss"] == pytest.approx(outputs.commitment_loss.item(), abs=2e-6)


# 5: one process has a picture in the last round, the other has none
@pytest.mark.slow
@pytest.mark.parametrize("count", [8, 5])
def test_two_processes_give_the_figures_of_all_pictures_and_one_sheet(tiny_rqvae, pictures, tmp_path, count):
    pictures = pictures[:count]
    tiny_rqvae.save_pretrained(tmp_path / "rqvae")
    torch.save(pictures, tmp_path / "pictures.pt")
    script = Path(__file__).with_name("two_processes_evaluation.py")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--multi_gpu"]
    finished = subprocess.run(
        [*launch, "--main_process_port", "0", str(script), str(tmp_path)],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert finished.returncode == 0, finished.stdout[-4000:]
    first, second = (json.loads((tmp_path / f"metrics-{process}.json").read_text()) for process in (0, 1))
    report = measure_reconstruction(tiny_rqvae, [pictures])
    heads = measure_reconstruction(tiny_rqvae, [pictures[:4]])  # two of each process
    with torch.no_grad():
        outputs = tiny_rqvae(pictures)
    loss = (outputs.reconstruction_loss + outputs.commitment_loss * tiny_rqvae.config.commitment_weight).item()
    for metrics in (first, second):
        assert metrics["eval_mse"] == pytest.approx(report.metrics["mse"], abs=1e-6)
        assert metrics["eval_code_entropy_depth_2"] == pytest.approx(report.depths[1]["code_entropy"], abs=1e-6)
        assert metrics["eval_first_batch_psnr_depth_1"] == pytest.approx(heads.depths[0]["psnr"], abs=1e-4)
        assert metrics["eval_loss"] == pytest.approx(loss, abs=1e-5)
        assert metrics["eval_reconstruction_loss"] == pytest.approx(outputs.reconstruction_loss.item(), abs=1e-5)
        assert metrics["test_loss"] == pytest.approx(loss, abs=1e-5)
    assert (first["rows"], second["rows"]) == ([0, 1], [2, 3])
    trainer = classifier_trainer(str(tmp_path), Pictures(pictures))
    alone = trainer.predict(trainer.eval_dataset)
    for process in (0, 1):
        judged = json.loads((tmp_path / f"classifier-{process}.json").read_text())
        assert judged["test_loss"] == pytest.approx(alone.metrics["test_loss"], abs=1e-6)
        assert judged["test_accuracy"] == alone.metrics["test_accuracy"]
        assert judged["logits"] == pytest.approx(alone.predictions, abs=1e-5)
        assert judged["labels"] == alone.label_ids.tolist()
    expected = coarse_to_fine_sheet(tiny_rqvae, pictures[:2])
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"step-0.png", "step-0-test.png"}
    with Image.open(tmp_path / "pictures" / "step-0.png") as sheet:
        assert np.array_equal(np.asarray(sheet), np.asarray(expected))
