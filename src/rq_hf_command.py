# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Starts the console command `rq-hf`. Its imports take seconds; this file is outside of them to see a Ctrl-C."""

import importlib.util
import logging
import os
import signal
import sys
from typing import Any


def main() -> None:
    """Runs `rq-hf`. Help and version do not wait for the imports of the library's `__init__.py`."""
    # diffusers imports three image processors that warn where there is no torchvision. Drawing needs none of them.
    words, logger = "requires torchvision (not installed)", logging.getLogger("transformers.utils.import_utils")
    logger.addFilter(lambda record: words not in record.getMessage())
    if len(sys.argv) == 1 or {"-h", "--help", "--version"} & {*sys.argv}:
        # The package with its path alone: modules of `rq_hf.cli` can be imported from it.
        sys.modules["rq_hf"] = importlib.util.module_from_spec(importlib.util.find_spec("rq_hf"))
    before = signal.signal(signal.SIGINT, end)  # libraries turn a KeyboardInterrupt of their imports into other errors
    from rq_hf.cli import main as run

    signal.signal(signal.SIGINT, before)
    run()


def end(*_: Any) -> None:
    """Ends the process; nothing was begun that would have to be cleaned up."""
    print("error: interrupted", file=sys.stderr, flush=True)
    os._exit(130)
