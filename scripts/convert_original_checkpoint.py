# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Converts an official checkpoint of kakaobrain/rq-vae-transformer to a folder that `from_pretrained` loads.

python scripts/convert_original_checkpoint.py --checkpoint cc3m.tar.gz --output cc3m --vocab bpe-16k-vocab.json \
    --merges bpe-16k-merges.txt

The checkpoint is an archive as it is published, or a folder with `stage1/` and/or `stage2/`, each of `model.pt` and
`config.yaml`. Both stages give a pipeline, stage 1 alone an RQVAEModel, stage 2 alone an
RQTransformerForImageGeneration, whose codebook must then be set by hand.
"""

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HTTPError

from rq_hf.command_line import INPUT_ERRORS
from rq_hf.conversion import LICENSE, convert_checkpoint
from rq_hf.sharing import push_folder

CONFIGS = Path(__file__).parent / "configs"
# The released model that is not of the paper: its architecture is known from its own configuration only.
LARGE_TEXT_MODEL = {
    "language": "en",
    "summary": (
        "It was trained after the paper. The official repository states an FID of 16.9 on 30,000 captions of MS-COCO "
        "val2014 with top-k 1024 and top-p 0.95."
    ),
    "training_data": "About 30 million pairs of picture and caption: CC-3M, CC-12M and a part of YFCC100M.",
}
NAMES = {"pipeline": "a pipeline", "rqvae": "an RQ-VAE", "rq_transformer": "an RQ-Transformer without its codebook"}


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder or .tar.gz archive")
    parser.add_argument("--output", type=Path, required=True, help="new or empty folder to write")
    parser.add_argument("--ema", action="store_true", help="averaged weights (`state_dict_ema`) of the transformer")
    parser.add_argument(
        "--dtype", choices=["float32", "float16", "bfloat16"], default="float32", help="of the weights"
    )
    parser.add_argument("--vocab", type=Path, help="bpe-16k-vocab.json or bpe-30k-vocab.json of the official code")
    parser.add_argument("--merges", type=Path, help="bpe-16k-merges.txt or bpe-30k-merges.txt of the official code")
    parser.add_argument("--license", default=LICENSE, help=f"of the weights, for the card (default: {LICENSE})")
    parser.add_argument(
        "--allow_pickle", action="store_true", help="load objects other than tensors too, which can execute code"
    )
    parser.add_argument("--push_to_hub", metavar="REPO", help="upload the result to this repository on the Hub")
    return parser.parse_args(argv)


def released_cards(checkpoint: Path) -> dict[str, dict[str, Any]]:
    """What scripts/configs say about a released checkpoint of this name: its transformer's card and its RQ-VAE's."""
    archive = checkpoint.name if checkpoint.is_file() else f"{checkpoint.resolve().name}.tar.gz"
    if archive == "cc3m_cc12m_yfcc.tar.gz":
        return {"transformer": LARGE_TEXT_MODEL}
    presets = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in CONFIGS.glob("*-rqt-*.json")}
    for preset in presets.values():
        card = preset["card"]
        if card.get("released", {}).get("archive") == archive:
            rqvae = json.loads((CONFIGS / f"{card['rqvae']}.json").read_text(encoding="utf-8"))
            return {"transformer": card, "rqvae": rqvae["card"]}
    return {}


def main(argv=None) -> None:
    arguments = parse_arguments(argv)
    kind = convert_checkpoint(
        arguments.checkpoint,
        arguments.output,
        ema=arguments.ema,
        dtype=getattr(torch, arguments.dtype),
        vocab_file=arguments.vocab,
        merges_file=arguments.merges,
        license=arguments.license,
        allow_pickle=arguments.allow_pickle,
        cards=released_cards(arguments.checkpoint),
        repo_id=arguments.push_to_hub,
    )
    print(f"{arguments.output} is {NAMES[kind]}.")
    if arguments.push_to_hub is not None:
        push_folder(arguments.output, arguments.push_to_hub, commit_message="Convert an official checkpoint")
        print(f"Uploaded to {arguments.push_to_hub}.")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Terminated."))  # and remove what is half written
    try:
        main()
    except (*INPUT_ERRORS, HTTPError) as error:  # the last also where nothing answers
        sys.exit(f"{type(error).__name__}: {error}")
