# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Train an RQ-VAE (stage 1).

    rq-hf train-rqvae RECIPE [--flag value ...]
    accelerate launch -m rq_hf.cli train-rqvae RECIPE [--flag value ...]     on several devices

RECIPE is a JSON file, or the name of a recipe that comes with rq_hf. Its fields are flags, and flags win; those of a
model take JSON values. --model_name_or_path fine-tunes an RQ-VAE.
"""

from collections.abc import Sequence

from ..models import RQVAEConfig
from ..training import DataArguments, RQVAETrainingArguments, train_rqvae
from .parsing import parse_recipe, start_logging


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `rq-hf train-rqvae`."""
    classes = (RQVAEConfig, RQVAETrainingArguments, DataArguments)
    recipe = parse_recipe("rq-hf train-rqvae", *classes, __doc__, argv)
    start_logging(recipe.training)
    trainer = train_rqvae(recipe)
    if trainer.is_world_process_zero():
        print(f"{recipe.training.output_dir} holds the RQ-VAE; docs/own_pictures.md shows the next steps.")
