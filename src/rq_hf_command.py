# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Starts the console command `rq-hf`. Its imports take seconds; this file is outside of them to see a Ctrl-C."""

import sys


def main() -> None:
    """Runs `rq-hf`."""
    try:
        from rq_hf.cli import main as run
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
    run()
