# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Configuration of the Contextual RQ-Transformer."""

from huggingface_hub.dataclasses import strict

from .configuration_rq_transformer import RQTransformerConfig


@strict
class ContextualRQTransformerConfig(RQTransformerConfig):
    r"""
    Configuration of a [`ContextualRQTransformerForImageGeneration`]. It has the fields of [`RQTransformerConfig`], but
    there is no caption loss: with full attention each caption token would see the next one.

    Example:

    ```python
    >>> from rq_hf import ContextualRQTransformerConfig, RQVAEConfig
    >>> config = ContextualRQTransformerConfig.from_rqvae_config(RQVAEConfig(), vocab_size=1000, condition_length=1)
    >>> config.has_text_head
    False
    ```
    """

    model_type = "contextual_rq_transformer"

    @property
    def has_text_head(self) -> bool:
        return False
