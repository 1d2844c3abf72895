# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Training of both stages with transformers' `Trainer`."""

from .arguments import CodeDataArguments, DataArguments, Recipe, read_recipe
from .checkpoints import resume_checkpoint
from .conditions import PictureCollator
from .losses import PatchDiscriminator, PerceptualLoss
from .publishing import save_pipeline
from .trainer import RQTrainer, RQTrainingArguments
from .trainer_rq_transformer import RQTransformerTrainer, RQTransformerTrainingArguments, train_rq_transformer
from .trainer_rqvae import RQVAETrainer, RQVAETrainingArguments, train_rqvae
