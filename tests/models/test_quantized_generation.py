# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Weights and activations of 8 bits by torchao. This test alone installs it, since transformers would import it in all
others."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_eight_bits_stay_close_and_do_not_depend_on_the_batch(make_transformer, tmp_path):
    requirement = re.search(r'"(torchao>=[^"]+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))[1]
    packages = tmp_path / "packages"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(packages), requirement]
    subprocess.run(install, check=True)
    make_transformer("text", hidden_size=64).save_pretrained(tmp_path / "model")
    run = [sys.executable, str(ROOT / "tests" / "quantized_generation.py"), str(tmp_path / "model")]
    done = subprocess.run(run, env={**os.environ, "PYTHONPATH": str(packages)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["weights"] == "torchao"
    assert 0 < figures["error"] < 0.1
    assert 0 < figures["error of likelihoods"] < 0.1
    assert figures["difference of batch and singles"] < 1e-5
    assert figures["codes of batch and singles are equal"]
