# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The training and inference scripts as a user runs them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RQVAE_FIELDS
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from rq_hf import RQImageGenerationPipeline, RQVAEConfig, RQVAEModel
from rq_hf.command_line import INPUT_ERRORS
from rq_hf.picture_grid import MARGIN
from rq_hf.pipeline_rq_image_generation import load_component

ROOT = Path(__file__).parents[1]
FIXTURE = ROOT / "tests" / "fixtures" / "emoji"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
SMALL_RQVAE = [
    "--image_size", "32", "--base_channels", "8", "--channel_multiplier", "[1,2,2]", "--norm_num_groups", "4",
    "--latent_channels", "8", "--codebook_dim", "8", "--codebook_size", "16", "--code_depth", "2",
]  # fmt: skip
SHORT = [
    "--use_cpu", "true", "--max_steps", "12", "--save_steps", "3", "--logging_steps", "1", "--eval_steps", "12",
    "--per_device_train_batch_size", "4", "--max_train_samples", "20", "--max_eval_samples", "4",
    "--disable_tqdm", "true",
]  # fmt: skip


def command(script: str, *arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)]


def run(*arguments: object, folder: Path) -> str:
    finished = subprocess.run(
        command(*arguments), cwd=folder, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert finished.returncode == 0, finished.stdout[-4000:]
    return finished.stdout


def kill_after_first_checkpoint(arguments: list[str], output: Path, folder: Path) -> None:
    """Starts a training and kills it as soon as one checkpoint is complete and the next is not the last."""
    process = subprocess.Popen(
        arguments, cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while not (output / "checkpoint-3" / "trainer_state.json").exists():
        assert process.poll() is None and time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def training_losses(output: Path) -> list[float]:
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def assert_resumes_exactly(script: str, arguments: list, folder: Path) -> Path:
    """Trains once in one go and once killed and resumed; returns the output folder of the latter."""
    whole, resumed = folder / "whole", folder / "resumed"
    run(script, *arguments, "--output_dir", whole, folder=folder)
    resumable = [*arguments, "--output_dir", resumed, "--resume_from_checkpoint", "last"]
    kill_after_first_checkpoint(command(script, *resumable), resumed, folder)
    assert not (resumed / "all_results.json").exists()
    run(script, *resumable, folder=folder)
    assert len(training_losses(whole)) == 12
    assert training_losses(resumed) == pytest.approx(training_losses(whole), abs=1e-5)
    results = [json.loads((output / "eval_results.json").read_text())["eval_loss"] for output in (whole, resumed)]
    assert results[0] == pytest.approx(results[1], abs=1e-5)
    return resumed


@pytest.fixture(scope="module")
def rqvae_folder(tmp_path_factory) -> Path:
    """An RQ-VAE trained by the script, killed and resumed."""
    return assert_resumes_exactly("train_rqvae.py", [*SHORT, *SMALL_RQVAE], tmp_path_factory.mktemp("rqvae"))


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    run(
        "train_caption_tokenizer.py", "--dataset_name", FIXTURE, "--caption_column", "captions", "--vocab_size", 300,
        "--max_length", 8, "--output_dir", folder / "tokenizer", folder=folder,
    )  # fmt: skip
    return folder / "tokenizer"


@pytest.fixture(scope="module")
def pipeline_folder(rqvae_folder, tokenizer_folder, tmp_path_factory) -> Path:
    """A pipeline trained by the script on those, killed and resumed."""
    models = ["--rqvae_name_or_path", rqvae_folder, "--tokenizer_name_or_path", tokenizer_folder]
    small = ["--hidden_size", 32, "--num_attention_heads", 2, "--dropout", 0.1, "--cache_latents", "false"]
    folder = tmp_path_factory.mktemp("pipeline")
    return assert_resumes_exactly("train_rqt.py", [*SHORT, *models, *small], folder)


def test_train_rqvae_is_killed_resumes_and_ends_where_an_uninterrupted_run_ends(rqvae_folder):
    model = RQVAEModel.from_pretrained(rqvae_folder)
    assert model.config.code_shape == (8, 8, 2)
    assert (rqvae_folder / "README.md").read_text().startswith("---")


def test_train_rqt_is_killed_resumes_and_leaves_a_pipeline(pipeline_folder):
    pipe = RQImageGenerationPipeline.from_pretrained(pipeline_folder)
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a red heart").images[0].size == (32, 32)
    assert pipe.transformer.config.null_condition_ids == (0,) * 8
    assert (pipeline_folder / "README.md").read_text().startswith("---")
    assert not list(pipeline_folder.rglob("*.bin"))


def test_a_fresh_start_does_not_mix_with_earlier_checkpoints(rqvae_folder):
    arguments = command("train_rqvae.py", *SHORT, *SMALL_RQVAE, "--output_dir", rqvae_folder)
    finished = subprocess.run(arguments, env=ENVIRONMENT, text=True, capture_output=True)
    assert finished.returncode != 0 and "fresh start" in finished.stderr


def test_generate_writes_a_sheet_and_prints_its_path(pipeline_folder, tmp_path):
    options = ["--num_images", 2, "--tile_size", 32, "--seed", 5]
    printed = [
        Path(run("generate.py", pipeline_folder, "a heart", *options, "a cat", folder=tmp_path).splitlines()[-1])
        for _ in range(2)
    ]
    first, second = (Image.open(tmp_path / path) for path in printed)
    assert printed[0] != printed[1]  # nothing is overwritten
    assert first.tobytes() == second.tobytes()
    assert first.width > 2 * 32 and first.height > 2 * 32


def test_generate_shows_the_likeliest(pipeline_folder, tmp_path):
    options = ["--num_images", 2, "--tile_size", 32, "--num_candidates", 5, "--ranker", "likelihood"]
    *printed, path = run("generate.py", pipeline_folder, "a heart", "a cat", *options, folder=tmp_path).splitlines()
    pipe = RQImageGenerationPipeline.from_pretrained(pipeline_folder)
    for row, (line, prompt) in enumerate(zip(printed[-2:], ("a heart", "a cat"), strict=True)):
        generators = [torch.Generator().manual_seed(2 * row + seed) for seed in (0, 1)]
        scores = pipe(
            prompt, num_images_per_prompt=2, num_candidates=5, ranker="likelihood", generator=generators
        ).scores.tolist()
        assert line == f"{prompt}: {scores[0]:.3f}, {scores[1]:.3f}"
    assert (tmp_path / path).exists()


def test_generate_looks_for_classes_by_name_before_it_does_by_id(load_script, make_pipeline, tmp_path, monkeypatch):
    pipeline, asked = make_pipeline("class"), []
    pipeline.transformer.config.id2label = {0: "1", 1: "2", 2: "goose", 3: "4"}
    pipeline.save_pretrained(tmp_path / "pipeline")

    def get_label_ids(pipe, labels, of_labels=RQImageGenerationPipeline.get_label_ids):
        asked.append(of_labels(pipe, labels))
        return asked[-1]

    monkeypatch.setattr(RQImageGenerationPipeline, "get_label_ids", get_label_ids)
    labels, output = ["2", "goose", "3"], tmp_path / "pictures.png"
    load_script("generate").main(
        [str(tmp_path / "pipeline"), "--class_labels", *labels, "--device", "cpu", "--output", str(output)]
    )
    assert output.exists() and asked[0] == [1, 2, 3]  # no class is called 3


def test_generate_names_what_is_wrong(load_script, pipeline_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    damaged = tmp_path / "damaged"
    shutil.copytree(pipeline_folder, damaged, ignore=shutil.ignore_patterns("checkpoint-*"))
    config = json.loads((damaged / "transformer" / "config.json").read_text())
    (damaged / "transformer" / "config.json").write_text(json.dumps(config | {"num_attention_heads": 7}))
    for arguments, expected in (
        ([pipeline_folder], "`prompt` must be given"),
        ([pipeline_folder, "a heart", "--output", "pictures"], "must be a file of a picture, such as pictures.png"),
        ([pipeline_folder, "a heart", "--output", "a.xbm"], "must be a file of a picture, such as pictures.png"),
        ([pipeline_folder, "a heart", "--tile_size", 0], "must be at least 1, got 0"),
        ([pipeline_folder, "a heart", "--device", "foo"], "must be a device of this machine, got 'foo'"),
        ([pipeline_folder, "a heart", "--seed", 2**64 - 1], "`--seed` must be from -2^63 to 2^64 - 4 for 4 pictures"),
        ([damaged, "a heart"], "`hidden_size` must be a multiple of `num_attention_heads` = 7"),
    ):
        with pytest.raises((*INPUT_ERRORS, SystemExit)) as ended:
            load_script("generate").main([str(argument) for argument in arguments])
        told = capsys.readouterr().err if ended.type is SystemExit else str(ended.value)
        assert expected in told.splitlines()[-1]
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "model, flags, expected",
    [(None, ["--top_k", 0], "ValueError: `top_k`"), ("nothing", [], "Error: ")],
)
def test_generate_tells_an_error_in_one_line(pipeline_folder, tmp_path, model, flags, expected):
    arguments = command("generate.py", tmp_path / model if model else pipeline_folder, "a heart", *flags)
    finished = subprocess.run(arguments, cwd=tmp_path, env=ENVIRONMENT, text=True, capture_output=True)
    assert finished.returncode != 0 and "Traceback" not in finished.stderr
    assert expected in finished.stderr.splitlines()[-1] and (model or "") in finished.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_reconstruct_shows_original_and_every_depth(rqvae_folder, pipeline_folder, load_script, tmp_path):
    picture = next(FIXTURE.rglob("*.png"))
    for model in (rqvae_folder, pipeline_folder):
        printed = run("reconstruct.py", picture, "--model", model, "--tile_size", 32, folder=tmp_path).splitlines()[-1]
        with Image.open(tmp_path / printed) as sheet:
            sheet = np.asarray(sheet.convert("RGB"), int)
        rqvae = load_component(RQVAEModel, model, "rqvae").eval()
        pixels = VaeImageProcessor().preprocess(load_script("reconstruct").read_picture(picture, 32, "RGB"))
        codes = rqvae.encode(pixels)
        decoded = [rqvae.decode(codes[..., :depth]) for depth in range(1, rqvae.config.code_depth + 1)]
        assert rqvae.config.image_size == 32 and len(decoded) >= 2
        for column, tile in enumerate(VaeImageProcessor().postprocess(torch.cat([pixels, *decoded]))):
            left = MARGIN + column * (32 + MARGIN)
            assert np.abs(sheet[MARGIN : MARGIN + 32, left : left + 32] - np.asarray(tile, int)).max() <= 1


def test_reconstruct_shows_grey_pictures_of_a_grey_model(tmp_path):
    RQVAEModel(RQVAEConfig(**RQVAE_FIELDS | {"num_channels": 1})).save_pretrained(tmp_path / "grey")
    picture = next(FIXTURE.rglob("*.png"))
    printed = run("reconstruct.py", picture, "--model", tmp_path / "grey", folder=tmp_path).splitlines()[-1]
    with Image.open(tmp_path / printed) as sheet:
        assert sheet.width >= 4 * 160
        pixels = np.asarray(sheet.convert("RGB"))
    assert (pixels == pixels[..., :1]).all() and len(np.unique(pixels)) > 20


def test_a_picture_that_cannot_be_read_is_named(rqvae_folder, load_script, tmp_path):
    (tmp_path / "bad.png").write_text("no picture")
    pictures = [str(next(FIXTURE.rglob("*.png"))), str(tmp_path / "bad.png")]
    with pytest.raises(ValueError, match="bad.png': "):
        load_script("reconstruct").main([*pictures, "--model", str(rqvae_folder)])


def test_another_data_set_is_trained_on_without_a_configuration(load_script, tmp_path):
    flags = [*SHORT, "--max_steps", "1", "--eval_steps", "1", *SMALL_RQVAE, "--output_dir", str(tmp_path / "run")]
    load_script("train_rqvae").main(["--dataset_name", str(FIXTURE), *flags])
    assert "eval_psnr" in (tmp_path / "run" / "trainer_state.json").read_text()
    assert "cc-by-4.0" not in (tmp_path / "run" / "README.md").read_text()  # the licence of our fixture


@pytest.mark.slow
def test_bare_accelerate_launch_trains_on_the_fixture(tmp_path):
    arguments = [sys.executable, "-m", "accelerate.commands.launch", str(ROOT / "scripts" / "train_rqt.py")]
    finished = subprocess.run(arguments, cwd=tmp_path, env=ENVIRONMENT, text=True, capture_output=True)
    assert finished.returncode == 0, finished.stderr[-4000:]
    output = tmp_path / "runs" / "emoji-rqt-fixture"
    losses = training_losses(output)
    assert losses[-1] < losses[0]
    RQImageGenerationPipeline.from_pretrained(output)
