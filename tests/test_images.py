# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Pictures of every kind become 8-bit pixels on white; sheets show what they are given."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from rq_hf.images import decode_image, image_grid, to_pil, to_rgb, to_uint8


def file_of(picture: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def row_of(mode: str, *pixels: int | tuple[int, ...]) -> Image.Image:
    picture = Image.new(mode, (len(pixels), 1))
    picture.putdata(pixels)
    return picture


def grey(*levels: float, dtype: type = np.uint8) -> Image.Image:
    return Image.fromarray(np.array([levels], dtype))


PALETTE = row_of("P", 0, 1, 2)
PALETTE.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
IN_16_BITS = grey(0, 128, 257, 32896, 65535, dtype=np.uint16)
IN_8_BITS = [(0,) * 3, (0,) * 3, (1,) * 3, (128,) * 3, (255,) * 3]
KINDS = {
    "grey": (file_of(grey(0, 7, 255)), [(0,) * 3, (7,) * 3, (255,) * 3]),
    "grey with alpha": (file_of(row_of("LA", (9, 255), (9, 0), (0, 51))), [(9,) * 3, (255,) * 3, (204,) * 3]),
    "RGBA": (
        file_of(row_of("RGBA", (1, 2, 3, 255), (1, 2, 3, 0), (255, 0, 0, 51))),
        [(1, 2, 3), (255, 255, 255), (255, 204, 204)],
    ),
    "palette": (file_of(PALETTE), [(255, 0, 0), (0, 255, 0), (0, 0, 255)]),
    "palette with transparency": (
        file_of(PALETTE, transparency=bytes([255, 51, 0])),
        [(255, 0, 0), (204, 255, 204), (255, 255, 255)],
    ),
    "RGB with a transparent colour": (
        file_of(row_of("RGB", (1, 2, 3), (4, 5, 6)), transparency=(4, 5, 6)),
        [(1, 2, 3), (255, 255, 255)],
    ),
    "CMYK": (
        file_of(row_of("CMYK", (0, 0, 0, 0), (255, 0, 0, 0), (0, 0, 0, 255)), "TIFF"),
        [(255, 255, 255), (0, 255, 255), (0, 0, 0)],
    ),
    "16-bit PNG": (file_of(IN_16_BITS), IN_8_BITS),
    "16-bit PGM, which Pillow opens as 32-bit integers": (file_of(IN_16_BITS, "PPM"), IN_8_BITS),
}


@pytest.mark.parametrize("content, expected", KINDS.values(), ids=KINDS)
def test_pictures_of_every_mode_become_exact_rgb_on_white(content, expected):
    picture = decode_image(content)
    assert picture.mode == "RGB"
    assert [picture.getpixel((x, 0)) for x in range(picture.width)] == expected
    assert decode_image(Image.open(io.BytesIO(content)), "L").tobytes() == picture.convert("L").tobytes()


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_taken(format):
    red, blue = (Image.new("RGB", (8, 8), color) for color in ("red", "blue"))
    options = {"lossless": True} if format == "WEBP" else {}
    content = file_of(red, format, save_all=True, append_images=[blue], duration=100, **options)
    assert decode_image(content).getcolors() == [(64, (255, 0, 0))]


def test_exif_orientation_is_applied():
    picture = Image.new("RGB", (32, 16), "black")
    picture.paste("white", (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    turned = decode_image(file_of(picture, "JPEG", exif=exif))
    assert turned.size == (16, 32)
    assert turned.getpixel((8, 4)) == (255, 255, 255) and turned.getpixel((8, 28)) == (0, 0, 0)


UNDECODABLE = {
    "text": (b"no picture", "UnidentifiedImageError"),
    "truncated": (file_of(Image.effect_noise((64, 64), 50), "JPEG")[:900], "truncated"),
    "32-bit integers": (file_of(grey(-1, 70000, dtype=np.int32), "TIFF"), r"must be in \[0, 65535\]"),
    "floating-point pixels": (file_of(grey(0, 1, dtype=np.float32), "TIFF"), "no known range"),
}


@pytest.mark.parametrize("content, match", UNDECODABLE.values(), ids=UNDECODABLE)
def test_an_undecodable_picture_is_a_value_error_that_says_why(content, match):
    with pytest.raises(ValueError, match=f"`image` cannot be decoded.*{match}"):
        decode_image(content)


def test_a_format_for_which_pillow_starts_a_program_is_refused(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(file_of(Image.new("L", (8, 8)), "EPS"))
    with pytest.raises(ValueError, match=f"`image` {path} cannot be decoded: UnidentifiedImageError"):
        decode_image(path)


def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded():
    header = file_of(Image.new("1", (13300, 13300)))[:64]  # decoding it would tell that the rest is missing
    with pytest.raises(ValueError, match="`image` cannot .*: 13300 x 13300 are more than 33554432 pixels"):
        decode_image(header, max_pixels=2**25)
    assert decode_image(file_of(Image.new("L", (8, 4))), max_pixels=32).size == (8, 4)


def test_to_uint8_rounds_and_clamps_and_refuses_what_is_not_finite():
    pixels = torch.tensor([[[[-2.0, -1.0, 0.8 / 255 - 1, 1.2 / 255 - 1, 1.0, 1.7]]]])
    assert to_uint8(pixels).flatten().tolist() == [0, 0, 0, 1, 255, 255]
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_uint8(levels / 127.5 - 1), levels)
    assert (to_uint8((levels / 127.5 - 1).bfloat16()).int() - levels.int()).abs().max() <= 1
    with pytest.raises(ValueError, match="`pixel_values` must be finite"):
        to_uint8(torch.tensor([0.5, math.nan]))


def test_to_pil_keeps_grey_grey_and_to_rgb_repeats_it(pictures):
    images = to_pil(pictures)
    assert [image.mode for image in images] == ["RGB"] * len(pictures)
    assert np.array_equal(np.asarray(images[3]), to_uint8(pictures)[3].permute(1, 2, 0).numpy())
    assert to_pil(pictures[:, :1])[0].mode == "L"
    assert torch.equal(to_rgb(pictures[:, :1]), pictures[:, [0, 0, 0]]) and to_rgb(pictures) is pictures


def test_a_grid_places_pictures_row_by_row_with_captions_below_that_are_cut():
    sizes = {"red": (64, 64), "lime": (8, 4), "blue": (32, 64)}
    images = [Image.new("RGB", size, colour) for colour, size in sizes.items()]
    grid = image_grid(images, ["a heart", "a very long caption " * 9, ""], columns=2, tile_size=64)
    assert grid.size == (2 * 72 + 8, 2 * (72 + 22) + 8)
    centres = [grid.getpixel(place) for place in [(40, 40), (112, 40), (40, 134)]]
    assert centres == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert grid.getpixel((112, 12)) == (255, 255, 255)  # a wide picture keeps its shape
    caption = np.asarray(grid)[74:94]
    assert caption[:, 8:72].min() < 128 and caption[:, 144:].min() == 255  # text under the tiles, none beside them
    assert image_grid(images, tile_size=64).size == (3 * 72 + 8, 72 + 8)
