# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The commands of `scripts/evaluate.py`: what to measure on which pictures, in shares of several processes."""

from .arguments import parse_arguments
from .protocols import PROTOCOLS, Protocol
from .results import run_command
from .shards import Shards
