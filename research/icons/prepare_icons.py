# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
r"""Build a set of single-colour icons and country flags: some thousand things in the sets of many artists.

python research/icons/prepare_icons.py --output_dir data/icons-64 --size 64

Drawings come from pinned npm packages. A row keeps where the ink is, not a colour: `colour_icons.colour_icon` paints
it and writes its caption. Two builds with the same arguments are equal. The folder's README.md explains splits and
columns.
"""

import argparse
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import resvg_py  # pip install ".[data]" in a clone
from colour_icons import FLAG_FORMS, FORM_WORDS, HELD_OUT, INKS, is_held_out
from emoji_captions import fill, hash_fraction
from icon_sets import DUOTONE, OUTLINE, SETS, TEXTS, Icon, Names, choose_things, open_pack, read_flags, read_icons
from PIL import Image, ImageChops, ImageFilter
from prepare_emoji import IconPack, install_packages
from tqdm import tqdm

MOST_OF_LINES, LEAST_OF_SOLID = 0.15, 0.3  # see `check_form`
SAME_PICTURE = 0.05  # root mean square difference of two thumbnails in [0, 1]
SPLITS = ("train", "validation", "test_styles", "test_things")
FEATURES = datasets.Features(
    {"image": datasets.Image(), "synonyms": datasets.List(datasets.Value("string"))}
    | dict.fromkeys("thing name form style license icon".split(), datasets.Value("string"))
)
README = """---
language: [en]
license: [{licenses}]
task_categories: [text-to-image]
size_categories: ["{size_category}"]
configs:
- config_name: default
  data_files: [{data_files}]
- config_name: held_out
  data_files: held_out.parquet
---
# Icons in any colour, {size} px
{num_pictures} icons and flags of {num_things} things, {size}x{size} pixels, by `research/icons/prepare_icons.py`.

{splits}.

An `image` has no colour. Mode "L" is where the ink is; "LA", of a duotone icon, is where the full ink is and where any
ink is; "RGBA" is a flag. `colour_icon` of `research/icons/colour_icons.py` draws ink, ground and caption of a row.

- `test_things`: 5 % of the things, which no other split has.
- `test_styles`: one style of 30 % of the things that have four or more.
- `validation`: 4 % of the pairs of thing and style that are left. `train`: the rest.
- Training never shows {held_out:.0%} of the inks of each thing and form: see `is_held_out`. The configuration
  `held_out` lists these looks and the pairs of `test_styles`, {num_held_out} in all, each with a prompt.

`name` and `synonyms` are words for the thing. `form` is "outline" or "solid", where the icon's name says so and the
picture agrees, "duotone", "flag", "round flag" or "". Left out: buttons, arrows, letters, brands, names with a colour,
and near copies of a picture.

## Sets, authors and licences
Changes: rasterised, padded, reduced to where the ink is. Each picture keeps its set's licence (column `license`).

{table}

Names and synonyms: emojibase-data {emojibase} (Unicode CLDR, MIT); WordNet 3.0, (c) 2006 Princeton University.
"""


def draw_svg(svg: str, side: int) -> Image.Image:
    png = resvg_py.svg_to_bytes(svg, width=side, height=side, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def check_form(covered: Image.Image, form: str) -> str:
    """Return the form that the name says, or "" if the picture does not agree.

    Few squares wider than a line fit into a drawing in lines, and many into a solid one.
    """
    square = ImageFilter.BoxBlur(covered.width * 7 // 128)
    inner = covered.point(lambda value: 255 * (value > 100)).filter(square).point(lambda value: 255 * (value == 255))
    opened = inner.filter(square).point(lambda value: 255 * (value > 0))
    share = np.asarray(ImageChops.multiply(opened, covered)).mean() / np.asarray(covered).mean()
    agrees = share < MOST_OF_LINES if form == OUTLINE else share > LEAST_OF_SOLID
    return form if agrees else ""


def draw_mask(pack: IconPack, icon: Icon, size: int) -> Image.Image | None:
    """Draw where the ink of an icon is, and check its form; `None` if it is blank or full.

    Returns:
        "L" for one tone, "LA" with the full ink and all ink for a duotone icon, "RGBA" for a flag.
    """
    svg, side = pack.svg(icon.icon), 2 * size
    drawing = draw_svg(svg, side)
    if icon.form in FLAG_FORMS:
        return drawing.resize((size, size), Image.BOX)
    covered = drawing.getchannel("A")
    if icon.form == DUOTONE:
        weak = [float(value) for value in re.findall(r' opacity="([.\d]+)"', svg)] + [1 / 3] * ("#555" in svg)
        if not weak:
            return None
        part = np.asarray(covered, dtype=float)
        covered = draw_svg(re.sub(r' opacity="[.\d]+"', "", svg).replace("#555", "#fff"), side).getchannel("A")
        full = (part - weak[0] * np.asarray(covered)) / (1 - weak[0])
        full = Image.fromarray(full.clip(0, 255).round().astype(np.uint8))
        lighter = 1 - np.asarray(full).mean() / max(1, np.asarray(covered).mean())
        if not 0.1 < lighter < 0.9:
            return None
        mask = Image.merge("LA", [full, covered])
    elif np.asarray(covered).any():
        icon.form, mask = check_form(covered, icon.form), covered
    fills = 0.02 * 255 < np.asarray(covered).mean() < 0.9 * 255
    return mask.resize((size, size), Image.BOX) if fills else None


def find_copies(thumbnails: np.ndarray) -> np.ndarray:
    """Mark each thumbnail of (N, P), in [0, 1], that nearly equals an earlier one."""
    squares, copies = (thumbnails**2).sum(1), np.zeros(len(thumbnails), dtype=bool)
    for start in range(0, len(thumbnails), 1024):
        rows, stop = slice(start, start + 1024), min(start + 1024, len(thumbnails))
        distances = squares[rows, None] + squares[:stop] - 2 * thumbnails[rows] @ thumbnails[:stop].T
        earlier = np.arange(stop) < np.arange(start, stop)[:, None]
        copies[rows] = ((distances < thumbnails.shape[1] * SAME_PICTURE**2) & earlier).any(1)
    return copies


def thumbnail(mask: Image.Image) -> np.ndarray:
    """Shrink a mask to 16 x 16 pixels; the lighter ink counts half."""
    picture = mask
    if mask.mode == "LA":
        picture = Image.blend(*mask.split(), 0.5)
    elif mask.mode == "RGBA":
        picture = Image.new("RGB", mask.size, "white")
        picture.paste(mask, mask=mask)
    return np.asarray(picture.resize((16, 16), Image.BOX), dtype=np.float32).ravel() / 255


def assign_splits(icons: Iterable[Icon]) -> None:
    """Set the splits by hashes of names.

    5 % of the things are held out, by the emoji set's hash. 30 % of the others that have at least 4 styles lose one to
    test_styles. 4 % of the pairs of thing and style that are left go to validation. Flags are never held out.
    """
    styles = defaultdict(set)
    for icon in icons:
        styles[icon.thing].add(icon.style)
    for icon in icons:
        thing, is_flag = icon.thing, icon.form in FLAG_FORMS
        rare = min(styles[thing], key=lambda style: hash_fraction("style", thing, style))
        if not is_flag and hash_fraction("concept", thing) < 0.05:
            icon.split = "test_things"
        elif not is_flag and len(styles[thing]) >= 4 and hash_fraction("combo", thing) < 0.3 and icon.style == rare:
            icon.split = "test_styles"
        elif hash_fraction("validation", thing, icon.style) < 0.04:
            icon.split = "validation"


def make_rows(icons: Sequence[Icon], names: Names, licenses: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Describe the icons as rows of the data set, by split."""
    synonyms, rows = defaultdict(set), defaultdict(list)
    for icon in icons:
        synonyms[icon.thing].update(icon.synonyms, names.synonyms(icon.words))
    taken = {" ".join(icon.words) for icon in icons}
    for icon in icons:
        file, is_flag = io.BytesIO(), icon.form in FLAG_FORMS
        icon.mask.save(file, "PNG", optimize=True)
        others = sorted(synonyms[icon.thing] - taken)
        row = {"image": {"bytes": file.getvalue(), "path": f"{icon.prefix}/{icon.icon}.png"}, "thing": icon.thing}
        row |= {"name": " ".join(icon.words[2 * is_flag :]), "synonyms": [] if is_flag else others, "form": icon.form}
        row |= {"style": icon.style, "license": licenses[icon.prefix], "icon": f"{icon.prefix}:{icon.icon}"}
        rows[icon.split].append(row)
    return rows


def list_held_out(rows: dict[str, list[dict[str, Any]]]) -> list[dict[str, str]]:
    """List the combinations of trained things that training does not show, each with a prompt."""
    names = {row["thing"]: row["name"] for row in rows["train"]}
    trained = {(row["thing"], row["form"]) for row in rows["train"] if row["form"] in FORM_WORDS}
    looks = {("colour", *each, ink, "") for each in trained for ink in INKS if is_held_out(*each, ink)}
    unseen = (row for row in rows["test_styles"] if row["thing"] in names)
    looks |= {("style", row["thing"], row["form"], "black", row["style"]) for row in unseen}
    listed = []
    for kind, thing, form, ink, style in sorted(looks):
        parts = (fill("{a}", f"{ink} {names[thing]}"), form, style and f"{style} style")
        listed.append({"held_out": kind, "thing": thing, "form": form, "ink": ink, "style": style})
        listed[-1]["prompt"] = ", ".join(filter(None, parts))
    return listed


def render_readme(rows: dict[str, list[dict[str, Any]]], infos: dict[str, Any], size: int, num_held_out: int) -> str:
    """Fill in the data card; its `configs` name the splits that are not empty."""
    splits, everything = [split for split in SPLITS if rows[split]], sum(rows.values(), [])
    counts = Counter((row["icon"].partition(":")[0], kind) for row in everything for kind in (row["form"], "all"))
    forms = [*FORM_WORDS, "", *FLAG_FORMS, "all"]
    table = [["package", "version", "style", *(form or "unclear" for form in forms), "set, author", "licence"]]
    table.append(["---"] * len(table[0]))
    for prefix, info in infos.items():
        author, licence, (version, style, *_) = info["author"], info["license"], SETS[prefix]
        numbers = [str(counts[prefix, form]) for form in forms]
        credit = f"{info['name']}, [{author['name']}]({author['url']})"
        linked = f"[{licence['spdx']}]({licence['url']})" if "url" in licence else licence["spdx"]
        table.append([f"`@iconify-json/{prefix}`", version, style, *numbers, credit, linked])
    return README.format(
        size=size,
        num_pictures=len(everything),
        num_things=len({row["thing"] for row in everything}),
        num_held_out=num_held_out,
        held_out=HELD_OUT,
        emojibase=TEXTS["emojibase-data"],
        splits=", ".join(f"{split} {len(rows[split])}" for split in splits),
        size_category=("n<1K", "1K<n<10K", "10K<n<100K")[(len(everything) >= 1000) + (len(everything) >= 10_000)],
        licenses=", ".join(sorted({row["license"].lower() for row in everything})),
        data_files=", ".join(f"{{split: {split}, path: {split}.parquet}}" for split in splits),
        table="\n".join(f"| {' | '.join(cells)} |" for cells in table),
    )


def build(npm_dir: Path, output_dir: Path, size: int, prefixes: Sequence[str]) -> None:
    """Build the set in a new folder, from packages in `npm_dir`, of the icon sets that are named."""
    names, packs, infos, found, flags = Names(npm_dir), {}, {}, [], []
    for prefix in prefixes:
        packs[prefix], infos[prefix] = open_pack(npm_dir, prefix)
        if set(SETS[prefix].forms.values()) <= set(FLAG_FORMS):
            flags += read_flags(packs[prefix], prefix, names)
        else:
            found += read_icons(packs[prefix], prefix, names, npm_dir)
    icons = []
    for each in filter(None, (choose_things(found, names), flags)):
        for icon in tqdm(each, desc="rendering", mininterval=1):
            icon.mask = draw_mask(packs[icon.prefix], icon, size)
        drawn = [icon for icon in each if icon.mask]
        copies = find_copies(np.stack([thumbnail(icon.mask) for icon in drawn]))
        icons += [icon for icon, is_copy in zip(drawn, copies, strict=True) if not is_copy]
    assign_splits(icons)
    rows = make_rows(icons, names, {prefix: info["license"]["spdx"] for prefix, info in infos.items()})
    held_out = list_held_out(rows)
    output_dir.mkdir(parents=True, exist_ok=True)
    for split in filter(rows.get, SPLITS):
        datasets.Dataset.from_list(rows[split], features=FEATURES).to_parquet(output_dir / f"{split}.parquet")
    datasets.Dataset.from_list(held_out).to_parquet(output_dir / "held_out.parquet")
    (output_dir / "README.md").write_text(render_readme(rows, infos, size, len(held_out)), encoding="utf-8")
    print(*(f"{split}: {len(rows[split])} pictures" for split in SPLITS), f"written to {output_dir}", sep="\n")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output_dir", type=Path, required=True, help="folder to write, new or empty")
    add("--size", type=int, default=64, help="width and height in pixels, a multiple of 16 (%(default)s)")
    add("--npm_dir", type=Path, default="~/.cache/rq_hf/npm-icons", help="where npm installs packages (%(default)s)")
    add("--sets", help=f'icon sets to use, such as "ph,flag" (default: all of {", ".join(SETS)})')
    options = parser.parse_args(argv)
    prefixes = options.sets.split(",") if options.sets else list(SETS)
    if unknown := set(prefixes) - SETS.keys():
        parser.error(f"`--sets` must name some of {list(SETS)}, got {sorted(unknown)}.")
    if options.size < 16 or options.size % 16:
        parser.error(f"`--size` must be a positive multiple of 16, got {options.size}.")
    if options.output_dir.exists() and any(options.output_dir.iterdir()):
        parser.error(f"`--output_dir` must be new or empty, got {options.output_dir}.")
    try:
        wanted = {f"@iconify-json/{prefix}": SETS[prefix].version for prefix in prefixes} | TEXTS
        npm_dir = install_packages(options.npm_dir.expanduser(), wanted)
        build(npm_dir, options.output_dir, options.size, prefixes)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
