# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The Contextual RQ-Transformer of "Draft-and-Revise" (Lee et al., NeurIPS 2022): code maps in any order.

Symbols: B pictures, S condition tokens, H x W positions (T = H*W), D code depth, K codebook size, n_z codebook width,
n_e hidden width, M masked positions. z-hat_t^(d) partial sum of the first d code vectors of position t, h_t context.
The paper's appendix with layer counts and optimizer was not available; those of the recipes are ours.
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils.output_capturing import capture_outputs

from .configuration_contextual_rq_transformer import ContextualRQTransformerConfig
from .generation_masked import MaskedGenerationMixin
from .modeling_rq_transformer import RQTransformerOutput, RQTransformerPreTrainedModel


class PositionMask(nn.Module):
    """Puts the learned vector e_MASK in place of z-hat_t `(B, T, n_z)` where `mask` `(B, T)` is `True`."""

    def __init__(self, codebook_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(codebook_dim))

    def forward(self, quantized: torch.Tensor, mask: torch.BoolTensor) -> torch.Tensor:
        return torch.where(mask[..., None], self.weight, quantized)


class ContextualRQTransformerForImageGeneration(MaskedGenerationMixin, RQTransformerPreTrainedModel):
    r"""
    Predicts the codes of masked positions from the condition and all other positions.

    A mask hides whole positions. The spatial transformer reads the condition and every position with full attention.
    Its output h_t is the context from which the depth decoder predicts the D codes of position t, coarse to fine.
    Given the context, masked positions do not depend on each other.

    Buffers:
        depth_decoder.codebook.weight: `(1 or D, K, n_z)`, the RQ-VAE's; see [`set_codebook`].

    Example:

    ```python
    >>> import torch
    >>> from rq_hf import ContextualRQTransformerConfig, ContextualRQTransformerForImageGeneration
    >>> config = ContextualRQTransformerConfig(
    ...     vocab_size=10, condition_length=1, code_shape=(4, 4, 2), codebook_size=32, codebook_dim=8,
    ...     hidden_size=32, num_spatial_layers=2, num_depth_layers=1, num_attention_heads=2,
    ... )
    >>> model = ContextualRQTransformerForImageGeneration(config).eval()
    >>> generator = torch.Generator().manual_seed(0)
    >>> codes = model.generate(torch.tensor([[3]]), num_draft_steps=8, generator=generator)
    >>> hole = torch.zeros(4, 4, dtype=torch.bool)
    >>> hole[1:3, 1:3] = True
    >>> model.generate(torch.tensor([[3]]), known_codes=codes, known_mask=~hole, generator=generator).shape
    torch.Size([1, 4, 4, 2])
    ```
    """

    config_class = ContextualRQTransformerConfig
    is_causal = False
    _group_offload_block_modules = [*RQTransformerPreTrainedModel._group_offload_block_modules, "position_mask"]

    def __init__(self, config: ContextualRQTransformerConfig):
        super().__init__(config)
        self.position_mask = PositionMask(config.codebook_dim)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, PositionMask):
            init.normal_(module.weight, std=self.config.initializer_range)
        elif module is self.spatial_positions:
            # Masked positions find their neighbours by these vectors, which must not be lost beside visible tokens.
            # .5 learns faster than .02 and 2.
            init.normal_(module.weight, std=0.5)

    @classmethod
    def from_autoregressive(cls, model: RQTransformerPreTrainedModel) -> "ContextualRQTransformerForImageGeneration":
        """A model that starts with the weights of a trained [`RQTransformerForImageGeneration`].

        It must be trained before it draws: attention is full now, inputs are not shifted, and the mask is new.
        """
        fields = model.config.to_dict()
        for name in ("model_type", "architectures", "transformers_version"):
            fields.pop(name, None)
        contextual = cls(cls.config_class(**fields)).to(model.device, model.dtype)
        weights = {name: weight for name, weight in model.state_dict().items() if not name.startswith("text_head.")}
        contextual.load_state_dict(contextual.state_dict() | weights)
        contextual.generation_config = copy.deepcopy(model.generation_config)
        return contextual.train(model.training)

    def spatial_states(self, condition: torch.Tensor, quantized: torch.Tensor, mask: torch.BoolTensor) -> torch.Tensor:
        """h_1..h_T `(B, T, n_e)` for condition states `(B, S, n_e)` and z-hat_t `(B, T, n_z)`, hidden by the mask."""
        visible = self.position_mask(quantized, mask)  # (B, T, n_z)
        tokens = self.spatial_positions(self.spatial_projection(visible))  # (B, T, n_e), u_t
        inputs = self.embedding_dropout(torch.cat([condition, tokens.to(condition.device)], dim=1))
        return self.spatial_transformer(inputs)[:, condition.shape[1] :]

    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        codes: torch.LongTensor | None = None,
        mask: torch.BoolTensor | None = None,
        labels: torch.Tensor | None = None,
        residuals: torch.Tensor | None = None,
        label_temperature: float | Sequence[float] | None = None,
        prompt_embeds: torch.Tensor | None = None,
        output_logits: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> RQTransformerOutput:
        r"""Predicts every code from the condition, visible positions and the coarser codes of its own position.

        Args:
            mask (`torch.BoolTensor` of shape `(B, H, W)`, *optional*):
                `True` where a position is hidden; all by default. Losses are those of hidden positions alone.

        All other arguments, the result and the errors are those of [`RQTransformerForImageGeneration.forward`].
        """
        self._check_shapes(input_ids, prompt_embeds, codes, labels, residuals)
        mask = torch.ones(codes.shape[:3], dtype=torch.bool, device=codes.device) if mask is None else mask
        if mask.shape != codes.shape[:3] or mask.dtype != torch.bool:
            expected = f"of bools with shape {tuple(codes.shape[:3])}"
            raise ValueError(f"`mask` must be a tensor {expected}, got {mask.dtype} and {tuple(mask.shape)}.")
        condition = self.condition_states(input_ids, prompt_embeds)  # (B, S, n_e)
        partial_sums = self.depth_decoder.partial_sums(codes)  # (B, H, W, D, n_z), z-hat_t^(d)
        quantized = partial_sums[..., -1, :].flatten(1, 2)  # (B, T, n_z), z-hat_t
        context = self.spatial_states(condition, quantized, mask.flatten(1))  # (B, T, n_e), h_t
        context = context.unflatten(1, codes.shape[1:3])  # (B, H, W, n_e)

        has_targets = labels is not None or residuals is not None
        output_logits = not has_targets if output_logits is None else output_logits
        logits = loss = depth_losses = None
        if output_logits:
            depth_states = self.depth_decoder.states(context, partial_sums[..., :-1, :])  # (B, H, W, D, n_e)
            logits = self.depth_decoder.head(depth_states)  # (B, H, W, D, K)
        if has_targets:
            labels, residuals = (None if each is None else each[mask] for each in (labels, residuals))
            depth_states = self.depth_decoder.states(context[mask], partial_sums[mask][:, :-1])  # (M, D, n_e)
            losses = self.depth_decoder.losses(depth_states, labels, residuals, label_temperature)  # (M, D)
            loss, depth_losses = self._image_loss(losses, labels)
        return RQTransformerOutput(loss=loss, logits=logits, image_loss=loss, depth_losses=depth_losses)

    def training_inputs(
        self, codes: torch.LongTensor, generator: torch.Generator | Sequence[torch.Generator] | None
    ) -> dict[str, torch.Tensor]:
        """The mask `(B, H, W)` of a training step: of each picture ceil(cos(pi r / 2) T) positions, r ~ U[0, 1).

        With one generator per picture the mask of a picture does not depend on its batch.
        """
        if isinstance(generator, Sequence):
            masks = [self.training_inputs(codes[row, None], each) for row, each in enumerate(generator)]
            return {"mask": torch.cat([each["mask"] for each in masks])}
        batch_size, num_positions = len(codes), self.config.num_positions
        device = codes.device if generator is None else generator.device
        ratios = torch.rand(batch_size, 1, generator=generator, device=device)
        counts = (torch.cos(math.pi / 2 * ratios) * num_positions).ceil()  # (B, 1)
        ranks = torch.rand(batch_size, num_positions, generator=generator, device=device).argsort(-1).argsort(-1)
        return {"mask": (ranks < counts).view(codes.shape[:3]).to(codes.device)}
