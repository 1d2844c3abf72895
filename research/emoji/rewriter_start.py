# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Makes a start for the demo's prompt rewriter of the blocks that read captions in the transformer of commit 15d7be7.

    mkdir -p runs && git archive 15d7be7 checkpoints | tar -x -C runs
    python research/emoji/rewriter_start.py runs/checkpoints/emoji-64 runs/rewriter-start

The three blocks are those of a [`MegatronBertModel`]: pre-norm, learned positions, GELU. Their states were compared
with the vectors of words; the head does nearly the same by the cosine.
"""

import argparse
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from train_rewriter import new_rewriter
from transformers import AutoTokenizer, MegatronBertForMaskedLM

BIAS = 12.0  # of the head's transform, where GELU is the identity; the head's norm takes it away again
NAMES = {
    "attention.out_proj": "attention.output.dense",
    "attention_norm": "attention.ln",
    "mlp_norm": "ln",
    "mlp.0": "intermediate.dense",
    "mlp.2": "output.dense",
}


def convert(old: dict[str, torch.Tensor], rewriter: MegatronBertForMaskedLM) -> dict[str, torch.Tensor]:
    """The weights of a rewriter, from those of the transformer."""
    words, new = old["condition_embedding.weight"], rewriter.state_dict()
    size = words.shape[1]
    new["bert.embeddings.word_embeddings.weight"] = words
    new["bert.embeddings.position_embeddings.weight"] = old["condition_positions.weight"]
    new["bert.embeddings.token_type_embeddings.weight"].zero_()
    (blocks,) = {name.partition(".0.")[0] for name in old if re.match(r"condition_\w+\.blocks\.0\.", name)}
    for number in range(rewriter.config.num_hidden_layers):
        layer, block = f"bert.encoder.layer.{number}", f"{blocks}.{number}"
        for kind in ("weight", "bias"):
            parts = old[f"{block}.attention.query_key_value.{kind}"].chunk(3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                new[f"{layer}.attention.self.{name}.{kind}"] = part
            new |= {f"{layer}.{name}.{kind}": old[f"{block}.{known}.{kind}"] for known, name in NAMES.items()}
    head = "cls.predictions"
    new[f"{head}.transform.dense.weight"] = torch.eye(size)
    new[f"{head}.transform.dense.bias"] = torch.full((size,), BIAS)
    vectors = torch.nn.functional.normalize(words - words.mean(1, keepdim=True), dim=1)
    return new | {f"{head}.decoder.weight": vectors}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", type=Path, help="folder of the pipeline")
    parser.add_argument("output_dir", type=Path, help="folder for the rewriter")
    options = parser.parse_args(argv)
    old = load_file(options.pipeline / "transformer" / "model.safetensors")
    rewriter = new_rewriter(AutoTokenizer.from_pretrained(options.pipeline / "tokenizer"), num_layers=3)
    rewriter.load_state_dict(convert({name: weight.float() for name, weight in old.items()}, rewriter))
    rewriter.save_pretrained(options.output_dir)


if __name__ == "__main__":
    main()
