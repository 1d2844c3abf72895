# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What sampling does at each position (section 3.2), as it is written and compiled: predict D codes, read their sum.

Symbols: B pictures, H x W positions (T = H*W), D code depth, K codebook size, n_z codebook width, n_e hidden width.
z-hat_t sum of the code vectors of position t, h_t context from which its codes are predicted.
"""

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import CompileConfig, PreTrainedModel

from .residual_quantizer import inverse_cdf_sample

# Of torch.compile on a CPU: packed weights, and programs that call their kernels without Python.
CPU_OPTIONS = {"freezing": True, "cpp_wrapper": True}
# Of the same size as a weight.
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Compiled programs kept for a model; each holds a copy of the weights that it uses.
MAX_PROGRAMS = 8


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
        return cls(like.new_empty(shape), like.new_empty(shape))

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores keys and values of the next tokens; returns those of all tokens so far."""
        end = self.length + keys.shape[2]
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def selected(self, rows: torch.Tensor, capacity: int) -> "KeyValueCache":
        """A cache with room for `capacity` tokens that holds the rows `(B,)` of this one."""
        tensors = []
        for stored in (self.keys, self.values):
            _, heads, _, head_dim = stored.shape
            larger = stored.new_zeros(len(rows), heads, capacity, head_dim)
            larger[:, :, : self.length] = stored[rows, :, : self.length]
            tensors.append(larger)
        return KeyValueCache(*tensors, self.length)


class StaticKeyValueCache:
    """The same for compiled steps, one token at a time: its place is a tensor, so that all steps are one program.

    Args:
        keys, values: `(B, heads, capacity, head_dim)`, without NaN where no token is yet.
        slot: `(1,)` long, place of the next token; all layers share it, and who runs the steps moves it on.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, slot: torch.Tensor):
        self.keys = keys
        self.values = values
        self.slot = slot

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
        """Stores key and value of the token, `(B, heads, 1, head_dim)` like the query, which attends to all so far.

        Written as sums, which a compiler fuses into its loops. Returns `(B, 1, heads, head_dim)`.
        """
        self.keys.index_copy_(2, self.slot, key)
        self.values.index_copy_(2, self.slot, value)
        visible = torch.arange(self.keys.shape[2], device=self.slot.device) <= self.slot  # (capacity,)
        scores = (query * self.keys).sum(-1) * scaling  # (B, heads, capacity)
        weights = scores.masked_fill(~visible, float("-inf")).softmax(-1, dtype=torch.float32).to(query.dtype)
        return (weights[..., None] * self.values).sum(2)[:, None]


def filter_logits(logits: torch.Tensor, top_k: int | None = None, top_p: float | None = None) -> torch.Tensor:
    """Logits with all but the kept codes at -inf.

    Args:
        logits: `(B, K)`.
        top_k: keep the `top_k` largest and what ties with them; `None` keeps all.
        top_p: of those, keep the smallest set of largest ones whose probability reaches `top_p`; `None` or 1 keeps
            all. Only the `top_k` largest are sorted.
    """
    size = logits.shape[-1]
    nucleus = top_p is not None and top_p < 1
    if (top_k is None or top_k >= size) and not nucleus:
        return logits
    largest = logits.topk(min(top_k or size, size), dim=-1).values  # (B, k), descending
    smallest_kept = largest[:, -1:]
    if nucleus:
        kept = logits.masked_fill(logits < smallest_kept, float("-inf"))  # more than k where some tie
        probabilities = (largest - kept.logsumexp(-1, keepdim=True)).exp()
        before = probabilities.cumsum(-1) - probabilities  # mass of the larger ones
        smallest_kept = largest.masked_fill(before >= top_p, float("inf")).amin(-1, keepdim=True)
    return logits.masked_fill(logits < smallest_kept, float("-inf"))


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn, the lists of one entry per depth."""

    do_sample: bool
    temperature: list[float]
    top_k: list[int | None]
    top_p: list[float | None]
    guidance_scale: float


def predict_codes(
    model: PreTrainedModel,
    context: torch.Tensor,
    uniforms: torch.Tensor | None,
    known_codes: torch.Tensor | None,
    known_mask: torch.Tensor | None,
    sampling: Sampling,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The codes of one position, depth by depth (Eq. 12, 13).

    Args:
        model: an RQ-Transformer.
        context: `(B, 1, n_e)`, h_t; with guidance `(2B, 1, n_e)`, the null conditions last.
        uniforms: `(B, D)` in [0, 1), to draw with.
        known_codes, known_mask: `(B, D)`, codes that are fixed and where.
        sampling: how they are drawn.

    Returns:
        Codes `(B, D)`, z-hat_t `(B, 1, n_z)`, and whether all logits were finite, `()`.
    """
    depth, guided = model.config.code_shape[2], sampling.guidance_scale != 1.0
    caches = model.depth_transformer.new_caches(context, depth)
    codes, quantized = [], 0.0  # z-hat_t^(0)
    all_finite = torch.ones((), dtype=torch.bool, device=context.device)
    for d in range(depth):
        if d == 0:
            inputs = model.depth_positions(context)
        else:
            coarser = model.depth_projection(quantized.repeat(2 if guided else 1, 1, 1))
            inputs = model.depth_positions(coarser, offset=d)
        logits = model.code_head(model.depth_transformer(inputs, caches))[:, 0].float()  # (B, K)
        if guided:
            conditional, null = logits.chunk(2)
            logits = null + sampling.guidance_scale * (conditional - null)
        all_finite = all_finite & logits.isfinite().all()
        if sampling.do_sample:
            filtered = filter_logits(logits / sampling.temperature[d], sampling.top_k[d], sampling.top_p[d])
            code = inverse_cdf_sample(filtered.softmax(-1), uniforms[:, d])  # (B,)
        else:
            code = logits.argmax(-1)
        if known_mask is not None:
            code = torch.where(known_mask[:, d], known_codes[:, d], code)
        codes.append(code)
        quantized = quantized + model.codebook(code[:, None, None], first_depth=d)[:, :, 0]  # (B, 1, n_z)
    return torch.stack(codes, -1), quantized, all_finite


def read_codes(
    model: PreTrainedModel,
    quantized: torch.Tensor,
    position: int | torch.Tensor,
    caches: list[KeyValueCache] | list[StaticKeyValueCache],
) -> torch.Tensor:
    """Context `(B, 1, n_e)` of the position after `position`, an integer or `(1,)`, from z-hat_t (Eq. 10, 11)."""
    inputs = model.spatial_positions(model.spatial_projection(quantized), offset=position)
    return model.spatial_transformer(inputs, caches)


class SamplingSteps:
    """The steps as they are written.

    Args:
        model: an RQ-Transformer.
        caches: of the spatial transformer, with the conditions and room for all positions but the last.
    """

    def __init__(self, model: PreTrainedModel, caches: list[KeyValueCache]):
        self.model = model
        self.caches = caches

    def predict_codes(self, *inputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return predict_codes(self.model, *inputs)

    def read_codes(self, quantized: torch.Tensor, position: int) -> torch.Tensor:
        return read_codes(self.model, quantized, position, self.caches)


class CompiledSteps:
    """The steps compiled, each into one program for all positions.

    On a CPU the weights become constants of the program, stored once more in the layout that its kernels like best.

    Args:
        model: an RQ-Transformer.
        caches: as in [`SamplingSteps`].
        config: arguments of `torch.compile`.
    """

    def __init__(self, model: PreTrainedModel, caches: list[KeyValueCache], config: CompileConfig):
        self.model = model
        self.first_slot = caches[0].length
        self.slot = torch.tensor([self.first_slot], device=caches[0].keys.device)
        self.caches = [StaticKeyValueCache(cache.keys, cache.values, self.slot) for cache in caches]
        options = config.to_dict() | {"dynamic": False}  # each program is for inputs of one signature
        if self.slot.device.type == "cpu" and options["mode"] == "reduce-overhead":  # CUDA graphs: of no use here
            options |= {"mode": None, "options": CPU_OPTIONS | (options["options"] or {})}
        self.options = options
        self.programs: dict[Callable, Callable] = {}

    def predict_codes(self, *inputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self._run(predict_codes, *inputs)

    def read_codes(self, quantized: torch.Tensor, position: int) -> torch.Tensor:
        context = self._run(read_codes, quantized, self.slot - self.first_slot, self.caches)
        self.slot += 1
        return context

    def _run(self, step: Callable, *inputs):
        if step in self.programs:
            return self.programs[step](self.model, *inputs)
        from torch._inductor import config as inductor_config  # here, as it takes a second

        self.programs[step] = program = kept_program(self.model, step, self.options, signature(inputs))
        # As an option alone it comes too late: when a step is traced, weights have become inputs already.
        with inductor_config.patch(freezing=are_frozen(self.options)):
            return program(self.model, *inputs)


# Of each model: the state of its weights, and its programs for that state, the last used ones last.
_programs: MutableMapping[PreTrainedModel, tuple[int, dict[str, Callable]]] = WeakKeyDictionary()


def are_frozen(options: dict[str, Any]) -> bool:
    """Whether weights become constants of the program."""
    return (options.get("options") or {}).get("freezing", False)


def weights_state(model: PreTrainedModel) -> int:
    """Changes with any weight, also where torch counts no change, as after `weight.data += delta`."""
    tensors = [*model.parameters(), *model.buffers()]
    plain = [each.detach() for each in tensors if type(each) in (torch.Tensor, torch.nn.Parameter) and each.numel()]
    bits = [each.contiguous().view(-1).view(INTEGERS[each.itemsize]) for each in plain]
    some = [each[:: max(1, len(each) // 64)].tolist() for each in bits]  # a sum does not see an exchange
    versions = [(id(each), each._version) for each in tensors]
    return hash(str((versions, [each.sum().item() for each in bits], some)))


def kept_program(model: PreTrainedModel, step: Callable, options: dict[str, Any], inputs: str) -> Callable:
    """The compiled step for inputs of that signature. Those of weights that have changed since are dropped, as are the
    least recently used ones beyond `MAX_PROGRAMS`."""
    state = weights_state(model) if are_frozen(options) else 0
    if model not in _programs or _programs[model][0] != state:
        _programs[model] = (state, {})
    programs = _programs[model][1]
    key = f"{step.__name__}, {options}, {inputs}"
    if key in programs:
        program = programs.pop(key)
    else:
        # torch.compile keeps programs by code, not by function. Code of its own takes its program along when it goes.
        own = FunctionType(step.__code__.replace(), step.__globals__, step.__name__)
        program = torch.compile(own, **options)
    programs[key] = program
    while len(programs) > MAX_PROGRAMS:
        programs.pop(next(iter(programs)))
    return program


def signature(inputs: Any) -> str:
    """What a program is made for: shapes and types of tensors, and all other values."""
    if isinstance(inputs, torch.Tensor):
        return f"{tuple(inputs.shape)} {inputs.dtype} {inputs.device}"
    if isinstance(inputs, StaticKeyValueCache):
        return signature(inputs.keys)
    if isinstance(inputs, (list, tuple)):
        return f"({', '.join(map(signature, inputs))})"
    return repr(inputs)
