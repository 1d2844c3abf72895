# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Gives a pipeline another RQ-VAE and tokenizer, as a start for a training of its transformer.

    python research/emoji/warm_start.py PIPELINE RQVAE TOKENIZER OUTPUT

Words that both tokenizers know and the positions that both captions have keep their vectors; others start at random
and at 0. The RQ-VAE should be trained on from that of the pipeline, so that its codes mean the same.
"""

import argparse

import torch
from transformers import AutoTokenizer

from rq_hf import RQImageGenerationPipeline, RQTransformerConfig, RQTransformerForImageGeneration, RQVAEModel


def warm_start(
    old: RQImageGenerationPipeline, rqvae: RQVAEModel, tokenizer: AutoTokenizer, seed: int = 0
) -> RQImageGenerationPipeline:
    """The new pipeline; `old` keeps its weights."""
    torch.manual_seed(seed)
    fields = old.transformer.config.to_dict() | {
        "vocab_size": len(tokenizer),
        "condition_length": tokenizer.model_max_length,
        "pad_token_id": tokenizer.pad_token_id,
        "null_condition_ids": tokenizer("", padding="max_length").input_ids,
    }
    transformer = RQTransformerForImageGeneration(RQTransformerConfig.from_dict(fields))
    new_ids, old_ids = tokenizer.get_vocab(), old.tokenizer.get_vocab()
    shared = sorted(new_ids.keys() & old_ids.keys())
    rows = {name: [ids[word] for word in shared] for name, ids in (("new", new_ids), ("old", old_ids))}
    weights, old_weights = transformer.state_dict(), old.transformer.state_dict()
    for name, weight in weights.items():
        if weight.shape == old_weights[name].shape:
            weight.copy_(old_weights[name])
        elif "positions" in name:
            count = min(len(weight), len(old_weights[name]))
            weight[:count] = old_weights[name][:count]
        else:
            weight[rows["new"]] = old_weights[name][rows["old"]]
    transformer.set_codebook(rqvae.codebook)
    transformer.generation_config = old.transformer.generation_config
    print(f"{len(shared)} of {len(tokenizer)} words keep their vectors.")
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
