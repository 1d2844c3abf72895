# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The benchmarks of research/ run on tiny models, and the recipes of the demo train."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from picture_files import FIXTURE

from rq_hf import RQImageGenerationPipeline

RESEARCH = Path(__file__).parents[2] / "research"
COMMON = {"device": "cpu", "official": None}
SMALL = {"model": "tiny", "batch_size": 2}
TINY = {
    "quantizer": [
        {"call": call, "num_vectors": 8, "codebook_size": 16, "codebook_dim": 4, "code_depth": 2}
        for call in ("bare products", "evaluation", "training per_step", "training per_depth")
    ],
    "generate": [{"variant": dtype, **SMALL, "top_k": 8, "top_p": 0.9} for dtype in ("fp32", "bf16")],
    "train": [{**SMALL, "bf16": is_on, "checkpointing": is_on} for is_on in (False, True)],
}


@pytest.mark.parametrize("script", TINY)
def test_benchmarks_run_on_tiny_models(script, monkeypatch):
    monkeypatch.syspath_prepend(RESEARCH / "benchmarks")
    module = importlib.import_module(script)
    for settings in TINY[script]:
        module.prepare(COMMON | settings)()


@pytest.mark.slow
def test_the_recipes_of_the_demo_train_two_steps_each(tmp_path):
    def run(*words: object, **flags: object) -> None:
        flags |= {"dataset_name": FIXTURE, "filter": "tone=default", "use_cpu": True, "max_steps": 2}
        flags |= {"max_eval_samples": 4, "eval_steps": 2, "per_device_train_batch_size": 2, "bf16": False}
        words += tuple(word for name, value in flags.items() for word in (f"--{name}", value))
        done = subprocess.run([sys.executable, *map(str, words)], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]

    emoji = RESEARCH / "emoji"
    run(emoji / "train_rqvae.py", emoji / "recipes" / "emoji-rqvae-8x8x3-4M.json")
    flags = {"tokenizer_name_or_path": RESEARCH.parent / "checkpoints" / "emoji-64"}
    run("-m", "rq_hf.cli", "train-rqt", emoji / "recipes" / "emoji-rqt-8x8x3-15M.json", **flags)
    RQImageGenerationPipeline.from_pretrained(tmp_path / "runs" / "emoji-rqt-8x8x3-15M")
