# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Train an RQ-VAE (stage 1), or an RQ-Transformer (stage 2) on its codes and assemble the pipeline.

    accelerate launch scripts/train_rqvae.py RECIPE [--flag value ...]
    accelerate launch scripts/train_rqt.py RECIPE [--flag value ...]

`rq-hf train-rqvae` and `rq-hf train-rqt` do the same on one device. RECIPE is a JSON file, or the name of a recipe
that comes with rq_hf. Its fields are flags, and flags win; those of a model take JSON values. A transformer is
conditioned on captions (--caption_column), on class labels (--label_column) or on nothing. --model_name_or_path
fine-tunes a model; with --lora_rank only adapters of a transformer are trained.
"""

from collections.abc import Sequence
from pathlib import Path

from .. import training
from ..models import RQTransformerConfig, RQVAEConfig
from ..training.arguments import CodeDataArguments, DataArguments
from .options import command
from .parsing import parse_recipe, start_logging


@command
def train_rqvae(argv: Sequence[str] | None = None, default_recipe: str | Path | None = None) -> None:
    """Runs `rq-hf train-rqvae`; without a recipe in `argv` with the default one."""
    classes = (RQVAEConfig, training.RQVAETrainingArguments, DataArguments)
    recipe = parse_recipe("rq-hf train-rqvae", *classes, __doc__, argv, default_recipe)
    start_logging(recipe.training)
    training.train_rqvae(recipe)


@command
def train_rqt(argv: Sequence[str] | None = None, default_recipe: str | Path | None = None) -> None:
    """Runs `rq-hf train-rqt`; without a recipe in `argv` with the default one."""
    classes = (RQTransformerConfig, training.RQTransformerTrainingArguments, CodeDataArguments)
    recipe = parse_recipe("rq-hf train-rqt", *classes, __doc__, argv, default_recipe)
    start_logging(recipe.training)
    training.train_rq_transformer(recipe)
