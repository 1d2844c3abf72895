# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Autoregressive sampling (section 3.2): prefill, then one step per position with the depth loop inside. Likelihoods.

Symbols: B pictures, S condition tokens, H x W positions (T = H*W), D code depth, K codebook size, n_z codebook width,
n_e hidden width. z-hat_t sum of the code vectors of position t, h_t context from which its codes are predicted.
Guidance adds B null rows after the B conditional rows; such shapes are written (2B, ...).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from transformers import CompileConfig, GenerationConfig, GenerationMixin, LogitsProcessorList, PreTrainedModel
from transformers.utils import logging

from .depth_decoder import for_all_rows
from .sampling import OTHER_FIELDS, RQGenerationConfig, draw_uniforms
from .transformer_blocks import KeyValueCache, Position
from .validation import check_integer, check_integers, check_shape, check_vectors

logger = logging.get_logger(__name__)

# Key/value caches of the spatial transformer, for S - 1 + T tokens, and of the depth transformer, for D tokens.
Caches = tuple[list[KeyValueCache], list[KeyValueCache]]


class Decoder:
    """Runs a model's `step` for position after position, and keeps what the next position needs.

    A compiled step keeps its caches for later calls with as many rows or fewer: CUDA graphs need fixed addresses.

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

    def prefill(self, condition: torch.Tensor, codes: torch.Tensor) -> None:
        """Reads condition states `(B or 2B, S, n_e)` and codes `(B, P, D)` of the first P positions."""
        quantized = self.model.codebook(codes).sum(-2)  # (B, P, n_z), z-hat_t
        tokens = self.model.spatial_inputs(condition, for_all_rows(quantized, len(condition)))  # (B or 2B, S + P, n_e)
        if self.caches is None or not self.caches[0][0].fits(tokens):
            with torch.inference_mode(False):  # other calls may not change inference tensors
                self.caches = self.model.new_caches(len(tokens), tokens)
        if tokens.shape[1] > 1:
            self.model.spatial_transformer(tokens[:, :-1], self.caches[0], 0)
        self.token = tokens[:, -1:].clone(memory_format=torch.contiguous_format)
        self.is_finite = torch.ones((), dtype=torch.bool, device=tokens.device)
        self.position = torch.zeros(1, dtype=torch.long, device=tokens.device)

    def step(self, position: int, settings: RQGenerationConfig, **given: Any) -> torch.Tensor:
        """Codes `(B, D)` of the next position; `given` are further arguments of [`DepthDecoder.draw`]."""
        is_compiled = self.compile_config is not None
        at = self.position.fill_(position) if is_compiled else position  # one program serves all values of a tensor
        codes, token, is_finite = self.run(self.token, self.caches, at, settings, **given)
        self.token = token.clone() if is_compiled else token  # the next call of a CUDA graph overwrites its outputs
        self.is_finite = self.is_finite & is_finite.to(self.is_finite.device)
        return codes

    def replace(self, position: int, codes: torch.Tensor) -> None:
        """Lets the next position follow codes `(B, D)` in place of those that this one gave."""
        quantized = self.model.codebook(codes).sum(-2)  # (B, n_z), z-hat_t
        self.token = self.model.position_token(quantized, position, len(self.token))


class CodeGenerationMixin(GenerationMixin):
    """What all ways to draw code maps share: settings, conditions with their null rows, known codes, checks."""

    settings_class = RQGenerationConfig  # transformers' `generation_config_class` must not add fields
    unused_settings: tuple[str, ...] = ()  # settings that this way to draw does not have
    _compiled: Any = None  # the compiled step, kept as transformers keeps its compiled call

    def __getstate__(self) -> dict[str, Any]:
        """A copy of the model compiles its own step: a compiled one draws with the weights of the first model."""
        return {**super().__getstate__(), "_compiled": None}

    @property
    def generation_config(self) -> RQGenerationConfig:
        """The settings of a call that gives none."""
        return self._generation_config

    @generation_config.setter
    def generation_config(self, config: GenerationConfig) -> None:
        if not isinstance(config, self.settings_class):  # transformers loads and makes plain ones
            config = self.settings_class(**config.to_dict())
        self._generation_config = config

    @classmethod
    def with_settings(cls, config: RQGenerationConfig, settings: Mapping[str, Any]) -> RQGenerationConfig:
        """[`RQGenerationConfig.with_settings`]; settings that this way to draw does not have are a `ValueError`."""
        unused = [name for name in cls.unused_settings if settings.get(name) is not None]
        if unused:
            raise ValueError(f"{cls.__name__} has no setting `{unused[0]}`, got {settings[unused[0]]!r}.")
        return config.with_settings(settings)

    def settings_of_call(
        self, generation_config: GenerationConfig | None = None, **settings: Any
    ) -> RQGenerationConfig:
        """The settings of [`generate`]: those that are given, else those of a generation config, by default the
        model's own. What this model cannot draw with is a `ValueError`."""
        config = self.generation_config if generation_config is None else generation_config
        if not isinstance(config, GenerationConfig):
            raise ValueError(f"`generation_config` must be a GenerationConfig, got {config!r:.200}.")
        if not isinstance(config, self.settings_class):
            config = self.settings_class(**config.to_dict())
        is_set = {name for name, value in config.to_diff_dict().items() if value is not None and value is not False}
        if unused := is_set - {*config.defaults} - OTHER_FIELDS:
            logger.warning_once(f"`generate` does not use these generation settings: {', '.join(sorted(unused))}.")
        config = self.with_settings(config, settings)
        config.check_depth(self.config.code_shape[2])
        return config

    def check_codes(self, name: str, codes: torch.Tensor, batch_sizes: tuple[int, ...] = (-1,)) -> None:
        """Raises a `ValueError` unless codes are integers `(B, H, W, D)` in [0, K), B in `batch_sizes` if given."""
        shapes = [(batch_size, *self.config.code_shape) for batch_size in batch_sizes]
        check_integers(name, codes, self.config.codebook_size, shapes)

    def _checked_states(
        self, prefix: str, input_ids: Any, prompt_embeds: Any, batch_sizes: tuple[int, ...] = (-1,)
    ) -> torch.Tensor:
        """Condition states `(B, S, n_e)` of a checked condition; errors call it `prefix` + the argument's name."""
        config = self.config
        shapes = [(batch_size, config.condition_length) for batch_size in batch_sizes]
        if (input_ids is None) == (prompt_embeds is None):
            got = "neither" if input_ids is None else "both"
            raise ValueError(f"One of `{prefix}input_ids` and `{prefix}prompt_embeds` must be given, got {got}.")
        if prompt_embeds is not None:
            shapes = [(*shape, config.condition_width) for shape in shapes]
            check_vectors(f"`{prefix}prompt_embeds`", prompt_embeds, shapes)
            return self.condition_states(prompt_embeds=prompt_embeds)
        if config.condition_dim is not None:
            raise ValueError(f"`{prefix}input_ids` must be None for a model that takes `{prefix}prompt_embeds`.")
        check_integers(f"`{prefix}input_ids`", input_ids, config.vocab_size, shapes)
        return self.condition_states(input_ids.long())

    def _with_null_states(
        self, condition: torch.Tensor, negative_input_ids: Any, negative_prompt_embeds: Any
    ) -> torch.Tensor:
        """Condition states `(B, S, n_e)`, and after them those that guidance leads away from, `(2B, S, n_e)`."""
        rows = (1, len(condition))
        if negative_input_ids is None and negative_prompt_embeds is None:
            null = self.condition_states(prompt_embeds=self.null_embeds().to(condition.device))
        else:
            null = self._checked_states("negative_", negative_input_ids, negative_prompt_embeds, rows)
        return torch.cat([condition, null.to(condition).expand_as(condition)])

    def _known_codes(
        self, codes: torch.Tensor | None, mask: torch.Tensor | None, shape: tuple[int, ...], device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes `(B, T, D)`, 0 where they are not known, and which are known."""
        if codes is None:
            if mask is not None:
                raise ValueError("`known_mask` needs `known_codes`, got None.")
            codes = torch.zeros(shape, dtype=torch.long, device=device).flatten(1, 2)
            return codes, torch.zeros_like(codes, dtype=torch.bool)
        self.check_codes("`known_codes`", codes, (1, shape[0]))
        mask = torch.ones(shape, dtype=torch.bool) if mask is None else mask
        check_shape("`known_mask`", mask, [shape[1:3], shape[1:], (1, *shape[1:]), shape])
        if mask.dtype != torch.bool:
            raise ValueError(f"`known_mask` must be a bool tensor, got {mask.dtype}.")
        mask = (mask[..., None] if mask.ndim == 2 else mask).to(device).expand(shape)
        codes = codes.to(device, torch.long).expand(shape).where(mask, 0)
        return codes.flatten(1, 2), mask.flatten(1, 2)


class RQTransformerGenerationMixin(CodeGenerationMixin):
    """Sampling and likelihoods of [`RQTransformerForImageGeneration`]."""

    unused_settings = (
        "num_draft_steps", "num_revise_rounds", "num_revise_steps", "revise_temperature", "revise_guidance_scale",
    )  # fmt: skip

    @apply_forward_hook
    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.LongTensor | None = None,
        generation_config: GenerationConfig | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_input_ids: torch.LongTensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        known_codes: torch.LongTensor | None = None,
        known_mask: torch.BoolTensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        logits_processor: LogitsProcessorList | None = None,
        callback: Callable[[int, torch.LongTensor], torch.LongTensor | None] | None = None,
        interrupt: Callable[[], bool] | None = None,
        **settings: Any,
    ) -> torch.LongTensor:
        r"""Samples code maps, position by position in raster order and depth by depth (Eq. 9).

        Args:
            input_ids (`torch.LongTensor` of shape `(B, condition_length)`, *optional*):
                Conditions: caption ids, one class id, or one start id (0).
            generation_config ([`RQGenerationConfig`], *optional*): Replaces `self.generation_config`.
            prompt_embeds (`torch.Tensor` of shape `(B, S, condition_width)`, *optional*):
                Conditions in place of ids: vectors of a text encoder, zeros where there is no token, or for a model
                of ids those of [`embed_ids`].
            negative_input_ids (`torch.LongTensor` of shape `(B or 1, condition_length)`, *optional*):
                What guidance leads away from; by default no condition, as training with condition dropout shows it.
                Without guidance they are not used.
            negative_prompt_embeds (`torch.Tensor` of shape `(B or 1, S, condition_width)`, *optional*):
                The same as vectors.
            known_codes (`torch.LongTensor` of shape `(B or 1, H, W, D)`, *optional*):
                Codes to keep where `known_mask` is `True`.
            known_mask (`torch.BoolTensor` of shape `(H, W)`, `(H, W, D)` or `(B or 1, H, W, D)`, *optional*):
                Which codes are known, all by default.
            generator (`torch.Generator` or a list of one per picture, *optional*):
                Gives one uniform number per code before the loop. With one per picture a batch equals its singles.
            logits_processor (`LogitsProcessorList`, *optional*):
                Changes the logits of each code, after guidance and before the settings. `scores` are `(B, K)`;
                `input_ids` are the codes drawn so far, `(B, n)`, in raster order and coarse to fine at each position.
            callback (*optional*):
                `callback(position, codes)`, called after each position with codes `(B, H, W, D)`. Codes that are not
                drawn yet are 0. It may return changed codes; the next position follows those of this position. Leading
                positions that are known in all pictures are read at once, without a call.
            interrupt (*optional*): `interrupt()`, asked after each position. `True` ends the loop.
            settings (*optional*):
                Fields of [`RQGenerationConfig`], such as `temperature`, in place of those of the generation config.

        Returns:
            `torch.LongTensor` of shape `(B, H, W, D)`.

        Raises:
            `ValueError`: an argument of the wrong shape or range, guidance without a null condition, or logits that
                are not finite.
        """
        settings = self.settings_of_call(generation_config, **settings)
        condition = self._checked_states("", input_ids, prompt_embeds)  # (B, S, n_e)
        shape, device = (len(condition), *self.config.code_shape), condition.device
        if settings.guidance_scale != 1.0:
            condition = self._with_null_states(condition, negative_input_ids, negative_prompt_embeds)
        codes, known_mask = self._known_codes(known_codes, known_mask, shape, device)  # (B, T, D)
        uniforms = None
        if settings.do_sample:
            uniforms = draw_uniforms(generator, shape[0], shape[1:]).to(codes.device).flatten(1, 2)  # (B, T, D)
        if settings.compile_config is not None and logits_processor:
            raise ValueError("`logits_processor` and `compile_config` exclude each other, got both.")

        decoder = self._decoder(settings.compile_config)
        num_known = int(known_mask.all(-1).all(0).long().cumprod(0).sum())  # leading ones, known in all pictures
        decoder.prefill(condition, codes[:, :num_known])
        for position in range(num_known, self.config.num_positions):
            given = {"uniforms": uniforms, "known_codes": codes, "known_mask": known_mask}
            given = {name: None if each is None else each[:, position] for name, each in given.items()}
            if logits_processor:
                given["process"] = partial(_process_logits, logits_processor, codes[:, :position])
            codes[:, position] = decoder.step(position, settings, **given)
            changed = None if callback is None else callback(position, codes.view(shape))
            if changed is not None:
                self.check_codes("the callback's codes", changed, (shape[0],))
                codes = changed.to(codes).flatten(1, 2).clone()
                decoder.replace(position, codes[:, position])
            if interrupt is not None and interrupt():
                break
        if not decoder.is_finite:
            self._compiled = None  # whose caches hold NaN
        check_finite(decoder.is_finite)
        return codes.view(shape)

    def num_steps(self, settings: RQGenerationConfig) -> int:
        """Number of positions that [`generate`] draws, one after the other."""
        return self.config.num_positions

    def step(
        self, token: torch.Tensor, caches: Caches, position: Position, settings: RQGenerationConfig, **given: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One position: its context h_t (Eq. 11), its codes `(B, D)`, and the token that the next one reads (Eq. 10).

        `token` `(B or 2B, 1, n_e)` is that of the position before, or the last one of the condition; `caches` hold all
        tokens before it. `position` is t, an integer, or a tensor `(1,)` for a compiled step. `settings` and `given`
        are arguments of [`DepthDecoder.draw`]. The last value tells whether all logits were finite, `()`.
        """
        spatial_caches, depth_caches = caches
        slot = self.config.condition_length - 1 + position
        context = self.spatial_transformer(token, spatial_caches, slot)[:, 0]  # (B or 2B, n_e), h_t
        codes, quantized, is_finite = self.depth_decoder.draw(context, settings, caches=depth_caches, **given)
        return codes, self.position_token(quantized, position, len(token)), is_finite

    def position_token(self, quantized: torch.Tensor, position: Position, rows: int) -> torch.Tensor:
        """The token `(rows, 1, n_e)` of a position with z-hat_t `(B, n_z)` (Eq. 10)."""
        token = self.spatial_positions(self.spatial_projection(quantized[:, None]), offset=position)
        return for_all_rows(token, rows)

    def new_caches(self, batch_size: int, like: torch.Tensor) -> Caches:
        """Empty caches for `batch_size` rows, with the dtype and device of `like`."""
        length = self.config.condition_length - 1 + self.config.num_positions
        spatial = self.spatial_transformer.new_caches(batch_size, length, like)
        return spatial, self.depth_decoder.new_caches(batch_size, like)

    @torch.no_grad()
    def redraw_codes(
        self,
        codes: torch.LongTensor,
        settings: RQGenerationConfig,
        generator: torch.Generator | None = None,
        **condition: torch.Tensor,
    ) -> torch.LongTensor:
        """Draws the codes `(B, H, W, D)` of all positions at once, each after the given codes of the positions before,
        so that training can show the model its own codes. There is no guidance; `condition` are arguments of
        [`condition_states`].
        """
        depth = codes.shape[-1]
        condition = self.condition_states(**condition)  # (B, S, n_e)
        quantized = self.codebook(codes.flatten(1, 2)).sum(-2)  # (B, T, n_z), z-hat_t
        context = self.spatial_states(condition, quantized)[:, condition.shape[1] - 1 :].flatten(0, 1)  # (B*T, n_e)
        uniforms = draw_uniforms(generator, 1, (len(context), depth))[0].to(codes.device)  # (B*T, D)
        return self.depth_decoder.draw_in_blocks(context, settings, uniforms)[0].view_as(codes)

    @apply_forward_hook
    @torch.no_grad()
    def log_likelihood(
        self,
        input_ids: torch.LongTensor | None = None,
        codes: torch.LongTensor | None = None,
        depth: int = 1,
        prompt_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Mean log-probability of the codes of one depth, each after all codes before it (Eq. 13).

        The codes of depth 1 hold the coarse picture, so they tell best whether it fits the condition.

        Args:
            input_ids, prompt_embeds (*optional*): Conditions, as in [`generate`].
            codes (`torch.LongTensor` of shape `(B, H, W, D)`): Code maps.
            depth (`int`, defaults to 1): Which codes count, from 1 to D.

        Returns:
            `torch.FloatTensor` of shape `(B,)`, in nats per code, at temperature 1 and without guidance.

        Raises:
            `ValueError`: conditions or codes of the wrong shape, dtype or range, or a depth out of range.
        """
        condition = self._checked_states("", input_ids, prompt_embeds)  # (B, S, n_e)
        self.check_codes("`codes`", codes, (len(condition),))
        check_integer("depth", depth, 1, codes.shape[-1])
        codes = codes.to(condition.device, torch.long).flatten(1, 2)  # (B, T, D)
        partial_sums = self.depth_decoder.partial_sums(codes)  # (B, T, D, n_z), z-hat_t^(d)
        context = self.spatial_states(condition, partial_sums[:, :, -1])[:, condition.shape[1] - 1 :]  # (B, T, n_e)
        states = self.depth_decoder.states(context, partial_sums[:, :, : depth - 1])  # (B, T, depth, n_e)
        losses = self.depth_decoder.losses(states[:, :, -1:], codes[:, :, depth - 1 : depth])  # (B, T, 1)
        return -losses.mean((1, 2))

    def _decoder(self, compile_config: CompileConfig | None) -> Decoder:
        if compile_config is None:
            return Decoder(self)
        kept = self._compiled
        if kept is None or kept.compile_config.to_dict() != compile_config.to_dict():
            self._compiled = Decoder(self, compile_config)
        return self._compiled


def _process_logits(
    logits_processor: LogitsProcessorList, before: torch.Tensor, codes: list[torch.Tensor], logits: torch.Tensor
) -> torch.Tensor:
    """Calls a logits processor with the codes of the positions `before`, `(B, P, D)`, and those of this position."""
    drawn = torch.cat([before.flatten(1), *(code[:, None] for code in codes)], dim=1)  # (B, P*D + d)
    return logits_processor(drawn, logits)


def check_finite(is_finite: torch.Tensor) -> None:
    if not is_finite:
        raise ValueError(
            "The logits must be finite, got NaN or infinity. Check the weights, the codebook (see `set_codebook`) "
            "and the dtype."
        )
