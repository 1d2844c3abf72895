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
    (folder / "train").mkdir()
    lines = []
    for number, row in enumerate(emoji_rows()[:size]):
        name = f"{number:03d}.png"
        if number in corrupt:
            (folder / "train" / name).write_bytes(b"no picture")
        else:
            shutil.copy(FIXTURE / "train" / row["file_name"], folder / "train" / name)
        lines.append(json.dumps({"file_name": name, "text": LETTERS[number]}))
    (folder / "train" / "metadata.jsonl").write_text("\n".join(lines))
    return folder
