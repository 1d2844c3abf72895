# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`accelerate launch -m rq_hf.cli COMMAND` runs a command in several processes."""

from . import main

if __name__ == "__main__":
    main()
