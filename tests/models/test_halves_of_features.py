# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""What two features share is kept or refused: depths of a forward pass, settings of a converted model, heads."""

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from rq_hf import ContextualRQTransformerForImageGeneration, ImageTokens


@pytest.mark.parametrize("depth", [0, 9])
def test_a_depth_out_of_range_is_refused(make_rqvae, depth):
    model = make_rqvae()
    size = model.config.image_size
    with pytest.raises(ValueError, match=f"depth.* from 1 to {model.config.code_depth}, got {depth}"):
        model(torch.zeros(1, 3, size, size), depth=depth)


def test_a_contextual_model_of_an_autoregressive_one_keeps_its_settings(make_transformer, make_rqvae):
    model = make_transformer("class", make_rqvae())
    model.generation_config.top_p = 0.5
    settings = ContextualRQTransformerForImageGeneration.from_autoregressive(model).generation_config
    assert settings.top_p == 0.5 and settings is not model.generation_config


def test_a_language_model_without_a_head_is_refused(make_rqvae, tiny_tokenizer):
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    with pytest.raises(ValueError, match="must have a language model head, got LlamaModel"):
        ImageTokens(make_rqvae(), tiny_tokenizer).extend(LlamaModel(config))
