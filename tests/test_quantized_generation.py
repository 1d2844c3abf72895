# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Weights and activations of 8 bits by torchao, which is installed for this test alone: every import of transformers
would import it, too."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FIXTURE = Path(__file__).parent / "fixtures" / "emoji"
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def run_with_torchao(tmp_path_factory):
    """Runs a script in a process that has torchao and returns what it prints."""
    requirement = re.search(r'"(torchao>=[^"]+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))[1]
    packages = tmp_path_factory.mktemp("packages")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(packages), requirement]
    subprocess.run(install, check=True)
    environment = {**os.environ, "PYTHONPATH": str(packages)}

    def run(script: str, *arguments: object) -> str:
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        finished = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    return run


@pytest.mark.slow
def test_eight_bits_stay_close_and_do_not_depend_on_the_batch(run_with_torchao, make_transformer, tmp_path):
    make_transformer("text", hidden_size=64).save_pretrained(tmp_path / "model")
    printed = run_with_torchao("tests/quantized_generation.py", tmp_path / "model")
    figures = json.loads(printed.splitlines()[-1])
    assert figures["weights"] == "torchao"
    assert 0 < figures["error"] < 0.1
    assert 0 < figures["error of likelihoods"] < 0.1
    assert figures["difference of batch and singles"] < 1e-5
    assert figures["codes of batch and singles are equal"]


@pytest.mark.slow
def test_eight_bits_are_evaluated_beside_32(run_with_torchao, tiny_pipeline, tmp_path):
    tiny_pipeline.save_pretrained(tmp_path / "pipeline")
    data = ["--dataset_name", FIXTURE, "--split", "test_combos", "--filter", "tone=default"]
    model, output = tmp_path / "pipeline", tmp_path / "likelihood.json"
    run_with_torchao(
        "scripts/evaluate.py", "likelihood", model, *data, "--dtype", "float32", "int8", "--output", output
    )
    exact, quantized = json.loads(output.read_text(encoding="utf-8"))["rows"]
    assert 0 < abs(quantized["loss"] / exact["loss"] - 1) < 0.01
    assert 0.5 < quantized["same likeliest codes"] <= 1
    run_with_torchao("scripts/evaluate.py", "prompts", model, *data, "--dtype", "int8", "--num_prompts", 2)
    reference, pictures = tmp_path / "reference.safetensors", ["--dataset_name", FIXTURE, "--filter", "tone=default"]
    features = ["--feature_extractor", "efficientnet_lite0"]
    made = ["--split", "train", "--image_size", 16, "--output", reference]
    run_with_torchao("scripts/evaluate.py", "statistics", *pictures, *features, *made)
    drawn = ["--protocol", "captions", "--split", "test_combos", "--num_pictures", 2, "--reference", reference]
    drawn += ["--dtype", "int8", "--output", tmp_path / "samples.json"]
    run_with_torchao("scripts/evaluate.py", "samples", model, *pictures, *features, *drawn)
    assert json.loads((tmp_path / "samples.json").read_text())["metrics"]["frechet_distance_efficientnet_lite0"] > 0
