# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Draws a sheet of prompts, the likeliest of eight pictures for each.

python research/icons/draw_prompts.py checkpoints/icons-64 research/icons/prompts.txt --output sheet.png
"""

import argparse
from pathlib import Path

import torch

from rq_hf import RQImageGenerationPipeline
from rq_hf.images import image_grid


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a pipeline")
    parser.add_argument("prompts", type=Path, help="a file of prompts, one a line")
    parser.add_argument("--num_candidates", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.png")
    options = parser.parse_args(argv)
    prompts = options.prompts.read_text(encoding="utf-8").splitlines()
    pipe = RQImageGenerationPipeline.from_pretrained(options.model)
    choice = {"num_candidates": options.num_candidates, "ranker": "likelihood"}
    pictures = pipe(prompts, generator=torch.Generator().manual_seed(options.seed), **choice).images
    options.output.parent.mkdir(parents=True, exist_ok=True)
    image_grid(pictures, prompts, columns=4).save(options.output)


if __name__ == "__main__":
    main()
