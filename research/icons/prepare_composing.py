# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
r"""Joins coloured icons and emoji into the data set of the checkpoint that composes.

    python research/icons/prepare_composing.py --icons data/icons-64 --emoji data/emoji-64 \
        --output_dir data/composing-64

Every icon of `train` is painted in `--looks` looks, each drawn by a generator that (look, row) seeds, so that a
training of some epochs sees most pictures once. The emoji are those of `train` without alterations, in all skin tones.
`validation` has one look of each icon of `validation`. `test_combos` is that of the emoji. Each row has `image`,
`text` and `source`, which is "icon" or "emoji". README.md names the splits and links the authors and licences.
"""

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import torch
from colour_icons import colour_icon

README = """---
configs:
- config_name: default
  data_files: [{files}]
---
# Icons in colour and emoji
Joined by `research/icons/prepare_composing.py`. Sets, authors and licences: [icons](icons.md), [emoji](emoji.md).
"""
FEATURES = datasets.Features(
    {"image": datasets.Image(), "text": datasets.Value("string"), "source": datasets.Value("string")}
)


def painted_icons(file: Path, looks: range) -> Iterator[dict[str, Any]]:
    """Paints each icon once for each of `looks`."""
    icons = datasets.Dataset.from_parquet(str(file))
    for look in looks:
        for index, row in enumerate(icons):
            picture, caption, _ = colour_icon(row, torch.Generator().manual_seed(look * len(icons) + index))
            yield {"image": picture, "text": caption, "source": "icon"}


def emoji_rows(file: Path) -> Iterator[dict[str, Any]]:
    """Emoji as drawn, without the altered ones."""
    for row in datasets.Dataset.from_parquet(str(file)):
        if row["alteration"] == "none":
            yield {"image": row["image"], "text": row["text"], "source": "emoji"}


def train_rows(icons: Path, emoji: Path, looks: int) -> Iterator[dict[str, Any]]:
    yield from painted_icons(icons, range(looks))
    yield from emoji_rows(emoji)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--icons", type=Path, required=True, help="folder of prepare_icons.py")
    parser.add_argument("--emoji", type=Path, required=True, help="folder of prepare_emoji.py")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--looks", type=int, default=4, help="of each icon of train (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.looks < 1:
        parser.error(f"--looks must be at least 1, got {args.looks}.")
    splits = {
        "train": (train_rows, {"icons": args.icons / "train.parquet", "emoji": args.emoji / "train.parquet"}),
        "validation": (painted_icons, {"file": args.icons / "validation.parquet", "looks": range(1)}),
        "test_combos": (emoji_rows, {"file": args.emoji / "test_combos.parquet"}),
    }
    splits["train"][1]["looks"] = args.looks
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for split, (rows, options) in splits.items():
        data = datasets.Dataset.from_generator(rows, features=FEATURES, gen_kwargs=options, split=split)
        data.to_parquet(str(args.output_dir / f"{split}.parquet"))
        print(f"{split}: {len(data):,} pictures")
    files = ", ".join(f"{{split: {split}, path: {split}.parquet}}" for split in splits)
    (args.output_dir / "README.md").write_text(README.format(files=files), encoding="utf-8")
    for name, folder in (("icons", args.icons), ("emoji", args.emoji)):
        shutil.copy(folder / "README.md", args.output_dir / f"{name}.md")
    shutil.copytree(args.emoji / "licenses", args.output_dir / "licenses", dirs_exist_ok=True)


if __name__ == "__main__":
    main()
