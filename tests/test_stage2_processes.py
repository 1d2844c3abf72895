# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Stage 2 in two processes on the CPU (gloo), against one; and what batches of unequal captions weigh."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import CAPTIONS
from two_processes_evaluation import Pictures

from rq_hf import RQImageGenerationPipeline
from rq_hf.caption_tokenizer import BPEDropoutEncoder
from rq_hf.training import CodeDataset, RQTransformerTrainer, RQTransformerTrainingArguments

ROOT = Path(__file__).resolve().parents[1]
STEPS = 50


def launch(config: Path, processes: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes)]
    command += ["--multi_gpu", "--main_process_port", "0"] if processes > 1 else ["--cpu"]
    return subprocess.Popen(
        [*command, str(ROOT / "scripts" / "train_rqt.py"), str(config)],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.fixture(params=[3, 1])
def code_depth(request) -> int:
    return request.param


@pytest.fixture
def runs(code_depth, make_rqvae, make_transformer, tiny_tokenizer, tmp_path) -> dict[int, Path]:
    """Output folders of one process and of two with half the batch each."""
    rqvae = make_rqvae(code_depth=code_depth)
    pipeline = RQImageGenerationPipeline(rqvae, make_transformer("text", rqvae), tiny_tokenizer)
    pipeline.save_pretrained(tmp_path / "models")
    started, folders = [], {}
    for processes in (1, 2):
        folders[processes] = tmp_path / str(processes)
        config = {
            "model": {
                "hidden_size": 32, "num_spatial_layers": 1, "num_depth_layers": 1, "num_attention_heads": 2,
                "dropout": 0.0, "text_loss_weight": 0.5,
            },
            "training": {
                "output_dir": str(folders[processes]), "use_cpu": True, "report_to": "none", "max_steps": STEPS,
                "per_device_train_batch_size": 8 // processes, "learning_rate": 3e-3, "logging_steps": 1,
                "eval_strategy": "steps", "eval_steps": 25, "save_strategy": "no", "disable_tqdm": True,
                "stochastic_codes": False, "bpe_dropout": 0.5, "condition_dropout": 0.2, "eval_pictures": 2,
            },
            "data": {
                "rqvae_name_or_path": str(tmp_path / "models"), "tokenizer_name_or_path": str(tmp_path / "models"),
                "dataset_name": str(ROOT / "tests" / "fixtures" / "emoji"), "validation_split": "validation",
                "caption_column": "captions", "max_train_samples": 24, "max_eval_samples": 4,
            },
            "card": {"license": "cc-by-4.0"},
        }  # fmt: skip
        path = tmp_path / f"{processes}.json"
        path.write_text(json.dumps(config))
        started.append(launch(path, processes))
    for process in started:
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output[-4000:]
    return folders


@pytest.mark.slow
def test_two_processes_train_as_one_with_their_batches(runs, code_depth, tmp_path):
    histories = [json.loads((runs[number] / "trainer_state.json").read_text())["log_history"] for number in (1, 2)]
    for name in ("loss", "text_loss", "image_loss_depth_1", f"image_loss_depth_{code_depth}"):
        alone, together = ([entry[name] for entry in history if name in entry] for history in histories)
        assert len(alone) == STEPS and alone[-1] < alone[0]
        assert together == pytest.approx(alone, abs=1e-4), name
    codebook = RQImageGenerationPipeline.from_pretrained(tmp_path / "models").rqvae.codebook
    for folder in runs.values():
        pipeline = RQImageGenerationPipeline.from_pretrained(folder)
        assert torch.equal(pipeline.transformer.codebook.weight, codebook)
        assert torch.equal(pipeline.rqvae.codebook, codebook)
        assert sorted(path.name for path in (folder / "pictures").iterdir()) == ["step-25.png", "step-50.png"]


def test_every_trained_parameter_gets_a_gradient(code_depth, make_rqvae, make_transformer, pictures, tmp_path):
    rqvae = make_rqvae(code_depth=code_depth)
    arguments = RQTransformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    trainer = RQTransformerTrainer(model=make_transformer("text", rqvae), args=arguments, rqvae=rqvae)
    inputs = {"pixel_values": pictures[:2], "input_ids": torch.tensor([[1, 2, 3, 4, 5, 6], [1, 7, 2, 0, 0, 0]])}
    trainer.compute_loss(trainer.model, inputs).backward()
    with_none = [name for name, each in trainer.model.named_parameters() if each.requires_grad and each.grad is None]
    assert with_none == []  # several processes would wait for it


@pytest.mark.parametrize("pad_token_id", [0, None])
def test_accumulated_batches_of_unequal_captions_train_as_one(
    make_rqvae, make_transformer, tiny_tokenizer, pictures, tmp_path, pad_token_id
):
    def logged(batch_size: int) -> dict[str, list[float]]:
        torch.manual_seed(0)
        rqvae = make_rqvae()
        model = make_transformer("text", rqvae, dropout=0.0, text_loss_weight=0.5, pad_token_id=pad_token_id)
        arguments = RQTransformerTrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, report_to="none", max_steps=3, learning_rate=1e-2,
            per_device_train_batch_size=batch_size, gradient_accumulation_steps=8 // batch_size, logging_steps=1,
            save_strategy="no", disable_tqdm=True, stochastic_codes=False,
        )  # fmt: skip
        captions = ["heart", "a rocket of green cheese", "red", "pizza", *CAPTIONS]
        data = CodeDataset(Pictures(pictures), captions, encoder=BPEDropoutEncoder(tiny_tokenizer), training=False)
        trainer = RQTransformerTrainer(model=model, args=arguments, rqvae=rqvae, train_dataset=data)
        trainer.train()
        names = ("loss", "text_loss", "grad_norm")
        return {name: [entry[name] for entry in trainer.state.log_history if name in entry] for name in names}

    whole, parts = logged(8), logged(2)
    for name, values in whole.items():
        assert parts[name] == pytest.approx(values, rel=1e-4, abs=1e-4), name
    assert len(whole["loss"]) == 3
