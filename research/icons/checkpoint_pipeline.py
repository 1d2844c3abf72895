# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Makes a pipeline of a checkpoint of a training that has not ended, with the averaged weights.

python research/icons/checkpoint_pipeline.py runs/composing-rqt-8x8x3-15M/checkpoint-1200 --output_dir runs/now
"""

import argparse
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from transformers import AutoModel, AutoTokenizer

from rq_hf import RQImageGenerationPipeline, RQVAEModel


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--rqvae", default="checkpoints/icons-64/rqvae", help="(%(default)s)")
    parser.add_argument("--tokenizer", default="checkpoints/emoji-64/tokenizer", help="(%(default)s)")
    parser.add_argument("--output_dir", type=Path, required=True)
    options = parser.parse_args(argv)
    transformer = AutoModel.from_pretrained(options.checkpoint, dtype=torch.float32)
    trained = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    average = EMAModel(trained)
    average.load_state_dict(torch.load(options.checkpoint / "ema.pt", map_location="cpu", weights_only=True))
    average.copy_to(trained)
    pipe = RQImageGenerationPipeline(
        rqvae=RQVAEModel.from_pretrained(options.rqvae),
        transformer=transformer,
        tokenizer=AutoTokenizer.from_pretrained(options.tokenizer),
    )
    pipe.save_pretrained(options.output_dir)


if __name__ == "__main__":
    main()
