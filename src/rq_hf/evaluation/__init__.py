# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Measures RQ-VAEs and pipelines. Needs `pip install ".[eval]"` in a clone."""
