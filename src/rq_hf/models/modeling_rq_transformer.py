# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The RQ-Transformer (section 3.2): a spatial transformer over positions, a depth decoder over the codes of each.

Symbols: B pictures, S condition tokens, H x W positions (T = H*W), D code depth, K codebook size, n_z codebook width,
n_e hidden width. e(k) code vector, z-hat_t^(d) partial sum of the first d code vectors of position t, h_t context.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .base import RQPreTrainedModel
from .configuration_rq_transformer import RQTransformerConfig
from .depth_decoder import IGNORED, DepthDecoder
from .generation import RQTransformerGenerationMixin
from .residual_quantizer import Codebook
from .transformer_blocks import LearnedPositions, PredictionHead, SelfAttention, TransformerBlock, TransformerStack
from .validation import check_shape


@dataclass
class RQTransformerOutput(ModelOutput):
    """
    Output of [`RQTransformerForImageGeneration`]. Losses are in nats.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*):
            `(1 - text_loss_weight) * image_loss + text_loss_weight * text_loss`, or the image loss alone without a
            text head.
        logits (`torch.FloatTensor` of shape `(B, H, W, D, K)`, *optional*): Prediction of each code (Eq. 13).
        text_logits (`torch.FloatTensor` of shape `(B, S - 1, vocab_size)`, *optional*):
            Prediction of caption tokens 1..S-1, with a text head.
        image_loss (`torch.FloatTensor` of shape `()`, *optional*): Mean cross-entropy of the codes (Eq. 14).
        text_loss (`torch.FloatTensor` of shape `()`, *optional*): Mean cross-entropy of the caption tokens.
        depth_losses (`torch.FloatTensor` of shape `(D,)`, *optional*):
            Mean cross-entropy of the codes of each depth, without gradient.
        hidden_states (`tuple` of `torch.FloatTensor` of shape `(B, S + T - 1, n_e)`, *optional*):
            Input of the spatial transformer, then the output of each of its blocks.
        attentions (`tuple` of `torch.FloatTensor` of shape `(B, heads, S + T - 1, S + T - 1)`, *optional*):
            Weights in each block of the spatial transformer.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    text_logits: torch.FloatTensor | None = None
    image_loss: torch.FloatTensor | None = None
    text_loss: torch.FloatTensor | None = None
    depth_losses: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class ConditionProjection(nn.Module):
    """A linear map of a text encoder's vectors, `(B, S, condition_dim)` to `(B, S, n_e)`.

    Places whose vector is all zeros hold no token: padding, or a dropped condition. They get one learned vector.
    """

    def __init__(self, config: RQTransformerConfig):
        super().__init__()
        self.linear = nn.Linear(config.condition_dim, config.hidden_size)
        self.null = nn.Parameter(torch.zeros(config.hidden_size))

    def forward(self, prompt_embeds: torch.Tensor) -> torch.Tensor:
        has_token = (prompt_embeds != 0).any(-1, keepdim=True)  # (B, S, 1)
        return torch.where(has_token, self.linear(prompt_embeds.to(self.linear.weight.dtype)), self.null)


class RQTransformerPreTrainedModel(RQPreTrainedModel):
    """What all transformers over code maps share: conditions, the spatial transformer's parts, the depth decoder."""

    config_class = RQTransformerConfig
    base_model_prefix = "transformer"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": OutputRecorder(TransformerBlock, layer_name="spatial_transformer"),
        "attentions": OutputRecorder(SelfAttention, index=1, layer_name="spatial_transformer"),
    }
    _no_split_modules = ["TransformerBlock"]
    _group_offload_block_modules = [  # all children, since `generate` calls them and not `forward`
        "condition_embedding", "condition_projection", "condition_positions", "spatial_projection",
        "spatial_positions", "embedding_dropout", "spatial_transformer", "depth_decoder", "text_head",
        "codebook", "projection", "positions", "transformer", "head",  # of the depth decoder
    ]  # fmt: skip
    is_causal = True  # whether a position reads only those before it

    def __init__(self, config: RQTransformerConfig):
        super().__init__(config)
        hidden_size, takes_embeds = config.hidden_size, config.condition_dim is not None
        self.condition_embedding = None if takes_embeds else nn.Embedding(config.vocab_size, hidden_size)
        self.condition_projection = ConditionProjection(config) if takes_embeds else None
        self.condition_positions = LearnedPositions(config.condition_length, hidden_size)
        self.spatial_projection = nn.Linear(config.codebook_dim, hidden_size)
        self.spatial_positions = LearnedPositions(config.num_positions, hidden_size)
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        self.spatial_transformer = TransformerStack(config, config.num_spatial_layers, self.is_causal)
        self.depth_decoder = DepthDecoder(config)
        self.text_head = PredictionHead(config, config.vocab_size) if config.has_text_head else None
        self.generation_config = self.settings_class()  # one made of a model config loses fields in a file

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, LearnedPositions):
            init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, ConditionProjection):
            init.normal_(module.null, std=self.config.initializer_range)
        elif isinstance(module, Codebook):
            init.normal_(module.weight)

    def get_input_embeddings(self) -> nn.Module | None:
        return self.condition_embedding

    def set_input_embeddings(self, value: nn.Module):
        self.condition_embedding = value

    def get_output_embeddings(self) -> nn.Module | None:
        return self.text_head.linear if self.text_head is not None else None

    def set_output_embeddings(self, value: nn.Module):
        self.text_head.linear = value

    @property
    def codebook(self) -> Codebook:
        """The code vectors of the RQ-VAE."""
        return self.depth_decoder.codebook

    def set_codebook(self, codebook: torch.Tensor) -> None:
        """See [`DepthDecoder.set_codebook`]."""
        self.depth_decoder.set_codebook(codebook)

    @apply_forward_hook
    def embed_ids(self, input_ids: torch.LongTensor) -> torch.Tensor:
        """Vectors `(B, S, n_e)` of ids `(B, S)`, which every method takes as `prompt_embeds` in place of the ids."""
        return self.condition_embedding(input_ids)

    def null_embeds(self) -> torch.Tensor:
        """Vectors `(1, S, condition_width)` of no condition, for guidance.

        Raises:
            `ValueError`: a model of ids that was trained without condition dropout.
        """
        config = self.config
        if config.condition_dim is not None:
            return torch.zeros(1, config.condition_length, config.condition_dim, dtype=self.dtype)
        if config.null_condition_ids is None:
            raise ValueError(
                "`guidance_scale` other than 1 needs a negative prompt (`negative_input_ids`), or a model trained "
                "with condition dropout, whose config has `null_condition_ids`."
            )
        return self.embed_ids(torch.tensor([config.null_condition_ids], device=self.device))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """See [`RQPreTrainedModel.from_pretrained`]. The transformer of a pipeline draws with the settings of the
        pipeline's model_index.json where it has no generation_config.json, which diffusers does not download."""
        folder = Path(str(pretrained_model_name_or_path), kwargs.get("subfolder") or "")
        index = folder.parent / "model_index.json"
        if index.is_file() and not (folder / "generation_config.json").is_file():
            settings = json.loads(index.read_text(encoding="utf-8")).get("_generation_config", {})
            kwargs.setdefault("generation_config", cls.settings_class(**settings))
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def condition_states(
        self, input_ids: torch.LongTensor | None = None, prompt_embeds: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Conditions as the spatial transformer reads them, `(B, S, n_e)`.

        They are ids `(B, S)`: of a caption, one of a class, or one start id. Or they are vectors
        `(B, S, condition_width)`: those of [`embed_ids`], or for a model with `config.condition_dim` those of a text
        encoder, zeros where there is no token.
        """
        if prompt_embeds is None:
            embeds = self.embed_ids(input_ids)
        elif self.condition_projection is not None:
            embeds = self.condition_projection(prompt_embeds)
        else:
            embeds = prompt_embeds
        return self.condition_positions(embeds)

    def _image_loss(self, losses: torch.Tensor, labels: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Means of losses `(N, D)`: over all codes (Eq. 14), and of each depth without gradient."""
        if labels is None or labels.is_floating_point():
            return losses.mean(), losses.detach().mean(0)
        counts = (labels != IGNORED).view(losses.shape).sum(0)  # (D,)
        return losses.sum() / counts.sum().clamp(min=1), losses.detach().sum(0) / counts.clamp(min=1)

    def _check_shapes(self, input_ids, prompt_embeds, codes, labels, residuals) -> None:
        """Checks shapes only; looking at values would make a GPU wait."""
        config, shape = self.config, (len(codes), *self.config.code_shape)
        if (input_ids is None) == (prompt_embeds is None):
            got = "neither" if input_ids is None else "both"
            raise ValueError(f"One of `input_ids` and `prompt_embeds` must be given, got {got}.")
        length = config.condition_length
        if input_ids is not None and config.condition_dim is not None:
            raise ValueError("`input_ids` must be None for a model that takes `prompt_embeds`.")
        for name, tensor, shapes, is_needed in (
            ("input_ids", input_ids, [(len(codes), length)], False),
            ("prompt_embeds", prompt_embeds, [(len(codes), length, config.condition_width)], False),
            ("codes", codes, [shape], True),
            ("labels", labels, [shape, (*shape, config.codebook_size)], False),
            ("residuals", residuals, [(*shape, config.codebook_dim)], False),
        ):
            if tensor is not None or is_needed:
                check_shape(f"`{name}`", tensor, shapes)
        if labels is not None and residuals is not None:
            raise ValueError("`labels` and `residuals` exclude each other, got both.")


class RQTransformerForImageGeneration(RQTransformerGenerationMixin, RQTransformerPreTrainedModel):
    r"""
    Autoregressive model of code maps under a condition (section 3.2).

    The spatial transformer reads the condition and, for each position, the sum of its code vectors. Its output h_t,
    which has seen all positions before t, is the context from which the depth decoder predicts the D codes of
    position t, coarse to fine (Eq. 9-13).

    Buffers:
        depth_decoder.codebook.weight: `(1 or D, K, n_z)`, the RQ-VAE's; see [`set_codebook`].

    Example:

    ```python
    >>> import torch
    >>> from rq_hf import RQTransformerConfig, RQTransformerForImageGeneration
    >>> config = RQTransformerConfig(
    ...     vocab_size=10, condition_length=1, code_shape=(4, 4, 2), codebook_size=32, codebook_dim=8,
    ...     hidden_size=32, num_spatial_layers=2, num_depth_layers=1, num_attention_heads=2,
    ... )
    >>> model = RQTransformerForImageGeneration(config).eval()
    >>> model.generate(torch.tensor([[3]]), top_k=16, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([1, 4, 4, 2])
    ```
    """

    def __init__(self, config: RQTransformerConfig):
        super().__init__(config)
        self.post_init()

    def spatial_inputs(self, condition: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
        """Inputs of the spatial transformer `(B, S + P, n_e)` (Eq. 10): condition states `(B, S, n_e)`, then one token
        for each z-hat_t of `quantized` `(B, P, n_z)`."""
        inputs = condition
        if quantized.shape[1] > 0:  # quantized linear layers take no empty tensor
            tokens = self.spatial_positions(self.spatial_projection(quantized))  # (B, P, n_e)
            inputs = torch.cat([condition, tokens.to(condition.device)], dim=1)
        return self.embedding_dropout(inputs)

    def spatial_states(self, condition: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
        """Outputs of the spatial transformer for condition states `(B, S, n_e)` and z-hat_t `(B, T, n_z)`:
        `(B, S + T - 1, n_e)`, of which the last T are h_1..h_T (Eq. 11)."""
        return self.spatial_transformer(self.spatial_inputs(condition, quantized[:, :-1]))

    def training_inputs(self, codes: torch.LongTensor, generator: torch.Generator | None) -> dict[str, torch.Tensor]:
        """Further arguments of [`forward`] in a training step: none."""
        return {}

    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        codes: torch.LongTensor | None = None,
        labels: torch.Tensor | None = None,
        residuals: torch.Tensor | None = None,
        label_temperature: float | Sequence[float] | None = None,
        prompt_embeds: torch.Tensor | None = None,
        output_logits: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> RQTransformerOutput:
        r"""Predicts every code from the condition and the codes before it (teacher forcing).

        Args:
            input_ids, prompt_embeds (*optional*): Conditions, one of the two; see [`condition_states`].
            codes (`torch.LongTensor` of shape `(B, H, W, D)`): Code maps, the inputs.
            labels (`torch.Tensor`, *optional*):
                Targets: codes `(B, H, W, D)`, where -100 has no loss, or distributions `(B, H, W, D, K)` for small K.
            residuals (`torch.Tensor` of shape `(B, H, W, D, n_z)`, *optional*):
                Instead of `labels`: residuals of [`RQVAEModel.quantize`], for the soft targets of Eq. 15.
            label_temperature (`float` or `list[float]`, *optional*):
                tau > 0 of Eq. 15, one number or one per depth; required with `residuals`.
            output_logits (`bool`, *optional*): Whether to return logits, by default only without targets.
            output_hidden_states, output_attentions (`bool`, *optional*):
                Whether to return the spatial transformer's. Attentions need `attn_implementation="eager"`.

        Returns:
            [`RQTransformerOutput`], or a tuple with `return_dict=False`.

        Raises:
            `ValueError`: inputs or targets of wrong shapes.
        """
        self._check_shapes(input_ids, prompt_embeds, codes, labels, residuals)
        has_targets = labels is not None or residuals is not None
        condition = self.condition_states(input_ids, prompt_embeds)  # (B, S, n_e)
        partial_sums = self.depth_decoder.partial_sums(codes)  # (B, H, W, D, n_z), z-hat_t^(d)
        quantized = partial_sums[..., -1, :].flatten(1, 2)  # (B, T, n_z), z-hat_t
        hidden_states = self.spatial_states(condition, quantized)  # (B, S+T-1, n_e)
        context = hidden_states[:, condition.shape[1] - 1 :].unflatten(1, codes.shape[1:3])  # (B, H, W, n_e), h_t
        depth_states = self.depth_decoder.states(context, partial_sums[..., :-1, :])  # (B, H, W, D, n_e), Eq. 12

        output_logits = not has_targets if output_logits is None else output_logits
        logits = self.depth_decoder.head(depth_states) if output_logits else None  # (B, H, W, D, K), Eq. 13
        image_loss = depth_losses = text_logits = text_loss = None
        if has_targets:
            losses = self.depth_decoder.losses(depth_states, labels, residuals, label_temperature)  # (B, H, W, D)
            image_loss, depth_losses = self._image_loss(losses.flatten(0, 2), labels)
        loss = image_loss
        if self.text_head is not None:
            text_logits = self.text_head(hidden_states[:, : condition.shape[1] - 1])  # (B, S-1, vocab_size)
            if has_targets and input_ids is not None:  # vectors do not tell which tokens they stand for
                text_loss = self._text_loss(text_logits, input_ids[:, 1:])
                weight = self.config.text_loss_weight
                loss = (1 - weight) * image_loss + weight * text_loss
        return RQTransformerOutput(loss, logits, text_logits, image_loss, text_loss, depth_losses)

    def _text_loss(self, text_logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of caption tokens 1..S-1, without padding where the config has a `pad_token_id`."""
        logits, targets = text_logits.flatten(0, 1).float(), targets.flatten().long()
        pad = IGNORED if self.config.pad_token_id is None else self.config.pad_token_id
        total = F.cross_entropy(logits, targets, ignore_index=pad, reduction="sum")
        return total / (targets != pad).sum().clamp(min=1)
