# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Colour an icon and say what the picture shows: ink, form, style and ground are drawn anew at every call.

Reads rows of the set that `prepare_icons.py` builds. Combinations of thing, form and ink that `is_held_out` names are
never drawn, so that tests may ask for them.
"""

import itertools
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from datasets import Dataset
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "emoji"))  # the emoji data's builder and captions
from emoji_captions import fill, hash_fraction

COLOURS = {"red": "#d92626", "orange": "#f08010", "yellow": "#f2c811", "green": "#1f9d3a", "turquoise": "#18b5b0"}
COLOURS |= {"blue": "#1f5fd6", "purple": "#8a2be2", "pink": "#f060a8", "brown": "#7d4a22", "gray": "#858585"}
COLOURS |= {"black": "#202020", "white": "#ffffff"}
INKS = GROUNDS = tuple(COLOURS)
HELD_OUT = 0.1  # share of the inks of each thing and form that training never draws
MIN_CONTRAST = 250.0  # between ink and ground, see `contrast`
WHITE_GROUND = 0.6  # share of the pictures
SECOND_TONE = 0.6  # share of white, or of black in white ink, that the second tone of a duotone icon mixes in
FLAG_FORMS = ("flag", "round flag")
FORM_WORDS = {"outline": ("outline", "outline", "line"), "solid": ("solid", "solid", "filled")}
FORM_WORDS |= {"duotone": ("duotone", "duotone", "two-tone")}
FORM_NOUNS = {"outline": ("outline",), "solid": ("silhouette", "solid icon"), "duotone": ("duotone icon",)}
GROUND_WORDS = (" on {} ground", " on {a} ground", " on {a} background", " on {}")
FLAG_WORDS = ("flag of {}", "flag of {}", "the flag of {}", "a flag of {}", "{} flag")
Choice = TypeVar("Choice")


class Look(NamedTuple):
    """The colours of a picture. A flag has its own colours, and no ink."""

    ink: str
    ground: str


def is_held_out(thing: str, form: str, ink: str) -> bool:
    """Whether training must not show a thing in this form and ink. A form that is unclear may be any."""
    forms = (form,) if form else FORM_WORDS
    return any(hash_fraction("held look", thing, each, ink) < HELD_OUT for each in forms)


def count_styles(icons: Dataset) -> Counter[str]:
    """How many styles draw each thing, in rows of the set. Flags do not count."""
    rows = (row for row in icons.remove_columns("image") if row["form"] not in FLAG_FORMS)
    return Counter(thing for thing, _ in {(row["thing"], row["style"]) for row in rows})


def rgb(colour: str) -> tuple[int, int, int]:
    return tuple(int(COLOURS[colour][i : i + 2], 16) for i in (1, 3, 5))


def contrast(first: Sequence[float], second: Sequence[float]) -> float:
    """How much two colours (r, g, b) differ to the eye, from 0 to 765 (the "redmean" distance)."""
    (r1, g1, b1), (r2, g2, b2) = first, second
    red = (r1 + r2) / 512
    return ((2 + red) * (r1 - r2) ** 2 + 4 * (g1 - g2) ** 2 + (3 - red) * (b1 - b2) ** 2) ** 0.5


LOOKS = tuple(Look(*pair) for pair in itertools.product(INKS, GROUNDS) if contrast(*map(rgb, pair)) >= MIN_CONTRAST)


def pick(choices: Sequence[Choice], generator: torch.Generator) -> Choice:
    return choices[int(torch.randint(len(choices), (), generator=generator))]


def chance(share: float, generator: torch.Generator) -> bool:
    return bool(torch.rand((), generator=generator) < share)


def draw_look(row: Mapping[str, Any], generator: torch.Generator, ink: str | None = None) -> Look:
    """Draw a ground, and an ink that is not held out and stands out from the ground; or take the ink that is given."""
    if row["form"] in FLAG_FORMS:
        return Look("", "white" if chance(WHITE_GROUND, generator) else pick(GROUNDS, generator))
    inks = [ink] if ink else [each for each in INKS if not is_held_out(row["thing"], row["form"], each)]
    pairs = [look for look in LOOKS if look.ink in inks]
    on_white = [pair for pair in pairs if pair.ground == "white"]
    return pick(on_white if on_white and chance(WHITE_GROUND, generator) else pairs, generator)


def paint_icon(mask: Image.Image, look: Look) -> Image.Image:
    """Paint an icon.

    Args:
        mask: "L", where the ink is. "LA", where the full ink is, and where the full or the lighter ink is. "RGBA", a
            picture in its own colours.
        look: ink and ground.

    Returns:
        The picture, "RGB", of the size of the mask.
    """
    picture = Image.new("RGB", mask.size, rgb(look.ground))
    if mask.mode == "RGBA":
        picture.paste(mask, mask=mask)
        return picture
    if mask.mode == "LA":
        mask, covered = mask.split()
        other = 0 if look.ink == "white" else 255
        picture.paste(tuple(round(part + (other - part) * SECOND_TONE) for part in rgb(look.ink)), mask=covered)
    picture.paste(rgb(look.ink), mask=mask)
    return picture


def say(row: Mapping[str, Any], look: Look, generator: torch.Generator) -> str:
    """Write a caption. A ground is always said unless it is white, an ink unless it is black on white."""
    ground = look.ground if look.ground != "white" or chance(0.1, generator) else ""
    behind = fill(pick(GROUND_WORDS, generator), ground) if ground else ""
    style = f", {row['style']} style" if chance(0.3, generator) else ""
    if row["form"] in FLAG_FORMS:
        flag = row["form"] if chance(0.7, generator) else "flag"
        return pick(FLAG_WORDS, generator).format(row["name"]).replace("flag", flag) + behind + style
    thing = row["name"]
    if row["synonyms"] and chance(0.2, generator):
        thing = pick(row["synonyms"], generator)
    ink = "" if look == Look("black", "white") and chance(0.5, generator) else look.ink
    form = row["form"] if chance(0.65, generator) else ""
    words = pick(FORM_WORDS[form], generator) if form else ""
    is_plural = re.search("[^isu]s$", thing)
    frame = "{}" if is_plural else "{a}"
    kind = int(torch.randint(5, (), generator=generator))
    if kind == 0:
        return ", ".join(filter(None, (f"{thing} icon", words, ink, ground and f"{ground} ground"))) + style
    if kind == 1 and form:
        noun = f"{ink} {pick(FORM_NOUNS[form], generator)}".strip()
        return f"{fill('{a}', noun)} of {fill(frame, thing)}{behind}{style}"
    if kind == 2:
        subject = " ".join(filter(None, (words, ink, thing)))
        return fill(pick((frame, "{}", f"an icon of {frame}"), generator), subject) + behind + style
    subject, frame = f"{ink} {thing}".strip() + " icon" * (kind == 3), "{a}" if kind == 3 else frame
    end = f", {words}" + " style" * (kind == 4) if words else ""
    return fill(pick((frame, frame, "{}"), generator), subject) + behind + end + style


def colour_icon(
    row: Mapping[str, Any], generator: torch.Generator, ink: str | None = None
) -> tuple[Image.Image, str, Look]:
    """Draw the look of a row's icon, paint it and write its caption.

    Args:
        row: of the icon set: `image` (see `paint_icon`), `thing`, `name`, `synonyms`, `form` and `style`.
        generator: decides all choices.
        ink: one of `INKS`, also a held-out one, for tests. Drawn by default.

    Returns:
        The picture, its caption, and its colours.
    """
    if ink is not None and ink not in INKS:
        raise ValueError(f"`ink` must be one of {list(INKS)}, got {ink!r}.")
    look = draw_look(row, generator, ink)
    return paint_icon(row["image"], look), say(row, look, generator), look
