# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The RQ-Transformer (section 3.2): a spatial transformer over positions, a depth transformer over the codes of each.

Symbols: B pictures, S condition tokens, H x W positions (T = H*W), D code depth, K codebook size, n_z codebook width,
n_e hidden width. e(k) code vector, z-hat_t^(d) partial sum of the first d code vectors of position t, h_t context.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .base import RQPreTrainedModel
from .configuration_rq_transformer import RQTransformerConfig
from .generation import RQTransformerGenerationMixin
from .residual_quantizer import Codebook, one_per_depth, row_blocks, soft_code_probabilities
from .transformer_blocks import SelfAttention, TransformerBlock, TransformerStack

# Label of a code that has no loss, as in `F.cross_entropy`.
IGNORED = -100
# The code loss of a larger batch is computed in blocks of at most this many logits (64 MiB in fp32).
LOSS_BLOCK_ELEMENTS = 2**24
# tau of the words that condition layers choose, so small that nearly all weight is on one word.
WORD_TEMPERATURE = 0.2


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
            With `output_hidden_states`: input of the spatial transformer, then the output of each of its blocks.
        attentions (`tuple` of `torch.FloatTensor` of shape `(B, heads, S + T - 1, S + T - 1)`, *optional*):
            With `output_attentions` and eager attention: weights in each block of the spatial transformer.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    text_logits: torch.FloatTensor | None = None
    image_loss: torch.FloatTensor | None = None
    text_loss: torch.FloatTensor | None = None
    depth_losses: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class LearnedPositions(nn.Module):
    """Adds a learned vector to each token of `(B, length, n_e)`, the first of which stands at `offset`."""

    def __init__(self, num_positions: int, hidden_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_positions, hidden_size))

    def forward(self, x: torch.Tensor, offset: int | torch.Tensor = 0) -> torch.Tensor:
        if isinstance(offset, torch.Tensor):  # (1,), of a single token
            return x + self.weight.index_select(0, offset)
        return x + self.weight[offset : offset + x.shape[1]]


class PredictionHead(nn.Module):
    """Layer normalization and a linear map to logits: `(..., n_e)` to `(..., num_classes)`."""

    def __init__(self, config: RQTransformerConfig, num_classes: int):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.linear = nn.Linear(config.hidden_size, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(x))


class CodeHead(PredictionHead):
    """The head that all depths share. With targets it returns losses, and holds no more than a block of logits."""

    def forward(
        self,
        x: torch.Tensor,
        labels: torch.Tensor | None = None,
        residuals: torch.Tensor | None = None,
        codebook: torch.Tensor | None = None,
        temperatures: Sequence[float] = (),
    ) -> torch.Tensor:
        """Logits `(..., D, K)`, or with targets the cross-entropy of each code `(..., D)`.

        Args:
            x: `(..., D, n_e)`.
            labels: `(..., D)` codes or `(..., D, K)` distributions.
            residuals: `(..., D, n_z)`; the targets are their Q_tau (Eq. 15).
            codebook, temperatures: `(1 or D, K, n_z)` and tau of each depth, needed with residuals.
        """
        if labels is None and residuals is None:
            return super().forward(x)
        states = x.flatten(0, -3)  # (N, D, n_e)
        targets = (labels if residuals is None else residuals).flatten(0, x.ndim - 3)  # (N, D), (N, D, K or n_z)
        soft = None if residuals is None else (codebook, temperatures)
        blocks = row_blocks(len(states), states.shape[1] * self.linear.out_features, LOSS_BLOCK_ELEMENTS)
        if len(blocks) == 1:
            losses = self._losses(states, targets, soft)
        else:  # each block is computed again for its gradient
            of_blocks = [
                checkpoint(self._losses, states[block], targets[block], soft, use_reentrant=False) for block in blocks
            ]
            losses = torch.cat(of_blocks)  # (N, D)
        return losses.view(x.shape[:-1])

    def _losses(
        self, states: torch.Tensor, targets: torch.Tensor, soft: tuple[torch.Tensor, Sequence[float]] | None
    ) -> torch.Tensor:
        """Cross-entropy `(N, D)`; with `soft` = (codebook, tau of each depth) the targets are residuals."""
        if soft is not None:
            codebook, temperatures = soft
            of_depths = [
                soft_code_probabilities(targets[:, depth], codebook[depth % len(codebook)], temperature)
                for depth, temperature in enumerate(temperatures)
            ]
            targets = torch.stack(of_depths, dim=1)  # (N, D, K)
        logits = super().forward(states).float()  # (N, D, K)
        losses = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(0, 1), reduction="none", ignore_index=IGNORED
        )  # (N * D,)
        return losses.view(states.shape[:2])


class RQTransformerForImageGeneration(RQTransformerGenerationMixin, RQPreTrainedModel):
    r"""
    Autoregressive model of code maps under a condition (section 3.2).

    The spatial transformer reads the condition and, for each position, the sum of its code vectors. Its output h_t,
    which has seen all positions before t, is the context from which the depth transformer predicts the D codes of
    position t, coarse to fine (Eq. 9-13).

    Args:
        config ([`RQTransformerConfig`]): architecture.

    Buffers:
        codebook.weight: `(1 or D, K, n_z)`, the RQ-VAE's; see [`set_codebook`].

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
        "codebook", "condition_embedding", "condition_positions", "condition_transformer", "spatial_projection",
        "spatial_positions", "embedding_dropout", "spatial_transformer", "depth_projection", "depth_positions",
        "depth_transformer", "code_head", "text_head",
    ]  # fmt: skip

    def __init__(self, config: RQTransformerConfig):
        super().__init__(config)
        hidden_size, code_depth = config.hidden_size, config.code_shape[2]
        num_codebooks = 1 if config.shared_codebook else code_depth
        self.codebook = Codebook(num_codebooks, config.codebook_size, config.codebook_dim)
        self.condition_embedding = nn.Embedding(config.vocab_size, hidden_size)
        self.condition_positions = LearnedPositions(config.condition_length, hidden_size)
        self.condition_transformer = TransformerStack(config, config.num_condition_layers, is_causal=False)
        self.spatial_projection = nn.Linear(config.codebook_dim, hidden_size)
        self.spatial_positions = LearnedPositions(config.num_positions, hidden_size)
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        self.spatial_transformer = TransformerStack(config, config.num_spatial_layers)
        self.depth_projection = nn.Linear(config.codebook_dim, hidden_size)
        self.depth_positions = LearnedPositions(code_depth, hidden_size)
        self.depth_transformer = TransformerStack(config, config.num_depth_layers)
        self.code_head = CodeHead(config, config.codebook_size)
        self.text_head = PredictionHead(config, config.vocab_size) if config.has_text_head else None
        self.generation_config.do_sample = True
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, LearnedPositions):
            init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, Codebook):
            init.normal_(module.weight)

    def get_input_embeddings(self) -> nn.Module:
        return self.condition_embedding

    def set_input_embeddings(self, value: nn.Module):
        self.condition_embedding = value

    def get_output_embeddings(self) -> nn.Module | None:
        return self.text_head.linear if self.text_head is not None else None

    def set_output_embeddings(self, value: nn.Module):
        self.text_head.linear = value

    @torch.no_grad()
    def set_codebook(self, codebook: torch.Tensor) -> None:
        """Copies the code vectors of an RQ-VAE, [`RQVAEModel.codebook`], whose codes this model reads and predicts.

        Args:
            codebook (`torch.Tensor`): `(1, K, n_z)`, or `(D, K, n_z)` with `shared_codebook=False`.

        Raises:
            `ValueError`: wrong shape.
        """
        weight = self.codebook.weight
        if codebook.shape != weight.shape:
            raise ValueError(f"`codebook` must have shape {tuple(weight.shape)}, got {tuple(codebook.shape)}.")
        weight.copy_(codebook)

    def condition_states(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Conditions `(B, S)` as the spatial transformer reads them, `(B, S, n_e)`.

        With `num_condition_layers`, blocks choose the word that is read at each place, as Eq. 15 chooses a code.
        """
        tokens = self.condition_embedding(input_ids)  # (B, S, n_e)
        if self.config.num_condition_layers > 0:
            states = self.condition_transformer(self.condition_positions(tokens))
            # (vocab_size, n_e); a call, since offloading brings weights only for calls
            words = self.condition_embedding(torch.arange(self.config.vocab_size, device=input_ids.device))
            tokens = soft_code_probabilities(states, words, WORD_TEMPERATURE).to(words.dtype) @ words
        return self.condition_positions(tokens)

    def spatial_inputs(self, input_ids: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
        """Inputs of the spatial transformer `(B, S + P, n_e)` (Eq. 10): conditions `(B, S)`, then one token for each
        z-hat_t of `quantized` `(B, P, n_z)`."""
        condition = self.condition_states(input_ids)  # (B, S, n_e)
        inputs = condition
        if quantized.shape[1] > 0:  # quantized linear layers take no empty tensor
            tokens = self.spatial_positions(self.spatial_projection(quantized))  # (B, P, n_e)
            inputs = torch.cat([condition, tokens.to(condition.device)], dim=1)
        return self.embedding_dropout(inputs)

    def spatial_states(self, input_ids: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
        """Outputs of the spatial transformer for conditions `(B, S)` and z-hat_t `(B, T, n_z)`: `(B, S + T - 1, n_e)`,
        of which the last T are h_1..h_T (Eq. 11)."""
        return self.spatial_transformer(self.spatial_inputs(input_ids, quantized[:, :-1]))

    def depth_states(self, context: torch.Tensor, partial_sums: torch.Tensor) -> torch.Tensor:
        """Outputs of the depth transformer for h_t `(B, T, n_e)` and z-hat_t^(1..d-1) `(B, T, d-1, n_z)`: those of the
        first d depths, `(B*T, d, n_e)` (Eq. 12)."""
        depth_inputs = context[:, :, None]  # (B, T, 1, n_e)
        if partial_sums.shape[2] > 0:  # quantized linear layers take no empty tensor
            coarser = self.depth_projection(partial_sums)  # (B, T, d-1, n_e)
            depth_inputs = torch.cat([depth_inputs, coarser], dim=2)  # (B, T, d, n_e)
        return self.depth_transformer(self.depth_positions(depth_inputs.flatten(0, 1)))

    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor,
        codes: torch.LongTensor,
        labels: torch.Tensor | None = None,
        residuals: torch.Tensor | None = None,
        label_temperature: float | Sequence[float] | None = None,
        output_logits: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> RQTransformerOutput:
        r"""Predicts every code from the condition and the codes before it (teacher forcing).

        Args:
            input_ids (`torch.LongTensor` of shape `(B, S)`): Conditions.
            codes (`torch.LongTensor` of shape `(B, H, W, D)`): Code maps, the inputs.
            labels (`torch.Tensor`, *optional*):
                Targets: codes `(B, H, W, D)`, where -100 has no loss, or distributions `(B, H, W, D, K)` for small K.
            residuals (`torch.Tensor` of shape `(B, H, W, D, n_z)`, *optional*):
                Instead of `labels`: residuals of [`RQVAEModel.quantize`], from which the soft targets of Eq. 15 are
                computed inside the loss.
            label_temperature (`float` or `list[float]`, *optional*):
                tau > 0 of Eq. 15, one number or one per depth; required with `residuals`.
            output_logits (`bool`, *optional*):
                Whether to return `(B, H, W, D, K)` logits. The default is `True` without targets.
            output_hidden_states, output_attentions (`bool`, *optional*):
                Whether to return the spatial transformer's. Attentions need `attn_implementation="eager"`.

        Returns:
            [`RQTransformerOutput`], or a tuple with `return_dict=False`.

        Raises:
            `ValueError`: inputs or targets of wrong shapes.
        """
        self._check_shapes(input_ids, codes, labels, residuals)
        condition_length = input_ids.shape[1]
        vectors = self.codebook(codes.flatten(1, 2))  # (B, T, D, n_z), e(k)
        partial_sums = vectors.cumsum(dim=2)  # (B, T, D, n_z), z-hat_t^(d)
        hidden_states = self.spatial_states(input_ids, partial_sums[:, :, -1])  # (B, S+T-1, n_e)
        context = hidden_states[:, condition_length - 1 :]  # (B, T, n_e), h_t, Eq. 11
        depth_states = self.depth_states(context, partial_sums[:, :, :-1])  # (B*T, D, n_e), Eq. 12
        depth_states = depth_states.view(*codes.shape, -1)  # (B, H, W, D, n_e)

        if output_logits is None:
            output_logits = labels is None and residuals is None
        logits = self.code_head(depth_states) if output_logits else None  # (B, H, W, D, K), Eq. 13
        image_loss = depth_losses = text_logits = text_loss = None
        if labels is not None or residuals is not None:
            image_loss, depth_losses = self._image_loss(depth_states, labels, residuals, label_temperature)
        loss = image_loss
        if self.text_head is not None:
            text_logits = self.text_head(hidden_states[:, : condition_length - 1])  # (B, S-1, vocab_size)
            if image_loss is not None:
                text_loss = self._text_loss(text_logits, input_ids[:, 1:])
                weight = self.config.text_loss_weight
                loss = (1 - weight) * image_loss + weight * text_loss
        return RQTransformerOutput(
            loss=loss,
            logits=logits,
            text_logits=text_logits,
            image_loss=image_loss,
            text_loss=text_loss,
            depth_losses=depth_losses,
        )

    def _image_loss(self, depth_states, labels, residuals, label_temperature) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean cross-entropy of the codes (Eq. 14), and that of each depth without gradient."""
        if residuals is not None:
            taus = one_per_depth(
                "label_temperature", label_temperature, depth_states.shape[3], lambda tau: tau > 0, "greater than 0"
            )
            if None in taus:
                raise ValueError("`residuals` need a `label_temperature`, got None.")
            losses = self.code_head(depth_states, None, residuals, self.codebook.weight, taus)  # (B, H, W, D)
        else:
            losses = self.code_head(depth_states, labels if labels.is_floating_point() else labels.long())
        losses = losses.flatten(0, 2)  # (B*T, D)
        if labels is None or labels.is_floating_point():
            return losses.mean(), losses.detach().mean(0)
        has_loss = (labels != IGNORED).flatten(0, 2)  # (B*T, D)
        depth_losses = losses.detach().sum(0) / has_loss.sum(0).clamp(min=1)
        return losses.sum() / has_loss.sum().clamp(min=1), depth_losses

    def _text_loss(self, text_logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of caption tokens 1..S-1, without padding where the config has a `pad_token_id`."""
        losses = F.cross_entropy(text_logits.flatten(0, 1).float(), targets.flatten().long(), reduction="none")
        if self.config.pad_token_id is None:
            return losses.mean()
        has_loss = (targets != self.config.pad_token_id).flatten()
        return (losses * has_loss).sum() / has_loss.sum().clamp(min=1)

    def _check_shapes(self, input_ids, codes, labels, residuals) -> None:
        """Checks shapes only; looking at values would make a GPU wait."""
        shape = (len(codes), *self.config.code_shape)
        for name, tensor, shapes in (
            ("input_ids", input_ids, [(len(codes), self.config.condition_length)]),
            ("codes", codes, [shape]),
            ("labels", labels, [shape, (*shape, self.config.codebook_size)]),
            ("residuals", residuals, [(*shape, self.config.codebook_dim)]),
        ):
            if tensor is not None and tuple(tensor.shape) not in shapes:
                expected = " or ".join(map(str, shapes))
                raise ValueError(f"`{name}` must have shape {expected}, got {tuple(tensor.shape)}.")
        if labels is not None and residuals is not None:
            raise ValueError("`labels` and `residuals` exclude each other, got both.")
