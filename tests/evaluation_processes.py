# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Runs scripts/evaluate.py and looks whether gloo's threads are gone at its end; `accelerate launch` starts it.

python tests/evaluation_processes.py COMMAND ...
"""

import sys
from pathlib import Path

from gloo_threads import gloo_threads

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import evaluate  # noqa: E402

if __name__ == "__main__":
    evaluate.main(sys.argv[1:])
    assert not gloo_threads()  # one of them could abort the process while it exits
