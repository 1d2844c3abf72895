# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Random numbers that depend on nothing but what they are for."""

import numpy as np
import torch


def seeded_generator(*words: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator that belongs to these numbers, such as a seed, an epoch and the index of a picture."""
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]) >> 1)
