# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Pictures as files have them, decoded to 8 bits on white, alike in training and by the pipeline."""

import io
from typing import Any

import fsspec
import numpy as np
from PIL import Image, ImageOps


def decode_picture(value: Any, mode: str = "RGB") -> Image.Image:
    """A picture of any format and mode as one of 8 bits without transparency.

    The first frame of an animation counts, the orientation in the EXIF data is applied, 16-bit grey is scaled to
    8 bits, and transparent pixels are laid on white, the ground of the emoji. Colour profiles are ignored.

    Args:
        value (`dict`, `bytes`, `str` or `PIL.Image.Image`):
            The file, as `datasets.Image(decode=False)` gives it (`{"bytes": ..., "path": ...}`), its content, its path
            or address, or a picture that was opened already.
        mode (`str`, *optional*, defaults to `"RGB"`): `"RGB"`, or `"L"` for grey.

    Returns:
        `PIL.Image.Image` in that mode.

    Raises:
        `ValueError`: it cannot be decoded: no picture, a truncated one, one so large that Pillow takes it for an
        attack, or integers or floating-point numbers whose range is unknown.
    """
    try:
        if not isinstance(value, Image.Image):
            value = Image.open(io.BytesIO(picture_bytes(value)))
            value.load()
        return _on_white(_in_8_bits(ImageOps.exif_transpose(value))).convert(mode)
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error and others
        raise ValueError(f"no picture that can be decoded: {type(error).__name__}: {error}") from error


def picture_bytes(value: dict[str, Any] | bytes | str) -> bytes:
    """The content of a picture's file, see [`decode_picture`]."""
    content, path = (value["bytes"], value["path"]) if isinstance(value, dict) else (value, value)
    if isinstance(content, bytes):
        return content
    with fsspec.open(path, "rb") as file:
        return file.read()


def _in_8_bits(picture: Image.Image) -> Image.Image:
    """Pillow itself clips 16-bit values at 255 instead of scaling them."""
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if not picture.mode.startswith("I"):
        return picture
    levels = np.asarray(picture).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:  # files of 16 bits may be opened as mode "I", of 32 bits
        raise ValueError(f"integer pixels must be in [0, 65535], got [{levels.min()}, {levels.max()}]")
    scaled = Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    transparent = picture.info.get("transparency")
    if transparent is not None:
        scaled.putalpha(Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8)))
    return scaled


def _on_white(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
