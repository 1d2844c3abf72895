# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Where the emoji come from: npm packages of drawings in several styles, and names from Unicode CLDR."""

import difflib
import io
import json
import re
import shutil
import subprocess
import sys
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import resvg_py  # pip install "rq_hf[data]"
from PIL import Image


class Style(NamedTuple):
    package: str
    version: str
    license: str  # SPDX identifier
    credit: str

    def is_used(self, sharealike: bool) -> bool:
        return sharealike or "-SA-" not in self.license


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
    "openmoji": Style("@iconify-json/openmoji", "1.2.29", "CC-BY-SA-4.0", "OpenMoji"),
    "classic": Style("@iconify-json/emojione-v1", "1.2.3", "CC-BY-SA-4.0", "EmojiOne 1"),
}
NAMES = Style("emojibase-data", "17.0.0", "MIT", "Unicode CLDR names, (c) 2017-2019 Miles Johnson")
NAMING_STYLES = ("noto", "twemoji", "flat")  # their packages tell each icon's code points, and share a naming scheme
GROUPS = ("smileys", "people", "component", "animals and nature", "food and drink", "travel and places")
GROUPS += ("activities", "objects", "symbols", "flags")
# Icons whose name matches a concept, but whose picture shows something else.
WRONG_MATCHES = set(
    "3d/person-mountain-biking blob/water-pistol cartoon/headphone cartoon/right-anger-bubble cartoon/turkey "
    "cartoon/water-pistol emojione/cricket emojione/up-button emojione/water-pistol firefox/keyboard firefox/kiss "
    "firefox/sunglasses firefox/tram-car firefox/water-pistol".split()
)
# The 3D package has its medium-light and medium skin tones exchanged in all concepts but these.
SWAPPED_TONES = {"3d": {2: 3, 3: 2}}
NOT_SWAPPED = {"technologist", "man-technologist", "woman-technologist"}
MARGIN = 0.04  # on each side, in parts of the icon's box


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
    twin: bool = False  # nearly equals the concept's picture in another style
    double: bool = False  # equals another concept's picture in its style
    split: str = "train"
    held_out: str = ""  # what a test picture holds out: "concept", "style" or "tone"

    @property
    def pair(self) -> tuple[str, str]:
        return self.concept.key, self.style

    @property
    def path(self) -> str:
        return f"{self.style}/{self.concept.key}" + (f"-tone{self.tone}" if self.tone else "") + ".png"


def normalize_hexcode(hexcode: str) -> str:
    """Lower-case a code point sequence, without the variation selectors that packages use differently."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def fold_to_ascii(text: str) -> str:
    return unicodedata.normalize("NFKD", text.replace("’", "'")).encode("ascii", "ignore").decode()


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


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"`--npm_dir` must hold {path} as JSON, got: {error}") from error


def read_version(npm_dir: Path, source: Style) -> str:
    version = read_json(npm_dir / source.package / "package.json")["version"]
    if version != source.version:
        print(f"warning: {source.package} should be {source.version}, got {version}", file=sys.stderr)
    return version


def read_concepts(npm_dir: Path, dropped: Counter) -> list[Concept]:
    """Read the concepts that can be drawn and named, counting in `dropped` what is left out."""
    concepts = []
    for entry in read_json(npm_dir / NAMES.package / "en" / "data.json"):
        name, group, skins = entry["label"], GROUPS[entry.get("group", 2)], entry.get("skins", [])
        if group == "component":
            dropped["concepts: regional letters, hair and skin swatches"] += 1
        elif group == "flags" and name.startswith("flag:"):
            dropped["concepts: country flags"] += 1
        elif "“" in name or '"' in name:
            dropped["concepts: Japanese word buttons"] += 1
        else:
            single = {
                skin["tone"]: (skin["hexcode"], skin["label"]) for skin in skins if isinstance(skin["tone"], int)
            }
            dropped["skins: couples of two tones"] += len(skins) - len(single)
            tags = [readable_label(tag) for tag in entry.get("tags", []) if tag.isascii()]
            names = slug(name), name, readable_label(name)
            concepts.append(Concept(*names, entry["hexcode"], group, tags, entry["emoji"], single))
    repeated = [key for key, count in Counter(concept.key for concept in concepts).items() if count > 1]
    if repeated:
        raise ValueError(f"The names in {NAMES.package} must differ, got two concepts for each of {repeated}.")
    return concepts


class IconPack:
    """One style's drawings: an iconify package of SVG icons, or a package of one bitmap per code point sequence."""

    def __init__(self, npm_dir: Path, style: Style):
        self.package, folder = style.package, npm_dir / style.package
        self.version = read_version(npm_dir, style)
        if self.package.startswith("@iconify-json/"):
            license = read_json(folder / "info.json")["license"]["spdx"]
            self.data = read_json(folder / "icons.json")
            self.icons, self.aliases = self.data["icons"], self.data.get("aliases", {})
            characters = read_json(folder / "chars.json") if (folder / "chars.json").exists() else {}
        else:
            license, self.data = read_json(folder / "package.json")["license"], None
            self.icons, self.aliases = {path.stem: path for path in sorted((folder / "assets").glob("*.webp"))}, {}
            characters = {name: name for name in self.icons}
        self.names = {normalize_hexcode(hexcode): name for hexcode, name in characters.items()}
        self.squeezed = {}  # names without hyphens; a first variant "cat-1" stands for "cat" where there is none
        for name in [*self.icons, *self.aliases]:
            for short in (name, name.removesuffix("-1")):
                self.squeezed.setdefault(short.replace("-", ""), name)
        if license != style.license:
            raise ValueError(f"{self.package} must be licensed {style.license}, got {license}.")
        if not self.icons:
            raise ValueError(f"{folder} must hold drawings, got none.")

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

    def render(self, icon: str, size: int) -> Image.Image:
        """Draw an icon, centred on a white square of `size` pixels."""
        if self.data is None:
            drawing = Image.open(self.icons[icon]).convert("RGBA")
            drawn, resample = round(max(drawing.size) * (1 + 2 * MARGIN)), Image.LANCZOS
        else:
            drawn, resample = size * 2 if size < 256 else size, Image.BOX
            try:
                png = resvg_py.svg_to_bytes(self.svg(icon), width=drawn, height=drawn, skip_system_fonts=True)
            except ValueError as error:
                raise ValueError(f"Icon {icon} of {self.package} cannot be rendered: {error}.") from error
            drawing = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
        ground = Image.new("RGBA", (drawn, drawn), "white")
        ground.alpha_composite(drawing, ((drawn - drawing.width) // 2, (drawn - drawing.height) // 2))
        return ground.convert("RGB").resize((size, size), resample)


Packs = dict[str, IconPack]  # by style


def match_pictures(concepts: list[Concept], packs: Packs, tones: list[int], dropped: Counter) -> list[Picture]:
    """Find the icon of each concept, style and tone; concepts of a single style are left out."""
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
                dropped["styles of a concept: wrong match"] += icon is not None
                continue
            found.append(Picture(concept, style, 0, icon))
            swapped = {} if concept.key in NOT_SWAPPED else SWAPPED_TONES.get(style, {})
            for tone in filter(concept.skins.get, tones):
                skin = concept.skins.get(swapped.get(tone, tone))
                toned_icon = pack.find(*skin, shared_names) if skin else None
                if toned_icon not in (None, icon):
                    found.append(Picture(concept, style, tone, toned_icon))
        several = len({picture.style for picture in found}) > 1
        pictures += found if several else []
        dropped["concepts: drawn in fewer than two styles"] += not several
    return pictures


def choose_concepts(concepts: list[Concept], keys: str | None, limit: int | None) -> list[Concept]:
    """Take the concepts that `keys` names, or `limit` of them evenly spread, or all."""
    if keys is None:
        count = len(concepts) if limit is None else min(limit, len(concepts))
        return [concepts[index * len(concepts) // count] for index in range(count)]
    known, wanted = [concept.key for concept in concepts], [slug(key) for key in keys.split(",")]
    for key in set(wanted) - set(known):
        close = difflib.get_close_matches(key, known, n=3, cutoff=0.4)
        raise ValueError(f"`--concepts` must name known concepts, got {key!r}; the closest are {close}.")
    return [concept for concept in concepts if concept.key in wanted]


def install_packages(cache_dir: Path, sharealike: bool) -> Path:
    """Have npm install the pinned packages below `cache_dir` unless they are there; return their node_modules."""
    wanted = {style.package: style.version for style in (*STYLES.values(), NAMES) if style.is_used(sharealike)}
    modules = cache_dir / "node_modules"
    manifests = {package: modules / package / "package.json" for package in wanted}
    if all(path.exists() and read_json(path)["version"] == wanted[package] for package, path in manifests.items()):
        return modules
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError("npm was not found: install Node.js, or give `--npm_dir` a node_modules with the packages.")
    cache_dir.mkdir(parents=True, exist_ok=True)
    (cache_dir / "package.json").write_text(json.dumps({"private": True, "dependencies": wanted}))
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund"]
    result = subprocess.run(command, cwd=cache_dir, capture_output=True, text=True)
    if result.returncode:
        raise ValueError(f"`npm install` in {cache_dir} failed:\n{result.stderr[-2000:]}")
    return modules
