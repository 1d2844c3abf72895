# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Both models wrapped with `fully_shard` in two processes on the CPU (gloo), against one process without."""

import subprocess
import sys
from pathlib import Path

import fully_sharded
import pytest
import torch
from conftest import CAPTIONS

from rq_hf import (
    RQImageGenerationPipeline,
    RQTransformerForImageGeneration,
    train_caption_tokenizer,
)

SCRIPT = Path(__file__).with_name("fully_sharded.py")


@pytest.fixture(scope="module")
def alone() -> dict[str, dict]:
    """What one process ends with."""
    return fully_sharded.train_both()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def together(folder) -> list[dict[str, dict]]:
    """What each of two processes ends with that share the batches."""
    commands = [[sys.executable, str(SCRIPT), str(folder), str(process), "2"] for process in range(2)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    started = [subprocess.Popen(command, **pipes) for command in commands]
    for process in started:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output[-4000:]
    return [torch.load(folder / f"{process}.pt") for process in range(2)]


@pytest.mark.parametrize("kind", ["rqvae", "transformer"])
def test_parameters_are_sharded_and_buffers_are_not(kind, alone, together):
    parameters, buffers = alone[kind]["parameters"], alone[kind]["buffers"]
    assert any("codebook" in name for name in buffers) and not alone[kind]["sharded"]
    for process in together:
        assert process[kind]["sharded"] == set(parameters)
        assert {name: value.shape for name, value in process[kind]["buffers"].items()} == {
            name: value.shape for name, value in buffers.items()
        }


@pytest.mark.parametrize("kind", ["rqvae", "transformer"])
def test_sharded_processes_train_as_one_with_their_batches(kind, alone, together):
    losses = alone[kind]["losses"]
    assert losses[-1] < losses[0]
    for process in together:
        torch.testing.assert_close(process[kind]["losses"], losses, rtol=1e-5, atol=0)
        for name in ("parameters", "buffers"):
            torch.testing.assert_close(process[kind][name], alone[kind][name], rtol=1e-4, atol=1e-5)


def test_sharded_processes_keep_one_codebook_to_the_bit(alone, together):
    first, second = (process["rqvae"]["buffers"] for process in together)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert (first["quantizer.num_updates"] == fully_sharded.STEPS).all()
    codebook, expected = (
        ended["buffers"]["quantizer.codebook.weight"] for ended in (together[0]["rqvae"], alone["rqvae"])
    )
    assert (codebook - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_gathered_weights_are_those_of_an_ordinary_pipeline(alone, together, folder, tmp_path):
    transformer = RQTransformerForImageGeneration.from_pretrained(folder / "transformer")
    assert transformer.config.architectures == ["RQTransformerForImageGeneration"]
    rqvae = fully_sharded.rqvae_of(transformer)
    tokenizer = train_caption_tokenizer(CAPTIONS, vocab_size=60, max_length=3)
    RQImageGenerationPipeline(rqvae, transformer, tokenizer).save_pretrained(tmp_path)
    pipeline = RQImageGenerationPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    assert len(pipeline(CAPTIONS[:2], generator=generators).images) == 2

    unsharded = RQTransformerForImageGeneration(transformer.config).eval()
    unsharded.load_state_dict(alone["transformer"]["parameters"] | alone["transformer"]["buffers"])
    torch.testing.assert_close(dict(pipeline.transformer.state_dict()), dict(unsharded.state_dict()))
    input_ids = pipeline.encode_prompt(CAPTIONS)
    codes = pipeline.transformer.generate(input_ids, do_sample=False)
    assert torch.equal(codes, unsharded.generate(input_ids, do_sample=False))
