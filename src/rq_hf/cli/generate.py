# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Draw pictures of prompts, of class labels or of nothing, and write them as one sheet, a row per prompt.

    rq-hf generate checkpoints/emoji-64 "a red heart, twemoji style" --num_images 4 --seed 0
    rq-hf generate checkpoints/emoji-64 "a red heart" --image photo.png --mask_image mask.png

With a picture and a mask its white part is drawn anew. Then each result is a file, of the size of the picture.
"""

import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from ..images import decode_image, image_grid
from ..pipelines import RQInpaintPipeline
from . import options


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `rq-hf generate`."""
    usage = "%(prog)s MODEL [PROMPT ...] [options]"
    parser = options.CommandParser(prog="rq-hf generate", usage=usage, description=__doc__)
    options.add_model_arguments(parser)
    parser.add_argument("prompts", metavar="PROMPT", nargs="*", help="captions")
    parser.add_argument("--class_labels", nargs="+", help="class ids or names, instead of captions")
    parser.add_argument("--negative_prompt", help="what guidance leads away from")
    number = partial(options.integer, low=1, high=1000)
    parser.add_argument("--num_images", type=number, default=4, help="per prompt (default: %(default)s)")
    parser.add_argument("--image", type=Path, help="picture of any size, of which a part is drawn anew")
    parser.add_argument("--mask_image", type=Path, help="picture of the same size; white is drawn anew")
    options.add_drawing_arguments(parser)
    parser.add_argument("--seed", type=options.integer, default=0, help="of the first picture; the next has the next")
    parser.add_argument("--output", type=options.picture_path, help="file to write; by default a new one in out/")
    arguments = parser.parse_intermixed_args(argv)  # prompts may follow an option
    pipe = options.load_pipeline(arguments)
    labels = arguments.class_labels
    if labels is not None:
        names = (pipe.transformer.config.id2label or {}).values()
        labels = [int(label) if label.isdecimal() and label not in names else label for label in labels]
    captions = arguments.prompts or [str(label) for label in labels or ["unconditional"]]
    count = len(captions) * arguments.num_images
    drawing, is_edit = options.drawing_options(arguments, pipe), arguments.image is not None
    if is_edit != (arguments.mask_image is not None):
        raise ValueError("`--image` and `--mask_image` go together, got one of them.")
    if is_edit:
        pipe = RQInpaintPipeline(**pipe.components)
        drawing |= {"image": decode_image(arguments.image), "mask_image": decode_image(arguments.mask_image, "L")}
    if arguments.prompts and pipe.prompt_rewriter is not None and arguments.rewrite_prompt is None:
        for prompt, words in zip(captions, pipe.rewrite(captions), strict=True):
            print(f"{prompt!r} is read as {words!r}", file=sys.stderr)
    images = pipe(
        prompt=arguments.prompts or None,
        class_labels=labels,
        negative_prompt=arguments.negative_prompt,
        num_images_per_prompt=arguments.num_images,
        generator=[torch.Generator().manual_seed(arguments.seed + index) for index in range(count)],
        **drawing,
    ).images
    texts = [caption for caption in captions for _ in range(arguments.num_images)]
    sheets = images if is_edit else [image_grid(images, texts, arguments.num_images, tile_size=256)]
    stem, output = re.sub(r"[^a-z0-9]+", "-", captions[0].lower()).strip("-")[:60] or "pictures", arguments.output
    for number, sheet in enumerate(sheets):
        options.write_sheet(sheet, output and output.with_stem(output.stem + f"-{number}" * (number > 0)), stem)
