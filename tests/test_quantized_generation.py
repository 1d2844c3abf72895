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

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_eight_bits_stay_close_and_do_not_depend_on_the_batch(make_transformer, tmp_path):
    requirement = re.search(r'"(torchao>=[^"]+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))[1]
    packages = tmp_path / "packages"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(packages), requirement]
    subprocess.run(install, check=True)
    model = make_transformer("text", hidden_size=64)
    model.save_pretrained(tmp_path / "model")
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    script = [sys.executable, str(ROOT / "tests" / "quantized_generation.py"), str(tmp_path / "model")]
    run = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    figures = json.loads(run.stdout.splitlines()[-1])
    assert figures["weights"] == "torchao"
    assert 0 < figures["error"] < 0.1
    assert figures["difference of batch and singles"] < 1e-5
    assert figures["codes of batch and singles are equal"]
