# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The version, which can be read without the imports of the library."""

__version__ = "0.1.0"
