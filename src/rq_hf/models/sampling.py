# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""How a code is drawn from its logits: settings and their checks, filters, random numbers.

Symbols: B pictures, D code depth, K codebook size.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
from transformers import GenerationConfig
from transformers.utils import logging

from .residual_quantizer import MIN_TEMPERATURE, inverse_cdf_sample, one_per_depth

logger = logging.get_logger(__name__)

# Sampling settings of a `GenerationConfig` that are used, with their types.
SAMPLING_FIELDS = {
    "do_sample": bool,
    "temperature": float | list[float],
    "top_k": int | list[int],
    "top_p": float | list[float],
    "guidance_scale": float,
}
# Fields of a `GenerationConfig` that say nothing about sampling.
_OTHER_FIELDS = {
    "compile_config", "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config",
    "use_cache",
}  # fmt: skip
# A smaller `top_p` would round to 0 in fp32 and keep no code; at this value only the likeliest code is kept.
MIN_TOP_P = 1e-30


@dataclass(frozen=True)
class Sampling:
    """Checked sampling settings; tuples have one entry per depth. `None` keeps all codes."""

    do_sample: bool
    temperature: tuple[float, ...]
    top_k: tuple[int | None, ...]
    top_p: tuple[float | None, ...]
    guidance_scale: float = 1.0  # 1 turns guidance off

    @classmethod
    def from_settings(
        cls, code_depth: int, do_sample=True, temperature=1.0, top_k=None, top_p=None, guidance_scale=1.0
    ) -> "Sampling":
        """Checks the settings of [`RQTransformerForImageGeneration.generate`]; wrong ones are a `ValueError`."""
        if not isinstance(do_sample, bool):
            raise ValueError(f"`do_sample` must be True or False, got {do_sample!r}.")
        is_number = isinstance(guidance_scale, Real) and not isinstance(guidance_scale, bool)
        if not is_number or not 0 <= guidance_scale < math.inf:
            raise ValueError(f"`guidance_scale` must be a number of at least 0, got {guidance_scale!r}.")
        expected = "greater than 0 (`do_sample=False` or `top_k=1` takes the likeliest codes)"
        temperatures = one_per_depth("temperature", temperature, code_depth, lambda tau: tau > 0, expected)
        top_ks = one_per_depth("top_k", top_k, code_depth, lambda k: k >= 1 and k % 1 == 0, "an integer of at least 1")
        top_ps = one_per_depth("top_p", top_p, code_depth, lambda p: 0 < p <= 1, "in (0, 1]")
        return cls(
            do_sample,
            tuple(1.0 if tau is None else max(float(tau), MIN_TEMPERATURE) for tau in temperatures),
            tuple(None if k is None else int(k) for k in top_ks),
            tuple(None if p is None else max(float(p), MIN_TOP_P) for p in top_ps),
            float(guidance_scale),
        )

    @classmethod
    def from_generation_config(
        cls, config: GenerationConfig, code_depth: int, used: Iterable[str] = SAMPLING_FIELDS, **settings
    ) -> "Sampling":
        """The `settings`, or where they are `None` those of a config; it warns of fields of the config that are not
        `used`."""
        if not isinstance(config, GenerationConfig):
            raise ValueError(f"`generation_config` must be a GenerationConfig, got {config!r:.200}.")
        is_set = {name for name, value in config.to_diff_dict().items() if value is not None and value is not False}
        if unused := is_set - {*used} - _OTHER_FIELDS:
            logger.warning_once(f"`generate` does not use these generation settings: {', '.join(sorted(unused))}.")
        defaults = {name: getattr(config, name, None) for name in SAMPLING_FIELDS}
        chosen = defaults | {name: value for name, value in settings.items() if value is not None}
        return cls.from_settings(code_depth, **{name: value for name, value in chosen.items() if value is not None})

    def choose(self, logits: torch.Tensor, depth: int, uniforms: torch.Tensor | None) -> torch.Tensor:
        """Codes `(B,)` of one depth, counted from 0, from logits `(B, K)` and uniforms `(B,)` in [0, 1)."""
        if not self.do_sample:
            return logits.argmax(-1)
        logits = filter_logits(logits / self.temperature[depth], self.top_k[depth], self.top_p[depth])
        return inverse_cdf_sample(logits.softmax(-1), uniforms)


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


def seeded_generator(*words: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by several integers, such as a seed, an epoch and the index of a picture."""
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]) >> 1)


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
