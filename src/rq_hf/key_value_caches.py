# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Keys and values of the tokens so far, for attention that reads one token after the other.

Symbols: B pictures.
"""

import torch


class KeyValueCache:
    """Preallocated keys and values of one attention layer, `(B, heads, capacity, head_dim)` each.

    Args:
        keys, values: tensors to fill.
        length: tokens that are in them.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, length: int = 0):
        self.keys = keys
        self.values = values
        self.length = length

    @classmethod
    def empty(cls, shape: tuple[int, int, int, int], like: torch.Tensor) -> "KeyValueCache":
        """A cache of this shape `(B, heads, capacity, head_dim)`, of the dtype and on the device of `like`, without
        NaN where no token is yet."""
        return cls(like.new_zeros(shape), like.new_zeros(shape))

    def could_be_empty(self, shape: tuple[int, int, int, int], like: torch.Tensor) -> bool:
        """Whether its tensors could be those of [`empty`]."""
        wanted = (shape, like.dtype, like.device, torch.is_inference_mode_enabled())
        return all(
            (tensor.shape, tensor.dtype, tensor.device, tensor.is_inference()) == wanted
            for tensor in (self.keys, self.values)
        )

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores keys and values of the next tokens; returns those of all tokens so far."""
        end = self.length + keys.shape[2]
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def of_first(self, count: int) -> "KeyValueCache":
        """A cache of the first `count` rows, in the tensors of this one."""
        return KeyValueCache(self.keys[:count], self.values[:count], self.length)

    def spread(self, rows: torch.Tensor, length: int) -> None:
        """Gives each row the first `length` tokens of one of the rows, `(B,)`, in place."""
        for tensor in (self.keys, self.values):
            tensor[:, :, :length] = tensor[rows, :, :length]
        self.length = length


def summed_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scaling: float,
    visible: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of one token, written as sums, which a compiler fuses into its loops.

    Args:
        query: `(B, heads, 1, head_dim)`.
        keys, values: `(B, heads, length, head_dim)`.
        scaling: of the scores.
        visible: `(length,)` bool, tokens to attend to; all by default.

    Returns:
        `(B, 1, heads, head_dim)`.
    """
    scores = (query * keys).sum(-1) * scaling  # (B, heads, length)
    if visible is not None:
        scores = scores.masked_fill(~visible, float("-inf"))
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return (weights[..., None] * values).sum(2)[:, None]


class GrowingKeyValueCache:
    """Keys and values of few tokens, which come one at a time, in a program that has a step for each."""

    def __init__(self):
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
        """Stores key and value of the token, `(B, heads, 1, head_dim)` like the query, which attends to all so far."""
        self.keys.append(key)
        self.values.append(value)
        return summed_attention(query, torch.cat(self.keys, 2), torch.cat(self.values, 2), scaling)


class StaticKeyValueCache:
    """Keys and values of many tokens, which come one at a time: where the next one goes is a tensor, so that all steps
    are one program.

    Args:
        keys, values: `(B, heads, capacity, head_dim)`, without NaN where no token is yet.
        place: of the next token; all layers share it, and who runs the steps moves it on.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, place: "Place"):
        self.keys = keys
        self.values = values
        self.place = place

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
        """As in [`GrowingKeyValueCache`]."""
        slot, reach = self.place.slot, self.place.reach
        self.keys.index_copy_(2, slot, key.to(self.keys.dtype))  # autocast rounds what it computes
        self.values.index_copy_(2, slot, value.to(self.values.dtype))
        length = len(reach)
        return summed_attention(query, self.keys[:, :, :length], self.values[:, :, :length], scaling, reach <= slot)


class Place:
    """Where in the caches of all layers the token of a position goes.

    Args:
        first_slot: place of the first one.
        capacity: places in the caches, two more than there will be tokens (see `move_to`).
        device: of the caches.
    """

    def __init__(self, first_slot: int, capacity: int, device: torch.device):
        self.first_slot = first_slot
        self.position, self.slot = torch.zeros(2, 1, dtype=torch.long, device=device)  # (1,) each
        self.slots = torch.arange(capacity, device=device)
        self.reach = self.slots  # those that attention reads, of which it heeds what is not after `slot`

    def move_to(self, position: int) -> None:
        """Makes it that of another position, in place."""
        slot = self.first_slot + position
        self.position.fill_(position)
        self.slot.fill_(slot)
        if self.slots.device.type == "cpu":  # CUDA graphs want one shape
            # Never one place, never all places: torch.compile makes other programs of these lengths.
            self.reach = self.slots[: slot + 2]
            torch._dynamo.mark_dynamic(self.reach, 0)
