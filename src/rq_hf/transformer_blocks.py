# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Blocks of causal self-attention, of which the spatial and the depth transformer are made (section 3.2)."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .activation_memory import Dropout, keeping_source
from .configuration_rq_transformer import RQTransformerConfig
from .key_value_caches import GrowingKeyValueCache, KeyValueCache, StaticKeyValueCache


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Attention written out, `(B, heads, length, head_dim)` to `(B, length, heads, head_dim)`."""
    scores = query @ key.transpose(2, 3) * scaling
    length, key_length = scores.shape[-2:]
    causal = torch.ones(length, key_length, dtype=torch.bool, device=scores.device).tril(key_length - length)
    weights = scores.masked_fill(~causal, float("-inf")).softmax(-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, dropout, module.training)
    return (weights @ value).transpose(1, 2), weights


class CausalSelfAttention(nn.Module):
    """Multi-head attention of each token to itself and those before it: `(B, length, n_e)` to the same shape. With
    `fill_only` keys and values are stored in a `KeyValueCache`, and nothing is done with them."""

    def __init__(self, config: RQTransformerConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        self.num_key_value_groups = 1
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, cache: KeyValueCache | None = None, fill_only: bool = False
    ) -> torch.Tensor:
        batch_size, length, _ = hidden_states.shape
        projected = self.query_key_value(hidden_states).view(batch_size, length, 3, -1, self.head_dim)
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # (B, heads, length, head_dim) each
        if isinstance(cache, (GrowingKeyValueCache, StaticKeyValueCache)):
            attended = cache.attend(query, key, value, self.scaling)
        else:
            key, value = cache.append(key, value) if cache is not None else (key, value)
            if fill_only:
                return hidden_states
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
            dropout = self.config.attention_dropout if self.training else 0.0
            attended, _ = attend(self, query, key, value, None, scaling=self.scaling, dropout=dropout)
        return self.out_proj(attended.reshape(batch_size, length, -1))


class MLP(nn.Sequential):
    """Wider, an activation function, narrower; `(B, length, n_e)` to the same shape."""

    def __init__(self, config: RQTransformerConfig):
        intermediate_size = config.intermediate_size or 4 * config.hidden_size
        super().__init__(
            nn.Linear(config.hidden_size, intermediate_size),
            ACT2FN[config.hidden_act],
            nn.Linear(intermediate_size, config.hidden_size),
        )

    def forward(self, hidden_states: torch.Tensor, norm: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Of `norm(hidden_states)`."""
        widen, activate, narrow = self
        return keeping_source(activate, narrow, keeping_source(norm, widen, hidden_states))


class TransformerBlock(GradientCheckpointingLayer):
    """Pre-norm attention and MLP, each with its residual: `(B, length, n_e)` to the same shape. `fill_only` as in
    [`CausalSelfAttention`]."""

    def __init__(self, config: RQTransformerConfig):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = CausalSelfAttention(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)
        self.dropout = Dropout(config.dropout)

    def forward(
        self, hidden_states: torch.Tensor, cache: KeyValueCache | None = None, fill_only: bool = False
    ) -> torch.Tensor:
        attend = functools.partial(self.attention, cache=cache, fill_only=fill_only)
        attended = keeping_source(self.attention_norm, attend, hidden_states)
        if fill_only:
            return hidden_states
        hidden_states = hidden_states + self.dropout(attended)
        norm = functools.partial(self.mlp_norm)  # offloading hooks would move a module among the arguments
        return hidden_states + self.dropout(self.mlp(hidden_states, norm))


class TransformerStack(nn.Module):
    """Blocks in a row, `(B, length, n_e)` to the same shape; there is no normalization after the last."""

    def __init__(self, config: RQTransformerConfig, num_layers: int):
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList([TransformerBlock(config) for _ in range(num_layers)])

    def new_caches(
        self, like: torch.Tensor, batch_size: int, length: int, kept: list[KeyValueCache] | None = None
    ) -> list[KeyValueCache]:
        """Empty caches, one per block, for up to `length` tokens, of the dtype and on the device of `like`; in the
        tensors of `kept`, if these fit. Else it is cleared first, so that its memory is free."""
        heads = self.config.num_attention_heads
        shape = (batch_size, heads, length, self.config.hidden_size // heads)
        if kept and len(kept) == len(self.blocks) and all(each.could_be_empty(shape, like) for each in kept):
            return [KeyValueCache(each.keys, each.values) for each in kept]
        if kept:
            kept.clear()
        return [KeyValueCache.empty(shape, like) for _ in self.blocks]

    def forward(
        self, hidden_states: torch.Tensor, caches: list[KeyValueCache] | None = None, fill_only: bool = False
    ) -> torch.Tensor:
        """With `fill_only` the last block, too, stores keys and values, but computes nothing of them: what is returned
        is of no use then."""
        for index, block in enumerate(self.blocks):
            is_last = index == len(self.blocks) - 1
            hidden_states = block(hidden_states, caches[index] if caches is not None else None, fill_only and is_last)
        return hidden_states
