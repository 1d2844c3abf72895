# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The RQ-Transformer (section 3.2): a spatial transformer over positions, a depth transformer over the codes of each.

Symbols: B pictures, S condition tokens, H x W positions (T = H*W), D code depth, K codebook size, n_z codebook width,
n_e hidden width. e(k) code vector, z-hat_t^(d) partial sum of the first d code vectors of position t, h_t context.
"""

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .activation_memory import Dropout
from .configuration_rq_transformer import RQTransformerConfig
from .fused_cross_entropy import IGNORED, FusedCrossEntropy, loss_block_elements
from .generation_rq_transformer import RQTransformerGenerationMixin
from .modeling_hub import HubModel
from .residual_quantizer import Codebook, one_per_depth, row_blocks, soft_code_probabilities
from .transformer_blocks import TransformerStack


@dataclass
class RQTransformerOutput(ModelOutput):
    """
    Output of [`RQTransformerForImageGeneration`].

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*):
            `(1 - text_loss_weight) * image_loss + text_loss_weight * text_loss`, or the image loss alone without a
            text head. Nats per code.
        logits (`torch.FloatTensor` of shape `(B, H, W, D, K)`, *optional*):
            Prediction of each code.
        text_logits (`torch.FloatTensor` of shape `(B, S - 1, vocab_size)`, *optional*):
            Prediction of caption tokens 1..S-1, with a text head.
        image_loss (`torch.FloatTensor` of shape `()`, *optional*):
            Mean cross-entropy of the codes (Eq. 14).
        text_loss (`torch.FloatTensor` of shape `()`, *optional*):
            Mean cross-entropy of the caption tokens.
        depth_losses (`torch.FloatTensor` of shape `(D,)`, *optional*):
            Mean cross-entropy of the codes of each depth, without gradient; where all have a label, their mean is
            `image_loss`.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    text_logits: torch.FloatTensor | None = None
    image_loss: torch.FloatTensor | None = None
    text_loss: torch.FloatTensor | None = None
    depth_losses: torch.FloatTensor | None = None


class LearnedPositions(nn.Module):
    """Adds a learned vector to each token, the first one at `offset`: `(B, length, n_e)` to the same shape."""

    def __init__(self, num_positions: int, hidden_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_positions, hidden_size))

    def forward(self, hidden_states: torch.Tensor, offset: int | torch.Tensor = 0) -> torch.Tensor:
        if isinstance(offset, torch.Tensor):  # (1,), of a single token
            return hidden_states + self.weight.index_select(0, offset)
        return hidden_states + self.weight[offset : offset + hidden_states.shape[1]]


class PredictionHead(nn.Module):
    """Layer normalization and a linear map to logits: `(..., n_e)` to `(..., num_classes)`."""

    def __init__(self, config: RQTransformerConfig, num_classes: int):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.linear = nn.Linear(config.hidden_size, num_classes)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(hidden_states))


class CodeHead(PredictionHead):
    """The head that all depths share, with a loss that never holds logits or targets of more than a block of codes."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        labels: torch.Tensor | None = None,
        residuals: torch.Tensor | None = None,
        codebook: torch.Tensor | None = None,
        temperature: Sequence[float] = (),
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Logits `(..., K)`, or with targets the mean cross-entropy `()` (Eq. 14) and, without gradient, that of each
        depth `(D,)`.

        Args:
            hidden_states: `(..., D, n_e)`.
            labels: `(..., D)` codes, or
            residuals: `(..., D, n_z)` with the code vectors `(1 or D, K, n_z)` and D tau for soft targets (Eq. 15).
        """
        if labels is None and residuals is None:
            return super().forward(hidden_states)
        depth, size = hidden_states.shape[-2], self.linear.out_features
        rows = hidden_states.reshape(-1, hidden_states.shape[-1])
        if residuals is None:
            targets, groups = labels.reshape(-1), 1
        else:
            targets = residuals.reshape(len(rows), -1)
            groups = depth if len(codebook) > 1 or len(set(temperature)) > 1 else 1
        block_size = loss_block_elements(rows.device.type, size)
        blocks = [  # of codes that share a codebook and a temperature: consecutive ones, or every `depth`-th
            slice(block.start * groups + group, block.stop * groups, groups)
            for group in range(groups)
            for block in row_blocks(len(rows) // groups, size, block_size)
        ]

        def make_targets(block: slice) -> torch.Tensor:
            if residuals is None:
                return targets[block]
            place = block.start % groups
            return soft_code_probabilities(targets[block], codebook[place % len(codebook)], temperature[place])

        blocks = [(block, functools.partial(make_targets, block)) for block in blocks]
        counted = None if labels is None else (labels.reshape(-1) != IGNORED).float()
        if torch.is_grad_enabled() and self._is_plain():
            count = max(1, len(rows)) if counted is None else counted.sum().clamp(min=1)
            parameters = self.linear.weight, self.linear.bias
            loss, losses = FusedCrossEntropy.apply(self.norm(rows), *parameters, blocks, count)
            return loss, _means(losses, counted, depth)[1]
        else:
            losses = rows.new_zeros(len(rows), dtype=torch.float32)
            is_kept = len(blocks) == 1 or not torch.is_grad_enabled()
            for block, make in blocks:
                arguments = rows[block], make
                losses[block] = (
                    self._losses(*arguments) if is_kept else checkpoint(self._losses, *arguments, use_reentrant=False)
                )
            return _means(losses, counted, depth)

    def _is_plain(self) -> bool:
        """Whether nothing depends on the linear map being called: adapters, quantization, gathering hooks."""
        linear = self.linear
        hooks = [*linear._forward_hooks, *linear._forward_pre_hooks, *linear._backward_hooks]
        is_linear = type(linear) is nn.Linear and linear.bias is not None and not hasattr(linear, "_hf_hook")
        return is_linear and not hooks

    def _losses(self, rows: torch.Tensor, make_targets: Callable[[], torch.Tensor]) -> torch.Tensor:
        return F.cross_entropy(super().forward(rows).float(), make_targets(), reduction="none", ignore_index=IGNORED)


def _means(losses: torch.Tensor, counted: torch.Tensor | None, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of the losses of codes `(N,)`, and without gradient that of each depth `(D,)`; those `counted`, all by
    default."""
    if counted is None:
        return losses.mean(), losses.detach().view(-1, depth).mean(0)
    of_depths = losses.detach().view(-1, depth).sum(0) / counted.view(-1, depth).sum(0).clamp(min=1)
    return losses.sum() / counted.sum().clamp(min=1), of_depths


class RQTransformerForImageGeneration(RQTransformerGenerationMixin, HubModel):
    r"""
    Autoregressive model of code maps under a condition (section 3.2).

    The spatial transformer reads the condition and, for each position, the sum of its code vectors; its output h_t is
    the context from which the depth transformer predicts the D codes of the next position, coarse to fine (Eq. 9-13).

    Args:
        config ([`RQTransformerConfig`]): architecture.

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
    _no_split_modules = ["TransformerBlock"]
    _group_offload_block_modules = [  # all children, as `generate` calls them and not `forward`
        "codebook", "condition_embedding", "condition_positions", "spatial_projection", "spatial_positions",
        "embedding_dropout", "spatial_transformer", "depth_projection", "depth_positions", "depth_transformer",
        "code_head", "text_head",
    ]  # fmt: skip

    def __init__(self, config: RQTransformerConfig):
        super().__init__(config)
        hidden_size, code_depth = config.hidden_size, config.code_shape[2]
        self.codebook = Codebook(
            1 if config.shared_codebook else code_depth, config.codebook_size, config.codebook_dim
        )
        self.condition_embedding = nn.Embedding(config.vocab_size, hidden_size)
        self.condition_positions = LearnedPositions(config.condition_length, hidden_size)
        self.spatial_projection = nn.Linear(config.codebook_dim, hidden_size)
        self.spatial_positions = LearnedPositions(config.num_positions, hidden_size)
        self.embedding_dropout = Dropout(config.embedding_dropout)
        self.spatial_transformer = TransformerStack(config, config.num_spatial_layers)
        self.depth_projection = nn.Linear(config.codebook_dim, hidden_size)
        self.depth_positions = LearnedPositions(code_depth, hidden_size)
        self.depth_transformer = TransformerStack(config, config.num_depth_layers)
        self.code_head = CodeHead(config, config.codebook_size)
        self.text_head = PredictionHead(config, config.vocab_size) if config.condition_length > 1 else None
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

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """As in the base class: the condition's vocabulary, and the text head with it, lose or get rows at the end.

        Old ids keep their rows. For new classes see [`~RQTransformerForImageGeneration.add_classes`].

        Args:
            new_num_tokens (`int`, *optional*): size of the vocabulary.
            pad_to_multiple_of (`int`, *optional*): rounds it up.
            mean_resizing (`bool`, defaults to `True`): whether new rows are the mean of the old ones, or random.

        Raises:
            `ValueError`: a row that `id2label`, `null_condition_ids` or `pad_token_id` need would go.
        """
        config = self.config
        used = [*(config.id2label or ()), *(config.null_condition_ids or ()), config.pad_token_id or 0]
        if new_num_tokens is not None and new_num_tokens <= max(used):
            raise ValueError(
                f"`new_num_tokens` must be at least {max(used) + 1}, to keep the rows that `id2label`, "
                f"`null_condition_ids` and `pad_token_id` of the config name, got {new_num_tokens}."
            )
        return super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)

    @torch.no_grad()
    def add_classes(self, names: list[str]) -> list[int]:
        """Adds classes to a class-conditional model; what it draws of the old ones does not change.

        Their rows begin as the mean of the old ones. The row for "no condition" becomes the last one again.

        Args:
            names (`list[str]`): of the new classes.

        Returns:
            `list[int]`: their ids, which follow the largest one in use.

        Raises:
            `ValueError`: no class-conditional model with `id2label`, or a name that is no text or is taken.
        """
        config, names = copy.deepcopy(self.config), names if isinstance(names, str) else list(names)
        config.add_classes(names)
        new_ids = [index for index in config.id2label if index not in self.config.id2label]
        old_ids = self.config.class_ids if new_ids else []
        mean = self.condition_embedding.weight[old_ids].mean(0) if old_ids else None
        self.resize_token_embeddings(config.vocab_size)
        if config.null_condition_ids != self.config.null_condition_ids:
            rows = [*self.config.null_condition_ids, *config.null_condition_ids]
            weight = self.condition_embedding.weight
            weight[rows] = weight[rows[::-1]]
        if mean is not None:  # also in rows that were kept in reserve
            self.condition_embedding.weight[new_ids] = mean
        self.config.add_classes(names)
        return new_ids

    @torch.no_grad()
    def set_codebook(self, codebook: torch.Tensor) -> None:
        """Copies the code vectors of an RQ-VAE, `RQVAEModel.codebook`, which this model reads and predicts.

        Args:
            codebook (`torch.Tensor` of shape `(1, K, n_z)`, or `(D, K, n_z)` with `shared_codebook=False`).

        Raises:
            `ValueError`: wrong shape.
        """
        weight = self.codebook.weight
        if codebook.shape != weight.shape:
            raise ValueError(f"`codebook` must have shape {tuple(weight.shape)}, got {tuple(codebook.shape)}.")
        weight.copy_(codebook)

    def condition_inputs(self, input_ids: torch.Tensor) -> torch.Tensor:
        """First inputs of the spatial transformer: `(B, S)` ids to `(B, S, n_e)`."""
        return self.embedding_dropout(self.condition_positions(self.condition_embedding(input_ids)))

    def spatial_states(self, input_ids: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
        """Outputs of the spatial transformer for conditions `(B, S)` and z-hat_t `(B, T, n_z)`: `(B, S + T - 1, n_e)`,
        the last T of which are h_1..h_T (Eq. 10, 11)."""
        condition = self.condition_inputs(input_ids)  # (B, S, n_e)
        shifted = self.spatial_positions(self.spatial_projection(quantized[:, :-1]))  # (B, T-1, n_e)
        return self.spatial_transformer(torch.cat([condition, self.embedding_dropout(shifted)], dim=1))

    def depth_states(self, context: torch.Tensor, partial_sums: torch.Tensor) -> torch.Tensor:
        """Outputs of the depth transformer for h_t `(B, T, n_e)` and z-hat_t^(1..d-1) `(B, T, d-1, n_z)`: those of the
        first d depths, `(B*T, d, n_e)`."""
        depth_inputs = context[:, :, None]  # (B, T, 1, n_e)
        if partial_sums.shape[2] > 0:  # 8-bit layers take no empty tensors
            coarser = self.depth_projection(partial_sums)  # (B, T, d-1, n_e), Eq. 12
            depth_inputs = torch.cat([depth_inputs, coarser], dim=2)
        return self.depth_transformer(self.depth_positions(depth_inputs.flatten(0, 1)))  # (B*T, d, n_e)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor,
        codes: torch.LongTensor,
        labels: torch.Tensor | None = None,
        residuals: torch.Tensor | None = None,
        label_temperature: float | Sequence[float] | None = None,
        output_logits: bool | None = None,
    ) -> RQTransformerOutput:
        r"""Predicts every code from the condition and the codes before it (teacher forcing).

        Args:
            input_ids (`torch.LongTensor` of shape `(B, S)`):
                Conditions.
            codes (`torch.LongTensor` of shape `(B, H, W, D)`):
                Code maps, the inputs.
            labels (`torch.Tensor`, *optional*):
                Targets: codes `(B, H, W, D)`, of which -100 do not count, or distributions `(B, H, W, D, K)` for
                small K.
            residuals (`torch.Tensor` of shape `(B, H, W, D, n_z)`, *optional*):
                Instead of `labels`: residuals of [`RQVAEModel.quantize`], from which the soft targets of Eq. 15 are
                computed block by block inside the loss.
            label_temperature (`float` or `list[float]`, *optional*):
                tau > 0 of Eq. 15, one number or one per depth, needed with `residuals`.
            output_logits (`bool`, *optional*):
                Whether to return `(B, H, W, D, K)` logits; by default unless `residuals` are given. Without them the
                loss is computed block by block.

        Returns:
            [`RQTransformerOutput`], or a tuple with `return_dict=False`.

        Raises:
            `ValueError`: inputs or targets of other shapes.
        """
        self._check_shapes(input_ids, codes, labels, residuals)
        batch_size, height, width, depth = codes.shape
        vectors = self.codebook(codes.flatten(1, 2))  # (B, T, D, n_z), e(k)
        partial_sums = vectors.cumsum(dim=2)  # (B, T, D, n_z), z-hat^(d)
        condition_length = input_ids.shape[1]
        hidden_states = self.spatial_states(input_ids, partial_sums[:, :, -1])
        context = hidden_states[:, condition_length - 1 :]  # (B, T, n_e), h_t, Eq. 11
        depth_states = self.depth_states(context, partial_sums[:, :, :-1])
        depth_states = depth_states.view(batch_size, height, width, depth, -1)  # (B, H, W, D, n_e)

        if output_logits is None:
            output_logits = residuals is None
        logits = self.code_head(depth_states) if output_logits else None  # (B, H, W, D, K), Eq. 13
        losses = self._image_losses(depth_states, logits, labels, residuals, label_temperature)
        image_loss, depth_losses = losses  # () and (D,)

        text_logits, text_loss = None, None
        if self.text_head is not None:
            text_logits = self.text_head(hidden_states[:, : condition_length - 1])  # (B, S-1, vocab_size)
            if image_loss is not None:
                text_loss = self._text_loss(text_logits, input_ids[:, 1:])
        loss = image_loss
        if text_loss is not None:
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

    def _check_shapes(self, input_ids, codes, labels, residuals) -> None:
        """Shapes alone, which cost no wait for a device; codes that are out of range are an error of the embedding."""
        config, batch_size = self.config, len(codes)
        shape = (batch_size, *config.code_shape)
        wanted = [
            ("input_ids", input_ids, [(batch_size, config.condition_length)]),
            ("codes", codes, [shape]),
            ("labels", labels, [shape, (*shape, config.codebook_size)]),
            ("residuals", residuals, [(*shape, config.codebook_dim)]),
        ]
        for name, tensor, shapes in wanted:
            if tensor is not None and tuple(tensor.shape) not in shapes:
                texts = " or ".join(str(each) for each in shapes)
                raise ValueError(f"`{name}` must have shape {texts}, got {tuple(tensor.shape)}.")

    def _image_losses(self, depth_states, logits, labels, residuals, temperature) -> tuple:
        """Mean cross-entropy of the codes (Eq. 14) and of those of each depth, or `None` twice without targets."""
        if residuals is not None:
            if labels is not None:
                raise ValueError("`labels` and `residuals` are two kinds of target: give one, got both.")
            temperatures = one_per_depth(
                "label_temperature", temperature, depth_states.shape[-2], lambda v: v > 0, "greater than 0"
            )
            if None in temperatures:
                raise ValueError(f"`residuals` need a `label_temperature`, got {temperature}.")
            return self.code_head(
                depth_states, residuals=residuals, codebook=self.codebook.weight, temperature=temperatures
            )
        if labels is None:
            return None, None
        if labels.is_floating_point():  # soft, (B, H, W, D, K)
            logits = self.code_head(depth_states) if logits is None else logits
            targets = labels.flatten(0, -2).float()
        elif logits is None:
            return self.code_head(depth_states, labels=labels.long())
        else:
            targets = labels.flatten().long()
        losses = F.cross_entropy(logits.flatten(0, -2).float(), targets, reduction="none", ignore_index=IGNORED)
        counted = None if labels.is_floating_point() else (targets != IGNORED).float()
        return _means(losses, counted, depth_states.shape[-2])

    def _text_loss(self, text_logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of caption tokens 1..S-1, leaving out `pad_token_id` if it is set."""
        counted = torch.ones_like(targets, dtype=torch.bool)
        if self.config.pad_token_id is not None:
            counted = targets != self.config.pad_token_id
        losses = F.cross_entropy(text_logits.flatten(0, 1).float(), targets.flatten().long(), reduction="none")
        return (losses * counted.flatten()).sum() / counted.sum().clamp(min=1)
