# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Convert an official checkpoint of kakaobrain/rq-vae-transformer to a folder that `from_pretrained` loads.

    rq-hf convert --checkpoint cc3m.tar.gz --output cc3m --vocab bpe-16k-vocab.json --merges bpe-16k-merges.txt

The checkpoint is an archive as it is published, or a folder with stage1/ and/or stage2/, each of model.pt and
config.yaml. Both stages give a pipeline, stage 1 alone an RQVAEModel, stage 2 alone an RQTransformerForImageGeneration
without its codebook.
"""

from argparse import SUPPRESS
from collections.abc import Sequence
from pathlib import Path

import torch

from ..conversion import convert_checkpoint
from .options import DTYPES, CommandParser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `rq-hf convert`."""
    parser = CommandParser(prog="rq-hf convert", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder or .tar.gz archive")
    parser.add_argument("--output", type=Path, required=True, help="new or empty folder to write")
    parser.add_argument("--ema", action="store_true", help="take the averaged weights of the transformer")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights (default: %(default)s)")
    parser.add_argument("--vocab", dest="vocab_file", help="official bpe-16k-vocab.json or bpe-30k-vocab.json")
    parser.add_argument("--merges", dest="merges_file", help="official bpe-16k-merges.txt or bpe-30k-merges.txt")
    parser.add_argument("--license", default=SUPPRESS, help="of the weights, for the card (default: the official one)")
    parser.add_argument("--allow_pickle", action="store_true", help="load more than tensors, which can execute code")
    options = vars(parser.parse_args(argv))
    options["dtype"] = getattr(torch, options["dtype"])
    print(f"{options['output']} holds the converted {convert_checkpoint(**options)}.")
