# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""`accelerate launch -m rq_hf.cli COMMAND` runs a command in several processes."""

from . import main

if __name__ == "__main__":
    main()
