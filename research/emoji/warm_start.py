# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Gives a pipeline another RQ-VAE and tokenizer, as a start for a training of its transformer.

    python research/emoji/warm_start.py PIPELINE RQVAE TOKENIZER OUTPUT

A word of the new vocabulary starts as the mean of its parts in the old one. Further positions start as the last but
one of the old captions, where there was padding. The RQ-VAE must have the codes of the pipeline's.
"""

import argparse

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rq_hf import RQImageGenerationPipeline, RQTransformerConfig, RQTransformerForImageGeneration, RQVAEModel


def word_parts(word: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of another tokenizer for an entry of a vocabulary, whose words end with `</w>`."""
    known = tokenizer.get_vocab()
    if word in known:
        return [known[word]]
    ids = tokenizer(word.removesuffix("</w>"), add_special_tokens=False).input_ids
    return ids or [tokenizer.unk_token_id]


def warm_start(
    old: RQImageGenerationPipeline, rqvae: RQVAEModel, tokenizer: PreTrainedTokenizerBase
) -> RQImageGenerationPipeline:
    """The new pipeline; `old` keeps its weights."""
    fields = old.transformer.config.to_dict() | {
        "vocab_size": len(tokenizer),
        "condition_length": tokenizer.model_max_length,
        "pad_token_id": tokenizer.pad_token_id,
        "null_condition_ids": tokenizer("", padding="max_length").input_ids,
    }
    transformer = RQTransformerForImageGeneration(RQTransformerConfig.from_dict(fields))
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    parts = [word_parts(word, old.tokenizer) for word, _ in words]
    weights, old_weights = transformer.state_dict(), old.transformer.state_dict()
    for name, weight in weights.items():
        before = old_weights[name]
        if weight.shape == before.shape:
            weight.copy_(before)
        elif "positions" in name:
            weight.copy_(before[torch.arange(len(weight)).clamp(max=len(before) - 2)])
            weight[-1] = before[-1]  # from it the first code is predicted
        else:  # vectors of words
            weight.copy_(torch.stack([before[each].mean(0) for each in parts]))
    transformer.set_codebook(rqvae.codebook)
    transformer.generation_config = old.transformer.generation_config
    return RQImageGenerationPipeline(rqvae=rqvae, transformer=transformer, tokenizer=tokenizer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pipeline", "rqvae", "tokenizer", "output"):
        parser.add_argument(name, metavar=name.upper())
    arguments = parser.parse_args()
    old = RQImageGenerationPipeline.from_pretrained(arguments.pipeline)
    rqvae = RQVAEModel.from_pretrained(arguments.rqvae)
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    warm_start(old, rqvae, tokenizer).save_pretrained(arguments.output)


if __name__ == "__main__":
    main()
