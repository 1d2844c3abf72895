# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Values that must not change: what `checkpoints/emoji-64` draws, decodes, predicts and learns.

python tests/golden.py tests/fixtures/golden.safetensors     records them anew
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from rq_hf import RQImageGenerationPipeline

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT / "checkpoints" / "emoji-64"
NUM_PROMPTS = 64
NUM_DECODED = 8  # pictures whose pixels are kept
STEPS = 20
BATCH_SIZE = 4


def prompts() -> list[str]:
    """The first captions of the emoji fixture, one per picture."""
    lines = (ROOT / "tests" / "fixtures" / "emoji" / "train" / "metadata.jsonl").read_text(encoding="utf-8")
    return [json.loads(line)["captions"][0] for line in lines.splitlines()[:NUM_PROMPTS]]


def load_pipeline() -> RQImageGenerationPipeline:
    pipe = RQImageGenerationPipeline.from_pretrained(CHECKPOINT)
    pipe.set_progress_bar_config(disable=True)
    for module in pipe.transformer.modules():  # losses of training must not depend on random numbers
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return pipe


def drawn_codes(pipe: RQImageGenerationPipeline) -> torch.Tensor:
    """`(64, H, W, D)`, one seed per prompt."""
    generators = [torch.Generator().manual_seed(index) for index in range(NUM_PROMPTS)]
    return pipe(prompts(), generator=generators, output_type="latent").images


@torch.no_grad()
def predictions(pipe: RQImageGenerationPipeline, codes: torch.Tensor) -> dict[str, torch.Tensor]:
    """Pixels, log-likelihoods of each depth and some of the logits after given codes."""
    input_ids = pipe.encode_prompt(prompts())
    depth = codes.shape[-1]
    logits = pipe.transformer(input_ids[:NUM_DECODED], codes[:NUM_DECODED]).logits
    return {
        "pixels": pipe.rqvae.decode(codes[:NUM_DECODED]),
        "coarse_pixels": pipe.rqvae.decode(codes[:2, ..., :1]),
        "log_likelihoods": torch.stack(
            [pipe.transformer.log_likelihood(input_ids, codes, depth=d + 1) for d in range(depth)], dim=1
        ),
        "logits": logits[:, ::3, ::3, :, ::16].contiguous(),
    }


def batches(pipe: RQImageGenerationPipeline, pixels: torch.Tensor) -> list[torch.Tensor]:
    """Pictures `(BATCH_SIZE, 3, 64, 64)` of each step, from the decoded ones without any alteration."""
    pixels = pixels.clamp(-1, 1)
    return [pixels[[(step + index) % len(pixels) for index in range(BATCH_SIZE)]] for step in range(STEPS)]


def stage1_losses(pixels: torch.Tensor) -> torch.Tensor:
    """Losses `(STEPS,)` of AdamW on the RQ-VAE from the shipped weights; its codebook stays."""
    pipe = load_pipeline()
    model = pipe.rqvae.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    losses = []
    for pixel_values in batches(pipe, pixels):
        loss = model(pixel_values).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses)


def stage2_losses(pixels: torch.Tensor, soft_labels: bool) -> torch.Tensor:
    """Losses `(STEPS,)` of AdamW on the transformer from the shipped weights, with hard codes as inputs."""
    pipe = load_pipeline()
    model = pipe.transformer.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = pipe.encode_prompt(prompts()[:NUM_DECODED])
    losses = []
    for step, pixel_values in enumerate(batches(pipe, pixels)):
        input_ids = ids[[(step + index) % len(ids) for index in range(BATCH_SIZE)]]
        with torch.no_grad():
            codes, residuals = pipe.rqvae.quantize(pipe.rqvae.encode_latents(pixel_values))
        targets = (
            {"residuals": residuals, "label_temperature": [0.03, 0.05, 0.1]} if soft_labels else {"labels": codes}
        )
        loss = model(input_ids, codes, **targets).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses)


def main(path: str) -> None:
    pipe = load_pipeline()
    codes = drawn_codes(pipe)
    golden = {"codes": codes.to(torch.int16), **predictions(pipe, codes)}
    golden["stage1_losses"] = stage1_losses(golden["pixels"])
    golden["stage2_losses"] = stage2_losses(golden["pixels"], soft_labels=False)
    golden["stage2_soft_losses"] = stage2_losses(golden["pixels"], soft_labels=True)
    save_file({name: value.contiguous() for name, value in golden.items()}, path)
    for name, value in golden.items():
        print(name, tuple(value.shape), value.dtype)


if __name__ == "__main__":
    main(sys.argv[1])
