# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Seconds of a call of both ways to draw with random weights, in turns in one process.

python research/contextual/speed.py [--shapes 8M] [--compile] [--batch_sizes 1 4 16]

The contextual model drafts in 8 passes and revises twice in two passes each. Neither is guided.
"""

import argparse
import statistics
import time

import torch
from transformers import CompileConfig

from rq_hf import (
    ContextualRQTransformerConfig,
    ContextualRQTransformerForImageGeneration,
    RQTransformerConfig,
    RQTransformerForImageGeneration,
)

SHAPES = {
    "demo": {
        "vocab_size": 4096, "condition_length": 24, "code_shape": (8, 8, 3), "codebook_size": 2048,
        "codebook_dim": 128, "hidden_size": 384, "num_spatial_layers": 6, "num_depth_layers": 1,
        "num_attention_heads": 6,
    },
    "8M": {
        "vocab_size": 1024, "condition_length": 16, "code_shape": (8, 8, 4), "codebook_size": 1024,
        "codebook_dim": 64, "hidden_size": 256, "num_spatial_layers": 6, "num_depth_layers": 2,
        "num_attention_heads": 8,
    },
}  # fmt: skip
PASSES = {"num_draft_steps": 8, "num_revise_rounds": 2, "num_revise_steps": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=SHAPES, default="demo")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    fields = SHAPES[options.shapes] | {"dropout": 0.0, "text_loss_weight": 0.0}
    raster = RQTransformerForImageGeneration(RQTransformerConfig(**fields)).eval()
    contextual = ContextualRQTransformerForImageGeneration(ContextualRQTransformerConfig(**fields)).eval()
    for model in (raster, contextual):
        model.set_attn_implementation("eager")  # faster than SDPA for such short rows on a CPU
    shared = {"top_k": 100, "compile_config": CompileConfig(mode="default") if options.compile else None}
    for batch_size in options.batch_sizes:
        ids = torch.randint(fields["vocab_size"], (batch_size, fields["condition_length"]))
        calls = {"raster": (raster, shared), "contextual": (contextual, shared | PASSES)}
        seconds = {name: [] for name in calls}
        for turn in range(options.rounds + 1):
            for name, (model, settings) in calls.items():
                begin = time.perf_counter()
                model.generate(ids, generator=torch.Generator().manual_seed(turn), **settings)
                seconds[name] += [time.perf_counter() - begin] * (turn > 0)  # the first compiles
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        ratio = medians["raster"] / medians["contextual"]
        print(
            f"batch {batch_size}: {medians['raster']:.3f} s, {medians['contextual']:.3f} s, ratio {ratio:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
