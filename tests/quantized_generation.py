# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Run by test_quantized_generation.py where torchao is: loads the transformer of a folder in 8 bits."""

import json
import sys

import torch
from torchao.quantization import Int8DynamicActivationInt8WeightConfig
from transformers import TorchAoConfig

from rq_hf import RQTransformerForImageGeneration

BATCH_SIZE = 6


def main(folder: str) -> None:
    plain = RQTransformerForImageGeneration.from_pretrained(folder).eval()
    settings = TorchAoConfig(Int8DynamicActivationInt8WeightConfig())
    quantized = RQTransformerForImageGeneration.from_pretrained(folder, quantization_config=settings).eval()
    config = plain.config
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(config.vocab_size, (BATCH_SIZE, config.condition_length), generator=generator)
    codes = torch.randint(config.codebook_size, (BATCH_SIZE, *config.code_shape), generator=generator)
    with torch.no_grad():
        expected, logits = plain(input_ids, codes).logits, quantized(input_ids, codes).logits
        alone = torch.cat(
            [quantized(input_ids[row : row + 1], codes[row : row + 1]).logits for row in range(BATCH_SIZE)]
        )
    drawn = quantized.generate(input_ids, generator=[torch.Generator().manual_seed(row) for row in range(BATCH_SIZE)])
    singles = [
        quantized.generate(input_ids[row : row + 1], generator=torch.Generator().manual_seed(row))
        for row in range(BATCH_SIZE)
    ]
    likelihoods = [plain.log_likelihood(input_ids, drawn), quantized.log_likelihood(input_ids, drawn)]
    figures = {
        "error of likelihoods": (likelihoods[1] - likelihoods[0]).abs().max().item(),
        "weights": type(quantized.spatial_transformer.blocks[0].mlp[0].weight).__module__.split(".")[0],
        "error": ((logits - expected).norm() / expected.norm()).item(),
        "difference of batch and singles": (logits - alone).abs().max().item(),
        "codes of batch and singles are equal": torch.equal(drawn, torch.cat(singles)),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
