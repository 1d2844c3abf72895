# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Autoregressive sampling (section 3.2): prefill, then one step per position with the depth loop inside. Likelihoods.

Symbols: B pictures, S condition tokens, H x W positions (T = H*W), D code depth, K codebook size, n_z codebook width,
n_e hidden width. z-hat_t sum of the code vectors of position t, h_t context from which its codes are predicted.
Guidance adds B null rows after the B conditional rows; such shapes are written (2B, ...).
"""

from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral

import torch
import torch.nn.functional as F
from diffusers.utils.accelerate_utils import apply_forward_hook
from transformers import CompileConfig, GenerationConfig, GenerationMixin, LogitsProcessorList, PreTrainedModel

from .residual_quantizer import row_blocks
from .sampling import Sampling, check_integers, draw_uniforms
from .transformer_blocks import KeyValueCache

# Logits of parallel predictions are held in blocks of at most this many elements (64 MiB in fp32).
LOGIT_BLOCK_ELEMENTS = 2**24

# Key/value caches of the spatial transformer, for S - 1 + T tokens, and of the depth transformer, for D tokens.
Caches = tuple[list[KeyValueCache], list[KeyValueCache]]


class Decoder:
    """Runs a model's `step` for position after position, and keeps what the next position needs.

    Args:
        model: an RQ-Transformer.
        compile_config: compiles the step. Then the caches are kept for later calls with as many rows or fewer, since
            CUDA graphs need fixed addresses.

    Attributes:
        caches: keys and values of all tokens before `token`.
        token: `(B or 2B, 1, n_e)`, the last token of the condition, or that of the position before.
        is_finite: whether all logits were finite so far, `()`.
    """

    def __init__(self, model: PreTrainedModel, compile_config: CompileConfig | None = None):
        self.model, self.compile_config = model, compile_config
        self.run = model.step if compile_config is None else torch.compile(model.step, **compile_config.to_dict())
        self.caches: Caches | None = None
        self.token = self.is_finite = self.position = None

    def prefill(self, condition_ids: torch.Tensor, codes: torch.Tensor) -> None:
        """Reads conditions `(B or 2B, S)` and codes `(B, P, D)` of the first P positions."""
        quantized = self.model.codebook(codes).sum(-2)  # (B, P, n_z), z-hat_t
        tokens = self.model.spatial_inputs(condition_ids, _rows(quantized, len(condition_ids)))  # (B, S + P, n_e)
        if self.caches is None or not self.caches[0][0].fits(tokens):
            with torch.inference_mode(False):  # other calls may not change inference tensors
                self.caches = self.model.new_caches(len(tokens), tokens)
        if tokens.shape[1] > 1:
            self.model.spatial_transformer(tokens[:, :-1], self.caches[0], 0)
        self.token = tokens[:, -1:].clone(memory_format=torch.contiguous_format)
        self.is_finite = torch.ones((), dtype=torch.bool, device=tokens.device)
        self.position = torch.zeros(1, dtype=torch.long, device=tokens.device)

    def step(
        self,
        position: int,
        sampling: Sampling,
        uniforms: torch.Tensor | None,
        known_codes: torch.Tensor | None = None,
        known_mask: torch.Tensor | None = None,
        process: Callable | None = None,
    ) -> torch.Tensor:
        """Codes `(B, D)` of the next position; arguments as in [`~RQTransformerGenerationMixin.draw_codes`]."""
        is_compiled = self.compile_config is not None
        at = self.position.fill_(position) if is_compiled else position  # one program serves all values of a tensor
        codes, token, is_finite = self.run(
            self.token, self.caches, at, sampling, uniforms, known_codes, known_mask, process
        )
        self.token = token.clone() if is_compiled else token  # the next call of a CUDA graph overwrites its outputs
        self.is_finite = self.is_finite & is_finite.to(self.is_finite.device)
        return codes

    def replace(self, position: int, codes: torch.Tensor) -> None:
        """Lets the next position follow codes `(B, D)` in place of those that this one gave."""
        quantized = self.model.codebook(codes[:, None]).sum(-2)  # (B, 1, n_z), z-hat_t
        self.token = self.model.position_token(quantized, position, len(self.token))


class RQTransformerGenerationMixin(GenerationMixin):
    """Sampling and likelihoods of [`RQTransformerForImageGeneration`]."""

    _compiled_decoder: Decoder | None = None  # kept as transformers keeps its compiled call

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
        logits_processor: LogitsProcessorList | None = None,
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
                `callback(position, codes)`, called after each position with codes `(B, H, W, D)`. Codes that are not
                drawn yet are 0. It may return changed codes; the next position follows those of this position. Leading
                positions that are known in all pictures are read at once, without a call.
            interrupt (*optional*): `interrupt()`, asked after each position. `True` ends the loop.
            logits_processor (`LogitsProcessorList`, *optional*):
                Changes the logits of each code, after guidance and before the settings above. `scores` are `(B, K)`;
                `input_ids` are the codes drawn so far, `(B, n)`, in raster order and coarse to fine at each position.
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
        sampling = Sampling.from_generation_config(
            defaults, self.config.code_shape[2], do_sample=do_sample, temperature=temperature, top_k=top_k,
            top_p=top_p, guidance_scale=guidance_scale,
        )  # fmt: skip
        self._check_condition("`input_ids`", input_ids)
        shape = (len(input_ids), *self.config.code_shape)
        condition_ids = self._with_null_conditions(input_ids.long(), negative_input_ids, sampling)  # (B or 2B, S)
        codes, known_mask = self._known_codes(known_codes, known_mask, shape, input_ids.device)  # (B, T, D)
        uniforms = None
        if sampling.do_sample:
            uniforms = draw_uniforms(generator, shape[0], shape[1:]).to(codes.device).flatten(1, 2)  # (B, T, D)
        compile_config = compile_config or getattr(defaults, "compile_config", None)
        if compile_config is not None and logits_processor:
            raise ValueError("`logits_processor` and `compile_config` exclude each other, got both.")

        decoder, num_known = self._decoder(compile_config), 0
        if known_mask is not None:  # the leading positions that are known in all pictures
            num_known = int(known_mask.all(-1).all(0).long().cumprod(0).sum())
        decoder.prefill(condition_ids, codes[:, :num_known])
        for position in range(num_known, self.config.num_positions):
            numbers, mask = (None if each is None else each[:, position] for each in (uniforms, known_mask))
            process = None
            if logits_processor:
                process = partial(_process_logits, logits_processor, codes[:, :position])
            codes[:, position] = decoder.step(position, sampling, numbers, codes[:, position], mask, process)
            changed = None if callback is None else callback(position, codes.view(shape))
            if changed is not None:
                self.check_codes("the callback's codes", changed, (shape[0],))
                codes = changed.to(codes).flatten(1, 2).clone()
                decoder.replace(position, codes[:, position])
            if interrupt is not None and interrupt():
                break
        if not decoder.is_finite:
            self._compiled_decoder = None  # whose caches hold NaN
            raise ValueError(
                "The logits must be finite, got NaN or infinity. Check the weights, the codebook (see `set_codebook`) "
                "and the dtype."
            )
        return codes.view(shape)

    def step(
        self,
        token: torch.Tensor,
        caches: Caches,
        position: int | torch.Tensor,
        sampling: Sampling,
        uniforms: torch.Tensor | None,
        known_codes: torch.Tensor | None = None,
        known_mask: torch.Tensor | None = None,
        process: Callable | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One position: its context h_t (Eq. 11), its codes, and the token that the next position reads (Eq. 10).

        Args:
            token: `(B or 2B, 1, n_e)`, of the position before, or the last one of the condition.
            caches: filled with all tokens before `token`.
            position: t, an integer, or a tensor `(1,)` for a compiled step.
            sampling, uniforms, known_codes, known_mask, process: see [`draw_codes`].

        Returns:
            Codes `(B, D)`, the token of this position, and whether all logits were finite `()`.
        """
        spatial_caches, depth_caches = caches
        slot = self.config.condition_length - 1 + position
        context = self.spatial_transformer(token, spatial_caches, slot)  # (B, 1, n_e), h_t
        codes, quantized, is_finite = self.draw_codes(
            context, depth_caches, sampling, uniforms, known_codes, known_mask, process
        )
        return codes, self.position_token(quantized, position, len(token)), is_finite

    def draw_codes(
        self,
        context: torch.Tensor,
        caches: list[KeyValueCache],
        sampling: Sampling,
        uniforms: torch.Tensor | None,
        known_codes: torch.Tensor | None = None,
        known_mask: torch.Tensor | None = None,
        process: Callable[[list[torch.Tensor], torch.Tensor], torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The codes of one position with context h_t `(B or 2B, 1, n_e)`, depth by depth (Eq. 12, 13).

        Args:
            context: h_t.
            caches: of the depth transformer; they are overwritten.
            sampling: the settings.
            uniforms: `(B, D)` in [0, 1), needed for drawing.
            known_codes, known_mask: `(B, D)`; the codes to keep, and where.
            process: `process(codes, logits)` changes logits `(B, K)` that follow codes `(B,)` of the coarser depths.

        Returns:
            Codes `(B, D)`, z-hat_t `(B, 1, n_z)`, and whether all logits were finite `()`.
        """
        codes, quantized = [], None
        is_finite = torch.ones((), dtype=torch.bool, device=context.device)
        for d in range(self.config.code_shape[2]):
            inputs = context if d == 0 else self.depth_projection(_rows(quantized, len(context)))  # (B, 1, n_e)
            states = self.depth_transformer(self.depth_positions(inputs, offset=d), caches, d)
            logits = self.code_head(states)[:, 0].float()  # (B, K)
            if sampling.guidance_scale != 1.0:
                conditional, null = logits.chunk(2)
                logits = null + sampling.guidance_scale * (conditional - null)
            is_finite = is_finite & logits.sum().isfinite().to(is_finite.device)
            logits = logits if process is None else process(codes, logits)
            code = sampling.choose(logits, d, None if uniforms is None else uniforms[:, d])
            if known_mask is not None:
                code = torch.where(known_mask[:, d].to(code.device), known_codes[:, d].to(code.device), code)
            codes.append(code)
            vector = self.codebook(code[:, None, None], first_depth=d)[:, :, 0]  # (B, 1, n_z), e(k)
            quantized = vector if d == 0 else quantized + vector  # z-hat_t^(d+1)
        return torch.stack(codes, dim=-1), quantized, is_finite

    def position_token(self, quantized: torch.Tensor, position: int | torch.Tensor, rows: int) -> torch.Tensor:
        """The token `(rows, 1, n_e)` of a position with z-hat_t `(B, 1, n_z)` (Eq. 10)."""
        return _rows(self.spatial_positions(self.spatial_projection(quantized), offset=position), rows)

    def new_caches(self, batch_size: int, like: torch.Tensor) -> Caches:
        """Empty caches for `batch_size` rows, with the dtype and device of `like`."""
        length = self.config.condition_length - 1 + self.config.num_positions
        spatial = self.spatial_transformer.new_caches(batch_size, length, like)
        return spatial, self.depth_transformer.new_caches(batch_size, self.config.code_shape[2], like)

    @torch.no_grad()
    def redraw_codes(
        self,
        input_ids: torch.LongTensor,
        codes: torch.LongTensor,
        temperature: float | Sequence[float] = 1.0,
        generator: torch.Generator | None = None,
        top_k: int | Sequence[int] | None = None,
        top_p: float | Sequence[float] | None = None,
    ) -> torch.LongTensor:
        """Draws the codes `(B, H, W, D)` of all positions at once, each after the given codes of the positions before.

        Training uses it to show the model its own codes. Settings are those of [`generate`], but they do not come from
        the generation config, and there is no guidance.
        """
        depth = codes.shape[-1]
        sampling = Sampling.from_settings(depth, temperature=temperature, top_k=top_k, top_p=top_p)
        quantized = self.codebook(codes.flatten(1, 2)).sum(-2)  # (B, T, n_z), z-hat_t
        context = self.spatial_states(input_ids, quantized)[:, input_ids.shape[1] - 1 :]  # (B, T, n_e), h_t
        context = context.flatten(0, 1)[:, None]  # (B*T, 1, n_e)
        uniforms = draw_uniforms(generator, 1, (len(context), depth))[0].to(codes.device)  # (B*T, D)
        drawn = []
        for block in row_blocks(len(context), self.config.codebook_size, LOGIT_BLOCK_ELEMENTS):
            caches = self.depth_transformer.new_caches(len(context[block]), depth, context)
            drawn.append(self.draw_codes(context[block], caches, sampling, uniforms[block])[0])
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
        self._check_condition("`input_ids`", input_ids)
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

    def check_sampling(self, **settings) -> None:
        """Raises the `ValueError` that [`generate`] would raise for these settings."""
        sampling = Sampling.from_generation_config(self.generation_config, self.config.code_shape[2], **settings)
        self._with_null_conditions(torch.zeros(1, self.config.condition_length, dtype=torch.long), None, sampling)

    def check_codes(self, name: str, codes: torch.Tensor, batch_sizes: tuple[int, ...] = (-1,)) -> None:
        """Raises a `ValueError` unless codes are integers `(B, H, W, D)` in [0, K), B in `batch_sizes` if given."""
        shapes = [(batch_size, *self.config.code_shape) for batch_size in dict.fromkeys(batch_sizes)]
        check_integers(name, codes, self.config.codebook_size, shapes)

    def _check_condition(self, name: str, ids: torch.Tensor, batch_sizes: tuple[int, ...] = (-1,)) -> None:
        shapes = [(batch_size, self.config.condition_length) for batch_size in dict.fromkeys(batch_sizes)]
        check_integers(name, ids, self.config.vocab_size, shapes)

    def _decoder(self, compile_config: CompileConfig | None) -> Decoder:
        if compile_config is None:
            return Decoder(self)
        if not isinstance(compile_config, CompileConfig):
            raise ValueError(f"`compile_config` must be a CompileConfig, got {compile_config!r}.")
        kept = self._compiled_decoder
        if kept is None or kept.compile_config.to_dict() != compile_config.to_dict():
            self._compiled_decoder = Decoder(self, compile_config)
        return self._compiled_decoder

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
        self._check_condition("`negative_input_ids`", negative_input_ids, (1, len(input_ids)))
        return torch.cat([input_ids, negative_input_ids.to(input_ids).expand_as(input_ids)])

    def _known_codes(
        self, codes: torch.Tensor | None, mask: torch.Tensor | None, shape: tuple[int, ...], device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Codes `(B, T, D)`, 0 where they are not known, and which are known; `None` if none is."""
        if codes is None:
            if mask is not None:
                raise ValueError("`known_mask` needs `known_codes`, got None.")
            return torch.zeros(shape, dtype=torch.long, device=device).flatten(1, 2), None
        self.check_codes("`known_codes`", codes, (1, shape[0]))
        mask = torch.ones(shape, dtype=torch.bool) if mask is None else mask
        if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
            got = mask.dtype if isinstance(mask, torch.Tensor) else type(mask).__name__
            raise ValueError(f"`known_mask` must be a bool tensor, got {got}.")
        if tuple(mask.shape) not in (shape[1:3], shape[1:], (1, *shape[1:]), shape):
            raise ValueError(
                f"`known_mask` must have shape {shape[1:3]}, {shape[1:]} or {shape}, got {tuple(mask.shape)}."
            )
        mask = (mask[..., None] if mask.ndim == 2 else mask).to(device).expand(shape)
        codes = codes.to(device, torch.long).expand(shape).where(mask, 0)
        return codes.flatten(1, 2), mask.flatten(1, 2)


def _rows(values: torch.Tensor, rows: int) -> torch.Tensor:
    """`values` for conditional and null rows alike."""
    return values if len(values) == rows else values.repeat(rows // len(values), 1, 1)


def _process_logits(
    logits_processor: LogitsProcessorList, before: torch.Tensor, codes: list[torch.Tensor], logits: torch.Tensor
) -> torch.Tensor:
    """Calls a logits processor with the codes of the positions `before`, `(B, P, D)`, and those of this position."""
    drawn = torch.cat([before.flatten(1), *(code[:, None] for code in codes)], dim=1)  # (B, P*D + d)
    return logits_processor(drawn, logits)
