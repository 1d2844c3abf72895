# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Scheduled sampling (Bengio et al., 2015) of code maps: training after codes that the model itself draws."""

from collections import deque
from dataclasses import dataclass, field
from numbers import Real

import torch

from .muon import MuonTrainer, MuonTrainingArguments


def positive_numbers(name: str, value: float | list[float]) -> float | list[float]:
    """`value`, a number or one per depth, checked; a list of one becomes that number."""
    values = value if isinstance(value, (list, tuple)) else [value]
    if not values or not all(isinstance(one, Real) and not isinstance(one, bool) and one > 0 for one in values):
        raise ValueError(f"`{name}` must be greater than 0, got {value!r}.")
    return values[0] if len(values) == 1 else values


@dataclass
class ScheduledSamplingArguments(MuonTrainingArguments):
    """Of a training whose model meets its own codes."""

    scheduled_sampling: float = field(
        default=0.0,
        metadata={
            "help": "Part of the training pictures whose codes the model draws itself, as it samples, those of each "
            "position after the true ones before it; labels stay those of the picture. Costs a forward pass of them."
        },
    )
    scheduled_sampling_temperature: list[float] | None = field(  # a number where it is one for all depths
        default=None,
        metadata={
            "help": "Temperature at which it draws them, one number, or one per depth; by default the one at which it "
            "samples."
        },
    )
    scheduled_sampling_passes: int = field(
        default=1,
        metadata={
            "help": "How many times over the model draws such a picture, at most, each time after the codes drawn "
            "before; each number from 1 on for as many pictures. More come closer to what it meets when it samples. "
            "With a delay it trains on each picture after each of its passes."
        },
    )
    scheduled_sampling_warmup_steps: int = field(
        default=0,
        metadata={
            "help": "Steps over which `scheduled_sampling` grows in a line from 0 to its value; what a model draws "
            "before it has learnt anything teaches nothing."
        },
    )
    scheduled_sampling_delay: int = field(
        default=0,
        metadata={
            "help": "Batches after which a picture that the model drew comes back, in the place of another, to be "
            "drawn over and trained on again, so that a batch costs one pass however many its pictures have had; 0: "
            "all passes at once. A resumed training starts without such pictures."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.scheduled_sampling <= 1:
            raise ValueError(f"`scheduled_sampling` must be in [0, 1], got {self.scheduled_sampling}.")
        if self.scheduled_sampling_temperature is not None:
            self.scheduled_sampling_temperature = positive_numbers(
                "scheduled_sampling_temperature", self.scheduled_sampling_temperature
            )
        for name, least in (("passes", 1), ("warmup_steps", 0), ("delay", 0)):
            value = getattr(self, f"scheduled_sampling_{name}")
            if value < least:
                raise ValueError(f"`scheduled_sampling_{name}` must be at least {least}, got {value}.")


class ScheduledSamplingTrainer(MuonTrainer):
    """Draws codes of training batches anew with the model that is trained; `rqvae` is set by the class that uses it.

    Args:
        kwargs: of [`MuonTrainer`].

    Raises:
        `ValueError`: sharded weights.
    """

    arguments_class = ScheduledSamplingArguments

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._on_their_way: deque[dict[str, torch.Tensor]] = deque()  # rows of the last batches, one entry for each
        if self.args.scheduled_sampling > 0 and self.has_shards:
            raise ValueError(
                f"`scheduled_sampling` must be 0 with FSDP and ZeRO-3, got {self.args.scheduled_sampling}: the model "
                "draws outside its forward pass, where it has shards."
            )

    def train(self, *args, **kwargs):
        self._on_their_way.clear()
        return super().train(*args, **kwargs)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """As in the base class; pictures that come back take the first rows of each batch."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        return [self._with_returned(batch) for batch in batches], num_items

    def _with_returned(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """With `own_codes` `(R, H, W, D)` and `passes_left` `(R,)` of its first R rows, once batches come back."""
        if len(self._on_their_way) < max(1, self.args.scheduled_sampling_delay):
            return batch
        returned = {name: values[: len(batch["input_ids"])] for name, values in self._on_their_way.popleft().items()}
        there = len(returned["own_codes"])
        return returned | {name: torch.cat([returned[name], values[there:]]) for name, values in batch.items()}

    @torch.no_grad()
    def _with_own_codes(
        self, inputs: dict[str, torch.Tensor], codes: torch.Tensor, residuals: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The model's own codes for some of the pictures, `(B, H, W, D)`, and residuals `(B, H, W, D, n_z)` of what
        codes are now to tell."""
        warmup_steps = self.args.scheduled_sampling_warmup_steps
        draws = {"generator": generator, "device": generator.device}
        grown = min(1.0, self.state.global_step / warmup_steps) if warmup_steps > 0 else 1.0
        # As equally as can be, so that the processes, which wait for each other, have as much to draw.
        count = int(grown * self.args.scheduled_sampling * len(codes) + torch.rand((), **draws).item())
        if self.args.scheduled_sampling_delay > 0:
            rows, own = self._drawn_once_more(inputs, codes, count, generator)
        else:
            most = self.args.scheduled_sampling_passes
            rows = torch.randperm(len(codes), **draws)[:count].to(codes.device)
            turns = torch.arange(count, device=codes.device) + torch.randint(most, (), **draws).item()
            own = self._drawn(inputs["input_ids"][rows], codes[rows], 1 + turns % most, generator)
        vectors = self.rqvae.quantizer.codebook(own)  # (rows, H, W, D, n_z), e(k)
        left = residuals[rows][..., :1, :] - (vectors.cumsum(-2) - vectors)  # r_0 = z, r_d = z - z-hat^(d)
        return codes.index_copy(0, rows, own), residuals.index_copy(0, rows, left)

    def _drawn_once_more(
        self, inputs: dict[str, torch.Tensor], codes: torch.Tensor, count: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Indices and new codes of the rows that came back and of as many of the next ones as make `count`; those with
        passes left go on their way again."""
        returned, most = inputs.get("own_codes", codes[:0]), self.args.scheduled_sampling_passes
        there, last = len(returned), max(len(returned), count)
        numbers = torch.randint(1, most + 1, (last - there,), generator=generator, device=generator.device)
        passes_left = torch.cat([inputs.get("passes_left", codes[:0, 0, 0, 0]), numbers.to(codes.device)])
        own = torch.cat([returned, codes[there:last]])
        own = self._drawn(inputs["input_ids"][:last], own, torch.ones_like(passes_left), generator)
        batch = {name: values[:last] for name, values in inputs.items()}
        batch |= {"own_codes": own, "passes_left": passes_left - 1}
        again = passes_left > 1
        self._on_their_way.append({name: values[again] for name, values in batch.items()})
        return torch.arange(last, device=codes.device), own

    def _drawn(
        self, input_ids: torch.Tensor, codes: torch.Tensor, passes: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Codes `(N, H, W, D)` drawn as many times over as `passes` `(N,)` says."""
        transformer, codes = self.accelerator.unwrap_model(self.model), codes.clone()
        with self.accelerator.autocast():
            for number in range(1, max(passes.tolist(), default=0) + 1):
                again = (passes >= number).nonzero()[:, 0]
                if len(again) > 0:
                    codes[again] = transformer.redraw_codes(
                        input_ids[again],
                        codes[again],
                        generator,
                        compiled_draws=self.args.torch_compile,
                        temperature=self.args.scheduled_sampling_temperature,
                    )
        return codes
