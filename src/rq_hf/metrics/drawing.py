# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Pictures that a pipeline draws to be measured, and the files that show them."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..picture_grid import picture_grid
from ..pipeline_rq_image_generation import RQImageGenerationPipeline
from ..seeds import seeded_generator
from .pictures import to_uint8
from .prompt_accuracy import PromptScores

SHEET_PICTURES, SHEET_COLUMNS, TILE_SIZE = 48, 3, 256


def draw_pictures(
    pipeline: RQImageGenerationPipeline,
    conditions: Sequence[str] | Sequence[int] | None,
    indices: Sequence[int],
    seed: int = 0,
    **sampling: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Draws one picture for each index.

    Args:
        pipeline ([`RQImageGenerationPipeline`]): draws.
        conditions (`Sequence[str]` or `Sequence[int]`, *optional*): a caption or a class for each, or nothing.
        indices (`Sequence[int]`): a number for each picture; with the seed it determines the picture.
        seed (`int`, defaults to 0): see `indices`.
        sampling: arguments of the pipeline, such as `temperature` or `acceptance_rate`.

    Returns:
        `torch.ByteTensor` of shape `(B, C, height, width)` on the CPU, and `scores` of the selection.
    """
    asked: dict[str, Any] = {"num_images_per_prompt": len(indices)}
    if conditions is not None:
        name = "prompt" if isinstance(conditions[0], str) else "class_labels"
        asked = {name: list(conditions)}
    generators = [seeded_generator(seed, index) for index in indices]
    output = pipeline(**asked, generator=generators, output_type="pt", **sampling)
    return to_uint8(output.images).cpu(), output.scores


def drawn_batches(
    pipeline: RQImageGenerationPipeline,
    prompts: list[str],
    indices: Sequence[int],
    batch_size: int,
    seed: int = 0,
    **sampling: Any,
) -> Iterator[torch.Tensor]:
    """Draws one picture per prompt.

    Args:
        pipeline ([`RQImageGenerationPipeline`]): draws captions.
        prompts (`list[str]`): the captions.
        indices (`Sequence[int]`): a number for each prompt; with the seed it determines the picture.
        batch_size (`int`): pictures drawn at once.
        seed (`int`, defaults to 0): see `indices`.
        sampling: arguments of the pipeline, such as `temperature`.

    Yields:
        `torch.ByteTensor` of shape `(B, C, height, width)`, on the CPU.
    """
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        yield draw_pictures(pipeline, prompts[part], indices[part], seed, **sampling)[0]


def save_drawn_pictures(
    folder: Path,
    pictures: Sequence[Image.Image],
    prompts: Sequence[str],
    scores: PromptScores,
    nearest_pictures: Sequence[Image.Image],
    nearest_concepts: Sequence[str],
) -> None:
    """Writes pictures as PNG files, metadata.jsonl with their scores, and sheet.png of the first ones.

    Args:
        folder (`Path`): made if it is missing.
        pictures (`Sequence[PIL.Image.Image]`): what was drawn.
        prompts (`Sequence[str]`): the caption of each.
        scores ([`PromptScores`]): of all.
        nearest_pictures (`Sequence[PIL.Image.Image]`): the real picture nearest to each of the first
            `SHEET_PICTURES`.
        nearest_concepts (`Sequence[str]`): what the real picture nearest to each shows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as file:
        for index, picture in enumerate(pictures):
            picture.save(folder / f"{index:05d}.png")
            entry = {
                "file_name": f"{index:05d}.png",
                "prompt": prompts[index],
                "concept_rank": scores.concept_rank[index].item(),
                "style_hit": scores.style_hit[index].item(),
                "nearest_concept": nearest_concepts[index],
            }
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    rows, captions = [], []
    for start in range(0, min(len(pictures), SHEET_PICTURES), SHEET_COLUMNS):
        part = range(start, min(len(pictures), SHEET_PICTURES, start + SHEET_COLUMNS))
        rows.append([tile for index in part for tile in (pictures[index], nearest_pictures[index])])
        captions.append([text for index in part for text in (prompts[index], f"nearest: {nearest_concepts[index]}")])
    picture_grid(rows, captions, tile_size=TILE_SIZE).save(folder / "sheet.png")
