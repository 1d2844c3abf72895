# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Training of the RQ-Transformer (stage 2) with stochastic codes and soft labels (section 3.2.3)."""

from dataclasses import dataclass, field

import datasets
import numpy as np
import torch

from ..modeling_rqvae import RQVAEModel
from .data import PictureDataset
from .trainer import RQTrainer, RQTrainingArguments


@dataclass
class RQTransformerTrainingArguments(RQTrainingArguments):
    """`TrainingArguments` of stage 2."""

    code_temperature: float = field(
        default=0.5, metadata={"help": "tau of Eq. 15, for stochastic codes and soft labels, in squared latent units."}
    )
    stochastic_codes: bool = field(default=True, metadata={"help": "Draw the training codes from Q_tau (Eq. 15)."})
    soft_labels: bool = field(default=True, metadata={"help": "Train on Q_tau (Eq. 15) instead of the codes."})
    bpe_dropout: float = field(default=0.1, metadata={"help": "BPE dropout of training captions, in [0, 1]."})
    condition_dropout: float = field(
        default=0.0, metadata={"help": "Part of the training samples whose condition is dropped, for guidance."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many evaluations without a better eval_loss."}
    )
    cache_latents: bool = field(
        default=False,
        metadata={
            "help": "Encode every picture once, without random crops, and keep fp16 latents; the codes where they are "
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

    @property
    def hard_codes(self) -> bool:
        """Whether the codes nearest to the latents are all that is trained on."""
        return not self.stochastic_codes and not self.soft_labels

    def __post_init__(self):
        super().__post_init__()
        if not self.code_temperature > 0:
            raise ValueError(f"`code_temperature` must be greater than 0, got {self.code_temperature}.")
        for name in ("bpe_dropout", "condition_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], got {getattr(self, name)}.")


class RQTransformerTrainer(RQTrainer):
    """Trains an [`RQTransformerForImageGeneration`] on the codes that a frozen RQ-VAE gives.

    Args:
        rqvae ([`RQVAEModel`]): the frozen first stage; it is no part of the model that is saved.
        kwargs: of `Trainer`. Batches have `input_ids` `(B, S)` and `pixel_values`, `latents` `(B, H, W, n_z)` or, with
            neither stochastic codes nor soft labels, `codes` `(B, H, W, D)`.
    """

    def __init__(self, *args, rqvae: RQVAEModel, **kwargs):
        super().__init__(*args, **kwargs)
        self.rqvae = rqvae.to(self.args.device).eval().requires_grad_(False)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Image and text loss; stochastic codes in training only, soft labels in evaluation too."""
        if "codes" in inputs:
            codes, residuals = inputs["codes"].long(), None
        else:
            codes, residuals = self._quantize(inputs, stochastic=self.args.stochastic_codes and model.training)
        if self.args.soft_labels:
            targets = {"residuals": residuals, "label_temperature": self.args.code_temperature}
        else:
            targets = {"labels": codes, "output_logits": False}
        outputs = model(inputs["input_ids"], codes, **targets)
        parts = {"image_loss": outputs.image_loss, "text_loss": outputs.text_loss}
        self.record(model, **{name: value for name, value in parts.items() if value is not None})
        return (outputs.loss, {"loss": outputs.loss}) if return_outputs else outputs.loss

    @torch.no_grad()
    def _quantize(self, inputs: dict[str, torch.Tensor], stochastic: bool) -> tuple[torch.Tensor, torch.Tensor]:
        latents = inputs.get("latents")
        if latents is None:
            latents = self.rqvae.encode_latents(inputs["pixel_values"])
        generator = self._code_generator() if stochastic else None
        return self.rqvae.quantize(latents, self.args.code_temperature, stochastic, generator)

    def _code_generator(self) -> torch.Generator:
        """Seeded by (seed, step, micro-batch, process), so that resuming changes nothing."""
        self._micro_step = (self._micro_step + 1) if self._last_step == self.state.global_step else 0
        self._last_step = self.state.global_step
        words = [self.args.seed, self.state.global_step, self._micro_step, self.args.process_index]
        seed = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]) >> 1
        return torch.Generator(self.args.device).manual_seed(seed)

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
        Rows with a column `latents` `(H, W, n_z)` fp16 that stochastic codes can be drawn from in every epoch, or
        `codes` `(H, W, D)` int32; torch format.
    """
    name, width, dtype = (
        ("codes", rqvae.config.code_depth, "int32")
        if codes_only
        else ("latents", rqvae.config.codebook_dim, "float16")
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
