# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
r"""Measure how well an RQ-VAE keeps coloured icons, by form and ground.

python research/icons/reconstruct_icons.py checkpoints/emoji-64 --dataset data/icons-64 --sheet build/icons.png

Prints a table with the PSNR of the first 1, 2, ..., D depths. The sheet has originals above their reconstructions.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from colour_icons import FLAG_FORMS, FORM_WORDS, draw_look, paint_icon
from datasets import Dataset, load_dataset

from rq_hf import RQVAEModel
from rq_hf.evaluation.reconstruction import evaluate_rqvae
from rq_hf.images import image_grid, to_pil
from rq_hf.pipelines import load_component


def coloured_pictures(rows: Dataset, count: int, on_white: bool) -> list[dict[str, torch.Tensor]]:
    """Paint the icons of the first rows, each by the first look that has the wanted ground."""
    pictures = []
    for index, row in enumerate(rows.select(range(min(count, len(rows))))):
        generator = torch.Generator().manual_seed(index)
        looks = (draw_look(row, generator) for _ in iter(int, 1))
        look = next(look for look in looks if (look.ground == "white") == on_white)
        pixels = np.asarray(paint_icon(row["image"], look), dtype=np.float32)
        pictures.append({"pixel_values": torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)})
    return pictures


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", help="folder of an RQ-VAE or of a pipeline")
    add("--dataset", required=True, help="folder that prepare_icons.py wrote")
    add("--num_pictures", type=int, default=512, help="of each form and ground (%(default)s)")
    add("--sheet", type=Path, help="PNG file of originals and reconstructions")
    options = parser.parse_args(argv)
    rqvae = load_component(RQVAEModel, options.model, "rqvae").eval()
    rows = load_dataset(options.dataset, split="train").shuffle(seed=0)
    depths, shown = range(1, rqvae.config.code_depth + 1), []
    print("| form | ground | pictures |", " | ".join(f"PSNR, depth {depth}" for depth in depths), "|")
    print("| --- | --- | --- |", " | ".join("---" for _ in depths), "|")
    forms = rows["form"]
    for name, members in [*((form, (form,)) for form in FORM_WORDS), ("flag", FLAG_FORMS)]:
        of_form = rows.select([index for index, form in enumerate(forms) if form in members])
        for on_white in (True, False):
            pictures = coloured_pictures(of_form, options.num_pictures, on_white)
            results = evaluate_rqvae(rqvae, pictures)
            numbers = " | ".join(f"{row['psnr']:.2f}" for row in results["depths"])
            print(f"| {name} | {'white' if on_white else 'coloured'} | {len(pictures)} | {numbers} |", flush=True)
            first = torch.stack([picture["pixel_values"] for picture in pictures[:16]])
            with torch.no_grad():
                shown += to_pil(first) + to_pil(rqvae.decode(rqvae.encode(first)))
    if options.sheet:
        options.sheet.parent.mkdir(parents=True, exist_ok=True)
        image_grid(shown, columns=16, tile_size=64).save(options.sheet)


if __name__ == "__main__":
    main()
