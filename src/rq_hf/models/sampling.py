# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Sampling settings and seeds."""

import numpy as np
import torch

# Sampling settings that `generate` reads from a generation config.
SAMPLING_FIELDS = ("do_sample", "temperature", "top_k", "top_p", "guidance_scale")


def seeded_generator(*words: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by several integers, such as a seed, an epoch and the index of a picture."""
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]) >> 1)
