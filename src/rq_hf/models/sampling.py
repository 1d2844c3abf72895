# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""How a code is drawn from its logits: settings and their checks, filters, random numbers.

Symbols: B pictures, D code depth, K codebook size.
"""

import copy
import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from transformers import CompileConfig, GenerationConfig
from transformers.utils import logging

from .residual_quantizer import MIN_TEMPERATURE, inverse_cdf_sample

logger = logging.get_logger(__name__)

# A smaller `top_p` would round to 0 in fp32 and keep no code; at this value only the likeliest code is kept.
MIN_TOP_P = 1e-30
# Fields of a `GenerationConfig` that say nothing about drawing.
OTHER_FIELDS = {
    "compile_config", "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config",
    "use_cache",
}  # fmt: skip

Check = tuple[Callable[[Real], bool], str]  # whether a number is in range, and the range in words
TEMPERATURE: Check = (lambda tau: tau > 0, "greater than 0 (`do_sample=False` or `top_k=1` takes the likeliest codes)")
GUIDANCE: Check = (lambda scale: 0 <= scale < math.inf, "a number of at least 0")
# Settings with one number per depth, or one for all; and settings with one number.
PER_DEPTH: dict[str, Check] = {
    "temperature": TEMPERATURE,
    "top_k": (lambda k: k >= 0 and k % 1 == 0, "an integer of at least 0; 0 keeps all codes"),
    "top_p": (lambda p: 0 < p <= 1, "in (0, 1]"),
    "revise_temperature": TEMPERATURE,
}
SINGLE: dict[str, Check] = {
    "guidance_scale": GUIDANCE,
    "num_draft_steps": (lambda steps: steps >= 1 and steps % 1 == 0, "an integer of at least 1"),
    "num_revise_rounds": (lambda rounds: rounds >= 0 and rounds % 1 == 0, "an integer of at least 0"),
    "num_revise_steps": (lambda steps: steps >= 1 and steps % 1 == 0, "an integer of at least 1"),
    "revise_guidance_scale": GUIDANCE,
}


class RQGenerationConfig(GenerationConfig):
    r"""
    How codes are drawn: the settings of `generate`, for both ways to draw. It is saved with the transformer.

    Args:
        do_sample (`bool`, defaults to `True`): Draw codes, or take the likeliest.
        temperature (`float` or `list[float]`, defaults to 1.0):
            > 0, one number or one per depth. Below 1 sharpens the distribution.
        top_k (`int` or `list[int]`, defaults to 0): Draw from the `top_k` likeliest codes of a depth. 0 keeps all.
        top_p (`float` or `list[float]`, defaults to 1.0):
            Draw from the smallest set of likeliest codes with this probability, in (0, 1].
        guidance_scale (`float`, defaults to 1.0):
            g >= 0 of classifier-free guidance, logits = null + g (conditional - null). 1 turns it off.
        num_draft_steps (`int`, defaults to 64): Parts in which Draft-and-Revise draws its draft, at least 1.
        num_revise_rounds (`int`, defaults to 2): Number of its revisions, at least 0.
        num_revise_steps (`int`, defaults to 2): Parts of each revision, at least 1.
        revise_temperature (`float` or `list[float]`, *optional*): Temperature of revisions, by default the draft's.
        revise_guidance_scale (`float`, *optional*): Guidance of revisions, by default the draft's.
        compile_config (`transformers.CompileConfig`, *optional*):
            Compiles a step with `torch.compile`. The first call with a batch size and settings takes minutes.

    Raises:
        `ValueError`: a setting out of its range.

    Example:

    ```python
    >>> from rq_hf import RQGenerationConfig
    >>> config = RQGenerationConfig(temperature=[1.0, 0.9, 0.8], revise_temperature=0.6)
    >>> config.with_settings({"temperature": 0.5}).revise_temperature  # revisions follow the new draft

    ```
    """

    # A third way to draw may add settings in a subclass.
    defaults: dict[str, Any] = {
        "do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "guidance_scale": 1.0, "num_draft_steps": 64,
        "num_revise_rounds": 2, "num_revise_steps": 2, "revise_temperature": None, "revise_guidance_scale": None,
    }  # fmt: skip

    def __init__(self, **settings: Any):
        settings = self.defaults | {name: value for name, value in settings.items() if value is not None}
        for name in self.defaults:
            value = settings[name]
            settings[name] = value.tolist() if hasattr(value, "tolist") else value  # a tensor or an array
            setattr(self, name, settings[name])
        super().__init__(**settings)

    def validate(self, **options: Any) -> None:
        """Raises a `ValueError` for a setting out of its range."""
        if not isinstance(self.do_sample, bool):
            raise ValueError(f"`do_sample` must be True or False, got {self.do_sample!r}.")
        if not isinstance(self.compile_config, CompileConfig | None):
            raise ValueError(f"`compile_config` must be a CompileConfig, got {self.compile_config!r}.")
        for name, (is_valid, expected) in (PER_DEPTH | SINGLE).items():
            value = getattr(self, name)
            numbers = value if name in PER_DEPTH and isinstance(value, Sequence) else [value]
            for number in (each for each in numbers if each is not None):
                if isinstance(number, bool) or not isinstance(number, Real) or not is_valid(number):
                    raise ValueError(f"`{name}` must be {expected}, got {value!r}.")

    def with_settings(self, settings: Mapping[str, Any]) -> "RQGenerationConfig":
        """A copy with other settings; those that are `None` stay as they are.

        `temperature` or `guidance_scale` alone are for the draft and for revisions.

        Raises:
            `ValueError`: an unknown setting, or one out of its range.
        """
        changed = {name: value for name, value in settings.items() if value is not None}
        known = [*self.defaults, "compile_config"]
        for name in changed:
            if name not in known:
                closest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
                raise ValueError(f"There is no setting `{name}`; the closest one is `{closest}`.")
        followers = {f"revise_{name}": None for name in ("temperature", "guidance_scale") if name in changed}
        return type(self)(**vars(copy.deepcopy(self)) | followers | changed)

    def for_revisions(self) -> "RQGenerationConfig":
        """The settings with the temperature and the guidance of revisions in place of those of the draft."""
        names = ("temperature", "guidance_scale")
        return self.with_settings({name: getattr(self, f"revise_{name}") for name in names})

    def check_depth(self, code_depth: int) -> None:
        """Raises a `ValueError` where a list does not have one number per depth."""
        for name in PER_DEPTH:
            value = getattr(self, name)
            if isinstance(value, Sequence) and len(value) != code_depth:
                expected = f"a number or a list of one per depth ({code_depth})"
                raise ValueError(f"`{name}` must be {expected}, got {value!r}.")

    def at_depth(self, name: str, depth: int) -> float:
        """The number of a setting at a depth, counted from 0."""
        value = getattr(self, name)
        value = value[depth] if isinstance(value, list | tuple) else value
        return self.defaults[name] if value is None else value

    def choose(self, logits: torch.Tensor, depth: int, uniforms: torch.Tensor | None) -> torch.Tensor:
        """Codes `(B,)` of one depth, counted from 0, from logits `(B, K)` and uniforms `(B,)` in [0, 1)."""
        if not self.do_sample:
            return logits.argmax(-1)
        logits = logits / max(float(self.at_depth("temperature", depth)), MIN_TEMPERATURE)
        top_k, top_p = int(self.at_depth("top_k", depth)), max(float(self.at_depth("top_p", depth)), MIN_TOP_P)
        return inverse_cdf_sample(filter_logits(logits, top_k, top_p).softmax(-1), uniforms)

    def to_diff_dict(self) -> dict[str, Any]:
        """All fields that differ from their defaults."""
        fields = super().to_diff_dict()
        return {name: value for name, value in fields.items() if (name, value) not in self.defaults.items()}

    def to_settings(self) -> dict[str, Any]:
        """The settings that differ from their defaults."""
        return {name: value for name, value in self.to_diff_dict().items() if name in self.defaults}


def filter_logits(logits: torch.Tensor, top_k: int = 0, top_p: float = 1.0) -> torch.Tensor:
    """Logits `(B, K)` with -inf for all codes but the `top_k` likeliest (0 keeps all) and, of those, the smallest set
    of likeliest ones whose probability reaches `top_p`. Ties are kept."""
    size = logits.shape[-1]
    num_kept = min(top_k or size, size)
    if num_kept == size and top_p >= 1:
        return logits
    largest = logits.topk(num_kept, dim=-1).values  # (B, k), descending
    smallest_kept = largest[:, -1:]
    if top_p < 1:
        kept = logits.masked_fill(logits < smallest_kept, float("-inf"))  # ties can make it more than k
        probabilities = (largest - kept.logsumexp(-1, keepdim=True)).exp()
        mass_of_larger = probabilities.cumsum(-1) - probabilities
        smallest_kept = largest.masked_fill(mass_of_larger >= top_p, float("inf")).amin(-1, keepdim=True)
    return logits.masked_fill(logits < smallest_kept, float("-inf"))


def seeded_generator(*words: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by several integers, such as a seed, an epoch and the index of a picture."""
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]) >> 1)


def generators_of_pictures(seed: int, codes: torch.LongTensor) -> list[torch.Generator]:
    """A generator for each picture of codes `(B, H, W, D)`, seeded by a seed and the codes. What it draws
    depends neither on the batch of the picture nor on the process."""
    return [seeded_generator(seed, *picture.flatten().tolist()) for picture in codes]


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
