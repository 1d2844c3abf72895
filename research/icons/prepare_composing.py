# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
r"""Joins coloured icons and emoji into the data set of the checkpoint that composes.

    python research/icons/prepare_composing.py --icons data/icons-64 --emoji data/emoji-64 \
        --output_dir data/composing-64 [--min_styles 4 --plain_emoji --one_drawing]

Every icon of `train` is painted in `--looks` looks, each drawn by a generator that (look, row) seeds, so that a
training of some epochs sees most pictures once. With `--min_styles` these are the icons of things that so many styles
draw, without flags. With `--one_drawing` they are one icon of each thing and form, where the form is clear: that of
the style that has most icons, so that one artist draws most forms of a thing. The emoji are those of `train` without
alterations; with `--plain_emoji` only those in the default skin tone and in their own colours.
`validation` has one look of each icon of `validation`. `test_combos` is that of the emoji. Each row has `image`,
`text` and `source`, which is "icon" or "emoji". README.md names the splits and links the authors and licences.
"""

import argparse
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import torch
from colour_icons import colour_icon, count_styles

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


def painted_icons(file: Path, looks: range, min_styles: int, one_drawing: bool = False) -> Iterator[dict[str, Any]]:
    """Paints each icon once for each of `looks`."""
    icons = datasets.Dataset.from_parquet(str(file))
    if min_styles > 1:
        num_styles = count_styles(datasets.Dataset.from_parquet(str(file.with_name("train.parquet"))))
        icons = icons.filter(lambda thing: num_styles[thing] >= min_styles, input_columns=["thing"])
    if one_drawing:
        num_icons, chosen = Counter(icons["style"]), {}
        for index, row in enumerate(icons.remove_columns("image")):
            if row["form"]:
                pair, found = (row["thing"], row["form"]), (num_icons[row["style"]], index)
                chosen[pair] = max(chosen.get(pair, found), found)
        icons = icons.select(sorted(index for _, index in chosen.values()))
    for look in looks:
        for index, row in enumerate(icons):
            picture, caption, _ = colour_icon(row, torch.Generator().manual_seed(look * len(icons) + index))
            yield {"image": picture, "text": caption, "source": "icon"}


def emoji_rows(file: Path, plain: bool) -> Iterator[dict[str, Any]]:
    """Emoji without alterations; of the plain ones also skin tone and colours are those of the drawing."""
    for row in datasets.Dataset.from_parquet(str(file)):
        is_plain = (row["tone"], row["colour"]) == ("default", "")
        if row["alteration"] == "none" and (is_plain or not plain):
            yield {"image": row["image"], "text": row["text"], "source": "emoji"}


def train_rows(icons: Path, emoji: Path, looks: int, plain: bool, **kept: Any) -> Iterator[dict[str, Any]]:
    yield from painted_icons(icons, range(looks), **kept)
    yield from emoji_rows(emoji, plain)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--icons", type=Path, required=True, help="folder of prepare_icons.py")
    parser.add_argument("--emoji", type=Path, required=True, help="folder of prepare_emoji.py")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--looks", type=int, default=4, help="of each icon of train (default: %(default)s)")
    parser.add_argument("--min_styles", type=int, default=1, help="of the things of icons (default: %(default)s)")
    parser.add_argument("--one_drawing", action="store_true", help="of each thing and form one icon of train only")
    parser.add_argument("--plain_emoji", action="store_true", help="leave out other skin tones and recoloured ones")
    args = parser.parse_args(argv)
    for name in ("looks", "min_styles"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}.")
    icons, emoji = {"min_styles": args.min_styles}, {"plain": args.plain_emoji}
    files = {"icons": args.icons / "train.parquet", "emoji": args.emoji / "train.parquet"}
    splits = {
        "train": (train_rows, files | icons | emoji | {"looks": args.looks, "one_drawing": args.one_drawing}),
        "validation": (painted_icons, {"file": args.icons / "validation.parquet", "looks": range(1)} | icons),
        "test_combos": (emoji_rows, {"file": args.emoji / "test_combos.parquet"} | emoji),
    }
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
