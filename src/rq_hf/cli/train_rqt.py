# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Train an RQ-Transformer (stage 2) on the codes of an RQ-VAE, and assemble the pipeline.

    rq-hf train-rqt RECIPE [--flag value ...]
    accelerate launch -m rq_hf.cli train-rqt RECIPE [--flag value ...]     on several devices

RECIPE is a JSON file, or the name of a recipe that comes with rq_hf. Its fields are flags, and flags win; those of a
model take JSON values. A transformer is conditioned on captions (--caption_column), on class labels (--label_column)
or on nothing. --model_name_or_path fine-tunes a pipeline, with its RQ-VAE and tokenizer; with --lora_rank only
adapters of its transformer are trained.
"""

import shlex
from collections.abc import Sequence

from ..models import RQTransformerConfig
from ..training import CodeDataArguments, RQTransformerTrainingArguments, train_rq_transformer
from .parsing import parse_recipe, start_logging


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `rq-hf train-rqt`."""
    classes = (RQTransformerConfig, RQTransformerTrainingArguments, CodeDataArguments)
    recipe = parse_recipe("rq-hf train-rqt", *classes, __doc__, argv)
    start_logging(recipe.training)
    trainer = train_rq_transformer(recipe)
    if trainer.is_world_process_zero():
        folder, data = recipe.training.output_dir, recipe.data
        condition = ["YOUR CAPTION"] if data.caption_column else []
        if data.label_column:
            config = trainer.model.config
            names = config.id2label or {}
            condition = ["--class_labels", names.get(config.class_ids[0], str(config.class_ids[0]))]
        print(f"{folder} holds the pipeline. Next: {shlex.join(['rq-hf', 'generate', folder, *condition])}")
