# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Train an RQ-VAE (stage 1).

    rq-hf train-rqvae RECIPE [--flag value ...]
    accelerate launch -m rq_hf.cli train-rqvae RECIPE [--flag value ...]     on several devices

RECIPE is a JSON file, or the name of a recipe that comes with rq_hf. Its fields are flags, and flags win; those of a
model take JSON values. --model_name_or_path fine-tunes an RQ-VAE.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from ..models import RQVAEConfig
from ..training import DataArguments, RQVAETrainingArguments, train_rqvae
from ..training.arguments import recipe_names
from .parsing import parse_recipe, start_logging


def main(argv: Sequence[str] | None = None, default_recipe: str | Path | None = None) -> None:
    """Runs `rq-hf train-rqvae`; without a recipe in `argv` with the default one."""
    classes = (RQVAEConfig, RQVAETrainingArguments, DataArguments)
    recipe = parse_recipe("rq-hf train-rqvae", *classes, __doc__, argv, default_recipe)
    start_logging(recipe.training)
    trainer = train_rqvae(recipe)
    if trainer.is_world_process_zero():
        folder, second = recipe.training.output_dir, recipe.name.replace("-rqvae-", "-rqt-")
        words = ["rq-hf", "train-rqt", second if second in recipe_names() else "RECIPE"]
        words += ["--dataset_name", recipe.data.dataset_name, "--rqvae_name_or_path", folder]
        print(f"{folder} holds the RQ-VAE. Next: {shlex.join(words)}")
