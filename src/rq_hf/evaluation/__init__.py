# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Measures RQ-VAEs and pipelines. Needs `pip install ".[eval]"` in a clone."""
