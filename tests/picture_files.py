# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Data sets that tests write: folders of pictures and tar shards, of the emoji of the fixture."""

import io
import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

FIXTURE = Path(__file__).parent / "fixtures" / "emoji"
LETTERS = "redhatnglops"  # captions of one token each


def emoji_rows(split: str = "train") -> list[dict]:
    """What metadata.jsonl says about each picture of a split."""
    return [json.loads(line) for line in (FIXTURE / split / "metadata.jsonl").read_text().splitlines()]


def jpeg(row: dict, split: str = "train") -> bytes:
    buffer = io.BytesIO()
    with Image.open(FIXTURE / split / row["file_name"]) as picture:
        picture.convert("RGB").save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_shard(path: Path, rows: Sequence[dict], split: str = "train", start: int = 0, corrupt: Sequence[int] = ()):
    """A webdataset shard as img2dataset writes them: a picture, its caption and its metadata for each key.

    Args:
        path: of the tar file.
        rows: of [`emoji_rows`].
        split: where their pictures are.
        start: number of the first key.
        corrupt: numbers of keys whose picture is cut short.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, row in enumerate(rows, start):
            picture = jpeg(row, split)
            parts = {
                "jpg": picture[: len(picture) // 2] if number in corrupt else picture,
                "txt": row["text"].encode(),
                "json": json.dumps({"caption": row["text"]}).encode(),
            }
            for extension, content in parts.items():
                member = tarfile.TarInfo(f"{number:09d}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def write_shards(folder: Path, shards: int, size: int, corrupt: Sequence[int] = ()) -> Path:
    """So many shards of so many pictures each, with keys from 0 on."""
    rows = emoji_rows()[: shards * size]
    for shard in range(shards):
        part = rows[shard * size : (shard + 1) * size]
        write_shard(folder / f"{shard:05d}.tar", part, start=shard * size, corrupt=corrupt)
    return folder


def write_folder(folder: Path, size: int, corrupt: Sequence[int] = (), split: str = "train") -> Path:
    """A folder `split/` of so many pictures, 000.png and so on, with `LETTERS` as `text`; some may be no pictures."""
    (folder / split).mkdir(parents=True)
    lines = []
    for number, row in enumerate(emoji_rows()[:size]):
        name = f"{number:03d}.png"
        if number in corrupt:
            (folder / split / name).write_bytes(b"no picture")
        else:
            shutil.copy(FIXTURE / "train" / row["file_name"], folder / split / name)
        lines.append(json.dumps({"file_name": name, "text": LETTERS[number]}))
    (folder / split / "metadata.jsonl").write_text("\n".join(lines))
    return folder
