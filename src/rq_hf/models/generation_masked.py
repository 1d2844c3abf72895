# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Drawing in any order: Draft-and-Revise (Lee et al., NeurIPS 2022). Pseudo-likelihoods.

A partition divides positions into parts of nearly equal size. A pass hides positions, reads all others, and draws the
codes of one part at once. Drafting starts with everything hidden and draws part after part. A revision draws each part
of a fresh partition again, given all that is outside the part.

Symbols: B pictures, S condition tokens, H x W positions (T = H*W), D code depth, n_z codebook width, n_e hidden width,
m positions of the largest part. Guidance adds B null rows after the B conditional rows; such shapes are (2B, ...).
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.utils.accelerate_utils import apply_forward_hook
from transformers import CompileConfig, GenerationConfig

from .depth_decoder import for_all_rows
from .generation import CodeGenerationMixin, check_finite
from .sampling import RQGenerationConfig, draw_uniforms, seeded_generator
from .validation import check_integer


class Pass(NamedTuple):
    """What one pass hides and draws."""

    is_hidden: torch.BoolTensor  # (B, T), the positions that are drawn and others that are not drawn yet
    positions: torch.LongTensor  # (B, m), those that are drawn; T is no position
    uniforms: torch.Tensor  # (B, m, D) in [0, 1)
    is_draft: bool


def balanced_partition(keys: torch.Tensor, is_drawn: torch.BoolTensor, num_parts: int) -> torch.LongTensor:
    """Divides the positions of `is_drawn` `(B, T)`, those with the smallest keys `(B, T)` first, into parts of nearly
    equal size: positions `(num_parts, B, m)`. Smaller parts end in T, which is no position."""
    num_positions = keys.shape[1]
    order = keys.float().masked_fill(~is_drawn, float("inf")).argsort(-1)  # (B, T), those to be drawn first
    counts = is_drawn.sum(-1, keepdim=True)  # (B, 1)
    ranks = torch.arange(num_positions, device=keys.device)[None]  # (1, T)
    starts = torch.arange(num_parts + 1, device=keys.device)[:, None, None] * counts // num_parts  # (parts + 1, B, 1)
    size = -(-int(counts.max()) // num_parts)
    ranks = starts[:-1] + ranks[:, :size]  # (parts, B, m)
    positions = order.expand(num_parts, -1, -1).gather(2, ranks.clamp(max=num_positions - 1))
    return positions.where(ranks < starts[1:], num_positions)


def draft_and_revise(
    settings: RQGenerationConfig, is_drawn: torch.BoolTensor, depth: int, generator: Any
) -> Iterator[Pass]:
    """The passes that draw the positions `(B, T)` of `is_drawn`: those of the draft, then those of each revision."""
    if not is_drawn.any():
        return
    (batch_size, num_positions), rounds = is_drawn.shape, settings.num_revise_rounds
    numbers = draw_uniforms(generator, batch_size, (1 + rounds, num_positions, depth + 1)).to(is_drawn.device)
    most = int(is_drawn.sum(1).max())
    for phase in range(1 + rounds):
        uniforms, keys = numbers[:, phase, :, :depth], numbers[:, phase, :, depth]  # (B, T, D), (B, T)
        num_parts = min(settings.num_draft_steps if phase == 0 else settings.num_revise_steps, most)
        is_hidden = is_drawn
        for positions in balanced_partition(keys, is_drawn, num_parts):  # (B, m)
            is_part, of_part = _of_part(positions, uniforms)
            yield Pass(is_hidden if phase == 0 else is_part, positions, of_part, phase == 0)
            is_hidden = is_hidden & ~is_part


class MaskedGenerationMixin(CodeGenerationMixin):
    """Drawing and pseudo-likelihoods of [`ContextualRQTransformerForImageGeneration`]."""

    def num_steps(self, settings: RQGenerationConfig) -> int:
        """The largest number of passes of [`generate`] with these settings."""
        return settings.num_draft_steps + settings.num_revise_rounds * settings.num_revise_steps

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
        callback: Callable[[int, torch.LongTensor], torch.LongTensor | None] | None = None,
        interrupt: Callable[[], bool] | None = None,
        **settings: Any,
    ) -> torch.LongTensor:
        r"""Draws code maps by Draft-and-Revise.

        Args:
            input_ids, prompt_embeds, negative_input_ids, negative_prompt_embeds (*optional*):
                Conditions, and those that guidance leads away from.
            callback, interrupt (*optional*):
                `callback(step, codes)` and `interrupt()`, called after each pass.
            generation_config, known_codes, known_mask, generator, settings (*optional*):
                As in [`RQTransformerForImageGeneration.generate`]. Only positions with unknown codes are drawn.
                A `compile_config` compiles one program for drafts and one for revisions.

        Returns:
            `torch.LongTensor` of shape `(B, H, W, D)`.

        Raises:
            `ValueError`: as [`RQTransformerForImageGeneration.generate`].
        """
        draft = self.settings_of_call(generation_config, **settings)
        revision = draft.for_revisions()
        condition = self._checked_states("", input_ids, prompt_embeds)  # (B, S, n_e)
        is_guided = [phase.guidance_scale != 1.0 for phase in (draft, revision)]
        guided = condition
        if any(is_guided):
            guided = self._with_null_states(condition, negative_input_ids, negative_prompt_embeds)  # (2B, S, n_e)
        with_draft, with_revision = (guided if each else condition for each in is_guided)  # (B or 2B, S, n_e) each
        shape = (len(condition), *self.config.code_shape)
        codes, known_mask = self._known_codes(known_codes, known_mask, shape, condition.device)  # (B, T, D)
        run = self._pass(draft.compile_config)

        is_finite = torch.ones((), dtype=torch.bool, device=codes.device)
        passes = draft_and_revise(draft, ~known_mask.all(-1), shape[-1], generator)
        for step, each in enumerate(passes):
            states, phase = (with_draft, draft) if each.is_draft else (with_revision, revision)
            codes, finite = run(states, codes, each.is_hidden, each.positions, phase, each.uniforms, known_mask)
            is_finite = is_finite & finite.to(is_finite.device)
            changed = None if callback is None else callback(step, codes.view(shape))
            if changed is not None:
                self.check_codes("the callback's codes", changed, (shape[0],))
                codes = changed.to(codes).flatten(1, 2)
            if interrupt is not None and interrupt():
                break
        check_finite(is_finite)
        return codes.view(shape)

    def fill(
        self,
        condition: torch.Tensor,
        codes: torch.LongTensor,
        is_hidden: torch.BoolTensor,
        positions: torch.LongTensor,
        settings: RQGenerationConfig,
        uniforms: torch.Tensor,
        known_mask: torch.BoolTensor,
    ) -> tuple[torch.LongTensor, torch.Tensor]:
        """One pass: draws the codes of some positions, each on its own, given all that is not hidden.

        Args:
            condition: States `(B or 2B, S, n_e)`.
            codes: `(B, T, D)`.
            is_hidden, positions, uniforms: Of the [`Pass`].
            settings: How codes are drawn.
            known_mask: `(B, T, D)`; single codes that are kept at positions that are drawn.

        Returns:
            Codes `(B, T, D)` with those that were drawn, and whether all logits were finite `()`.
        """
        rows, (batch_size, num_positions, depth) = len(condition), codes.shape
        quantized = self.codebook(codes).sum(-2)  # (B, T, n_z), z-hat_t
        context = self.spatial_states(condition, for_all_rows(quantized, rows), for_all_rows(is_hidden, rows))
        places = positions.clamp(max=num_positions - 1)  # (B, m)
        at = for_all_rows(places, rows)[..., None].expand(-1, -1, context.shape[-1])
        context = context.gather(1, at.to(context.device)).flatten(0, 1)  # (B*m or 2B*m, n_e), h_t
        known = {"known_codes": codes, "known_mask": known_mask}
        known = {name: each.gather(1, _per_depth(places, depth)).flatten(0, 1) for name, each in known.items()}
        drawn, is_finite = self.depth_decoder.draw_in_blocks(context, settings, uniforms.flatten(0, 1), **known)
        drawn = drawn.view(batch_size, -1, depth).to(codes.device)  # (B, m, D)
        filled = F.pad(codes, (0, 0, 0, 1)).scatter(1, _per_depth(positions, depth), drawn)  # (B, T + 1, D)
        return filled[:, :-1].contiguous(), is_finite

    @torch.no_grad()
    def redraw_codes(
        self,
        codes: torch.LongTensor,
        settings: RQGenerationConfig,
        generator: torch.Generator | None = None,
        **condition: torch.Tensor,
    ) -> torch.LongTensor:
        """Draws the codes `(B, H, W, D)` of all positions, each half of them given the other half; see
        [`RQTransformerForImageGeneration.redraw_codes`]."""
        states, flat = self.condition_states(**condition), codes.flatten(1, 2)  # (B, S, n_e), (B, T, D)
        is_known = torch.zeros_like(flat, dtype=torch.bool)
        numbers = draw_uniforms(generator, 1, (len(codes), flat.shape[1], codes.shape[-1] + 1))[0].to(codes.device)
        redrawn = flat
        for positions in balanced_partition(numbers[..., -1], ~is_known[..., 0], 2):
            is_part, uniforms = _of_part(positions, numbers[..., :-1])
            drawn = self.fill(states, flat, is_part, positions, settings, uniforms, is_known)[0]
            redrawn = torch.where(is_part[..., None], drawn, redrawn)
        return redrawn.view_as(codes)

    @apply_forward_hook
    @torch.no_grad()
    def log_likelihood(
        self,
        input_ids: torch.LongTensor | None = None,
        codes: torch.LongTensor | None = None,
        depth: int = 1,
        prompt_embeds: torch.Tensor | None = None,
        num_parts: int = 4,
    ) -> torch.Tensor:
        """Mean pseudo-log-probability of the codes of one depth: each part of a partition given all others.

        The partition is the same for all pictures, so equal codes have equal values.

        Args:
            input_ids, prompt_embeds, codes, depth (*optional*):
                As in [`RQTransformerForImageGeneration.log_likelihood`], and so are the result and errors.
            num_parts (`int`, defaults to 4): Parts of the partition, each of which takes a pass.

        Returns:
            `torch.FloatTensor` of shape `(B,)`, in nats per code.
        """
        condition = self._checked_states("", input_ids, prompt_embeds)  # (B, S, n_e)
        self.check_codes("`codes`", codes, (len(condition),))
        check_integer("depth", depth, 1, codes.shape[-1])
        num_positions = self.config.num_positions
        codes = codes.to(condition.device, torch.long).flatten(1, 2)  # (B, T, D)
        partial_sums = self.depth_decoder.partial_sums(codes)  # (B, T, D, n_z), z-hat_t^(d)
        keys = torch.rand(1, num_positions, generator=seeded_generator(0)).to(codes.device)  # (1, T)
        total = condition.new_zeros(len(codes), dtype=torch.float32)
        for part in balanced_partition(keys, torch.ones_like(keys, dtype=torch.bool), min(num_parts, num_positions)):
            part = part[part < num_positions]  # (m,)
            is_hidden = torch.zeros_like(codes[..., 0], dtype=torch.bool)
            is_hidden[:, part] = True
            context = self.spatial_states(condition, partial_sums[:, :, -1], is_hidden)[:, part]  # (B, m, n_e)
            states = self.depth_decoder.states(context, partial_sums[:, part, : depth - 1])  # (B, m, depth, n_e)
            losses = self.depth_decoder.losses(states[:, :, -1:], codes[:, part, depth - 1 : depth])  # (B, m, 1)
            total += losses.sum((1, 2))
        return -total / num_positions

    def _pass(self, compile_config: CompileConfig | None) -> Callable:
        if compile_config is None:
            return self.fill
        options = compile_config.to_dict()
        if self._compiled is None or self._compiled[0] != options:
            self._compiled = options, torch.compile(self.fill, **options)
        return self._compiled[1]


def _of_part(positions: torch.LongTensor, uniforms: torch.Tensor) -> tuple[torch.BoolTensor, torch.Tensor]:
    """Which positions `(B, T)` belong to a part `(B, m)`, and its uniforms `(B, m, D)` out of `(B, T, D)`."""
    batch_size, num_positions, depth = uniforms.shape
    is_part = torch.zeros(batch_size, num_positions + 1, dtype=torch.bool, device=positions.device)
    places = positions.clamp(max=num_positions - 1)
    return is_part.scatter(1, positions, True)[:, :-1], uniforms.gather(1, _per_depth(places, depth))


def _per_depth(positions: torch.LongTensor, depth: int) -> torch.LongTensor:
    """Positions `(B, m)` as indexes `(B, m, D)` along the second dimension of codes."""
    return positions[..., None].expand(-1, -1, depth)
