# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Parts of the transformers of section 3.2: blocks of self-attention, learned positions, prediction heads.

Symbols: B rows, n_e hidden width.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_rq_transformer import RQTransformerConfig

# Where the first of some tokens stands. For a single token it may be a tensor (1,): one compiled program serves all.
Position = int | torch.Tensor


class KeyValueCache(nn.Module):
    """Keys and values of the tokens that one attention layer has read.

    It is a module with buffers because torch.compile then treats their addresses as fixed, as CUDA graphs need.

    Buffers:
        keys, values: `(B, heads, capacity, head_dim)`.
    """

    def __init__(self, config: RQTransformerConfig, batch_size: int, capacity: int, like: torch.Tensor):
        super().__init__()
        heads = config.num_attention_heads
        shape = (batch_size, heads, capacity, config.hidden_size // heads)
        self.register_buffer("keys", like.new_zeros(shape), persistent=False)
        self.register_buffer("values", like.new_zeros(shape), persistent=False)

    def forward(
        self, keys: torch.Tensor, values: torch.Tensor, position: Position
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Stores keys and values `(B, heads, length, head_dim)` of the tokens from `position` on, of B rows or fewer.

        An integer `position` gives keys and values of the tokens so far, and a mask `(1, 1, length, so far)` where
        several tokens follow others. A tensor `(1,)`, for one token, gives the whole cache and a mask
        `(1, 1, 1, capacity)`: with fixed shapes one compiled program serves all positions.
        """
        cached_keys, cached_values = self.keys, self.values
        if len(keys) != len(self.keys):  # a compiled program copies the whole cache back when it writes to a view
            cached_keys, cached_values = self.keys[: len(keys)], self.values[: len(values)]
        if isinstance(position, int):
            length, end, mask = keys.shape[2], position + keys.shape[2], None
            cached_keys[:, :, position:end] = keys
            cached_values[:, :, position:end] = values
            if position > 0 and length > 1:  # the attention functions take the causal mask of a square only
                mask = torch.ones(1, 1, length, end, dtype=torch.bool, device=keys.device).tril(position)
            return cached_keys[:, :, :end], cached_values[:, :, :end], mask
        cached_keys.index_copy_(2, position, keys.to(cached_keys.dtype))  # autocast may have rounded the new ones
        cached_values.index_copy_(2, position, values.to(cached_values.dtype))
        is_read = torch.arange(self.keys.shape[2], device=position.device) <= position  # (capacity,)
        return cached_keys, cached_values, is_read[None, None, None]

    def fits(self, tokens: torch.Tensor) -> bool:
        """Whether the cache has rows enough for tokens `(B, length, n_e)`, and their dtype and device."""
        same = (self.keys.dtype, self.keys.device) == (tokens.dtype, tokens.device)
        return same and len(self.keys) >= len(tokens)


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Attention written out: `(B, heads, length, head_dim)` to `(B, length, heads, head_dim)`. For rows as short as
    the depth transformer's it is several times faster than SDPA on a CPU."""
    scores = query @ key.transpose(2, 3) * scaling  # (B, heads, length, key_length)
    length, key_length = scores.shape[-2:]
    if attention_mask is None and module.is_causal:
        is_read = torch.ones(length, key_length, dtype=torch.bool, device=scores.device)
        attention_mask = is_read.tril(key_length - length)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, float("-inf"))
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, dropout, module.training)
    return (weights @ value).transpose(1, 2), weights


class SelfAttention(nn.Module):
    """Multi-head attention, `(B, length, n_e)` to the same shape. A token reads all tokens; if `is_causal`, itself and
    earlier ones."""

    def __init__(self, config: RQTransformerConfig, is_causal: bool):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = is_causal
        self.num_key_value_groups = 1
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, x: torch.Tensor, cache: KeyValueCache | None = None, position: Position = 0
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The attended values, and with eager attention the weights `(B, heads, length, key_length)`."""
        batch_size, length, _ = x.shape
        projected = self.query_key_value(x).view(batch_size, length, 3, -1, self.head_dim)
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # (B, heads, length, head_dim) each
        mask = None
        if cache is not None:
            key, value, mask = cache(key, value, position)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.attention_dropout if self.training else 0.0
        attended, weights = attend(self, query, key, value, mask, scaling=self.scaling, dropout=dropout)
        return self.out_proj(attended.reshape(batch_size, length, -1)), weights


class TransformerBlock(GradientCheckpointingLayer):
    """Pre-norm attention and MLP, each with its residual: `(B, length, n_e)` to the same shape."""

    def __init__(self, config: RQTransformerConfig, is_causal: bool):
        super().__init__()
        intermediate_size = config.intermediate_size or 4 * config.hidden_size
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = SelfAttention(config, is_causal)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = nn.Sequential(
            nn.Linear(config.hidden_size, intermediate_size),
            ACT2FN[config.hidden_act],
            nn.Linear(intermediate_size, config.hidden_size),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: torch.Tensor, cache: KeyValueCache | None = None, position: Position = 0) -> torch.Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), cache, position)[0])
        x = x + self.dropout(self.mlp(self.mlp_norm(x)))
        return x


class TransformerStack(nn.Module):
    """Blocks in a row, `(B, length, n_e)` to the same shape; there is no normalization after the last."""

    def __init__(self, config: RQTransformerConfig, num_layers: int, is_causal: bool = True):
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList([TransformerBlock(config, is_causal) for _ in range(num_layers)])

    def new_caches(self, batch_size: int, capacity: int, like: torch.Tensor) -> list[KeyValueCache]:
        """Empty caches, one per block, with the dtype and device of `like`."""
        return [KeyValueCache(self.config, batch_size, capacity, like) for _ in self.blocks]

    def forward(
        self, x: torch.Tensor, caches: list[KeyValueCache] | None = None, position: Position = 0
    ) -> torch.Tensor:
        """With `caches`, the tokens of `x` stand from `position` on and attend to the cached ones before."""
        for index, block in enumerate(self.blocks):
            x = block(x, caches[index] if caches is not None else None, position)
        return x


class LearnedPositions(nn.Module):
    """Adds a learned vector to each token of `(B, length, n_e)`, the first of which stands at `offset`."""

    def __init__(self, num_positions: int, hidden_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_positions, hidden_size))

    def forward(self, x: torch.Tensor, offset: Position = 0) -> torch.Tensor:
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
