# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Sampling of code maps (section 3.2): two nested loops over positions and depths, each with its key/value cache.

Symbols: B pictures, S condition tokens, T = H*W positions, D code depth, K codebook size, n_z codebook width.
z-hat_t sum of the code vectors of position t, z-hat_t^(d) partial sum of its first d.
"""

import functools
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from numbers import Integral, Real

import torch
import torch.nn.functional as F
from diffusers.utils.accelerate_utils import apply_forward_hook
from transformers import CompileConfig, GenerationConfig, GenerationMixin
from transformers.utils import logging

from .cpu_draws import compile_draws
from .evaluation_mode import in_evaluation_mode
from .key_value_caches import KeyValueCache
from .residual_quantizer import MIN_TEMPERATURE, one_per_depth, row_blocks
from .sampling_steps import (
    MIN_TOP_P,
    CompiledSteps,
    ProductsByOneDNN,
    Sampling,
    advance,
    keep_caches,
    predict_codes,
    quantized_vectors,
    take_caches,
    token_of,
)

logger = logging.get_logger(__name__)

# Of the largest block of logits of codes that are drawn anew or judged: 64 MiB in fp32.
MAX_LOGIT_ELEMENTS = 2**24
# Of a `GenerationConfig`: what sampling reads, and what says nothing of sampling.
KNOWN_SETTINGS = {
    "do_sample", "temperature", "top_k", "top_p", "guidance_scale", "compile_config", "bos_token_id", "eos_token_id",
    "pad_token_id", "transformers_version", "_from_model_config", "use_cache",
}  # fmt: skip


def draw_uniforms(
    generator: torch.Generator | list[torch.Generator] | None, batch_size: int, code_shape: tuple[int, ...]
) -> torch.Tensor:
    """One fp32 uniform in [0, 1) per code, `(B, H, W, D)`, picture after picture, on the first generator's device."""
    generators = generator if isinstance(generator, (list, tuple)) else [generator] * batch_size
    if len(generators) != batch_size:
        raise ValueError(
            f"`generator` must be one or a list of one per picture ({batch_size}), got {len(generators)}."
        )
    for each in generators:
        if each is not None and not isinstance(each, torch.Generator):
            raise ValueError(f"`generator` must be a torch.Generator or a list of them, got {each!r}.")
    devices = ["cpu" if each is None else each.device for each in generators]
    uniforms = [
        torch.rand(code_shape, generator=each, device=device, dtype=torch.float32).to(devices[0])
        for each, device in zip(generators, devices, strict=True)
    ]
    return torch.stack(uniforms)


def _setting(defaults: GenerationConfig, name: str, value, fallback):
    """What is given, or else what `defaults` have, or else `fallback`."""
    value = value if value is not None else getattr(defaults, name, None)
    return value if value is not None else fallback


class RQTransformerGenerationMixin(GenerationMixin):
    """`generate` of [`RQTransformerForImageGeneration`]; `GenerationMixin` saves and loads its `generation_config`."""

    @apply_forward_hook
    @torch.no_grad()
    @in_evaluation_mode
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
        callback: Callable[[int, torch.LongTensor], torch.LongTensor | bool | None] | None = None,
        generation_config: GenerationConfig | None = None,
        compile_config: CompileConfig | None = None,
    ) -> torch.LongTensor:
        r"""Samples code maps, position by position in raster order and depth by depth (Eq. 9).

        `do_sample`, `temperature`, `top_k`, `top_p`, `guidance_scale` and `compile_config` that are `None` come from
        the generation config, and where that has none they are `True`, 1, all, 1, 1 and `None`.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, condition_length)`):
                Conditions: caption ids, one class id, or one start id (0).
            do_sample (`bool`, *optional*):
                Draw codes, or take the likeliest.
            temperature (`float` or `list[float]`, *optional*):
                > 0, one number or one per depth; under 1 sharpens.
            top_k (`int` or `list[int]`, *optional*):
                Draw from the `top_k >= 1` likeliest codes, one number or one per depth.
            top_p (`float` or `list[float]`, *optional*):
                Draw from the smallest set of likeliest codes with this probability, in (0, 1].
            guidance_scale (`float`, *optional*):
                g >= 0 of classifier-free guidance, logits = null + g (conditional - null). 1: off.
            negative_input_ids (`torch.LongTensor` of shape `(B or 1, condition_length)`, *optional*):
                Conditions that guidance leads away from; `config.null_condition_ids` by default.
            known_codes (`torch.LongTensor` of shape `(B or 1, H, W, D)`, *optional*):
                Codes to keep where `known_mask` is `True`.
            known_mask (`torch.BoolTensor` of shape `(H, W)`, `(H, W, D)` or `(B or 1, H, W, D)`, *optional*):
                Which codes are known; all, if only `known_codes` is given. First positions that are known in all
                pictures are read at once, which half precision rounds otherwise than one after the other.
            generator (`torch.Generator` or a list of one per picture, *optional*):
                Gives one uniform per code, drawn before the loop, picture after picture. A batch with one generator
                per picture equals its singles.
            callback (*optional*):
                `callback(position, codes)` after each of the T positions, with the codes so far `(B, H, W, D)`: those
                that are known, those that were drawn, and 0. It may change them or return others: what follows is
                drawn after its codes of this position, and its codes of earlier ones are returned, though nothing
                follows them. If it returns `False`, the loop stops and the codes are as they are.
            generation_config (`GenerationConfig`, *optional*):
                Instead of the model's own.
            compile_config (`transformers.CompileConfig`, *optional*):
                Compiles what is done for a position with `torch.compile`: the first call of each batch size and
                setting takes minutes, further ones a fraction of the time. `None`: nothing is compiled.

        Returns:
            `torch.LongTensor` of shape `(B, H, W, D)`.

        Raises:
            `ValueError`: an argument of the wrong shape or range, guidance without a null condition, or logits that
            are not finite.
        """
        config = self.config
        height, width, depth = config.code_shape
        defaults = generation_config if generation_config is not None else self.generation_config
        if not isinstance(defaults, GenerationConfig):
            raise ValueError(f"`generation_config` must be a GenerationConfig, got {defaults!r:.200}.")
        given = {name for name, value in defaults.to_diff_dict().items() if value is not None and value is not False}
        if unused := given - KNOWN_SETTINGS:
            logger.warning_once(f"Of `generation_config` these settings are not used: {', '.join(sorted(unused))}.")
        compile_config = _setting(defaults, "compile_config", compile_config, None)
        if compile_config is not None and not isinstance(compile_config, CompileConfig):
            raise ValueError(f"`compile_config` must be a CompileConfig, got {compile_config!r}.")
        compiled = compile_config is not None
        sampling = self._sampling(defaults, do_sample, temperature, top_k, top_p, guidance_scale, compiled)
        self._check_condition("input_ids", input_ids)
        self._check_devices()
        input_ids, batch_size = input_ids.long(), len(input_ids)
        if sampling.guidance_scale != 1.0:
            input_ids = torch.cat([input_ids, self._null_condition(negative_input_ids, input_ids)])  # (2B, S)
        elif negative_input_ids is not None:
            raise ValueError(
                "`negative_prompt`, or `negative_input_ids`, needs a `guidance_scale` other than 1, got 1."
            )
        known_codes, known_mask = self._check_known_codes(known_codes, known_mask, batch_size, input_ids.device)

        device = input_ids.device
        uniforms = draw_uniforms(generator, batch_size, (height, width, depth)) if sampling.do_sample else None
        uniforms = uniforms.to(device).flatten(1, 2) if sampling.do_sample else None  # (B, T, D)
        codes = torch.zeros(batch_size, height * width, depth, dtype=torch.long, device=device)
        if known_codes is not None:
            codes = torch.where(known_mask, known_codes, codes)
        all_finite = torch.ones((), dtype=torch.bool, device=device)

        def goes_on(position: int) -> bool:
            """Asks the callback, whose codes take the place of those so far."""
            nonlocal codes
            if callback is None:
                return True
            shown = codes.view(batch_size, height, width, depth)
            answer = callback(position, shown)
            changed = shown if answer is None or isinstance(answer, bool) else answer  # in place, or returned
            self.check_codes("the callback's codes", changed, (batch_size,))
            codes = changed.to(codes, copy=changed is not shown).flatten(1, 2)  # it may keep what it returns
            return answer is not False

        num_known = 0 if known_mask is None else int(known_mask.all(-1).all(0).long().cumprod(0).sum())
        first = codes[:, :num_known].clone()  # known and at the beginning: they are read at once, with the conditions
        for position in range(num_known):
            codes[:, position] = known_codes[:, position]
            if not goes_on(position) or position == height * width - 1:
                return codes.view(batch_size, height, width, depth)
            first[:, position] = codes[:, position]
        with ProductsByOneDNN() if compiled else nullcontext():
            token, caches = self._read_conditions(input_ids, first, take_caches(self) if compiled else None)
        step = functools.partial(advance, self, caches)
        if compiled:
            step = CompiledSteps(self, caches, compile_config)
        for position in range(num_known, height * width):
            at_position = (
                each[:, position] if each is not None else None for each in (uniforms, known_codes, known_mask)
            )
            codes[:, position], token, finite = step(token, position, *at_position, sampling)
            all_finite &= finite
            if callback is None:
                continue
            drawn = codes[:, position].clone()
            if not goes_on(position):
                break
            if not torch.equal(codes[:, position], drawn):
                quantized = quantized_vectors(self, codes[:, position, None])
                token = token_of(self, quantized, position, len(input_ids))
        if not all_finite:
            raise ValueError(
                "The logits must be finite, got NaN or infinity: the weights, the codebook (see `set_codebook`) or "
                "the dtype are at fault."
            )
        if compiled:
            keep_caches(self, caches)
        return codes.view(batch_size, height, width, depth)

    def check_sampling(
        self,
        temperature: float | Sequence[float] | None = None,
        top_k: int | Sequence[int] | None = None,
        top_p: float | Sequence[float] | None = None,
        guidance_scale: float | None = None,
    ) -> None:
        """Refuses settings as [`generate`] does, without drawing anything: to be asked before a long series of calls.

        Args:
            temperature, top_k, top_p, guidance_scale: of [`generate`].

        Raises:
            `ValueError`: a setting out of its range, or guidance without a null condition.
        """
        sampling = self._sampling(self.generation_config, None, temperature, top_k, top_p, guidance_scale)
        if sampling.guidance_scale != 1.0:
            self._null_condition(None, torch.zeros(1, self.config.condition_length, dtype=torch.long))

    def _sampling(
        self, defaults: GenerationConfig, do_sample, temperature, top_k, top_p, guidance_scale, compiled_draws=False
    ) -> Sampling:
        """The settings that are given, the others from `defaults`, checked."""
        depth = self.config.code_shape[2]
        setting = functools.partial(_setting, defaults)
        do_sample = setting("do_sample", do_sample, True)
        if not isinstance(do_sample, bool):
            raise ValueError(f"`do_sample` must be True or False, got {do_sample!r}.")
        temperature = one_per_depth(
            "temperature", setting("temperature", temperature, 1.0), depth, lambda v: v > 0, "greater than 0"
        )
        temperature = [1.0 if value is None else float(max(value, MIN_TEMPERATURE)) for value in temperature]
        top_k = one_per_depth(
            "top_k", setting("top_k", top_k, None), depth, lambda v: v >= 1 and v % 1 == 0, "an integer of at least 1"
        )
        top_k = [value if value is None else int(value) for value in top_k]
        top_p = one_per_depth("top_p", setting("top_p", top_p, None), depth, lambda v: 0 < v <= 1, "in (0, 1]")
        top_p = [value if value is None else float(max(value, MIN_TOP_P)) for value in top_p]
        guidance_scale = setting("guidance_scale", guidance_scale, 1.0)
        guidance_scale = guidance_scale.tolist() if hasattr(guidance_scale, "tolist") else guidance_scale
        is_number = isinstance(guidance_scale, Real) and not isinstance(guidance_scale, bool)
        if not is_number or not 0 <= guidance_scale < math.inf:
            raise ValueError(f"`guidance_scale` must be a number of at least 0, got {guidance_scale!r}.")
        if not do_sample:  # numbers of one type and none without use: each other setting is compiled anew
            temperature, top_k, top_p = [1.0] * depth, [None] * depth, [None] * depth
        return Sampling(do_sample, temperature, top_k, top_p, float(guidance_scale), compiled_draws)

    @torch.no_grad()
    @in_evaluation_mode
    def redraw_codes(
        self,
        input_ids: torch.LongTensor,
        codes: torch.LongTensor,
        generator: torch.Generator | None = None,
        compiled_draws: bool = False,
        temperature: float | list[float] | None = None,
    ) -> torch.LongTensor:
        """Draws the codes of every position as [`generate`] does after the given codes of the positions before it, all
        positions at once: what the model makes of a map one step at a time, for scheduled sampling.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, S)`): conditions.
            codes (`torch.LongTensor` of shape `(B, H, W, D)`): code maps.
            generator (`torch.Generator`, *optional*): for the draws, on any device.
            compiled_draws (`bool`, defaults to `False`): draws on a CPU by the operator of compiled sampling, which
                takes seconds to make at the first call in a process and a tenth of the time from then on.
            temperature (`float` or `list[float]`, *optional*): as of [`generate`].

        Returns:
            `torch.LongTensor` of shape `(B, H, W, D)`, drawn by `generation_config` otherwise, without guidance.

        Raises:
            `ValueError`: conditions or codes of the wrong shape, dtype or range, or a temperature of the wrong range.
        """
        self._check_condition("input_ids", input_ids)
        self.check_codes("`codes`", codes, (len(input_ids),))
        if compiled_draws and codes.device.type == "cpu":
            compile_draws()
        sampling = self._sampling(self.generation_config, None, temperature, None, None, 1.0, compiled_draws)
        input_ids, codes = input_ids.long(), codes.long()
        quantized = self.codebook(codes.flatten(1, 2)).sum(2)  # (B, T, n_z), z-hat_t
        context = self.spatial_states(input_ids, quantized)[:, input_ids.shape[1] - 1 :].flatten(0, 1)[:, None]
        uniforms = draw_uniforms(generator, 1, (len(context), codes.shape[-1]))[0].to(codes.device)  # (B*T, D)
        drawn = [
            predict_codes(self, context[block], uniforms[block], None, None, sampling)[0]
            for block in row_blocks(len(context), self.config.codebook_size, MAX_LOGIT_ELEMENTS)
        ]
        return torch.cat(drawn).view_as(codes)

    @apply_forward_hook
    @torch.no_grad()
    @in_evaluation_mode
    def log_likelihood(self, input_ids: torch.LongTensor, codes: torch.LongTensor, depth: int = 1) -> torch.Tensor:
        """How likely the model finds the codes of one depth of whole maps, each after all codes before it (Eq. 13).

        Args:
            input_ids (`torch.LongTensor` of shape `(B, S)`): conditions.
            codes (`torch.LongTensor` of shape `(B, H, W, D)`): code maps, on any device.
            depth (`int`, defaults to 1): which codes count, from 1 to D. The first say what is where.

        Returns:
            `torch.FloatTensor` of shape `(B,)`: the mean of log p in nats per code, at most 0, without guidance and at
            temperature 1.

        Raises:
            `ValueError`: conditions or codes of the wrong shape, dtype or range, or a depth that there is not.
        """
        self._check_condition("input_ids", input_ids)
        self.check_codes("`codes`", codes, (len(input_ids),))
        if isinstance(depth, bool) or not isinstance(depth, Integral) or not 1 <= depth <= codes.shape[-1]:
            raise ValueError(f"`depth` must be an integer from 1 to {codes.shape[-1]}, got {depth!r}.")
        input_ids, codes = input_ids.long(), codes.to(input_ids.device, torch.long)
        partial_sums = self.codebook(codes.flatten(1, 2)).cumsum(2)  # (B, T, D, n_z), z-hat_t^(d)
        context = self.spatial_states(input_ids, partial_sums[:, :, -1])[:, input_ids.shape[1] - 1 :]
        states = self.depth_states(context, partial_sums[:, :, : depth - 1])[:, -1]  # (B*T, n_e)
        targets = codes[..., depth - 1].flatten()
        costs = [
            F.cross_entropy(self.code_head(states[block]).float(), targets[block], reduction="none")
            for block in row_blocks(len(states), self.config.codebook_size, MAX_LOGIT_ELEMENTS)
        ]
        return -torch.cat(costs).view(len(codes), -1).mean(1)

    def _read_conditions(
        self, input_ids: torch.Tensor, codes: torch.Tensor, kept: list[KeyValueCache] | None = None
    ) -> tuple[torch.Tensor, list[KeyValueCache]]:
        """Reads conditions `(B, S)` and codes `(B, P, D)` of the first positions, or with guidance half as many. The
        tensors of `kept` are used again where they fit.

        Returns:
            The last token, `(B, 1, n_e)`, which the next position has to read, and caches of those before it, with
            room for all others. Equal rows are read once.
        """
        codes = codes.repeat(len(input_ids) // len(codes), 1, 1)
        rows, row_of = torch.unique(torch.cat([input_ids, codes.flatten(1)], 1), dim=0, return_inverse=True)
        ids, codes = rows[:, : input_ids.shape[1]], rows[:, input_ids.shape[1] :].view(len(rows), *codes.shape[1:])
        inputs = self.condition_inputs(ids)  # (U, S, n_e)
        if codes.shape[1] > 0:
            tokens = self.spatial_positions(self.spatial_projection(quantized_vectors(self, codes)))
            inputs = torch.cat([inputs, tokens], 1)  # (U, S + P, n_e)
        length = inputs.shape[1] - 1
        capacity = input_ids.shape[1] - 1 + self.config.num_positions + 2  # as `Place` wants it
        caches = self.spatial_transformer.new_caches(inputs, len(input_ids), capacity, kept)
        if length > 0:
            self.spatial_transformer(inputs[:, :-1], [cache.of_first(len(rows)) for cache in caches], fill_only=True)
        for cache in caches:
            cache.spread(row_of, length)
        return inputs[:, -1:][row_of], caches

    def _check_condition(self, name: str, ids: torch.Tensor) -> None:
        length, size = self.config.condition_length, self.config.vocab_size
        if not isinstance(ids, torch.Tensor) or ids.ndim != 2 or ids.shape[1] != length or len(ids) == 0:
            got = tuple(ids.shape) if isinstance(ids, torch.Tensor) else type(ids).__name__
            raise ValueError(f"`{name}` must be a tensor of shape (batch_size, {length}), got {got}.")
        self._check_range(f"`{name}`", ids, size)

    def _check_devices(self) -> None:
        """Keys and values of all blocks lie together, so that a model may be offloaded, but not cut in pieces."""
        devices = {str(device) for device in (getattr(self, "hf_device_map", None) or {}).values()}
        accelerators = sorted(devices - {"cpu", "disk"})
        if len(accelerators) > 1:
            raise ValueError(
                f"`generate` needs a model on one accelerator, got a `device_map` over {', '.join(accelerators)}."
            )

    def _null_condition(self, negative_input_ids: torch.Tensor | None, input_ids: torch.Tensor) -> torch.Tensor:
        if negative_input_ids is None:
            if self.config.null_condition_ids is None:
                raise ValueError(
                    "`guidance_scale` other than 1 needs `negative_input_ids`, or a model trained with condition "
                    "dropout; this one has no `null_condition_ids` in its config."
                )
            negative_input_ids = torch.tensor([self.config.null_condition_ids], device=input_ids.device)
        self._check_condition("negative_input_ids", negative_input_ids)
        if len(negative_input_ids) not in (1, len(input_ids)):
            raise ValueError(
                f"`negative_input_ids` must be one row or {len(input_ids)}, as `input_ids`, got "
                f"{len(negative_input_ids)}."
            )
        return negative_input_ids.to(input_ids).expand_as(input_ids)

    def check_codes(self, name: str, codes: torch.Tensor, batch_sizes: tuple[int, ...] | None = None) -> None:
        """Refuses codes of another shape, type or range.

        Args:
            name (`str`): how messages call them, such as "`known_codes`".
            codes (`torch.LongTensor` of shape `(B, H, W, D)`): any integers in [0, K).
            batch_sizes (`tuple[int, ...]`, *optional*): the B that are taken; every one by default.

        Raises:
            `ValueError`: naming what was expected and what came.
        """
        shape, size = self.config.code_shape, self.config.codebook_size
        if not isinstance(codes, torch.Tensor):
            raise ValueError(f"{name} must be a tensor, got {type(codes).__name__}.")
        fits = codes.ndim == 4 and tuple(codes.shape[1:]) == shape
        if not fits or not (len(codes) in batch_sizes if batch_sizes else len(codes)):
            expected = f"({batch_sizes[-1] if batch_sizes else 'batch_size'}, {', '.join(map(str, shape))})"
            raise ValueError(f"{name} must have shape {expected}, got {tuple(codes.shape)}.")
        self._check_range(name, codes, size)

    def _check_range(self, name: str, values: torch.Tensor, size: int) -> None:
        whole = values if values.is_floating_point() else values.long()  # uint8 knows no large K, uint16 no minimum
        if whole.is_floating_point() or values.dtype == torch.bool or not (0 <= whole.min() and whole.max() < size):
            got = f"{values.dtype} from {whole.min()} to {whole.max()}"
            raise ValueError(f"{name} must be integers in [0, {size}), got {got}.")

    def _check_known_codes(self, codes: torch.Tensor | None, mask: torch.Tensor | None, batch_size: int, device):
        """Known codes and their mask, both `(B, T, D)` on `device`, or `None` twice."""
        if codes is None:
            if mask is not None:
                raise ValueError("`known_mask` must come with `known_codes`, got None for the latter.")
            return None, None
        shape = self.config.code_shape
        if mask is None:
            mask = torch.ones(shape, dtype=torch.bool)
        self.check_codes("`known_codes`", codes, (1, batch_size))
        if not isinstance(mask, torch.Tensor):
            raise ValueError(f"`known_mask` must be a tensor, got {type(mask).__name__}.")
        if mask.dtype != torch.bool:
            raise ValueError(f"`known_mask` must be bool, got {mask.dtype}.")
        if tuple(mask.shape) == shape[:2]:
            mask = mask[..., None].expand(shape)
        if mask.ndim == 3:
            mask = mask[None]
        if tuple(mask.shape[1:]) != shape or mask.shape[0] not in (1, batch_size):
            expected = f"{shape[:2]}, {shape} or {(batch_size, *shape)}"
            raise ValueError(f"`known_mask` must have shape {expected}, got {tuple(mask.shape)}.")
        full = (batch_size, *shape)
        return codes.long().to(device).expand(full).flatten(1, 2), mask.to(device).expand(full).flatten(1, 2)
