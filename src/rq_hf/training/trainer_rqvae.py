# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Training of the RQ-VAE (stage 1): reconstruction and commitment (Eq. 6 and 7), perceptual and adversarial losses."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset
from transformers import get_scheduler, set_seed
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils.type_validators import interval, probability

from ..evaluation.reconstruction import ReconstructionMetrics, coarse_to_fine_sheet, squared_errors
from ..models.configuration_rqvae import RQVAEConfig
from ..models.modeling_rqvae import RQVAEModel, RQVAEOutput
from ..pipelines.loading import load_component
from .arguments import Recipe, setting
from .checkpoints import resume_checkpoint
from .data import load_splits, picture_datasets
from .losses import PatchDiscriminator, PerceptualLoss, adaptive_weight, adversarial_loss, discriminator_loss
from .publishing import publish_rqvae
from .trainer import RQTrainer, RQTrainingArguments

DISCRIMINATOR_FILE = "discriminator.pt"
SHEET_ROWS = 8


@dataclass
class RQVAETrainingArguments(RQTrainingArguments):
    """`TrainingArguments` of stage 1."""

    codebook_update: Literal["per_depth", "per_step"] = setting(
        "per_step", "Codebook updates: 'per_depth' is the official rule; 'per_step' fits batches with few vectors."
    )
    quantizer_dropout: float = setting(
        0.0,
        "Share of the batches that decode the first d codes alone, d at random; for coarse pictures.",
        probability,
    )
    train_decoder_only: bool = setting(False, "Freeze encoder and codebook: transformers of their codes still fit.")
    l1_weight: float = setting(0.0, "Weight of the mean absolute error beside the squared one.", interval(min=0))
    perceptual_weight: float = setting(1.0, "Weight of the perceptual loss; 0 trains without it.", interval(min=0))
    perceptual_net: Literal["vgg", "lite0"] = setting(
        "vgg", "Its features: 'vgg' is LPIPS, which is downloaded; 'lite0' is an EfficientNet-Lite0 from PyPI."
    )
    adversarial_weight: float = setting(0.75, "Weight of the adversarial loss; 0 is off.", interval(min=0))

    def __post_init__(self):
        super().__post_init__()
        if self.adversarial_weight > 0 and (self.fp16 or self.torch_compile):
            raise ValueError("`fp16` and `torch_compile` must be False with a discriminator; `bf16` works.")


class RQVAETrainer(RQTrainer):
    """
    Trains an [`RQVAEModel`] on batches of `pixel_values` `(B, C, height, width)` in [-1, 1].

    The loss is the sum of squared error, commitment loss and, weighted as in VQ-GAN, a perceptual and an adversarial
    loss. The discriminator has its own optimizer and schedule with the same arguments. Every batch updates the
    codebook, also when gradients are accumulated.

    Each evaluation also reports the metrics of [`ReconstructionMetrics`] and writes the first pictures, coarse to
    fine, to `pictures/step-N.png` in the output folder. For a plain `datasets.Dataset`, pass a [`PictureCollator`] as
    `data_collator`.
    """

    def __init__(self, model: RQVAEModel, args: RQVAETrainingArguments, **kwargs):
        if args.train_decoder_only:
            model.encoder.requires_grad_(False)
            model.quant_conv.requires_grad_(False)
        self.codebook_update = None if args.train_decoder_only else args.codebook_update
        super().__init__(model, args, **kwargs)
        if self.is_sharded:
            raise ValueError("Stage 1 must be trained without FSDP and DeepSpeed: every process needs the codebook.")
        self.perceptual_loss: PerceptualLoss | None = None
        self.discriminator: torch.nn.Module | None = None
        self.metrics: ReconstructionMetrics | None = None  # of the evaluation in progress
        if args.perceptual_weight > 0:
            with args.main_process_first(desc="weights of the perceptual loss"):
                self.perceptual_loss = PerceptualLoss(args.perceptual_net).to(args.device)
        if args.adversarial_weight > 0:
            self.discriminator = PatchDiscriminator(model.config.num_channels).to(args.device)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """One batch: losses and gradients of the RQ-VAE, then the discriminator's own step on the same pictures."""
        model.train()
        pixel_values = inputs["pixel_values"].to(self.args.device)
        outputs = model(pixel_values, codebook_update=self.codebook_update, depth=self.draw_depth())
        reconstruction = outputs.reconstruction.float()

        error, parts = self.reconstruction_error(outputs, pixel_values)  # squared, absolute, perceptual
        loss = error + self.model.config.commitment_weight * outputs.commitment_loss
        if self.discriminator is not None:
            discriminator = self.accelerator.unwrap_model(self.discriminator).requires_grad_(False)
            adversarial = adversarial_loss(discriminator(reconstruction))
            weight = adaptive_weight(error, adversarial, self.model.decoder.conv_out.weight)
            loss = loss + self.args.adversarial_weight * weight * adversarial
            parts |= {"adversarial_loss": adversarial, "adaptive_weight": weight}
        self.accelerator.backward(loss / self.current_gradient_accumulation_steps)

        if self.discriminator is not None:
            parts |= self.train_discriminator(pixel_values, reconstruction.detach())
        self.record(model, len(pixel_values), **parts)
        return loss.detach() / self.current_gradient_accumulation_steps

    def draw_depth(self) -> int | None:
        """The number of codes that a batch decodes, with `quantizer_dropout`; `None` is all."""
        if self.args.quantizer_dropout == 0:
            return None
        is_coarse, depth = torch.rand(2, generator=self.generator, device=self.args.device).tolist()
        return 1 + int(depth * self.model.config.code_depth) if is_coarse < self.args.quantizer_dropout else None

    def reconstruction_error(
        self, outputs: RQVAEOutput, pixel_values: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The weighted sum `()` of squared, absolute and perceptual error, and its parts for the log."""
        reconstruction = outputs.reconstruction.float()
        parts = {"reconstruction_loss": outputs.reconstruction_loss, "commitment_loss": outputs.commitment_loss}
        error = outputs.reconstruction_loss
        if self.args.l1_weight > 0:
            error = error + self.args.l1_weight * F.l1_loss(reconstruction, pixel_values)
        if self.perceptual_loss is not None:
            with self.accelerator.autocast():
                parts["perceptual_loss"] = self.perceptual_loss(reconstruction, pixel_values)
            error = error + self.args.perceptual_weight * parts["perceptual_loss"]
        return error, parts

    def train_discriminator(self, real: torch.Tensor, fake: torch.Tensor) -> dict[str, torch.Tensor]:
        """Gradients of the discriminator, and its step if the RQ-VAE takes one; returns its loss for the log."""
        self.accelerator.unwrap_model(self.discriminator).requires_grad_(True)
        is_step = self.accelerator.sync_gradients  # False for all accumulated batches but the last
        with nullcontext() if is_step else self.accelerator.no_sync(self.discriminator):
            loss = discriminator_loss(self.discriminator(real), self.discriminator(fake))
            weighted = self.args.adversarial_weight * loss
            self.accelerator.backward(weighted / self.current_gradient_accumulation_steps)
        if is_step:
            self.discriminator_optimizer.step()
            self.discriminator_scheduler.step()
            self.discriminator_optimizer.zero_grad()
        return {"discriminator_loss": loss}

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """Creates the schedule of the RQ-VAE, and the optimizer and schedule of the discriminator."""
        if self.discriminator is not None:
            discriminator = self.accelerator.unwrap_model(self.discriminator).train()
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args)
            options["weight_decay"] = self.args.weight_decay
            self.discriminator, self.discriminator_optimizer = self.accelerator.prepare(
                discriminator, optimizer_class(discriminator.parameters(), **options)
            )
            warmup, specific = self.args.get_warmup_steps(num_training_steps), self.args.lr_scheduler_kwargs
            self.discriminator_scheduler = get_scheduler(
                self.args.lr_scheduler_type, self.discriminator_optimizer, warmup, num_training_steps, specific
            )
        return super().create_scheduler(num_training_steps, optimizer)

    def save_own_state(self, checkpoint: Path) -> None:
        super().save_own_state(checkpoint)
        if self.discriminator is not None:
            state = {name: part.state_dict() for name, part in self._discriminator_parts().items()}
            torch.save(state, checkpoint / DISCRIMINATOR_FILE)

    def load_own_state(self, checkpoint: Path) -> None:
        super().load_own_state(checkpoint)
        if self.discriminator is not None:
            state = torch.load(checkpoint / DISCRIMINATOR_FILE, map_location="cpu", weights_only=True)
            for name, part in self._discriminator_parts().items():
                part.load_state_dict(state[name])

    def _discriminator_parts(self) -> dict:
        return {
            "model": self.accelerator.unwrap_model(self.discriminator),
            "optimizer": self.discriminator_optimizer,
            "scheduler": self.discriminator_scheduler,
        }

    def evaluation_loop(self, *args, **kwargs) -> EvalLoopOutput:
        config = self.model.config
        self.metrics = ReconstructionMetrics(config.codebook_size, config.code_depth, config.shared_codebook)
        return super().evaluation_loop(*args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The loss of an evaluation batch, without the adversarial part, and its metrics."""
        pixel_values = inputs["pixel_values"]
        outputs = model(pixel_values)
        error, parts = self.reconstruction_error(outputs, pixel_values)
        loss = error + self.model.config.commitment_weight * outputs.commitment_loss
        self.record(model, len(pixel_values), **parts)
        errors = squared_errors(pixel_values, outputs.reconstruction)
        self.metrics.update(*self.accelerator.gather_for_metrics((errors, outputs.codes)))
        return (loss, {"loss": loss}) if return_outputs else loss

    def end_evaluation(self, dataset: Dataset, means: dict[str, float]) -> dict[str, float]:
        if self.is_world_process_zero():
            rows = [dataset[row] for row in range(min(SHEET_ROWS, len(dataset)))]
            pixel_values = self.data_collator(rows)["pixel_values"].to(self.args.device)
            self.save_sheet(coarse_to_fine_sheet(self.model, pixel_values))
        return self.metrics.compute()


def train_rqvae(recipe: Recipe) -> RQVAETrainer:
    """Trains an RQ-VAE by a recipe and saves it, with a card, to the output folder."""
    training = recipe.training
    checkpoint = resume_checkpoint(training.output_dir, training.resume_from_checkpoint)
    set_seed(training.seed)
    if training.model_name_or_path is not None:
        model = load_component(RQVAEModel, training.model_name_or_path, "rqvae", dtype=torch.float32, **recipe.model)
    else:
        model = RQVAEModel(RQVAEConfig(**recipe.model))
    splits = load_splits(recipe.data)
    datasets = picture_datasets(splits, recipe.data, training, model.config)

    trainer = RQVAETrainer(model, training, train_dataset=datasets["train"], eval_dataset=datasets.get("validation"))
    trainer.train(checkpoint)
    publish_rqvae(trainer, recipe, trainer.evaluate_and_save())
    trainer.accelerator.end_training()
    return trainer
