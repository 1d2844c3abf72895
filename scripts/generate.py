# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Generates pictures from prompts, class labels or nothing, and writes them as one PNG sheet, a row per prompt.

python scripts/generate.py checkpoints/emoji-64 "a red heart, twemoji style" --num_images 4 --seed 0
"""

import argparse
import re
import sys
from pathlib import Path

import torch

from rq_hf import RQImageGenerationPipeline
from rq_hf.command_line import (
    INPUT_ERRORS,
    add_device_argument,
    add_sampling_arguments,
    add_selection_arguments,
    picture_file,
    positive,
    sampling_settings,
    selection_settings,
)
from rq_hf.picture_grid import picture_grid, unused_path


def parse_arguments(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="Hub id or folder of a pipeline")
    parser.add_argument("prompts", nargs="*", help="captions")
    parser.add_argument("--class_labels", nargs="+", help="class ids or names, instead of captions")
    parser.add_argument("--negative_prompt", help="what guidance leads away from")
    parser.add_argument("--num_images", type=int, default=4, help="pictures per prompt or label")
    add_sampling_arguments(parser)
    add_selection_arguments(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the first picture; each next one has the next seed")
    parser.add_argument("--revision", help="revision on the Hub")
    add_device_argument(parser)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--tile_size", type=positive, default=256, help="pixels per picture on the sheet")
    parser.add_argument("--output", type=picture_file, help="PNG to write; by default a new file in out/")
    return parser.parse_intermixed_args(argv)  # prompts may follow an option


def main(argv=None) -> None:
    arguments = parse_arguments(argv)
    if arguments.num_images < 1:
        raise ValueError(f"`--num_images` must be at least 1, got {arguments.num_images}.")
    dtype = getattr(torch, arguments.dtype)
    pipe = RQImageGenerationPipeline.from_pretrained(arguments.model, revision=arguments.revision, dtype=dtype)
    pipe.to(arguments.device)
    names = (pipe.transformer.config.id2label or {}).values()
    labels = arguments.class_labels and [
        int(label) if label.isdecimal() and label not in names else label for label in arguments.class_labels
    ]
    captions = arguments.prompts or [str(label) for label in labels or ["unconditional"]]
    count = len(captions) * arguments.num_images
    if not -(2**63) <= arguments.seed <= 2**64 - count:
        raise ValueError(f"`--seed` must be from -2^63 to 2^64 - {count} for {count} pictures, got {arguments.seed}.")
    result = pipe(
        prompt=arguments.prompts or None,
        class_labels=labels,
        negative_prompt=arguments.negative_prompt,
        num_images_per_prompt=arguments.num_images,
        **sampling_settings(arguments),
        **selection_settings(arguments),
        generator=[torch.Generator().manual_seed(arguments.seed + index) for index in range(count)],
    )
    images = result.images
    rows = [images[start : start + arguments.num_images] for start in range(0, count, arguments.num_images)]
    path = arguments.output
    if path is None:
        name = re.sub(r"[^a-z0-9]+", "-", captions[0].lower()).strip("-")[:60] or "pictures"
        path = unused_path(Path("out") / f"{name}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture_grid(rows, captions, tile_size=arguments.tile_size).save(path)
    if result.scores is not None:  # of selected pictures, the best of each row first
        for caption, scores in zip(captions, result.scores.reshape(len(captions), -1).tolist(), strict=True):
            print(f"{caption}: {', '.join(f'{score:.3f}' for score in scores)}")
    print(path)


if __name__ == "__main__":
    try:
        main()
    except INPUT_ERRORS as error:
        sys.exit(f"{type(error).__name__}: {error}")
