# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Training of the RQ-VAE (stage 1): reconstruction and commitment (Eq. 6 and 7), perceptual and adversarial losses."""

import logging
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_model, save_model
from transformers import get_scheduler
from transformers.trainer_utils import EvalLoopOutput

from ..configuration_rqvae import RQVAEConfig
from ..features import PerceptualLoss
from ..metrics import coarse_to_fine_sheet, to_rgb
from ..modeling_rqvae import RQVAEModel
from .arguments import ScriptArguments
from .checkpoints import saved_state
from .discriminator import PatchDiscriminator, generator_loss, hinge_loss
from .evaluation_figures import EvaluationFigures, save_sheet
from .muon import MuonTrainer, MuonTrainingArguments, inner_kernels
from .schedules import BY_EVALUATIONS, cool_down, set_rates
from .starting_point import initial_config, initial_model, with_kept_weights

logger = logging.getLogger(__name__)

# Model fields that `replace_codebook` may change.
QUANTIZER_FIELDS = ("codebook_size", "codebook_dim", "code_depth", "shared_codebook")
DISCRIMINATOR_FILE, DISCRIMINATOR_OPTIMIZER_FILE = "discriminator.safetensors", "discriminator_optimizer.pt"
SHEET_ROWS = 8
NO_FP16 = "one scale of the gradients does not serve two optimizers; bf16 needs none."


@dataclass
class RQVAETrainingArguments(MuonTrainingArguments):
    """`TrainingArguments` of stage 1."""

    codebook_update: str = field(
        default="per_step",
        metadata={
            "help": "How the codebook follows the data: 'per_depth', the official rule, or 'per_step', one update "
            "after all depths with restarts relative to mean usage, for batches with few vectors per code. Both "
            "update it with each accumulated batch.",
            "choices": ["per_depth", "per_step"],
        },
    )
    train_decoder_only: bool = field(
        default=False,
        metadata={
            "help": "Leave encoder and codebook of --model_name_or_path as they are: pictures keep their codes, and "
            "a transformer trained on these goes on to serve."
        },
    )
    replace_codebook: bool = field(
        default=False,
        metadata={
            "help": "Start --model_name_or_path with a new codebook, of the size, width, depth and sharing that the "
            "model fields give; encoder and decoder go on from their weights."
        },
    )
    l1_weight: float = field(
        default=0.0, metadata={"help": "Weight of the mean absolute error beside the squared one."}
    )
    perceptual_weight: float = field(
        default=1.0, metadata={"help": "Weight of the perceptual loss; 0 trains without it."}
    )
    perceptual_backbone: str = field(
        default="vgg16",
        metadata={"help": "Features of the perceptual loss.", "choices": ["vgg16", "efficientnet_lite0"]},
    )
    perceptual_weights: str | None = field(
        default=None, metadata={"help": "File of the backbone's weights, instead of the published ones."}
    )
    adversarial_weight: float = field(
        default=0.75,
        metadata={"help": "Weight of the adversarial loss beside its adaptive one; 0 trains without a discriminator."},
    )
    discriminator_start_step: int = field(
        default=0, metadata={"help": "Step from which the discriminator is trained and heeded."}
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("train_decoder_only", "replace_codebook"):
            if getattr(self, name) and self.model_name_or_path is None:
                raise ValueError(f"`model_name_or_path` must be given with `{name}`, got None.")
        if self.train_decoder_only and self.replace_codebook:
            raise ValueError(
                "`replace_codebook` must be false with `train_decoder_only`: the codebook would not train."
            )
        for name in ("l1_weight", "perceptual_weight", "adversarial_weight", "discriminator_start_step"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must be at least 0, got {getattr(self, name)}.")
        if self.adversarial_weight > 0:
            if str(self.optim.value).startswith("schedule_free"):
                raise ValueError(
                    f"`optim` must have no mode of training beside a discriminator, got {self.optim.value!r}."
                )
            if self.fp16:
                raise ValueError(f"`fp16` must be False with a discriminator, got True: {NO_FP16}")
            if self.lr_scheduler_type in BY_EVALUATIONS:
                raise ValueError(
                    "`lr_scheduler_type` must be a function of the step with a discriminator, got "
                    f"{str(self.lr_scheduler_type.value)!r}, which follows the evaluations of one model."
                )


class RQVAETrainer(MuonTrainer):
    """Trains an [`RQVAEModel`] on batches of `pixel_values` `(B, channels, height, width)` in [-1, 1].

    The loss is the squared error, the commitment loss and, weighted as in VQ-GAN, a perceptual and an adversarial one.
    The discriminator has an optimizer and a learning rate schedule of its own, with the same arguments; the schedule
    counts the discriminator's own steps, which begin at `discriminator_start_step`.

    Each evaluation also gives the figures of [`EvaluationFigures`], and the first pictures coarse to fine as
    `pictures/step-N.png` in the output folder, in TensorBoard and in Weights & Biases. A model that FSDP or ZeRO-3
    shards does not decode outside its forward pass, so what needs that is left out. With FSDP and DeepSpeed a
    discriminator is refused.

    The codebook is updated with each batch of a process, so accumulated batches are not one large batch for it: its
    averages forget several times in a step, and unused codes restart from the vectors of one batch alone.
    """

    arguments_class = RQVAETrainingArguments

    def __init__(
        self, model: RQVAEModel | None = None, args: RQVAETrainingArguments | None = None, *more_args, **kwargs
    ):
        if getattr(args, "train_decoder_only", False):
            if model is None:
                raise ValueError("`model` must be given with `train_decoder_only`, got None.")
            for part in (model.encoder, model.quant_conv):
                part.requires_grad_(False)
        super().__init__(model, args, *more_args, **kwargs)
        if self.args.adversarial_weight > 0:
            self._check_launch_of_discriminator()
            if self.model_init is not None:
                raise ValueError(
                    "`model_init` must be None with a discriminator, which belongs to this model; "
                    "`adversarial_weight` 0 trains without."
                )
        batches = self.args.gradient_accumulation_steps
        if batches > 1 and not self.args.train_decoder_only:
            logger.warning(
                "The codebook is updated %d times a step, with each of the accumulated batches: `codebook_decay` and "
                "restarts of unused codes are as with the small batches.",
                batches,
            )
        self.perceptual_loss, self.discriminator = None, None
        if self.args.perceptual_weight > 0:
            with self.args.main_process_first(desc="weights of the perceptual loss"):
                loss = PerceptualLoss(self.args.perceptual_backbone, self.args.perceptual_weights)
            self.perceptual_loss = loss.to(self.args.device)
        if self.args.adversarial_weight > 0:
            self.discriminator = PatchDiscriminator(self.model.config.num_channels).to(self.args.device)
            self.model.decoder.conv_out.register_forward_pre_hook(self._keep_last_features)
        self._last_features: torch.Tensor | None = None  # inputs of the decoder's last layer
        self._judged: tuple[torch.Tensor, torch.Tensor] | None = None  # real and reconstructed pictures
        self._figures: EvaluationFigures | None = None  # while an evaluation lasts

    def _check_launch_of_discriminator(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                f"`adversarial_weight` must be 0 with FSDP and DeepSpeed, got {self.args.adversarial_weight}: they "
                "train one model, and the discriminator is a second one."
            )
        if self.accelerator.mixed_precision == "fp16":  # by `accelerate launch`, which the arguments do not know
            raise ValueError(f"`mixed_precision` must not be fp16 with a discriminator, got fp16: {NO_FP16}")

    def muon_weights(self, model: torch.nn.Module) -> list[torch.nn.Parameter]:
        """The kernels but those at the pixels; the discriminator has none."""
        return inner_kernels(model)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """All parts of the RQ-VAE's loss; in training the codebook is updated on the way."""
        pixel_values = inputs["pixel_values"]
        updates = model.training and not self.args.train_decoder_only
        codebook_update = self.args.codebook_update if updates else None
        outputs = model(pixel_values, codebook_update=codebook_update)
        commitment_loss = outputs.loss - outputs.reconstruction_loss
        measure = self._adversarial_error if self._is_adversarial and model.training else self._error
        error, parts = measure(outputs.reconstruction.float(), pixel_values.float())
        loss = error + commitment_loss
        if model.training:
            parts["code_usage"] = self._usage(outputs.codes)
        elif self._figures is not None and self._evaluated_rows > 0:
            self._figures.update(pixel_values, outputs.reconstruction, outputs.codes)
        self.record(
            model,
            reconstruction_loss=outputs.reconstruction_loss,
            commitment_loss=outputs.commitment_loss,
            **parts,
        )
        return (loss, {"loss": loss}) if return_outputs else loss

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """As in the base class, with the figures of [`EvaluationFigures`] and a sheet of pictures."""
        rqvae = self.accelerator.unwrap_model(self.model)
        self._figures = figures = EvaluationFigures(rqvae.config, self.args.device)
        try:
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        finally:
            self._figures = None
        decoder = None if self.has_shards else rqvae
        with self.accelerator.autocast():
            values = figures.compute(self.accelerator, decoder)
            if values and decoder is not None and self.is_world_process_zero():
                self._show_reconstructions(rqvae, figures.first_pixel_values[:SHEET_ROWS], metric_key_prefix)
        output.metrics.update({f"{metric_key_prefix}_{name}": round(value, 6) for name, value in values.items()})
        return output

    def _show_reconstructions(self, rqvae: RQVAEModel, pixel_values: torch.Tensor, prefix: str) -> None:
        try:
            sheet = coarse_to_fine_sheet(rqvae, pixel_values)
        except ValueError as error:  # not finite; to end a training is not for an evaluation
            logger.warning("No sheet of reconstructions at step %d: %s", self.state.global_step, error)
            return
        save_sheet(self, prefix, "reconstructions", sheet)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """As in the base class; then the discriminator's own step, on the same pictures."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self._judged is not None:
            self._train_discriminator(*self._judged)
            self._judged = None
        return loss

    @property
    def _is_adversarial(self) -> bool:
        return self.discriminator is not None and self.state.global_step >= self.args.discriminator_start_step

    def _error(self, reconstruction, pixel_values) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Squared, absolute and perceptual error, weighted; and what of it is to be logged."""
        error, parts = F.mse_loss(reconstruction, pixel_values), {}
        if self.args.l1_weight > 0:
            error = error + self.args.l1_weight * F.l1_loss(reconstruction, pixel_values)
        if self.perceptual_loss is not None:
            with self.accelerator.autocast():
                parts["perceptual_loss"] = self.perceptual_loss(to_rgb(reconstruction), to_rgb(pixel_values))
            error = error + self.args.perceptual_weight * parts["perceptual_loss"]
        return error, parts

    def _adversarial_error(self, reconstruction, pixel_values) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The error and the adversarial loss, with a gradient that passes the decoder once.

        The adaptive weight compares the gradients of both at the decoder's last layer. Either gradient is taken at
        the reconstruction, where the last layer's follows from it, and their sum then goes on as one.
        """
        judged = reconstruction.detach().requires_grad_()
        error, parts = self._error(judged, pixel_values)
        discriminator = self._bare_discriminator.requires_grad_(False)
        with self.accelerator.autocast():
            adversarial = generator_loss(discriminator(judged))
        (error_gradient,) = torch.autograd.grad(error, judged)
        (adversarial_gradient,) = torch.autograd.grad(adversarial, judged)
        adaptive_weight = self._last_layer_norm(error_gradient) / (self._last_layer_norm(adversarial_gradient) + 1e-4)
        weight = self.args.adversarial_weight * adaptive_weight.clamp(0, 1e4)
        gradient = error_gradient + weight * adversarial_gradient
        self._last_features, self._judged = None, (pixel_values, judged.detach())
        surrogate = (reconstruction * gradient).sum()
        total = error.detach() + weight * adversarial.detach()
        parts |= {"adversarial_loss": adversarial, "adaptive_weight": adaptive_weight}
        return surrogate + (total - surrogate.detach()), parts

    def _keep_last_features(self, module, inputs):
        if module.training:
            self._last_features = inputs[0].detach()

    def _last_layer_norm(self, gradient: torch.Tensor) -> torch.Tensor:
        """Norm of the gradient of the decoder's last layer, from that of its output."""
        layer = self.accelerator.unwrap_model(self.model).decoder.conv_out
        shape = (layer.out_channels, layer.in_channels, *layer.kernel_size)
        with torch.autocast(gradient.device.type, enabled=False):
            features = self._last_features.float()
            return torch.nn.grad.conv2d_weight(features, shape, gradient.float(), layer.stride, layer.padding).norm()

    def _train_discriminator(self, real: torch.Tensor, reconstructed: torch.Tensor) -> None:
        accelerator = self.accelerator
        self._bare_discriminator.requires_grad_(True)
        is_last = accelerator.gradient_state.sync_gradients
        with nullcontext() if is_last else accelerator.no_sync(self.discriminator):
            with accelerator.autocast():
                real_logits, fake_logits = self.discriminator(real), self.discriminator(reconstructed)
                loss = self.args.adversarial_weight * hinge_loss(real_logits, fake_logits)
            accelerator.backward(loss / self.current_gradient_accumulation_steps)
        if is_last:
            self.discriminator_optimizer.step()
            self.discriminator_scheduler.step()
            self.discriminator_optimizer.zero_grad()
        self.record(
            self.model, discriminator_loss=loss, real_logits=real_logits.mean(), fake_logits=fake_logits.mean()
        )

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """As in the base class; then all that the discriminator needs."""
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if self.discriminator is not None:
            discriminator = self._bare_discriminator
            optimizer_class, arguments = self.get_optimizer_cls_and_kwargs(self.args)
            group = {"params": list(discriminator.parameters()), "weight_decay": self.args.weight_decay}
            optimizer = optimizer_class([group], **arguments)
            self.discriminator, self.discriminator_optimizer = self.accelerator.prepare(discriminator, optimizer)
            self.discriminator.train()
            self.discriminator_scheduler = get_scheduler(
                self.args.lr_scheduler_type,
                optimizer=self.discriminator_optimizer,
                num_warmup_steps=self.args.get_warmup_steps(num_training_steps),
                num_training_steps=num_training_steps,
                scheduler_specific_kwargs=self.args.lr_scheduler_kwargs,
            )
            own_steps = max(0, num_training_steps - self.args.discriminator_start_step)
            cool_down(self.discriminator_scheduler, own_steps, min(self.args.cooldown_steps, own_steps))
        return scheduler

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.discriminator is not None and self.args.should_save:
            save_model(self._bare_discriminator, str(Path(output_dir, DISCRIMINATOR_FILE)))
            states = {
                "optimizer": self.discriminator_optimizer.state_dict(),
                "scheduler": self.discriminator_scheduler.state_dict(),
            }
            torch.save(states, Path(output_dir, DISCRIMINATOR_OPTIMIZER_FILE))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.discriminator is not None and checkpoint is not None:
            load_model(self._bare_discriminator, saved_state(checkpoint, DISCRIMINATOR_FILE))
            states = torch.load(saved_state(checkpoint, DISCRIMINATOR_OPTIMIZER_FILE), "cpu", weights_only=True)
            self.discriminator_optimizer.load_state_dict(states["optimizer"])
            self.discriminator_scheduler.load_state_dict(states["scheduler"])
            if self.args.cooldown_steps > 0:
                set_rates(self.discriminator_scheduler)

    def _usage(self, codes: torch.Tensor) -> torch.Tensor:
        """Part of the codebook that the batches of all processes use over all depths, or of all codebooks where each
        depth has one."""
        codebooks, size = self.accelerator.unwrap_model(self.model).codebook.shape[:2]
        if codebooks > 1:
            codes = codes + size * torch.arange(codebooks, device=codes.device)
        used = torch.zeros(codebooks * size, device=codes.device)
        used.index_fill_(0, codes.flatten(), 1.0)
        return (self.accelerator.reduce(used, "sum") > 0).float().mean()

    @property
    def _bare_discriminator(self) -> PatchDiscriminator:
        """Neither wrapped for several processes nor compiled."""
        return self.accelerator.unwrap_model(self.discriminator, keep_torch_compile=False)


def initial_rqvae(arguments: ScriptArguments) -> RQVAEModel:
    """The RQ-VAE that a training starts from, new or pretrained, with a new codebook if it is to be replaced.

    Raises:
        `ValueError`: the pretrained weights are not those of a model with the fields of `arguments.model`, those of
            a new codebook excepted.
    """
    training = arguments.training
    name_or_path = training.model_name_or_path
    config = initial_config(RQVAEConfig, arguments.model, name_or_path, "rqvae")
    if not training.replace_codebook:
        return initial_model(RQVAEModel, config, name_or_path)
    fields = {name: value for name, value in arguments.model.items() if name not in QUANTIZER_FIELDS}
    own_config = initial_config(RQVAEConfig, fields, name_or_path, "rqvae")
    model = initial_model(RQVAEModel, own_config, name_or_path)
    return with_kept_weights(model, config, ("quantizer.",), ("quant_conv.", "post_quant_conv."))
