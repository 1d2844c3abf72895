# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
r"""Measures an RQ-VAE or a pipeline, prints a table and writes JSON, and Markdown for model cards.

    python scripts/evaluate.py rqvae MODEL --dataset_name data/emoji-64 --split test_combos \
        --filter tone=default --output rqvae.json
    python scripts/evaluate.py prompts MODEL --dataset_name data/emoji-64 --split train --num_prompts 512 \
        --output prompts.json
    python scripts/evaluate.py likelihood MODEL --dataset_name data/emoji-64 --split validation \
        --dtype float32 bfloat16 int8 --output likelihood.json
    accelerate launch scripts/evaluate.py reconstructions MODEL --dataset_name DATA --split validation \
        --output reconstructions.json
    accelerate launch scripts/evaluate.py statistics --dataset_name DATA --split train --image_size 256 \
        --output train.safetensors
    accelerate launch scripts/evaluate.py samples MODEL --reference train.safetensors --output samples.json
    accelerate launch scripts/evaluate.py sweep MODEL --reference train.safetensors --output sweep.json \
        --top_k 512 1024 2048 --top_p 0.9 0.95 1.0

MODEL is a Hub id or folder. `rqvae` takes an RQ-VAE or a pipeline and gives PSNR, SSIM, losses, Frechet distance and
the use of the codes, for all depths and depth by depth; beside rqvae.json it leaves rqvae-reconstructions.png, some
pictures coarse to fine, and rqvae-code-norms.png, the codes of each depth by the norm of their vectors. rFID needs
`--feature_extractor inception` and LPIPS `--lpips`, as their weights are downloaded. `prompts` takes a pipeline of
captions, draws one picture per prompt and gives prompt accuracy (see rq_hf.metrics.PromptAccuracy) with the floors to
compare it with, and with `--copies_of` the part that are copies; every split gives real pictures.
`likelihood` takes a pipeline and gives what a code of real pictures costs its transformer, in several dtypes if
wanted, and how many of the likeliest codes they share; `int8` needs torchao.

`samples` draws as many pictures as `--protocol` wants and gives FID, Inception score, CLIP score, precision and
recall, accuracy and nearest real pictures, as far as they are asked for; `sweep` does so for each combination of
sampling settings. `statistics` makes the reference; `reconstructions` gives the rFID of all depths alone. These four
run in any number of processes with the same result, and go on where they were killed. See docs/evaluation.md. All
need `pip install "rq_hf[train,eval]"`.
"""

import sys
from collections.abc import Sequence

from rq_hf.command_line import INPUT_ERRORS
from rq_hf.evaluation import run_command


def main(argv: Sequence[str] | None = None) -> None:
    run_command(sys.argv[1:] if argv is None else list(argv), __doc__)


if __name__ == "__main__":
    try:
        main()
    except (*INPUT_ERRORS, ImportError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
