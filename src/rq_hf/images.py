# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Pictures in and out: decoding of any picture, 8-bit pixels, captioned sheets.

Symbols: B pictures, C channels (1 or 3), h x w pixels.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

# Formats that Pillow decodes itself. For others, such as EPS, it starts external programs.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")


def decode_image(
    image: Image.Image | bytes | str | Path, mode: Literal["RGB", "L"] = "RGB", max_pixels: int | None = None
) -> Image.Image:
    """
    Converts a picture of any mode to 8 bits without transparency. Files may have any of `FORMATS`.

    The EXIF orientation is applied, transparent pixels become white and 16-bit grey is scaled to 8 bits. An animation
    gives its current frame. Colour profiles are ignored. A picture that cannot be decoded raises a `ValueError`.

    Args:
        image (`PIL.Image.Image`, `bytes`, `str` or `Path`): The picture, the content of its file, or its path.
        mode (`str`, *optional*, defaults to `"RGB"`): `"RGB"`, or `"L"` for grey.
        max_pixels (`int`, *optional*): Refuses larger pictures before they are decoded. Pillow's own limit also holds.
    """
    place = f" {image}" if isinstance(image, (str, Path)) else ""
    try:
        if not isinstance(image, Image.Image):
            image = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image, formats=FORMATS)
        if max_pixels is not None and image.width * image.height > max_pixels:
            raise ValueError(f"{image.width} x {image.height} are more than {max_pixels} pixels")
        image.load()
        image = _to_8_bits(ImageOps.exif_transpose(image))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert(mode)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        raise ValueError(f"`image`{place} cannot be decoded: {type(error).__name__}: {error}") from error


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scales 16-bit grey to 8 bits; Pillow's own conversion clips it at 255."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if not image.mode.startswith("I"):
        return image
    levels = np.asarray(image)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError(f"integer pixels must be in [0, 65535], got [{levels.min()}, {levels.max()}]")
    return Image.fromarray(((levels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


def to_uint8(pixel_values: torch.Tensor) -> torch.Tensor:
    """Rounds pixels `(B, C, h, w)` to the 8 bits that a file would hold. Values outside [-1, 1] are clamped."""
    if not pixel_values.isfinite().all():
        raise ValueError("`pixel_values` must be finite, got NaN or infinite pixels; float32 may avoid them.")
    return pixel_values.float().add(1).div(2).clamp(0, 1).mul(255).round().to(torch.uint8)  # half would round the sum


def to_rgb(pixel_values: torch.Tensor) -> torch.Tensor:
    """Repeats the channel of grey pictures `(B, 1, h, w)` three times; pictures of three channels stay as they are."""
    return pixel_values.expand(-1, 3, -1, -1) if pixel_values.shape[1] == 1 else pixel_values


def to_pil(pixel_values: torch.Tensor) -> list[Image.Image]:
    """Converts pixels `(B, C, h, w)` in [-1, 1] to Pillow images, `"L"` for one channel and `"RGB"` for three."""
    arrays = to_uint8(pixel_values).permute(0, 2, 3, 1).cpu().numpy()  # (B, h, w, C)
    return [Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array) for array in arrays]


def image_grid(
    images: Sequence[Image.Image],
    captions: Sequence[str] | None = None,
    columns: int | None = None,
    tile_size: int = 192,
) -> Image.Image:
    """
    Lays pictures out in rows on white, in mode `"RGB"`.

    Args:
        images (`Sequence[PIL.Image.Image]`): Pictures of any size; each is scaled to fit its tile.
        captions (`Sequence[str]`, *optional*): One line of text below each picture; long ones are cut with "...".
        columns (`int`, *optional*): Pictures per row; by default all stand in one row.
        tile_size (`int`, *optional*, defaults to 192): Height and width of a tile in pixels.
    """
    columns = min(columns or len(images), len(images))
    margin, caption_height = 8, 0 if captions is None else 22
    rows = -(-len(images) // columns)
    step_x, step_y = tile_size + margin, tile_size + margin + caption_height
    sheet = Image.new("RGB", (columns * step_x + margin, rows * step_y + margin), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for index, image in enumerate(images):
        left, top = margin + index % columns * step_x, margin + index // columns * step_y
        tile = ImageOps.contain(image.convert("RGB"), (tile_size, tile_size), Image.Resampling.LANCZOS)
        sheet.paste(tile, (left + (tile_size - tile.width) // 2, top + (tile_size - tile.height) // 2))
        if captions is not None:
            text = _fit_line(captions[index], tile_size, font)
            draw.text((left, top + tile_size + 2), text, fill="black", font=font)
    return sheet


def _fit_line(text: str, width: int, font: ImageFont.ImageFont) -> str:
    """Cuts `text` with "..." where it is wider than `width` pixels."""
    text = " ".join(text.split())[:width]  # a character is wider than a pixel
    if font.getlength(text) > width:
        while text and font.getlength(text + "...") > width:
            text = text[:-1]
        text += "..."
    return text
