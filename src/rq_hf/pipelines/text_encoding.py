# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Captions as vectors of a pretrained text encoder, and captions as a prompt rewriter says them.

Symbols: N captions, S condition tokens.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

from .loading import load_whole

# Stands for a place without a token among the ids of a text encoder.
NO_TOKEN = -1


def name_emoji(text: str, names: Mapping[str, str]) -> str:
    """Puts names in place of emoji, in any skin tone: "a \N{ROCKET}" becomes "a rocket". The longest ones go first."""
    text = re.sub("[\ufe0f\U0001f3fb-\U0001f3ff]", "", text)
    pattern = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return " ".join(re.sub(pattern, lambda found: f" {names[found[0]]} ", text).split())


def load_text_encoder(name_or_path: str | Path, **kwargs) -> PreTrainedModel:
    """Loads a text encoder: of an encoder-decoder model such as T5 the encoder, of any other the whole model."""
    config = AutoConfig.from_pretrained(name_or_path, subfolder=kwargs.get("subfolder", ""))
    is_encoder = type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING
    model_class = AutoModelForTextEncoding if is_encoder else AutoModel
    return load_whole(model_class, name_or_path, unused=("pooler",), **kwargs)  # masked language models have none


def tokenize_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int) -> torch.LongTensor:
    """Ids `(N, length)` for [`embed_ids`]. Longer texts are cut; places after a shorter one have no token."""
    ids = torch.full((len(texts), length), NO_TOKEN)
    for row, tokens in zip(ids, tokenizer(list(texts), truncation=True, max_length=length).input_ids, strict=True):
        row[: len(tokens)] = torch.tensor(tokens, dtype=torch.long)
    return ids


@torch.no_grad()
def embed_ids(input_ids: torch.LongTensor, text_encoder: PreTrainedModel) -> torch.Tensor:
    """The encoder's last hidden states `(N, S, condition_dim)`, zeros where there is no token."""
    has_token = input_ids != NO_TOKEN  # (N, S)
    if not has_token.any():
        width = text_encoder.config.get_text_config().hidden_size
        return torch.zeros(*input_ids.shape, width, dtype=text_encoder.dtype, device=input_ids.device)
    states = text_encoder(input_ids=input_ids.clamp(min=0), attention_mask=has_token.long()).last_hidden_state
    return states.where(has_token[..., None], 0)


@torch.no_grad()
def rewrite_ids(input_ids: torch.LongTensor, rewriter: PreTrainedModel) -> torch.LongTensor:
    """The likeliest id at each place `(N, S)`, as a model with a token head reads whole rows `(N, S)`.

    It reads padding, too, since it may say more tokens than it was given.
    """
    return rewriter(input_ids=input_ids, attention_mask=torch.ones_like(input_ids)).logits.argmax(-1)
