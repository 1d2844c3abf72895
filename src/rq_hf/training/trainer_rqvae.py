# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Training of the RQ-VAE (stage 1): reconstruction and commitment (Eq. 6 and 7)."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from transformers import TrainingArguments

from .trainer import RQTrainer


@dataclass
class RQVAETrainingArguments(TrainingArguments):
    """`TrainingArguments` of stage 1."""

    codebook_update: str = field(
        default="per_step",
        metadata={
            "help": "How the codebook follows the data: 'per_depth', the official rule, or 'per_step', one update "
            "after all depths with restarts relative to mean usage, for batches with few vectors per code.",
            "choices": ["per_depth", "per_step"],
        },
    )
    l1_weight: float = field(
        default=0.0, metadata={"help": "Weight of the mean absolute error beside the squared one."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "The data set gives only what is used."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "Every parameter is used."})


class RQVAETrainer(RQTrainer):
    """Trains an [`RQVAEModel`] on batches of `pixel_values` `(B, channels, height, width)` in [-1, 1]."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Reconstruction, commitment and absolute error; in training the codebook is updated on the way."""
        pixel_values = inputs["pixel_values"]
        codebook_update = self.args.codebook_update if model.training else None
        outputs = model(pixel_values, codebook_update=codebook_update)
        loss = outputs.loss
        if self.args.l1_weight > 0:
            loss = loss + self.args.l1_weight * F.l1_loss(outputs.reconstruction.float(), pixel_values.float())
        self.record(
            model,
            reconstruction_loss=outputs.reconstruction_loss,
            commitment_loss=outputs.commitment_loss,
            code_usage=self._usage(outputs.codes),
        )
        return (loss, {"loss": loss}) if return_outputs else loss

    def _usage(self, codes: torch.Tensor) -> torch.Tensor:
        """Part of the codebook that this batch uses, over all depths."""
        used = torch.zeros(self._codebook_size, device=codes.device)
        used.index_fill_(0, codes.flatten(), 1.0)
        return used.mean()

    @property
    def _codebook_size(self) -> int:
        return self.accelerator.unwrap_model(self.model).config.codebook_size
