# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`rq-hf generate`."""

import sys

from rq_hf.cli import main

if __name__ == "__main__":
    main(["generate", *sys.argv[1:]])
