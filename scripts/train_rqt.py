# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""`rq-hf train-rqt` for `accelerate launch`; without arguments it trains on the pictures of tests/fixtures."""

import sys
from pathlib import Path

from rq_hf.cli import main

FIXTURE = Path(__file__).parents[1] / "tests" / "fixtures" / "recipes" / "emoji-rqt-fixture.json"

if __name__ == "__main__":
    main(["train-rqt", *(sys.argv[1:] or [str(FIXTURE)])])
