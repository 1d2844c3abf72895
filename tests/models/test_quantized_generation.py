# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Weights and activations of 8 bits by torchao. This test alone installs it, since transformers would import it in all
others."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rq_hf import RQTransformerForImageGeneration

ROOT = Path(__file__).resolve().parents[2]
BATCH_SIZE = 6


@pytest.mark.slow
def test_eight_bits_stay_close_and_do_not_depend_on_the_batch(make_transformer, tmp_path):
    requirement = re.search(r'"(torchao>=[^"]+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))[1]
    packages = tmp_path / "packages"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(packages), requirement]
    subprocess.run(install, check=True)
    make_transformer("text", hidden_size=64).save_pretrained(tmp_path / "model")
    run = [sys.executable, __file__, str(tmp_path / "model")]
    done = subprocess.run(run, env={**os.environ, "PYTHONPATH": str(packages)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def check(folder: str) -> None:
    """What the test is about, in a process that has torchao."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig
    from transformers import TorchAoConfig

    plain = RQTransformerForImageGeneration.from_pretrained(folder).eval()
    settings = TorchAoConfig(Int8DynamicActivationInt8WeightConfig())
    quantized = RQTransformerForImageGeneration.from_pretrained(folder, quantization_config=settings).eval()
    assert type(quantized.spatial_transformer.blocks[0].mlp[0].weight).__module__.startswith("torchao.")
    torch.manual_seed(0)
    input_ids = torch.randint(plain.config.vocab_size, (BATCH_SIZE, plain.config.condition_length))
    codes = torch.randint(plain.config.codebook_size, (BATCH_SIZE, *plain.config.code_shape))
    rows = [slice(row, row + 1) for row in range(BATCH_SIZE)]
    with torch.no_grad():
        expected, logits = plain(input_ids, codes).logits, quantized(input_ids, codes).logits
        alone = [quantized(input_ids[row], codes[row]).logits for row in rows]
    assert 0 < (logits - expected).norm() / expected.norm() < 0.1
    torch.testing.assert_close(logits, torch.cat(alone), rtol=0, atol=1e-5)
    drawn = quantized.generate(input_ids, generator=[torch.Generator().manual_seed(row.start) for row in rows])
    for row in rows:
        single = quantized.generate(input_ids[row], generator=torch.Generator().manual_seed(row.start))
        assert torch.equal(single, drawn[row])
    error = quantized.log_likelihood(input_ids, drawn) - plain.log_likelihood(input_ids, drawn)
    assert 0 < error.abs().max() < 0.1


if __name__ == "__main__":
    check(sys.argv[1])
