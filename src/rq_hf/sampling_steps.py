# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What sampling does at each position (section 3.2), as it is written and compiled: read a token, predict D codes.

Symbols: B pictures, H x W positions (T = H*W), D code depth, K codebook size, n_z codebook width, n_e hidden width.
z-hat_t sum of the code vectors of position t, h_t context from which its codes are predicted.
"""

import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from transformers import CompileConfig, PreTrainedModel

from .cpu_draws import compile_draws, has_compiled_draws
from .key_value_caches import GrowingKeyValueCache, KeyValueCache, Place, StaticKeyValueCache
from .residual_quantizer import inverse_cdf_sample

# Of torch.compile on a CPU: packed weights, and programs that call their kernels without Python.
CPU_OPTIONS = {"freezing": True, "cpp_wrapper": True}
# The same, with kernels made for the model's own products where these are faster.
CPU_AUTOTUNE_OPTIONS = CPU_OPTIONS | {"max_autotune": True, "max_autotune_gemm_backends": "CPP,ATEN"}
# What modes of torch.compile, which are made for GPUs, stand for on a CPU.
CPU_MODES = {
    "reduce-overhead": CPU_OPTIONS,
    "max-autotune": CPU_AUTOTUNE_OPTIONS,
    "max-autotune-no-cudagraphs": CPU_AUTOTUNE_OPTIONS,
}
# By the bytes of a weight: integers of its size, as which the bits of weights are added up.
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# A `top_p` that is above 0 in fp32, too; the likeliest code alone is kept long before.
MIN_TOP_P = 1e-30
# Compiled programs kept for a model; each holds a copy of the weights that it uses.
MAX_PROGRAMS = 8


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
    """How codes are drawn, the lists of one entry per depth; `compiled_draws`: by the operator of [`compile_draws`],
    on a CPU and where there is one."""

    do_sample: bool
    temperature: list[float]
    top_k: list[int | None]
    top_p: list[float | None]
    guidance_scale: float
    compiled_draws: bool


def draw(logits: torch.Tensor, uniforms: torch.Tensor, sampling: Sampling, depth: int) -> torch.Tensor:
    """Codes `(B,)` of logits `(B, K)` of a depth, divided by the temperature and filtered, by uniforms `(B,)` in
    [0, 1)."""
    temperature, top_k, top_p = sampling.temperature[depth], sampling.top_k[depth], sampling.top_p[depth]
    if sampling.compiled_draws and logits.device.type == "cpu" and has_compiled_draws():
        size = logits.shape[-1]
        top_k, top_p = size if top_k is None else min(top_k, size), 1.0 if top_p is None else top_p
        return torch.ops.rq_hf.draw_codes(logits, uniforms.float(), temperature, top_k, top_p)
    return inverse_cdf_sample(filter_logits(logits / temperature, top_k, top_p).softmax(-1), uniforms)


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
    if torch.compiler.is_compiling():
        caches = [GrowingKeyValueCache() for _ in model.depth_transformer.blocks]
    else:
        caches = model.depth_transformer.new_caches(context, len(context), depth)
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
        smallest, largest = logits.aminmax()  # NaN, if there is one; ten times faster than to look at each
        all_finite = all_finite & smallest.isfinite() & largest.isfinite()
        if sampling.do_sample:
            code = draw(logits, uniforms[:, d], sampling, d)
        else:
            code = logits.argmax(-1)
        if known_mask is not None:
            code = torch.where(known_mask[:, d], known_codes[:, d], code)
        codes.append(code)
        quantized = quantized + model.codebook(code[:, None, None], first_depth=d)[:, :, 0]  # (B, 1, n_z)
    return torch.stack(codes, -1), quantized, all_finite


def quantized_vectors(model: PreTrainedModel, codes: torch.Tensor) -> torch.Tensor:
    """z-hat_t `(B, P, n_z)` of codes `(B, P, D)`, added depth by depth and so rounded as in [`predict_codes`]."""
    quantized = 0.0
    for depth in range(codes.shape[-1]):
        quantized = quantized + model.codebook(codes[..., depth, None], first_depth=depth)[..., 0, :]
    return quantized


def token_of(
    model: PreTrainedModel, quantized: torch.Tensor, position: int | torch.Tensor, batch_size: int
) -> torch.Tensor:
    """What the spatial transformer reads of a position (Eq. 10), for each of `batch_size` rows.

    Args:
        model: an RQ-Transformer.
        quantized: `(B, 1, n_z)`, z-hat_t.
        position: t, an integer or `(1,)`.
        batch_size: B, or with guidance 2B.

    Returns:
        `(batch_size, 1, n_e)`.
    """
    token = model.spatial_positions(model.spatial_projection(quantized), offset=position)
    return token if len(token) == batch_size else token.repeat(batch_size // len(token), 1, 1)


def advance(
    model: PreTrainedModel,
    caches: list[KeyValueCache] | list[StaticKeyValueCache],
    token: torch.Tensor,
    position: int | torch.Tensor,
    *inputs,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One position: its context (Eq. 11), its codes, and the token that the next position has to read.

    Args:
        model: an RQ-Transformer.
        caches: of the spatial transformer, with all tokens before.
        token: `(B, 1, n_e)`, of the position before, or the condition's last; with guidance `(2B, 1, n_e)`, the null
            conditions last.
        position: t, an integer or `(1,)`.
        inputs: further ones of [`predict_codes`].

    Returns:
        Codes `(B, D)`, the token of this position, shaped as `token`, and whether all logits were finite, `()`.
    """
    context = model.spatial_transformer(token, caches)
    codes, quantized, finite = predict_codes(model, context, *inputs)
    return codes, token_of(model, quantized, position, len(token)), finite


class CompiledSteps:
    """[`advance`] compiled into one program for all positions; to be called for each in turn.

    On a CPU the weights become constants of the program, stored once more in the layout that its kernels like best.

    Args:
        model: an RQ-Transformer.
        caches: of the spatial transformer, with all tokens before the first that is given, and room for two more than
            there will be.
        config: arguments of `torch.compile`.
    """

    def __init__(self, model: PreTrainedModel, caches: list[KeyValueCache], config: CompileConfig):
        self.model = model
        keys = caches[0].keys
        self.on_cpu = keys.device.type == "cpu"
        self.place = Place(model.config.condition_length - 1, keys.shape[2], keys.device)
        self.caches = [StaticKeyValueCache(cache.keys, cache.values, self.place) for cache in caches]
        options = config.to_dict() | {"dynamic": False}  # each program is for inputs of one signature
        if self.on_cpu and options["mode"] in CPU_MODES:
            options |= {"mode": None, "options": CPU_MODES[options["mode"]] | (options["options"] or {})}
        if not self.on_cpu:  # a CUDA graph may change inputs only where these stay in their place
            for cache in self.caches:
                torch._dynamo.mark_static_address(cache.keys)
                torch._dynamo.mark_static_address(cache.values)
        self.options = options
        self.program: Callable | None = None

    def __call__(self, token: torch.Tensor, position: int, *inputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        self.place.move_to(position)
        inputs = (self.caches, token, self.place.position, *inputs)
        first = self.program is None
        with ExitStack() as compiling:
            if first:
                from torch._inductor import config as inductor_config  # here, as it takes a second

                self.program = kept_program(self.model, self.options, signature(inputs))
                # As an option alone it comes too late: when a step is traced, weights have become inputs already.
                compiling.enter_context(inductor_config.patch(freezing=are_frozen(self.options)))
                if self.on_cpu:
                    compile_draws()
                    compiling.enter_context(packed_by_onednn())
            codes, token, finite = self.program(self.model, *inputs)
        if first and self.on_cpu and self.options["fullgraph"]:
            self.program = without_guards(self.program)
        return codes, token if self.on_cpu else token.clone(), finite  # a CUDA graph writes it anew at each replay


class ProductsByOneDNN(TorchFunctionMode):
    """While it is entered, fp32 products of linear maps on a CPU are oneDNN's, as in compiled programs, instead of
    MKL's, which take 2.3 times as long on AMD for all but single rows. Without gradients."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.linear and not kwargs and all(map(is_plain_fp32, args)) and not torch.is_autocast_enabled("cpu"):
            inputs, weight, bias = (*args, None)[:3]
            return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], None)
        return func(*args, **(kwargs or {}))


def is_plain_fp32(tensor: torch.Tensor | None) -> bool:
    """Whether oneDNN takes it: on a CPU, and not quantized, as a class of its own. `None`, for no bias, is taken."""
    if tensor is None:
        return True
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and torch.backends.mkldnn.is_available()
    return plain and tensor.dtype == torch.float32 and tensor.device.type == "cpu"


_packing_lock = threading.Lock()


@contextmanager
def packed_by_onednn() -> Iterator[None]:
    """While programs for a CPU are made in it, their products with frozen fp32 weights are oneDNN's, as those in half
    precision are anyway. By itself torch.compile takes MKL's, which are slower for few rows: 1.5 to 4 times on AMD.

    It has no setting for that, so a function of its own is replaced, by one thread at a time; where a version of torch
    lacks it, or oneDNN, nothing is.
    """
    from torch._inductor.fx_passes import mkldnn_fusion

    packing = getattr(mkldnn_fusion, "CpuMkldnnDeviceOp", None)
    if (
        packing is None
        or not hasattr(mkldnn_fusion, "_get_mkldnn_device_op")
        or not torch.backends.mkldnn.is_available()
    ):
        yield
        return

    class OneDNN(packing):
        def pack_linear_weight(self, graph, is_half_precision, *arguments):
            return super().pack_linear_weight(graph, True, *arguments)

        def pack_linear(self, graph, is_half_precision, *arguments):
            return super().pack_linear(graph, True, *arguments)

    with _packing_lock:
        chosen = mkldnn_fusion._get_mkldnn_device_op
        mkldnn_fusion._get_mkldnn_device_op = lambda device: OneDNN() if device == "cpu" else chosen(device)
        try:
            yield
        finally:
            mkldnn_fusion._get_mkldnn_device_op = chosen


_caches_lock = threading.Lock()
# Of each model: those of its last compiled sampling. Memory that is new to a process is slow at first.
_caches: MutableMapping[PreTrainedModel, list[KeyValueCache]] = WeakKeyDictionary()


def take_caches(model: PreTrainedModel) -> list[KeyValueCache] | None:
    """Caches of earlier sampling whose tensors may be used again, by the caller alone."""
    with _caches_lock:
        return _caches.pop(model, None)


def keep_caches(model: PreTrainedModel, caches: list[KeyValueCache]) -> None:
    """Gives caches to the next [`take_caches`]; there may be no NaN in them."""
    with _caches_lock:
        _caches[model] = caches


_programs_lock = threading.Lock()
# Of each model: the state of its weights, and its programs for that state, the last used ones last.
_programs: MutableMapping[PreTrainedModel, tuple[int, dict[str, Callable]]] = WeakKeyDictionary()


def are_frozen(options: dict[str, Any]) -> bool:
    """Whether weights become constants of the program."""
    return (options.get("options") or {}).get("freezing", False)


def weights_state(model: PreTrainedModel) -> int:
    """Changes with almost any change of weights, also where torch counts none, as after `weight.data += delta`."""
    tensors = [*model.parameters(), *model.buffers()]
    plain = [each.detach() for each in tensors if type(each) in (torch.Tensor, torch.nn.Parameter) and each.numel()]
    bits = [as_integers(each.contiguous().view(-1)) for each in plain]
    sums = torch.stack([each.sum() for each in bits]).tolist() if bits else []
    some = [each[:: max(1, len(each) // 64)] for each in bits]  # a sum does not see an exchange
    versions = [(id(each), None if each.is_inference() else each._version) for each in tensors]
    return hash(str((versions, sums, torch.cat(some).tolist() if some else [])))


def as_integers(values: torch.Tensor) -> torch.Tensor:
    """The same bits as integers, as wide as can be, which are added fastest: `(n,)` to `(n or less,)` int64."""
    fits = values.nbytes % 8 == 0 and values.storage_offset() * values.itemsize % 8 == 0
    return values.view(torch.int64 if fits else INTEGERS[values.itemsize]).to(torch.int64)


def kept_program(model: PreTrainedModel, options: dict[str, Any], inputs: str) -> Callable:
    """[`advance`] compiled for inputs of that signature. Programs of weights that have changed since are dropped, as
    are the least recently used ones beyond `MAX_PROGRAMS`."""
    state, key = weights_state(model) if are_frozen(options) else 0, f"{options}, {inputs}"
    with _programs_lock:
        if model not in _programs or _programs[model][0] != state:
            _programs[model] = (state, {})
        programs = _programs[model][1]
        if key in programs:
            program = programs.pop(key)
        else:
            # torch.compile keeps programs by code, not by function. Code of its own takes its program along when it
            # goes.
            own = FunctionType(advance.__code__.replace(), advance.__globals__, advance.__name__)
            program = torch.compile(own, **options)
        programs[key] = program
        while len(programs) > MAX_PROGRAMS:
            programs.pop(next(iter(programs)))
        return program


def without_guards(program: Callable) -> Callable:
    """A function of `torch.compile` that has just run, without the guards that it evaluates before each run, a
    twentieth of a small model's time; the function itself where it holds several programs, or none, or torch hides
    them. For further positions of one call, whose inputs have one signature."""
    try:
        from torch._C._dynamo.eval_frame import _debug_get_cache_entry_list

        function = program._torchdynamo_orig_callable
        (entry,) = _debug_get_cache_entry_list(function.__code__)
        return FunctionType(entry.code, function.__globals__, function.__name__)
    except (ImportError, AttributeError, ValueError):
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
