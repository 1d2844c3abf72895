# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Sheets of pictures: rows of tiles with a caption beneath each row or tile."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

MARGIN = 8


def picture_grid(
    rows: Sequence[Sequence[Image.Image]],
    captions: Sequence[str | Sequence[str]] | None = None,
    tile_size: int = 192,
) -> Image.Image:
    """Pictures side by side.

    Args:
        rows: pictures of each row; rows may differ in length.
        captions: for each row a text beneath it, or one text per tile.
        tile_size: height and width in pixels to which each picture is scaled.

    Returns:
        An RGB picture on white.

    Raises:
        `ValueError`: no pictures, or captions that are not as many as the rows, or more than their pictures.
    """
    if not rows or not all(rows):
        raise ValueError("`rows` must hold at least one picture each, got an empty one.")
    if captions is not None:
        texts = [1 if isinstance(each, str) else len(each) for each in captions]
        if len(texts) != len(rows) or any(count > len(row) for count, row in zip(texts, rows, strict=True)):
            raise ValueError(
                f"`captions` must have a text for each of {len(rows)} rows or of their pictures, got so many: {texts}."
            )
    font = ImageFont.load_default(size=14)
    caption_height = 22 if captions is not None else 0
    columns = max(len(row) for row in rows)
    pitch = tile_size + MARGIN
    size = (columns * pitch + MARGIN, len(rows) * (pitch + caption_height) + MARGIN)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for row_index, row in enumerate(rows):
        top = MARGIN + row_index * (pitch + caption_height)
        for column, picture in enumerate(row):
            tile = picture.convert("RGB").resize((tile_size, tile_size), Image.Resampling.LANCZOS)
            sheet.paste(tile, (MARGIN + column * pitch, top))
        if captions is not None:
            texts = captions[row_index]
            whole_row = isinstance(texts, str)
            for column, text in enumerate([texts] if whole_row else texts):
                width = size[0] - 2 * MARGIN if whole_row else tile_size
                position = (MARGIN + column * pitch, top + tile_size + 2)
                draw.text(position, shortened(text, width, font), fill="black", font=font)
    return sheet


def shortened(text: str, width: int, font: ImageFont.ImageFont) -> str:
    """`text` in one line, cut with "..." where it is wider than `width` pixels."""
    text = " ".join(text.splitlines())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def unused_path(path: Path) -> Path:
    """`path`, or the first of path-1, path-2, ... that does not exist."""
    candidate, number = path, 0
    while candidate.exists():
        number += 1
        candidate = path.with_stem(f"{path.stem}-{number}")
    return candidate
