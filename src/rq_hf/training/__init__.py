# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Training of both stages with transformers' `Trainer`."""

from .arguments import ScriptArguments, parse_arguments, start_logging
from .checkpoints import resume_checkpoint
from .conditions import (
    CodeDataArguments,
    code_datasets,
    load_rqvae,
    load_tokenizer,
    training_pictures,
    transformer_config,
)
from .data import CodeDataset, DataArguments, load_dataset_splits
from .pictures import PictureDataset
from .publishing import push_run, save_pipeline, write_card
from .starting_point import initial_config, initial_model
from .streaming import CodeStream, PictureStream
from .trainer import RQTrainer, RQTrainingArguments
from .trainer_rq_transformer import RQTransformerTrainer, RQTransformerTrainingArguments, cache_latents
from .trainer_rqvae import RQVAETrainer, RQVAETrainingArguments, initial_rqvae
from .transforms import TRANSFORMS, PictureTransform
from .vocabulary import initial_transformer
