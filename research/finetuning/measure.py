# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Measures what a fine-tuning of the demo learnt and what it forgot.

    python research/finetuning/measure.py checkpoints/emoji-64 garfield data/garfield/train \
        --adapter runs/garfield/adapter --dataset_name data/emoji-64

It draws the new thing ten times for each seed, by the caption that the adapter learnt (`rewrite_prompt=False`), and a
hundred old names by calls with default arguments. A picture of the new thing is right if the nearest real picture is
one of it. A picture of an old name is right if the nearest one shows the concept (top-1), or one of the five nearest
(top-5). The nearest ones are those of EfficientNet-Lite0, among the plain pictures of all splits, in default tone, and
those of the new thing.
"""

import argparse
import json
import random
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image

from rq_hf import RQImageGenerationPipeline
from rq_hf.evaluation.features import build_extractor, extract_features
from rq_hf.images import image_grid

PLAIN = {"tone": "default", "colour": "", "alteration": "none"}


def features(images: list[Image.Image]) -> torch.Tensor:
    pixels = [torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 127.5 - 1 for image in images]
    return extract_features(build_extractor("lite0"), [{"pixel_values": each} for each in pixels])["features"]


def draw(pipe: RQImageGenerationPipeline, prompts: list[str], seed: int, **options) -> list[Image.Image]:
    images = []
    for start in range(0, len(prompts), 20):
        batch = prompts[start : start + 20]
        generators = [torch.Generator().manual_seed(seed + start + index) for index in range(len(batch))]
        images += pipe(batch, generator=generators, **options).images
    return images


def nearest(drawn: torch.Tensor, real: torch.Tensor, concepts: list[str]) -> list[list[str]]:
    """The concepts of the five real pictures that are nearest to each drawn one."""
    return [[concepts[index] for index in row] for row in torch.cdist(drawn, real).topk(5, largest=False).indices]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("word", help="the caption of the new thing")
    parser.add_argument("pictures", type=Path, help="folder of pictures of the new thing, new-*.png")
    parser.add_argument("--adapter", help="folder of an adapter of the model")
    parser.add_argument("--adapter_weight", type=float, default=1.0, help="(%(default)s)")
    parser.add_argument("--dataset_name", default="data/emoji-64")
    parser.add_argument("--cache", type=Path, default=Path("runs/gallery.pt"), help="features of the real pictures")
    parser.add_argument("--num_names", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path, help="sheet of the pictures")
    arguments = parser.parse_args()

    pipe = RQImageGenerationPipeline.from_pretrained(arguments.model)
    pipe.set_progress_bar_config(disable=True)
    if arguments.adapter is not None:
        pipe.load_lora_weights(arguments.adapter, adapter_name="new")
        pipe.set_adapters("new", arguments.adapter_weight)
    splits = datasets.load_dataset(arguments.dataset_name)
    rows = datasets.concatenate_datasets(list(splits.values()))
    rows = rows.filter(lambda *values: values == tuple(PLAIN.values()), input_columns=list(PLAIN))
    if not arguments.cache.exists():
        arguments.cache.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"features": features(rows["image"]), "concept": rows["concept"][:]}, arguments.cache)
    new = [Image.open(path) for path in sorted(arguments.pictures.glob("new-*.png"))]
    gallery = torch.load(arguments.cache)
    real = torch.cat([gallery["features"], features(new)])
    concepts = gallery["concept"] + [arguments.word] * len(new)

    names = pipe.tokenizer.init_kwargs["emoji_names"]
    known = splits["train"].select_columns(["emoji", "concept", *PLAIN])
    known = known.filter(lambda *values: values == tuple(PLAIN.values()), input_columns=list(PLAIN))
    known = {row["concept"]: names[row["emoji"].replace("\ufe0f", "")] for row in known}
    known.pop(arguments.word, None)
    chosen = random.Random(1).sample(sorted(known), arguments.num_names)
    for seed in arguments.seeds:
        drawn = draw(pipe, [arguments.word] * 10, seed, rewrite_prompt=False)
        found = nearest(features(drawn), real, concepts)
        old = draw(pipe, [known[concept] for concept in chosen], seed)
        shown = nearest(features(old), real, concepts)
        figures = {
            "new": sum(row[0] == arguments.word for row in found),
            "old_top1": sum(row[0] == concept for row, concept in zip(shown, chosen, strict=True)),
            "old_top5": sum(concept in row for row, concept in zip(shown, chosen, strict=True)),
            "old_as_new": sum(row[0] == arguments.word for row in shown),
        }
        print(json.dumps({"model": arguments.adapter or arguments.model, "seed": seed, **figures}), flush=True)
        if arguments.output is not None and seed == arguments.seeds[0]:
            captions = [arguments.word] * 10 + [known[concept] for concept in chosen[:40]]
            image_grid(drawn + old[:40], captions, columns=10).save(arguments.output)


if __name__ == "__main__":
    main()
