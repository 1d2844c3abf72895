# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Training of the RQ-Transformer (stage 2) with stochastic codes and soft labels (section 3.2.3)."""

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import EarlyStoppingCallback
from transformers.trainer_utils import EvalLoopOutput

from ..configuration_rq_transformer import RQTransformerConfig
from ..modeling_rqvae import RQVAEModel
from ..pipeline_rq_image_generation import check_pair
from ..residual_quantizer import one_per_depth
from ..seeds import seeded_generator
from .callbacks import resumed_attributes
from .data import CodeDataset, PictureDataset
from .evaluation_figures import save_sheet
from .generation_figures import PictureRate, first_conditions, sheet_of_codes
from .muon import block_matrices
from .scheduled_sampling import ScheduledSamplingArguments, ScheduledSamplingTrainer, positive_numbers

logger = logging.getLogger(__name__)


@dataclass
class RQTransformerTrainingArguments(ScheduledSamplingArguments):
    """`TrainingArguments` of stage 2."""

    code_temperature: list[float] = field(  # a number where it is one for all depths
        default_factory=lambda: [0.5],
        metadata={
            "help": "tau of Eq. 15, for stochastic codes and soft labels, in squared latent units; one number, or one "
            "per depth: deeper residuals are shorter."
        },
    )
    stochastic_codes: bool = field(default=True, metadata={"help": "Draw the training codes from Q_tau (Eq. 15)."})
    soft_labels: bool = field(default=True, metadata={"help": "Train on Q_tau (Eq. 15) instead of the codes."})
    bpe_dropout: float = field(default=0.1, metadata={"help": "BPE dropout of training captions, in [0, 1]."})
    condition_dropout: float = field(
        default=0.0, metadata={"help": "Part of the training samples whose condition is dropped, for guidance."}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after so many evaluations without a better eval_loss; a resumed run goes on counting."
        },
    )
    eval_pictures: int = field(
        default=8,
        metadata={
            "help": "Pictures drawn at each evaluation, of the first so many different conditions of its data; 0: "
            "none."
        },
    )
    cache_latents: bool = field(
        default=False,
        metadata={
            "help": "Encode every picture once, without random crops, and keep the latents; the codes where they are "
            "all that is trained on."
        },
    )
    attn_implementation: str = field(
        default="sdpa",
        metadata={
            "help": "Attention while training; 'eager' is several times faster for rows as short as the depth "
            "transformer's on a CPU.",
            "choices": ["sdpa", "eager"],
        },
    )
    save_dtype: str | None = field(
        default=None,
        metadata={
            "help": "dtype of the weights of the final pipeline's files; it still loads in fp32.",
            "choices": ["float16", "bfloat16"],
        },
    )
    lora_rank: int | None = field(
        default=None,
        metadata={
            "help": "Train only adapters of this rank (LoRA) on the attention and MLP projections of "
            "--model_name_or_path; by default the whole model is trained."
        },
    )
    lora_alpha: int = field(default=8, metadata={"help": "LoRA's output is scaled by lora_alpha / lora_rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout of LoRA's inputs, in [0, 1)."})

    @property
    def hard_codes(self) -> bool:
        """Whether the codes nearest to the latents are all that is trained on."""
        return not self.stochastic_codes and not self.soft_labels

    def __post_init__(self):
        super().__post_init__()
        self.code_temperature = positive_numbers("code_temperature", self.code_temperature)
        if self.early_stopping_patience is not None and self.early_stopping_patience < 0:
            raise ValueError(f"`early_stopping_patience` must be at least 0, got {self.early_stopping_patience}.")
        self.early_stopping_patience = self.early_stopping_patience or None  # 0 takes back what a recipe says
        if self.early_stopping_patience is not None:
            if self.eval_strategy == "no":
                raise ValueError(
                    "`eval_strategy` must be steps or epoch with `early_stopping_patience`, which counts evaluations, "
                    "got no."
                )
            if self.metric_for_best_model is None:
                self.metric_for_best_model, self.greater_is_better = "loss", False
        if self.eval_pictures < 0:
            raise ValueError(f"`eval_pictures` must be at least 0, got {self.eval_pictures}.")
        for name in ("bpe_dropout", "condition_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], got {getattr(self, name)}.")
        if self.scheduled_sampling > 0 and not self.soft_labels:
            raise ValueError(
                f"`scheduled_sampling` must be 0 without `soft_labels`, got {self.scheduled_sampling}: labels have to "
                "be of what the drawn codes leave."
            )
        if self.muon_learning_rate is not None and self.lora_rank is not None:
            raise ValueError(
                f"`muon_learning_rate` must be None with `lora_rank`, got {self.muon_learning_rate}: Muon is for "
                "whole matrices, not for factors of low rank."
            )
        if self.lora_rank is not None:
            if self.model_name_or_path is None:
                raise ValueError("`model_name_or_path` must be given with `lora_rank`, got None.")
            base = Path(self.model_name_or_path)
            if base.exists() and Path(self.output_dir).resolve() in (base.resolve(), base.resolve().parent):
                raise ValueError(
                    f"`output_dir` must be another folder than that of `model_name_or_path` with `lora_rank`, got "
                    f"{self.output_dir!r}: the adapter is nothing without its base."
                )
            for name in ("lora_rank", "lora_alpha"):
                if getattr(self, name) < 1:
                    raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
            if not 0 <= self.lora_dropout < 1:
                raise ValueError(f"`lora_dropout` must be in [0, 1), got {self.lora_dropout}.")

    def check_code_depth(self, code_depth: int) -> None:
        """Refuses another number of temperatures than one, or one for each of so many codes."""
        for name in ("code_temperature", "scheduled_sampling_temperature"):
            one_per_depth(name, getattr(self, name), code_depth, lambda v: v > 0, "greater than 0")


class EarlyStopping(EarlyStoppingCallback):
    """As in the base class; a run that is resumed goes on counting, and one that had been stopped takes no step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._resumed_step: int | None = None  # whose evaluation has been counted; `eval_on_start` repeats it

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        if state.global_step != self._resumed_step:
            super().on_evaluate(args, state, control, metrics, **kwargs)

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        self._resumed_step = state.global_step or None
        saved = resumed_attributes(self, state)
        # Of the checkpoint's state the counter alone: the patience may be another now.
        name = "early_stopping_patience_counter"
        self.early_stopping_patience_counter = saved[name] if saved is not None else 0
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True


class RQTransformerTrainer(ScheduledSamplingTrainer):
    """Trains an [`RQTransformerForImageGeneration`] on the codes that a frozen RQ-VAE gives.

    It logs the losses of image, text and each depth, and the pictures a second that all processes train on, with
    evaluations and checkpoints not counted. With soft labels an evaluation logs the loss of the nearest codes as well,
    `eval_image_loss_nearest_codes`, by which trainings with other labels can be compared. Each evaluation also draws
    pictures of fixed conditions, with one seed and the model's own `generation_config`, as `pictures/step-N.png` in
    the output folder, in TensorBoard and in Weights & Biases. A model that FSDP or ZeRO-3 shards draws none.

    The text loss is a mean over the caption tokens of a whole step, of all processes and accumulated batches, however
    much of their captions is padding.

    Args:
        rqvae ([`RQVAEModel`]):
            The frozen first stage, whose codebook the model must have (see
            [`~RQTransformerForImageGeneration.set_codebook`]); it is no part of the model that is saved.
        kwargs: of `Trainer`. Batches have `input_ids` `(B, S)` and `pixel_values`, `latents` `(B, H, W, n_z)` or, with
            neither stochastic codes nor soft labels, `codes` `(B, H, W, D)`.
    """

    arguments_class = RQTransformerTrainingArguments

    def __init__(self, *args, rqvae: RQVAEModel, **kwargs):
        super().__init__(*args, **kwargs)
        check_pair(rqvae, self.model)
        if self.args.lora_rank is not None and self.has_shards:
            raise ValueError(
                f"`lora_rank` must be None with FSDP and ZeRO-3, got {self.args.lora_rank}: adapters are merged into "
                "whole weights, the model has shards."
            )
        self.args.check_code_depth(rqvae.config.code_depth)
        self.rqvae = rqvae.to(self.args.device).eval().requires_grad_(False)
        if rqvae.config.code_depth == 1:  # no code is coarser than another: DDP has no gradient to wait for
            self.model.depth_projection.requires_grad_(False)
        self._rate = PictureRate()
        self.add_callback(self._rate)
        if self.args.early_stopping_patience is not None:
            self.add_callback(EarlyStopping(self.args.early_stopping_patience))

    def muon_weights(self, model: torch.nn.Module) -> list[torch.nn.Parameter]:
        """The matrices of the blocks."""
        return block_matrices(model)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """As in the base class; a checkpoint that was trained on another RQ-VAE is refused."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.args.lora_rank is None:  # an adapter has no codebook of its own
            check_pair(self.rqvae, self.accelerator.unwrap_model(self.model if model is None else model))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Image and text loss; stochastic codes in training only, soft labels in evaluation too."""
        if "codes" in inputs:
            if not self.args.hard_codes:
                raise ValueError(
                    "Batches must have `pixel_values` or `latents` with stochastic codes or soft labels, got `codes`."
                )
            codes, residuals = inputs["codes"].long(), None
        else:
            generator = self._code_generator() if model.training else None
            codes, residuals = self._quantize(inputs, generator if self.args.stochastic_codes else None)
            if model.training and self.args.scheduled_sampling > 0:
                codes, residuals = self._with_own_codes(inputs, codes, residuals, generator)
        if self.args.soft_labels:
            targets = {"residuals": residuals, "label_temperature": self.args.code_temperature}
        else:
            targets = {"labels": codes, "output_logits": False}
        outputs = model(inputs["input_ids"], codes, **targets)
        loss, parts = outputs.loss, {"image_loss": outputs.image_loss}
        if self.args.soft_labels and not model.training:  # what trainings with other labels can be compared by
            nearest = model(inputs["input_ids"], codes, labels=codes, output_logits=False)
            parts["image_loss_nearest_codes"] = nearest.image_loss
        if outputs.text_loss is not None:
            parts["text_loss"] = outputs.text_loss
            if not model.training:  # a batch of long captions counts for more
                self.record(model, self._caption_tokens(inputs), text_loss=parts.pop("text_loss"))
            if num_items_in_batch is not None:  # this batch may have more or fewer caption tokens than the mean
                parts["text_loss"] = outputs.text_loss * self._caption_tokens(inputs) / num_items_in_batch
                weight = self._config.text_loss_weight
                loss = (1 - weight) * outputs.image_loss + weight * parts["text_loss"]
        for depth, depth_loss in enumerate(outputs.depth_losses, start=1):
            parts[f"image_loss_depth_{depth}"] = depth_loss
        self.record(model, **parts)
        if model.training:
            self._rate.add(len(codes))
        return (loss, {"loss": loss}) if return_outputs else loss

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """As in the base class; the items are caption tokens, the mean over all batches of a step that have a loss."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches or self._config.condition_length == 1:
            return batches, None
        tokens = torch.stack([self._caption_tokens(batch) for batch in batches]).float().mean()
        mean = self.accelerator.reduce(tokens.to(device), "mean")
        return batches, mean.clamp(min=1e-6)  # no tokens at all have no loss

    def train(self, *args, **kwargs):
        if self.model is not None:  # else `call_model_init` makes it
            self._own_pad_token_id = self._config.pad_token_id
        return super().train(*args, **kwargs)

    def call_model_init(self, trial=None):
        model = super().call_model_init(trial)
        self._own_pad_token_id = model.config.pad_token_id
        return model

    def _inner_training_loop(self, *args, **kwargs):
        """As in the base class, which has given the model the `pad_token_id` of a `processing_class`: the model's own
        tells what the text loss counts."""
        self._config.pad_token_id = self._own_pad_token_id
        return super()._inner_training_loop(*args, **kwargs)

    def floating_point_ops(self, inputs: dict[str, torch.Tensor]) -> int:
        """Of a forward and backward pass, 6 for each weight of the blocks and of the head and each token that it is
        applied to, without attention and without what is drawn anew."""
        model, config = self.accelerator.unwrap_model(self.model), self._config
        spatial, codes = config.condition_length + config.num_positions - 1, math.prod(config.code_shape)
        tokens = {"spatial_transformer": spatial, "depth_transformer": codes, "code_head": codes}
        products = [sum(map(torch.numel, getattr(model, name).parameters())) * tokens[name] for name in tokens]
        return 6 * len(inputs["input_ids"]) * sum(products)

    def _caption_tokens(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Number of caption tokens that have a text loss."""
        targets, pad_token_id = inputs["input_ids"][:, 1:], self._config.pad_token_id
        return (targets != pad_token_id).sum() if pad_token_id is not None else targets.new_tensor(targets.numel())

    @property
    def _config(self) -> RQTransformerConfig:
        return self.accelerator.unwrap_model(self.model).config

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in the base class, with the pictures a second."""
        if "loss" in logs:
            logs["pictures_per_second"] = round(self._rate.take() * self.args.world_size, 3)
        super().log(logs, start_time)

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """As in the base class, and with pictures of the data's first conditions. The text loss is a mean over all
        caption tokens, so that it, and the loss that it is a part of, does not depend on the batches."""
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        image_loss, text_loss = (output.metrics.get(f"{metric_key_prefix}_{name}_loss") for name in ("image", "text"))
        if text_loss is not None:
            weight = self._config.text_loss_weight
            output.metrics[f"{metric_key_prefix}_loss"] = (1 - weight) * image_loss + weight * text_loss
        if self.args.eval_pictures > 0 and self.is_world_process_zero():
            try:
                self._show_pictures(dataloader.dataset, metric_key_prefix)
            except ValueError as error:  # such as logits not finite; to end a training is not for an evaluation
                logger.warning("No pictures are drawn at step %d: %s", self.state.global_step, error)
        return output

    def _show_pictures(self, data: torch.utils.data.Dataset, prefix: str) -> None:
        if self.has_shards:
            raise ValueError("a model that FSDP or ZeRO-3 shards does not generate outside its forward pass.")
        if not isinstance(data, CodeDataset):
            raise ValueError(f"the evaluation data must be a `CodeDataset`, got {type(data).__name__}.")
        transformer = self.accelerator.unwrap_model(self.model)
        input_ids, captions = first_conditions(data, self.args.eval_pictures, transformer.config)
        generators = [seeded_generator(self.args.seed, index) for index in range(len(input_ids))]
        with self.accelerator.autocast():
            codes = transformer.generate(input_ids.to(self.args.device), generator=generators)
        save_sheet(self, prefix, "samples", sheet_of_codes(self.rqvae, codes, captions))

    @torch.no_grad()
    def _quantize(
        self, inputs: dict[str, torch.Tensor], generator: torch.Generator | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes, drawn from Q_tau with a generator, and residuals."""
        latents = inputs.get("latents")
        if latents is None:
            latents = self.rqvae.encode_latents(inputs["pixel_values"])
        return self.rqvae.quantize(latents, self.args.code_temperature, generator is not None, generator)

    def _code_generator(self) -> torch.Generator:
        """Seeded by (seed, step, micro-batch, process), so that resuming changes nothing."""
        self._micro_step = (self._micro_step + 1) if self._last_step == self.state.global_step else 0
        self._last_step = self.state.global_step
        words = self.args.seed, self.state.global_step, self._micro_step, self.args.process_index
        return seeded_generator(*words, device=self.args.device)

    _last_step = -1
    _micro_step = 0


@torch.no_grad()
def cache_latents(
    pictures: PictureDataset, rqvae: RQVAEModel, batch_size: int = 64, codes_only: bool = False
) -> datasets.Dataset:
    """Encodes every picture once; `datasets` keeps the result for the same pictures and weights.

    Args:
        pictures: their evaluation transform, or one that draws nothing at random.
        rqvae: the frozen first stage, on the device to encode on.
        batch_size: pictures encoded at once.
        codes_only: keep the nearest codes instead of the latents.

    Returns:
        Rows with a column `latents` `(H, W, n_z)` fp32 that stochastic codes can be drawn from in every epoch, or
        `codes` `(H, W, D)` int32; torch format.
    """
    name, width, dtype = (
        ("codes", rqvae.config.code_depth, "int32")
        if codes_only
        else ("latents", rqvae.config.codebook_dim, "float32")
    )

    def encode(batch: dict[str, list]) -> dict[str, np.ndarray]:
        pixels = torch.stack([pictures.prepare(picture) for picture in batch[pictures.image_column]])
        latents = rqvae.encode_latents(pixels.to(rqvae.device))
        kept = rqvae.quantize(latents)[0] if codes_only else latents
        return {name: kept.cpu().numpy().astype(dtype)}

    rows = pictures.rows.map(
        encode,
        batched=True,
        batch_size=batch_size,
        remove_columns=pictures.rows.column_names,
        features=datasets.Features({name: datasets.Array3D(shape=(*rqvae.config.code_shape[:2], width), dtype=dtype)}),
        desc="Encoding pictures",
    )
    return rows.with_format("torch")
