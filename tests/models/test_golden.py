# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""What `checkpoints/emoji-64` draws, decodes, predicts and learns must not change.

python tests/models/test_golden.py tests/fixtures/golden.safetensors     records it anew
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rq_hf import RQImageGenerationPipeline
from rq_hf.pipelines.text_encoding import rewrite_ids

ROOT = Path(__file__).resolve().parents[2]
NUM_PROMPTS = 64
NUM_DECODED = 8  # pictures whose pixels are kept
STEPS = 20
BATCH_SIZE = 4


def prompts() -> list[str]:
    """The first captions of the emoji fixture, one per picture."""
    lines = (ROOT / "tests" / "fixtures" / "emoji" / "train" / "metadata.jsonl").read_text(encoding="utf-8")
    return [json.loads(line)["captions"][0] for line in lines.splitlines()[:NUM_PROMPTS]]


def load_pipeline() -> RQImageGenerationPipeline:
    pipe = RQImageGenerationPipeline.from_pretrained(ROOT / "checkpoints" / "emoji-64")
    pipe.set_progress_bar_config(disable=True)
    for module in pipe.transformer.modules():  # losses of training must not depend on random numbers
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return pipe


def ids_of(pipe: RQImageGenerationPipeline, captions: list[str]) -> torch.LongTensor:
    """Ids that the transformer reads, `(N, S)`."""
    ids = pipe.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return rewrite_ids(ids, pipe.prompt_rewriter)


def drawn_codes(pipe: RQImageGenerationPipeline) -> torch.Tensor:
    """`(64, H, W, D)`, one seed per prompt."""
    generators = [torch.Generator().manual_seed(index) for index in range(NUM_PROMPTS)]
    return pipe(prompts(), generator=generators, output_type="latent").images


@torch.no_grad()
def predictions(pipe: RQImageGenerationPipeline, codes: torch.Tensor) -> dict[str, torch.Tensor]:
    """Pixels, log-likelihoods of each depth and some of the logits after given codes."""
    input_ids = ids_of(pipe, prompts())
    likelihoods = [pipe.transformer.log_likelihood(input_ids, codes, depth + 1) for depth in range(codes.shape[-1])]
    logits = pipe.transformer(input_ids[:NUM_DECODED], codes[:NUM_DECODED]).logits
    return {
        "pixels": pipe.rqvae.decode(codes[:NUM_DECODED]),
        "coarse_pixels": pipe.rqvae.decode(codes[:2, ..., :1]),
        "log_likelihoods": torch.stack(likelihoods, dim=1),
        "logits": logits[:, ::3, ::3, :, ::16],
    }


def training_losses(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Losses `(STEPS,)` of AdamW from the shipped weights on decoded pictures: of the RQ-VAE, whose codebook stays,
    and of the transformer after hard codes, with hard labels and soft ones."""
    recorded = {}
    for name in ("stage1_losses", "stage2_losses", "stage2_soft_losses"):
        pipe, losses = load_pipeline(), []
        model = (pipe.rqvae if name == "stage1_losses" else pipe.transformer).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        ids = ids_of(pipe, prompts()[:NUM_DECODED])
        for step in range(STEPS):
            rows = [(step + index) % NUM_DECODED for index in range(BATCH_SIZE)]
            pictures = pixels[rows].clamp(-1, 1)
            if model is pipe.rqvae:
                loss = model(pictures).loss
            else:
                with torch.no_grad():
                    codes, residuals = pipe.rqvae.quantize(pipe.rqvae.encode_latents(pictures))
                soft = {"residuals": residuals, "label_temperature": [0.03, 0.05, 0.1]}
                loss = model(ids[rows], codes, **soft if name == "stage2_soft_losses" else {"labels": codes}).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        recorded[name] = torch.stack(losses)
    return recorded


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(ROOT / "tests" / "fixtures" / "golden.safetensors")


@pytest.fixture(scope="module")
def pipe() -> RQImageGenerationPipeline:
    return load_pipeline()


def assert_recorded(values: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(values, {name: expected[name] for name in values}, rtol=0, atol=1e-4)


def test_prompts_and_seeds_give_the_recorded_codes(pipe, expected):
    equal = (drawn_codes(pipe) == expected["codes"]).flatten(1).all(1)
    assert equal.sum() >= 62, f"{int(equal.sum())} of 64 code maps are equal"


def test_codes_give_the_recorded_pixels_logits_and_likelihoods(pipe, expected):
    assert_recorded(predictions(pipe, expected["codes"].long()), expected)


@pytest.mark.slow
def test_training_steps_give_the_recorded_losses(expected):
    assert_recorded(training_losses(expected["pixels"]), expected)


if __name__ == "__main__":
    pipeline = load_pipeline()
    drawn = drawn_codes(pipeline)
    golden = {"codes": drawn.to(torch.int16), **predictions(pipeline, drawn)}
    golden |= training_losses(golden["pixels"])
    save_file({name: value.contiguous() for name, value in golden.items()}, sys.argv[1])
