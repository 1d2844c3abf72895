# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""`rq-hf app`; a Space on the Hub runs this file and names the pipeline by the variable MODEL_ID."""

import os
import sys

from rq_hf.cli import main

if __name__ == "__main__":
    main(["app", *filter(None, [os.environ.get("MODEL_ID")]), *sys.argv[1:]])
