# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Data sets that tests write: folders of pictures and tar shards, of the emoji of the fixture."""

import io
import json
import random
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

FIXTURE = Path(__file__).parent / "fixtures" / "emoji"
LETTERS = "redhatnglops"  # captions of one token each
COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 70, 220), "yellow": (240, 200, 20)}


def emoji_rows() -> list[dict]:
    """What metadata.jsonl says about each picture for training."""
    return [json.loads(line) for line in (FIXTURE / "train" / "metadata.jsonl").read_text().splitlines()]


def jpeg(row: dict) -> bytes:
    buffer = io.BytesIO()
    with Image.open(FIXTURE / "train" / row["file_name"]) as picture:
        picture.convert("RGB").save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_shard(path: Path, rows: Sequence[dict], start: int = 0, corrupt: Sequence[int] = ()) -> None:
    """Writes a picture and its caption for each key, from `start` on. The pictures of `corrupt` keys are cut short."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, row in enumerate(rows, start):
            picture = jpeg(row)
            if number in corrupt:
                picture = picture[: len(picture) // 2]
            for extension, content in (("jpg", picture), ("txt", row["text"].encode())):
                member = tarfile.TarInfo(f"{number:09d}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def write_shards(folder: Path, shards: int, size: int, corrupt: Sequence[int] = ()) -> Path:
    """Writes so many shards of `size` pictures each, with keys from 0 on, for training."""
    rows = emoji_rows()
    for shard in range(shards):
        start = shard * size
        write_shard(folder / "train" / f"{shard:05d}.tar", rows[start : start + size], start, corrupt)
    return folder


def write_folder(folder: Path, size: int, corrupt: Sequence[int] = ()) -> Path:
    """Writes so many pictures, 000.png and so on, with `LETTERS` as `text`. The `corrupt` ones are no pictures."""
    (folder / "train").mkdir(parents=True)
    lines = []
    for number, row in enumerate(emoji_rows()[:size]):
        name = f"{number:03d}.png"
        content = b"no picture" if number in corrupt else (FIXTURE / "train" / row["file_name"]).read_bytes()
        (folder / "train" / name).write_bytes(content)
        lines.append(json.dumps({"file_name": name, "text": LETTERS[number]}))
    (folder / "train" / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def write_shapes(folder: Path, count: int = 60) -> Path:
    """Draws shapes of several sizes at several places, with captions such as "a red circle", for training."""
    draw_at, lines = random.Random(0), []
    (folder / "train").mkdir(parents=True)
    for number in range(count):
        colour, shape = list(COLOURS)[number % 4], ("circle", "square", "triangle")[number // 4 % 3]
        side = draw_at.choice([80, 96, 120])
        picture = Image.new("RGB", (side, side), "white")
        radius = draw_at.uniform(0.25, 0.4) * side
        x, y = (draw_at.uniform(radius, side - radius) for _ in range(2))
        if shape == "circle":
            ImageDraw.Draw(picture).ellipse((x - radius, y - radius, x + radius, y + radius), COLOURS[colour])
        else:
            sides = 4 if shape == "square" else 3
            ImageDraw.Draw(picture).regular_polygon((x, y, radius), sides, fill=COLOURS[colour])
        picture.save(folder / "train" / f"{number:03d}.png")
        lines.append(json.dumps({"file_name": f"{number:03d}.png", "text": f"a {colour} {shape}"}))
    (folder / "train" / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def shown_colour(picture: Image.Image) -> str:
    """Which of the colours the pixels that are not white have on average; "none" without such pixels."""
    pixels = np.asarray(picture.convert("RGB"), float).reshape(-1, 3)
    shape = pixels[pixels.min(1) < 170]
    if len(shape) < len(pixels) / 50:
        return "none"
    return min(COLOURS, key=lambda name: ((shape.mean(0) - COLOURS[name]) ** 2).sum())
