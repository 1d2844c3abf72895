# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`rq-hf reconstruct`."""

import sys

from rq_hf.cli import main

if __name__ == "__main__":
    main(["reconstruct", *sys.argv[1:]])
