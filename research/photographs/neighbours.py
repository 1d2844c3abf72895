# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Holds drawn pictures beside the training photographs nearest to them, so that copies show.

    python research/photographs/neighbours.py runs/photo-rqt-64 --dataset_name data/photographs --output near.json

Photographs are compared as the RQ-VAE reconstructs them, since no drawing can be nearer. A drawing is a near copy if
it has 30 dB or more to one of them. The same is measured for held-out photographs, to tell what chance gives. The
sheet shows drawings of the largest classes, each above the reconstruction that is nearest in EfficientNet-Lite0
features.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import torch

from rq_hf import RQImageGenerationPipeline
from rq_hf.evaluation.features import EfficientNetLite0
from rq_hf.evaluation.reconstruction import psnr
from rq_hf.images import image_grid, to_pil, to_rgb, to_uint8
from rq_hf.models.sampling import seeded_generator
from rq_hf.training import CodeDataArguments
from rq_hf.training.conditions import evaluation_samples

SHOWN = 20  # drawings of a sheet


def nearest(pictures: torch.Tensor, known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared distances `(N,)` to the nearest rows of `known` `(K, F)`, and their indexes."""
    found = [torch.cdist(part, known).min(-1) for part in pictures.split(64)]
    return torch.cat([each.values for each in found]).square(), torch.cat([each.indices for each in found])


def copies(pixel_values: torch.Tensor, known: torch.Tensor) -> dict[str, float]:
    """The share of near copies, and the median PSNR in dB to the nearest picture of `known`; both `(N, 3, h, w)`."""
    flat, others = ((each.flatten(1) + 1) / 2 for each in (pixel_values, known))
    mse = nearest(flat, others)[0] / flat.shape[1]
    return {"near_copies": (mse <= 1e-3).float().mean().item(), "median_psnr": psnr(mse.median().item())}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a pipeline by class")
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--label_column", default="label")
    parser.add_argument("--classes", type=int, default=10, help="the largest classes that are drawn")
    parser.add_argument("--num_pictures", type=int, default=20, help="drawings of each class")
    parser.add_argument("--output", type=Path, required=True, help="JSON; a sheet is written beside it")
    options = parser.parse_args()
    pipe, extractor = RQImageGenerationPipeline.from_pretrained(options.model), EfficientNetLite0()
    data = CodeDataArguments(options.dataset_name)
    sets = evaluation_samples(data, ["train", "validation"], pipe.rqvae.config, columns=[options.label_column])
    decoded, labels = {}, Counter()
    for split, samples in sets.items():
        parts = torch.stack([samples[index]["pixel_values"] for index in range(len(samples))]).split(50)
        decoded[split] = torch.cat([pipe.rqvae.decode(pipe.rqvae.encode(part)) for part in parts])
        labels.update(samples.rows[options.label_column])
    asked = [label for label, _ in labels.most_common(options.classes) for _ in range(options.num_pictures)]
    generators = [seeded_generator(0, index) for index in range(len(asked))]
    codes = pipe(class_labels=asked, generator=generators, output_type="latent").images
    drawn = torch.cat([pipe.rqvae.decode(part) for part in codes.split(50)])
    results = {"drawn": copies(drawn, decoded["train"]), "held_out": copies(decoded["validation"], decoded["train"])}
    results["pictures"] = len(drawn)
    print(json.dumps(results))
    options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    chosen = drawn[:: len(drawn) // SHOWN][:SHOWN]
    features = [
        torch.cat([extractor(to_rgb(to_uint8(part))) for part in each.split(50)])
        for each in (chosen, decoded["train"])
    ]
    others = decoded["train"][nearest(*features)[1]]
    rows = [row for pair in zip(chosen.split(10), others.split(10), strict=True) for row in pair]
    titles = [title for _ in range(len(rows) // 2) for title in ["drawn"] * 10 + ["nearest"] * 10]
    sheet = image_grid([image for row in rows for image in to_pil(row)], titles, columns=10)
    sheet.save(options.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
