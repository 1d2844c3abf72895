# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Times a training step of the RQ-Transformer against the official code and an earlier version of this library.

    python research/benchmarks/train.py --model 480M --official PATH --base PATH

A step begins with latents and ends with gradients: stochastic codes, forward pass, soft-label loss, backward pass.
Encoder and optimizer are left out, which cost both sides the same. Gradients exist before the step, so `extra_mib` is
what activations and the loss take. "checkpointing" is our step with gradient checkpointing. On a CPU attention is
written out, as `--attn_implementation eager` does.
"""

import argparse
from typing import Any

import torch
from common import MODELS, Call, Settings, Variant, add_ratios, common_parser, common_settings, compare, report, run
from official import TEXT_LOSS_WEIGHT, code_vectors, official_quantizer, official_transformer

TEMPERATURE = 0.5  # tau of Eq. 15
DROPOUT = 0.1


def prepare(settings: Settings) -> Call:
    """One step of a variant, in bf16 autocast if asked for; the official code takes fp16 on a GPU."""
    fields, device = MODELS[settings["model"]], settings["device"]
    height, width, _ = fields["code_shape"]
    shape = (settings["batch_size"], height, width, fields["codebook_dim"])
    latents = torch.randn(shape, device=device)
    input_ids = torch.randint(fields["vocab_size"], (len(latents), fields["condition_length"]), device=device)
    build = official_loss if settings["official"] is not None else our_loss
    compute_loss = build(settings, fields, latents, input_ids)

    def step() -> None:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=settings["bf16"]):
            loss = compute_loss()
        loss.backward()

    return step


def official_loss(settings: Settings, fields: Settings, latents: torch.Tensor, input_ids: torch.Tensor) -> Call:
    sizes = [fields[name] for name in ("code_shape", "codebook_size", "codebook_dim")]
    quantizer = official_quantizer(settings["official"], *sizes).to(latents.device).eval()
    model = official_transformer(settings["official"], fields, DROPOUT).to(latents.device).train()

    def compute_loss() -> torch.Tensor:
        soft_codes, codes = quantizer.get_soft_codes(latents, temp=TEMPERATURE, stochastic=True)
        outputs = model(codes, code_vectors(quantizer), cond=input_ids, amp=settings["bf16"])
        if not isinstance(outputs, tuple):  # a class, not a caption
            return model.compute_loss(outputs, soft_codes, use_soft_target=True)
        image_loss = model.compute_loss(outputs[0], soft_codes, use_soft_target=True)
        text_loss = model.compute_cond_loss(outputs[1], input_ids)
        return (1 - TEXT_LOSS_WEIGHT) * image_loss + TEXT_LOSS_WEIGHT * text_loss

    return compute_loss


def our_loss(settings: Settings, fields: Settings, latents: torch.Tensor, input_ids: torch.Tensor) -> Call:
    from rq_hf import ResidualQuantizer, RQTransformerConfig, RQTransformerForImageGeneration

    sizes = [fields["codebook_size"], fields["codebook_dim"], fields["code_shape"][2]]
    quantizer = ResidualQuantizer(*sizes).to(latents.device).eval()
    config = RQTransformerConfig(**fields, dropout=DROPOUT, text_loss_weight=TEXT_LOSS_WEIGHT)
    model = RQTransformerForImageGeneration(config).to(latents.device).train()
    model.set_codebook(quantizer.codebook.weight)
    if latents.device.type == "cpu":
        model.set_attn_implementation("eager")
    if settings["checkpointing"]:
        model.gradient_checkpointing_enable()

    def compute_loss() -> torch.Tensor:
        codes, residuals = quantizer.quantize(latents, TEMPERATURE, stochastic=True)
        return model(input_ids, codes, residuals=residuals, label_temperature=TEMPERATURE).loss

    return compute_loss


def variants(arguments: argparse.Namespace) -> list[Variant]:
    options = {"model": arguments.model, "batch_size": arguments.batch_size, "bf16": arguments.bf16}
    settings = common_settings(arguments) | options | {"official": None, "checkpointing": False}
    found = []
    if arguments.official is not None:
        found.append(Variant("official", settings | {"official": str(arguments.official)}))
    if arguments.base is not None:
        found.append(Variant("base", settings, library=arguments.base))
    return [*found, Variant("rq_hf", settings), Variant("rq_hf checkpointing", settings | {"checkpointing": True})]


def main(argv: list[str] | None = None) -> dict[str, list[dict[str, Any]]]:
    parser = common_parser(__doc__)
    parser.add_argument("--model", choices=MODELS, default="480M", help="(%(default)s)")
    parser.add_argument("--batch_size", type=int, default=2, help="(%(default)s)")
    parser.add_argument("--bf16", action="store_true", help="with autocast; fp32 otherwise")
    arguments = parser.parse_args(argv)
    rows = compare(__file__, variants(arguments), arguments.rounds)
    add_ratios(rows, ["official", "base"])
    tables = {f"{arguments.model}, batch of {arguments.batch_size}": rows}
    report(arguments, tables)
    return tables


if __name__ == "__main__":
    run(main, prepare)
