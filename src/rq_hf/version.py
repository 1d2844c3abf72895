# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The version, which can be read without the imports of the library."""

__version__ = "0.1.0"
