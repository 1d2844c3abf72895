# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Sampling of code maps (section 3.2): prefill, then one step per position with the depth loop inside.

Symbols: B pictures, S condition tokens, T = H*W positions, D code depth, K codebook size, n_z codebook width,
n_e hidden width. z-hat_t sum of the code vectors of position t, h_t context from which its codes are predicted.
Guidance adds B null rows after the B conditional rows; such shapes are written (2B, ...).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import torch
import torch.nn.functional as F
from diffusers.utils.accelerate_utils import apply_forward_hook
from transformers import CompileConfig, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.utils import logging

from .residual_quantizer import MIN_TEMPERATURE, inverse_cdf_sample, one_per_depth, row_blocks
from .sampling import SAMPLING_FIELDS, seeded_generator  # noqa: F401
from .transformer_blocks import KeyValueCache

logger = logging.get_logger(__name__)

# Fields of a `GenerationConfig` that `generate` reads, or that say nothing about sampling.
_KNOWN_FIELDS = {
    *SAMPLING_FIELDS, "compile_config", "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version",
    "_from_model_config", "use_cache",
}  # fmt: skip
# Logits of parallel predictions are held in blocks of at most this many elements (64 MiB in fp32).
LOGIT_BLOCK_ELEMENTS = 2**24
# A smaller `top_p` would round to 0 in fp32 and keep no code; at this value only the likeliest code is kept.
MIN_TOP_P = 1e-30


@dataclass(frozen=True)
class Sampling:
    """Checked sampling settings; tuples have one entry per depth."""

    do_sample: bool = True
    temperature: tuple[float, ...] = ()
    top_k: tuple[int | None, ...] = ()
    top_p: tuple[float | None, ...] = ()
    guidance_scale: float = 1.0  # 1 turns guidance off


# Key/value caches of the spatial transformer, for S - 1 + T tokens, and of the depth transformer, for D tokens.
Caches = tuple[list[KeyValueCache], list[KeyValueCache]]


def draw_uniforms(
    generator: torch.Generator | Sequence[torch.Generator] | None, batch_size: int, shape: tuple[int, ...]
) -> torch.Tensor:
    """One fp32 uniform in [0, 1) per code, `(B, *shape)`, picture after picture, on the first generator's device."""
    generators = generator if isinstance(generator, (list, tuple)) else [generator] * batch_size
    if len(generators) != batch_size:
        raise ValueError(f"`generator` must be one or a list of {batch_size}, got {len(generators)}.")
    if not all(isinstance(each, torch.Generator | None) for each in generators):
        raise ValueError(f"`generator` must be a torch.Generator or a list of them, got {generator!r:.200}.")
    devices = [torch.device("cpu") if each is None else each.device for each in generators]
    pairs = zip(generators, devices, strict=True)
    drawn = [torch.rand(shape, generator=each, device=at, dtype=torch.float32) for each, at in pairs]
    return torch.stack([each.to(devices[0]) for each in drawn])


def filter_logits(logits: torch.Tensor, top_k: int | None = None, top_p: float | None = None) -> torch.Tensor:
    """Logits `(B, K)` with -inf for all codes but the `top_k` likeliest and, of those, the smallest set of likeliest
    ones whose probability reaches `top_p`. `None` keeps all; ties are kept."""
    size = logits.shape[-1]
    is_nucleus = top_p is not None and top_p < 1
    if (top_k is None or top_k >= size) and not is_nucleus:
        return logits
    largest = logits.topk(min(top_k or size, size), dim=-1).values  # (B, k), descending
    smallest_kept = largest[:, -1:]
    if is_nucleus:
        kept = logits.masked_fill(logits < smallest_kept, float("-inf"))  # ties can make it more than k
        probabilities = (largest - kept.logsumexp(-1, keepdim=True)).exp()
        mass_of_larger = probabilities.cumsum(-1) - probabilities
        smallest_kept = largest.masked_fill(mass_of_larger >= top_p, float("inf")).amin(-1, keepdim=True)
    return logits.masked_fill(logits < smallest_kept, float("-inf"))


def predict_codes(
    model: PreTrainedModel,
    context: torch.Tensor,
    caches: list[KeyValueCache],
    sampling: Sampling,
    uniforms: torch.Tensor | None,
    known_codes: torch.Tensor | None = None,
    known_mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The codes of one position with context h_t `(B or 2B, 1, n_e)`, depth by depth (Eq. 12, 13).

    The depth transformer's `caches` are overwritten. `uniforms` are `(B, D)` in [0, 1), `known_codes` and `known_mask`
    `(B, D)`.

    Returns:
        Codes `(B, D)`, z-hat_t `(B, 1, n_z)`, and whether all logits were finite `()`.
    """
    codes, quantized = [], None
    is_finite = torch.ones((), dtype=torch.bool, device=context.device)
    for d in range(model.config.code_shape[2]):
        inputs = context if d == 0 else model.depth_projection(_rows(quantized, len(context)))  # (B, 1, n_e)
        states = model.depth_transformer(model.depth_positions(inputs, offset=d), caches, d)
        logits = model.code_head(states)[:, 0].float()  # (B, K)
        if sampling.guidance_scale != 1.0:
            conditional, null = logits.chunk(2)
            logits = null + sampling.guidance_scale * (conditional - null)
        is_finite = is_finite & logits.sum().isfinite()
        if sampling.do_sample:
            logits = filter_logits(logits / sampling.temperature[d], sampling.top_k[d], sampling.top_p[d])
            code = inverse_cdf_sample(logits.softmax(-1), uniforms[:, d])
        else:
            code = logits.argmax(-1)
        if known_mask is not None:
            code = torch.where(known_mask[:, d], known_codes[:, d], code)
        codes.append(code)
        vector = model.codebook(code[:, None, None], first_depth=d)[:, :, 0]  # (B, 1, n_z), e(k)
        quantized = vector if d == 0 else quantized + vector  # z-hat_t^(d+1)
    return torch.stack(codes, dim=-1), quantized, is_finite


def step(
    model: PreTrainedModel, caches: Caches, token: torch.Tensor, position: int | torch.Tensor, *inputs
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One position: its context h_t (Eq. 11), its codes, and the token that the next position reads (Eq. 10).

    Args:
        model: an RQ-Transformer.
        caches: filled with all tokens before `token`.
        token: `(B or 2B, 1, n_e)`, of the position before, or the last one of the condition.
        position: t, an integer, or a tensor `(1,)` for a compiled step.
        inputs: `sampling` and further ones of [`predict_codes`].

    Returns:
        Codes `(B, D)`, the token of this position, and whether all logits were finite `()`.
    """
    spatial_caches, depth_caches = caches
    slot = model.config.condition_length - 1 + position
    context = model.spatial_transformer(token, spatial_caches, slot)  # (B, 1, n_e), h_t
    codes, quantized, is_finite = predict_codes(model, context, depth_caches, *inputs)
    return codes, _token(model, quantized, position, len(token)), is_finite


def _token(model: PreTrainedModel, quantized: torch.Tensor, position: int | torch.Tensor, rows: int) -> torch.Tensor:
    """The token `(rows, 1, n_e)` of a position with z-hat_t `(B, 1, n_z)` (Eq. 10)."""
    return _rows(model.spatial_positions(model.spatial_projection(quantized), offset=position), rows)


def _rows(values: torch.Tensor, rows: int) -> torch.Tensor:
    """`values` for conditional and null rows alike."""
    return values if len(values) == rows else values.repeat(rows // len(values), 1, 1)


class CompiledStep:
    """[`step`] under `torch.compile`, with caches of fixed shapes and addresses for `batch_size` rows."""

    def __init__(self, model: PreTrainedModel, batch_size: int, compile_config: CompileConfig):
        self.key = self.key_of(model, batch_size, compile_config)
        self.caches = model.new_caches(batch_size)
        self.position = torch.zeros(1, dtype=torch.long, device=model.device)
        self.compiled = torch.compile(step, **compile_config.to_dict())

    @staticmethod
    def key_of(model: PreTrainedModel, batch_size: int, compile_config: CompileConfig) -> tuple:
        """What must be equal for a compiled step to be used again."""
        is_inference = torch.is_inference_mode_enabled()
        return batch_size, model.dtype, model.device, is_inference, repr(compile_config.to_dict())

    def __call__(self, model, caches, token, position, *inputs):
        codes, token, is_finite = self.compiled(model, caches, token, self.position.fill_(position), *inputs)
        return codes, token.clone(), is_finite  # the next call of a CUDA graph overwrites its outputs


class RQTransformerGenerationMixin(GenerationMixin):
    """Sampling and likelihoods of [`RQTransformerForImageGeneration`]."""

    _compiled_step: CompiledStep | None = None

    @apply_forward_hook
    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.LongTensor,
        do_sample: bool | None = None,
        temperature: float | Sequence[float] | None = None,
        top_k: int | Sequence[int] | None = None,
        top_p: float | Sequence[float] | None = None,
        guidance_scale: float | None = None,
        negative_input_ids: torch.LongTensor | None = None,
        known_codes: torch.LongTensor | None = None,
        known_mask: torch.BoolTensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        callback: Callable[[int, torch.LongTensor], torch.LongTensor | None] | None = None,
        interrupt: Callable[[], bool] | None = None,
        generation_config: GenerationConfig | None = None,
        compile_config: CompileConfig | None = None,
    ) -> torch.LongTensor:
        r"""Samples code maps, position by position in raster order and depth by depth (Eq. 9).

        Settings that are `None` come from the generation config. Without any, all codes may be drawn, at temperature 1
        and without guidance. The model should be in eval mode.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, condition_length)`):
                Conditions: caption ids, one class id, or one start id (0).
            do_sample (`bool`, *optional*): Draw codes, or take the likeliest.
            temperature (`float` or `list[float]`, *optional*):
                > 0, one number or one per depth. Below 1 sharpens the distribution.
            top_k (`int` or `list[int]`, *optional*):
                Draw from the `top_k >= 1` likeliest codes, one number or one per depth.
            top_p (`float` or `list[float]`, *optional*):
                Draw from the smallest set of likeliest codes with this probability, in (0, 1].
            guidance_scale (`float`, *optional*):
                g >= 0 of classifier-free guidance, logits = null + g (conditional - null). 1 turns it off.
            negative_input_ids (`torch.LongTensor` of shape `(B or 1, condition_length)`, *optional*):
                The null conditions of guidance, by default `config.null_condition_ids`.
            known_codes (`torch.LongTensor` of shape `(B or 1, H, W, D)`, *optional*):
                Codes to keep where `known_mask` is `True`.
            known_mask (`torch.BoolTensor` of shape `(H, W)`, `(H, W, D)` or `(B or 1, H, W, D)`, *optional*):
                Which codes are known; by default all of `known_codes`.
            generator (`torch.Generator` or a list of one per picture, *optional*):
                Gives one uniform number per code before the loop. With one per picture a batch equals its singles.
            callback (*optional*):
                `callback(position, codes)` after each position, with codes `(B, H, W, D)`, 0 where nothing is known or
                drawn yet. It may return changed codes; later positions follow those of this position.
                Leading positions that are known in all pictures are read at once, without a call.
            interrupt (*optional*): Is asked after each position; `True` ends the loop.
            generation_config (`GenerationConfig`, *optional*): Replaces `self.generation_config`.
            compile_config (`transformers.CompileConfig`, *optional*):
                Compiles a step with `torch.compile`. The first call with a batch size and settings takes minutes.

        Returns:
            `torch.LongTensor` of shape `(B, H, W, D)`.

        Raises:
            `ValueError`: an argument of the wrong shape or range, guidance without a null condition, or logits that
                are not finite.
        """
        defaults = self.generation_config if generation_config is None else generation_config
        sampling = self._resolve_sampling(defaults, do_sample, temperature, top_k, top_p, guidance_scale)
        compile_config = compile_config or getattr(defaults, "compile_config", None)
        if compile_config is not None and not isinstance(compile_config, CompileConfig):
            raise ValueError(f"`compile_config` must be a CompileConfig, got {compile_config!r}.")
        self._check_condition("input_ids", input_ids)
        device, batch_size = input_ids.device, len(input_ids)
        shape = (batch_size, *self.config.code_shape)
        conditions = self._with_null_conditions(input_ids.long(), negative_input_ids, sampling)  # (B or 2B, S)
        known_codes, known_mask = self._check_known_codes(known_codes, known_mask, batch_size, device)  # (B, T, D)
        uniforms = None
        if sampling.do_sample:
            uniforms = draw_uniforms(generator, batch_size, shape[1:]).to(device).flatten(1, 2)  # (B, T, D)

        codes = torch.zeros(batch_size, self.config.num_positions, shape[-1], dtype=torch.long, device=device)
        num_known = 0  # leading positions that are known in all pictures
        if known_codes is not None:
            codes = torch.where(known_mask, known_codes, codes)
            num_known = int(known_mask.all(-1).all(0).long().cumprod(0).sum())
        run_step, caches = step, None
        if compile_config is not None:
            key = CompiledStep.key_of(self, len(conditions), compile_config)
            if self._compiled_step is None or self._compiled_step.key != key:
                self._compiled_step = CompiledStep(self, len(conditions), compile_config)
            run_step, caches = self._compiled_step, self._compiled_step.caches
        token, caches = self.prefill(conditions, codes[:, :num_known], caches)
        is_finite = torch.ones((), dtype=torch.bool, device=device)
        for position in range(num_known, self.config.num_positions):
            at_position = [None if each is None else each[:, position] for each in (uniforms, known_codes, known_mask)]
            codes[:, position], token, finite = run_step(self, caches, token, position, sampling, *at_position)
            is_finite &= finite
            changed = None if callback is None else callback(position, codes.view(shape))
            if changed is not None:
                self.check_codes("the callback's codes", changed, (batch_size,))
                codes = changed.to(codes).flatten(1, 2).clone()
                quantized = self.codebook(codes[:, position, None]).sum(-2)  # (B, 1, n_z), z-hat_t
                token = _token(self, quantized, position, len(conditions))
            if interrupt is not None and interrupt():
                break
        if not is_finite:
            self._compiled_step = None  # whose caches hold NaN
            raise ValueError(
                "The logits must be finite, got NaN or infinity. Check the weights, the codebook (see `set_codebook`) "
                "and the dtype."
            )
        return codes.view(shape)

    def new_caches(self, batch_size: int, like: torch.Tensor | None = None) -> Caches:
        """Empty caches for `batch_size` rows, with the dtype and device of `like`, by default those of the weights."""
        height, width, depth = self.config.code_shape
        like = self.spatial_positions.weight if like is None else like
        length = self.config.condition_length - 1 + height * width
        spatial = self.spatial_transformer.new_caches(batch_size, length, like)
        return spatial, self.depth_transformer.new_caches(batch_size, depth, like)

    def prefill(
        self, input_ids: torch.Tensor, codes: torch.Tensor, caches: Caches | None = None
    ) -> tuple[torch.Tensor, Caches]:
        """Reads conditions `(B or 2B, S)` and codes `(B, P, D)` of the first P positions, all but the last token.

        Returns:
            The last token `(B or 2B, 1, n_e)` and the caches with all tokens before it.
        """
        quantized = self.codebook(codes).sum(-2)  # (B, P, n_z), z-hat_t
        tokens = self.spatial_inputs(input_ids, _rows(quantized, len(input_ids)))  # (B, S + P, n_e)
        caches = self.new_caches(len(input_ids), tokens) if caches is None else caches  # weights may be on the disk
        if tokens.shape[1] > 1:
            self.spatial_transformer(tokens[:, :-1], caches[0], 0)
        return tokens[:, -1:].clone(memory_format=torch.contiguous_format), caches

    @torch.no_grad()
    def redraw_codes(
        self,
        input_ids: torch.LongTensor,
        codes: torch.LongTensor,
        temperature: float | Sequence[float] | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.LongTensor:
        """Draws the codes `(B, H, W, D)` of all positions at once, each after the given codes of the positions before.

        Training uses it to show the model its own codes. Settings are as in [`generate`], without guidance.
        """
        sampling = self._resolve_sampling(self.generation_config, None, temperature, None, None, 1.0)
        quantized = self.codebook(codes.flatten(1, 2)).sum(-2)  # (B, T, n_z), z-hat_t
        context = self.spatial_states(input_ids, quantized)[:, input_ids.shape[1] - 1 :]  # (B, T, n_e), h_t
        context = context.flatten(0, 1)[:, None]  # (B*T, 1, n_e)
        uniforms = draw_uniforms(generator, 1, (len(context), codes.shape[-1]))[0].to(codes.device)  # (B*T, D)
        drawn = []
        for block in row_blocks(len(context), self.config.codebook_size, LOGIT_BLOCK_ELEMENTS):
            caches = self.depth_transformer.new_caches(len(context[block]), codes.shape[-1], context)
            drawn.append(predict_codes(self, context[block], caches, sampling, uniforms[block])[0])
        return torch.cat(drawn).view_as(codes)

    @apply_forward_hook
    @torch.no_grad()
    def log_likelihood(self, input_ids: torch.LongTensor, codes: torch.LongTensor, depth: int = 1) -> torch.Tensor:
        """Mean log-probability of the codes of one depth, each after all codes before it (Eq. 13).

        The codes of depth 1 hold the coarse picture, so they tell best whether it fits the condition.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, S)`): conditions.
            codes (`torch.LongTensor` of shape `(B, H, W, D)`): code maps.
            depth (`int`, defaults to 1): which codes count, from 1 to D.

        Returns:
            `torch.FloatTensor` of shape `(B,)`, in nats per code, at temperature 1 and without guidance.

        Raises:
            `ValueError`: conditions or codes of the wrong shape, dtype or range, or a depth out of range.
        """
        self._check_condition("input_ids", input_ids)
        self.check_codes("`codes`", codes, (len(input_ids),))
        if isinstance(depth, bool) or not isinstance(depth, Integral) or not 1 <= depth <= codes.shape[-1]:
            raise ValueError(f"`depth` must be an integer from 1 to {codes.shape[-1]}, got {depth!r}.")
        input_ids, codes = input_ids.long(), codes.to(input_ids.device, torch.long)
        partial_sums = self.codebook(codes.flatten(1, 2)).cumsum(2)  # (B, T, D, n_z), z-hat_t^(d)
        context = self.spatial_states(input_ids, partial_sums[:, :, -1])[:, input_ids.shape[1] - 1 :]
        states = self.depth_states(context, partial_sums[:, :, : depth - 1])[:, -1]  # (B*T, n_e)
        targets = codes[..., depth - 1].flatten()  # (B*T,)
        losses = [
            F.cross_entropy(self.code_head(states[block]).float(), targets[block], reduction="none")
            for block in row_blocks(len(states), self.config.codebook_size, LOGIT_BLOCK_ELEMENTS)
        ]
        return -torch.cat(losses).view(len(codes), -1).mean(1)

    def check_sampling(self, temperature=None, top_k=None, top_p=None, guidance_scale=None) -> None:
        """Raises the `ValueError` that [`generate`] would raise for these settings."""
        sampling = self._resolve_sampling(self.generation_config, None, temperature, top_k, top_p, guidance_scale)
        self._with_null_conditions(torch.zeros(1, self.config.condition_length, dtype=torch.long), None, sampling)

    def check_codes(self, name: str, codes: torch.Tensor, batch_sizes: tuple[int, ...] | None = None) -> None:
        """Raises a `ValueError` unless codes are integers `(B, H, W, D)` in [0, K), B in `batch_sizes` if given."""
        if not isinstance(codes, torch.Tensor):
            raise ValueError(f"{name} must be a tensor, got {type(codes).__name__}.")
        fits = codes.ndim == 4 and tuple(codes.shape[1:]) == self.config.code_shape
        if not fits or not (len(codes) in batch_sizes if batch_sizes else len(codes)):
            batch = " or ".join(map(str, sorted(set(batch_sizes)))) if batch_sizes else "batch_size"
            expected = f"({batch}, {', '.join(map(str, self.config.code_shape))})"
            raise ValueError(f"{name} must have shape {expected}, got {tuple(codes.shape)}.")
        self._check_range(name, codes, self.config.codebook_size)

    def _resolve_sampling(
        self, defaults: GenerationConfig, do_sample, temperature, top_k, top_p, guidance_scale
    ) -> Sampling:
        """The given settings, else those of `defaults`, checked."""
        if not isinstance(defaults, GenerationConfig):
            raise ValueError(f"`generation_config` must be a GenerationConfig, got {defaults!r:.200}.")
        is_set = {name for name, value in defaults.to_diff_dict().items() if value is not None and value is not False}
        if unused := is_set - _KNOWN_FIELDS:
            logger.warning_once(f"`generate` does not use these generation settings: {', '.join(sorted(unused))}.")

        def setting(name, value, fallback):
            value = getattr(defaults, name, None) if value is None else value
            return fallback if value is None else value

        def per_depth(name, value, fallback, is_valid, expected):
            values = one_per_depth(name, setting(name, value, None), self.config.code_shape[2], is_valid, expected)
            return tuple(fallback if each is None else each for each in values)

        do_sample = setting("do_sample", do_sample, True)
        if not isinstance(do_sample, bool):
            raise ValueError(f"`do_sample` must be True or False, got {do_sample!r}.")
        temperature = per_depth("temperature", temperature, 1.0, lambda tau: tau > 0, "greater than 0")
        top_k = per_depth("top_k", top_k, None, lambda k: k >= 1 and k % 1 == 0, "an integer of at least 1")
        top_p = per_depth("top_p", top_p, None, lambda p: 0 < p <= 1, "in (0, 1]")
        guidance_scale = setting("guidance_scale", guidance_scale, 1.0)
        is_number = isinstance(guidance_scale, Real) and not isinstance(guidance_scale, bool)
        if not is_number or not 0 <= guidance_scale < math.inf:
            raise ValueError(f"`guidance_scale` must be a number of at least 0, got {guidance_scale!r}.")
        return Sampling(
            do_sample,
            tuple(max(float(tau), MIN_TEMPERATURE) for tau in temperature),
            tuple(k if k is None else int(k) for k in top_k),
            tuple(p if p is None else max(float(p), MIN_TOP_P) for p in top_p),
            float(guidance_scale),
        )

    def _with_null_conditions(
        self, input_ids: torch.Tensor, negative_input_ids: torch.Tensor | None, sampling: Sampling
    ) -> torch.Tensor:
        """Conditions `(B, S)`, and with guidance the null conditions after them, `(2B, S)`."""
        if sampling.guidance_scale == 1.0:
            if negative_input_ids is not None:
                raise ValueError("A negative prompt or `negative_input_ids` needs a `guidance_scale` other than 1.")
            return input_ids
        if negative_input_ids is None:
            if self.config.null_condition_ids is None:
                raise ValueError(
                    "`guidance_scale` other than 1 needs a negative prompt (`negative_input_ids`), or a model trained "
                    "with condition dropout, whose config has `null_condition_ids`."
                )
            negative_input_ids = torch.tensor([self.config.null_condition_ids], device=input_ids.device)
        self._check_condition("negative_input_ids", negative_input_ids)
        if len(negative_input_ids) not in (1, len(input_ids)):
            raise ValueError(f"`negative_input_ids` must be 1 or {len(input_ids)}, got {len(negative_input_ids)}.")
        return torch.cat([input_ids, negative_input_ids.to(input_ids).expand_as(input_ids)])

    def _check_condition(self, name: str, ids: torch.Tensor) -> None:
        length = self.config.condition_length
        if not isinstance(ids, torch.Tensor) or ids.ndim != 2 or ids.shape[1] != length or len(ids) == 0:
            got = tuple(ids.shape) if isinstance(ids, torch.Tensor) else type(ids).__name__
            raise ValueError(f"`{name}` must be a tensor of shape (batch_size, {length}), got {got}.")
        self._check_range(f"`{name}`", ids, self.config.vocab_size)

    @staticmethod
    def _check_range(name: str, values: torch.Tensor, size: int) -> None:
        if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
            raise ValueError(f"{name} must be integers in [0, {size}), got {values.dtype}.")
        smallest, largest = values.long().aminmax()
        if not (0 <= smallest and largest < size):
            raise ValueError(f"{name} must be integers in [0, {size}), got values from {smallest} to {largest}.")

    def _check_known_codes(self, codes: torch.Tensor | None, mask: torch.Tensor | None, batch_size: int, device):
        """Known codes and their mask, both `(B, T, D)` on `device`, or `None` twice."""
        if codes is None:
            if mask is not None:
                raise ValueError("`known_mask` needs `known_codes`, got None.")
            return None, None
        shape = self.config.code_shape
        self.check_codes("`known_codes`", codes, (1, batch_size))
        mask = torch.ones(shape, dtype=torch.bool) if mask is None else mask
        if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
            got = mask.dtype if isinstance(mask, torch.Tensor) else type(mask).__name__
            raise ValueError(f"`known_mask` must be a bool tensor, got {got}.")
        if tuple(mask.shape) not in (shape[:2], shape, (1, *shape), (batch_size, *shape)):
            expected = f"{shape[:2]}, {shape} or {(batch_size, *shape)}"
            raise ValueError(f"`known_mask` must have shape {expected}, got {tuple(mask.shape)}.")
        mask = mask[..., None] if mask.ndim == 2 else mask
        full = (batch_size, *shape)
        return codes.long().to(device).expand(full).flatten(1, 2), mask.to(device).expand(full).flatten(1, 2)
