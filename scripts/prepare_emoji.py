# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
r"""Build a captioned picture set of emoji: some 1,600 concepts, each drawn by several openly licensed artists.

python scripts/prepare_emoji.py --output_dir data/emoji-64 --size 64

The drawings come from npm packages (SVG; one style is WebP), the names and keywords from Unicode CLDR. Splits and
captions follow from hashes of names, so that two builds with the same arguments are equal byte for byte.
Load the folder with `datasets.load_dataset(folder)`; its README.md says what the splits and columns are.
"""

import argparse
import hashlib
import json
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from emoji_sources import (
    NAMES,
    STYLES,
    Concept,
    IconPack,
    Packs,
    Picture,
    choose_concepts,
    install_packages,
    match_pictures,
    read_concepts,
    read_version,
)
from tqdm import tqdm

TONES = ("default", "light", "medium-light", "medium", "medium-dark", "dark")
SPLITS = ("train", "validation", "test_combos", "test_concepts")
NEAR_TWIN, SAME_PICTURE = 0.05, 0.02  # root mean square difference of two thumbnails in [0, 1]

README = """---
language: [en]
license: [{licenses}]
task_categories: [text-to-image]
size_categories: ["{size_category}"]
configs:
- config_name: default
  data_files: [{data_files}]
---
# Captioned emoji, {size} px
{num_pictures} pictures of {num_concepts} concepts, {size}x{size} pixels on white, by `scripts/prepare_emoji.py`.

{table}

- `train`: all that the other splits leave.
- `validation`: 5 % of the training pairs of concept and style, by a hash of their names, with all their skin tones.
- `test_combos`: pairs whose concept `train` has in other styles only (`held_out` = "style"), and single skin tones
  (`held_out` = "tone") of pairs that `train` or `validation` has in other tones.
- `test_concepts`: concepts that no other split has; `words_seen` tells whether `train` has each word of the name.

A split without pictures is left out. `twin` marks pictures with a near twin in another style or the look of another
concept: none is in `test_combos`, while the twin of one in `validation` may be in `train`. `text` is the main caption;
`captions` lists 5 to 7, up to two with loose keywords at the end. `weight` is 1 / the tones that a pair has in the
split.

## Licences and credits
Images are rendered from: {credits}. Changes: rasterised on white, padded, resized.
Names and keywords: Unicode CLDR through emojibase-data (MIT). Packages: SOURCES.json. Each style keeps its licence:
MIT (its text is in LICENSE-MIT), [Apache-2.0](https://www.apache.org/licenses/LICENSE-2.0),
[CC-BY-4.0](https://creativecommons.org/licenses/by/4.0), [CC-BY-SA-4.0](https://creativecommons.org/licenses/by-sa/4.0).
"""


def hash_fraction(*parts: str | int) -> float:
    """Map names to a number in [0, 1) that is the same on every machine."""
    return int.from_bytes(hashlib.sha1("|".join(map(str, parts)).encode()).digest()[:6], "big") / 2**48


def make_captions(concept: Concept, style: str, tone: int) -> list[str]:
    """Write five to seven captions of a picture; the first is the main one, the last two name keywords."""
    subject, skin = concept.label, f"{TONES[tone]} skin tone"
    if tone:
        subject += f" and {skin}" if " with " in subject else f" with {skin}"
    article = "an" if style[0] in "aeiou" else "a"
    captions = [f"{subject}, {style} style", f"{article} {style} emoji of {subject}", f"{subject} in {style} style"]
    captions += [f"{article} {style} style {subject}", subject]
    tags = [tag for tag in concept.tags if tag not in concept.label.split()]
    draws = [int(hash_fraction("tag", concept.key, style, tone, draw) * len(tags)) for draw in range(3)]
    drawn = list(dict.fromkeys(tags[draw] for draw in draws if tags))
    if tags:
        captions.append(f"{subject}, {', '.join(drawn)}, {style} style")
    if len(tags) > 1:
        keywords = ", ".join(list(dict.fromkeys(drawn + tags[:2]))[:3])
        captions.append(f"{keywords} with {skin}, {style} style" if tone else f"{keywords}, {style} style")
    return captions


def make_thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Average a square picture (size, size, 3) to 16x16 and flatten it, in [0, 1]."""
    block = len(pixels) // 16
    return pixels.reshape(16, block, 16, block, 3).mean((1, 3)).ravel() / 255


def find_look_alikes(thumbnails: np.ndarray, groups: Sequence, names: Sequence[str], limit: float) -> np.ndarray:
    """Mark pictures that nearly equal another one.

    Args:
        thumbnails: (N, 768), in [0, 1].
        groups, names: N of each; only pictures of equal groups and different names are compared.
        limit: root mean square difference below which two pictures are alike.

    Returns:
        Booleans (N,).
    """
    members = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    numbers = np.unique(names, return_inverse=True)[1]
    marks = np.zeros(len(numbers), dtype=bool)
    for indices in members.values():
        drawings = thumbnails[indices]
        squares = (drawings**2).sum(1)
        squared_difference = (squares[:, None] + squares - 2 * drawings @ drawings.T) / drawings.shape[1]
        another = numbers[indices, None] != numbers[indices]
        marks[indices] = ((squared_difference < limit**2) & another).any(1)
    return marks


def assign_splits(pictures: Sequence[Picture]) -> None:
    """Set `split` and `held_out` of all pictures of a set, by hashes of their names.

    5 % of the concepts with at least 3 styles are held out. 30 % of the others with at least 4 styles lose one style,
    with all its skin tones, to test_combos, which also takes 4 % of the single skin tones, both without look-alikes.
    Of the rest, 5 % of the pairs of concept and style go to validation: no picture of theirs is left in train.
    """
    members = defaultdict(list)
    for picture in pictures:
        members[picture.concept.key].append(picture)
    held_concepts, held_pairs = set(), set()
    for key, drawings in members.items():
        styles = {picture.style for picture in drawings}
        has_double = any(picture.double for picture in drawings)
        if len(styles) >= 3 and not has_double and hash_fraction("concept", key) < 0.05:
            held_concepts.add(key)
        elif len(styles) >= 4 and hash_fraction("combo", key) <= 0.30:
            styles -= {picture.style for picture in drawings if picture.twin or picture.double}
            ranked = sorted((hash_fraction("style", key, style), style) for style in styles)
            held_pairs.update((key, style) for _, style in ranked[:1])
    for picture in pictures:
        unique = not (picture.twin or picture.double)
        if picture.concept.key in held_concepts:
            picture.split, picture.held_out = "test_concepts", "concept"
        elif picture.pair in held_pairs:
            picture.split, picture.held_out = "test_combos", "style"
        elif picture.tone and unique and hash_fraction("tone", *picture.pair, picture.tone) < 0.04:
            picture.split, picture.held_out = "test_combos", "tone"
        elif hash_fraction("validation", *picture.pair) < 0.05:
            picture.split = "validation"


def render_pictures(pictures: list[Picture], packs: Packs, size: int, folder: Path, dropped: Counter) -> list[Picture]:
    """Draw the pictures into `folder`, mark those that look alike, and return those that are not blank."""
    kept, thumbnails = [], []
    for picture in tqdm(pictures, desc="rendering", mininterval=1):
        drawing = packs[picture.style].render(picture.icon, size)
        pixels = np.asarray(drawing)
        if (pixels.min(-1) < 245).mean() < 0.02:
            dropped["pictures: white on white"] += 1
            continue
        (folder / picture.path).parent.mkdir(parents=True, exist_ok=True)
        drawing.save(folder / picture.path)
        kept.append(picture)
        thumbnails.append(make_thumbnail(pixels))
    if not kept:
        raise ValueError("The chosen concepts must be drawn in two styles or more, got none that is.")
    styles, keys = [picture.style for picture in kept], [picture.concept.key for picture in kept]
    tones = [(picture.concept.key, picture.tone) for picture in kept]
    twins = find_look_alikes(np.stack(thumbnails), tones, styles, NEAR_TWIN)
    doubles = find_look_alikes(np.stack(thumbnails), styles, keys, SAME_PICTURE)
    for picture, twin, double in zip(kept, twins, doubles, strict=True):
        picture.twin, picture.double = bool(twin), bool(double)
    return kept


def write_splits(source: Path, folder: Path, pictures: list[Picture]) -> None:
    """Move each picture from `source` to its split in `folder`, and describe it in the split's metadata.jsonl."""
    words = {picture.concept.key: set(re.findall("[a-z0-9]+", picture.concept.label.lower())) for picture in pictures}
    seen = set().union(*(words[picture.concept.key] for picture in pictures if picture.split == "train"))
    num_tones = Counter((picture.split, *picture.pair) for picture in pictures)
    rows = defaultdict(list)
    for picture in pictures:
        concept, style, origin = picture.concept, picture.style, STYLES[picture.style]
        captions = make_captions(concept, style, picture.tone)
        row = {"file_name": picture.path, "text": captions[0], "captions": captions, "concept": concept.key}
        row |= {"style": style, "tone": TONES[picture.tone], "group": concept.group, "emoji": concept.emoji}
        row |= {"license": origin.license, "icon": f"{origin.package}:{picture.icon}", "held_out": picture.held_out}
        row |= {"words_seen": words[concept.key] <= seen, "twin": picture.twin or picture.double}
        row |= {"weight": round(1 / num_tones[picture.split, *picture.pair], 4)}
        rows[picture.split].append(json.dumps(row, ensure_ascii=False) + "\n")
        (folder / picture.split / style).mkdir(parents=True, exist_ok=True)
        (source / picture.path).rename(folder / picture.split / picture.path)
    for split, lines in rows.items():
        (folder / split / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")


def render_readme(pictures: list[Picture], styles: Sequence[str], size: int) -> str:
    """Fill in the data card; its `configs` name the splits that are not empty."""
    splits = [split for split in SPLITS if any(picture.split == split for picture in pictures)]
    counts = Counter((picture.split, picture.style) for picture in pictures)
    counts.update((picture.split, "all") for picture in pictures)
    table = [["style", *splits, "credit", "licence"], ["---"] * (len(splits) + 3)]
    for style in [*styles, "all"]:
        origin = [STYLES[style].credit, STYLES[style].license] if style in STYLES else ["", ""]
        table.append([style, *(str(counts[split, style]) for split in splits), *origin])
    return README.format(
        size=size,
        num_pictures=len(pictures),
        num_concepts=len({picture.concept.key for picture in pictures}),
        size_category=("n<1K", "1K<n<10K", "10K<n<100K")[(len(pictures) >= 1000) + (len(pictures) >= 10_000)],
        licenses=", ".join(sorted({STYLES[style].license.lower() for style in styles})),
        data_files=", ".join(f"{{split: {split}, path: {split}/**}}" for split in splits),
        table="\n".join(f"| {' | '.join(row)} |" for row in table),
        credits="; ".join(f"{STYLES[style].credit}, {STYLES[style].license}" for style in styles),
    )


def build(folder: Path, npm_dir: Path, options: argparse.Namespace) -> None:
    """Build the set in an empty folder, and print what it holds and what was dropped."""
    dropped = Counter()
    packs = {name: IconPack(npm_dir, style) for name, style in STYLES.items() if style.is_used(options.sharealike)}
    concepts = choose_concepts(read_concepts(npm_dir, dropped), options.concepts, options.limit)
    pictures = match_pictures(concepts, packs, options.tones, dropped)
    with tempfile.TemporaryDirectory(dir=folder) as drawings:
        pictures = render_pictures(pictures, packs, options.size, Path(drawings), dropped)
        assign_splits(pictures)
        write_splits(Path(drawings), folder, pictures)
    (folder / "README.md").write_text(render_readme(pictures, list(packs), options.size), encoding="utf-8")
    shutil.copyfile(npm_dir / NAMES.package / "LICENSE", folder / "LICENSE-MIT")
    sources = {name: STYLES[name]._replace(version=pack.version)._asdict() for name, pack in packs.items()}
    sources |= {"names": NAMES._replace(version=read_version(npm_dir, NAMES))._asdict()}
    (folder / "SOURCES.json").write_text(json.dumps(sources, indent=2) + "\n", encoding="utf-8")
    print(f"{len(pictures)} pictures of {len({picture.concept.key for picture in pictures})} concepts")
    for split in SPLITS:
        members = [picture for picture in pictures if picture.split == split]
        print(f"  {split}: {len(members)}, {sum(not picture.tone for picture in members)} of them in default tone")
    print("dropped:", *(f"  {count} {reason}" for reason, count in sorted(dropped.items()) if count), sep="\n")


def check_output_dir(output_dir: Path, overwrite: bool) -> None:
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"`--output_dir` must be a folder, got the file {output_dir}.")
    if output_dir.exists() and any(output_dir.iterdir()):
        if not overwrite:
            raise ValueError(f"`--output_dir` must be new or empty, got {output_dir}; --overwrite replaces it.")
        if not (output_dir / "SOURCES.json").exists():
            raise ValueError(f"--overwrite replaces only sets of this script, and {output_dir} has no SOURCES.json.")


def parse_arguments(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    add = parser.add_argument
    add("--output_dir", type=Path, required=True, help="folder to write")
    add("--size", type=int, default=64, help="width and height in pixels, a multiple of 16 (%(default)s)")
    add("--tones", default="1,2,3,4,5", help='skin tones beside the default, "" for none (%(default)s)')
    add("--npm_dir", type=Path, help="node_modules that has the packages (default: npm installs them)")
    add("--cache_dir", type=Path, default="~/.cache/rq_hf/npm", help="where npm installs them (%(default)s)")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--concepts", help='concepts to draw, such as "red-heart,rocket" (default: all)')
    choice.add_argument("--limit", type=int, help="number of concepts, evenly spread (default: all)")
    add("--sharealike", action="store_true", help="add two styles under CC-BY-SA-4.0, which changes the splits")
    add("--overwrite", action="store_true", help="replace a set that is in --output_dir")
    options = parser.parse_args(arguments)
    tones = {tone.strip() for tone in options.tones.split(",")} - {""}
    if options.size < 16 or options.size % 16:
        parser.error(f"`--size` must be a positive multiple of 16, got {options.size}.")
    if not tones <= set("12345"):
        parser.error(f"`--tones` must be numbers from 1 (light) to 5 (dark), got {options.tones!r}.")
    if options.limit is not None and options.limit < 1:
        parser.error(f"`--limit` must be at least 1, got {options.limit}.")
    options.tones = sorted(map(int, tones))
    return options


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options = parse_arguments(parser, arguments)
    output_dir = options.output_dir.expanduser().resolve()
    try:
        check_output_dir(output_dir, options.overwrite)
        if options.npm_dir is not None:
            npm_dir = options.npm_dir.expanduser()
        else:
            npm_dir = install_packages(options.cache_dir.expanduser(), options.sharealike)
        # A folder that something is mounted at cannot be renamed: what is in it gets its place, one by one.
        in_place = output_dir.is_mount()
        folders = [output_dir] if in_place else output_dir.parents
        parent = next(folder for folder in folders if folder.exists())
        with tempfile.TemporaryDirectory(prefix=f".{output_dir.name}-", dir=parent) as workspace:
            built, replaced = Path(workspace) / "built", Path(workspace) / "replaced"  # removed with the workspace
            built.mkdir()
            build(built, npm_dir, options)
            if in_place:
                replaced.mkdir()
                for path in set(output_dir.iterdir()) - {Path(workspace)}:
                    path.rename(replaced / path.name)
                for path in list(built.iterdir()):
                    path.rename(output_dir / path.name)
            else:
                output_dir.parent.mkdir(parents=True, exist_ok=True)
                if output_dir.exists():
                    output_dir.rename(replaced)
                built.rename(output_dir)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    print(f"written to {output_dir}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that the workspace is removed
    main()
