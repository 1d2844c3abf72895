# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Sharing folders on the Hugging Face Hub: uploads, model cards, and code for users without this library."""

from .cards import render_card, write_card
from .sharing import push_folder

__all__ = ["push_folder", "render_card", "write_card"]
