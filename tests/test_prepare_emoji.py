# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
import filecmp
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from datasets import Image as ImageFeature
from datasets import List, Value, load_dataset
from huggingface_hub import DatasetCard
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
emoji_sources = importlib.import_module("emoji_sources")
prepare_emoji = importlib.import_module("prepare_emoji")

FIXTURE = ROOT / "tests" / "fixtures" / "emoji"
SPLITS = ["train", "validation", "test_combos", "test_concepts"]
STYLES = [style for style, source in emoji_sources.STYLES.items() if "-SA-" not in source.license]
TEXT_COLUMNS = "text concept style tone group emoji license icon held_out".split()
COLUMNS = {"image": ImageFeature(), "captions": List(Value("string")), "weight": Value("float64")}
COLUMNS |= dict.fromkeys(TEXT_COLUMNS, Value("string")) | dict.fromkeys(["words_seen", "twin"], Value("bool"))


def make_concept(label="red heart", tags=(), skins=None):
    key = emoji_sources.slug(label)
    return emoji_sources.Concept(key, label, label, "2764", "smileys", list(tags), "❤", skins or {})


def read_rows(folder, split):
    path = folder / split / "metadata.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


FAKE_NAMES = [f"thing {first}{second}" for first in "abcdefgh" for second in "pqrstuvw"] + ["turkey", "waving person"]
FAKE_DROPPED = [("flag: Somewhere", 9), ("Japanese “here” button", 8), ("regional indicator A", None), ("red hair", 2)]


def draw(*parts):
    """An SVG body of sixteen squares, coloured by the hash of `parts`."""
    fraction = prepare_emoji.hash_fraction
    return "".join(
        f'<path fill="hsl({fraction(*parts, cell) * 360:.0f},80%,40%)" d="M{cell % 4 * 4} {cell // 4 * 4}h4v4h-4z"/>'
        for cell in range(16)
    )


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def emoji_entries():
    """Entries of emojibase's data.json; the last one comes in two skin tones."""
    entries = [
        {"label": name, "hexcode": f"{0xE000 + index:X}", "group": 7, "emoji": chr(0xE000 + index), "tags": ["item"]}
        for index, name in enumerate(FAKE_NAMES)
    ]
    entries[-1]["group"] = 1
    entries[-1]["skins"] = [
        {"tone": tone, "hexcode": f"{entries[-1]['hexcode']}-1F3F{tone}", "label": f"waving person: tone {tone}"}
        for tone in (2, 3)
    ] + [{"tone": [2, 3], "hexcode": "F000", "label": "two tones"}]
    for index, (name, group) in enumerate(FAKE_DROPPED):
        entry = {"label": name, "hexcode": f"{0xF100 + index:X}", "emoji": "x"}
        entries.append(entry | ({} if group is None else {"group": group}))
    return entries


@pytest.fixture(scope="module")
def npm_dir(tmp_path_factory):
    """A node_modules with packages of the real layout: each style draws each concept in its own colours, but "flat"
    repeats "fluent" in "thing ap", "noto" draws "thing aq" as "thing ar", and "firefox" has only "thing a?"."""
    root = tmp_path_factory.mktemp("npm") / "node_modules"
    entries, names = emoji_entries(), emoji_sources.NAMES
    write_json(root / names.package / "en" / "data.json", entries)
    write_json(root / names.package / "package.json", {"version": names.version})
    (root / names.package / "LICENSE").write_text("MIT License\n", encoding="utf-8")
    drawn = {entry["hexcode"]: emoji_sources.slug(entry["label"]) for entry in entries[: len(FAKE_NAMES)]}
    drawn |= {skin["hexcode"]: f"waving-person-{skin['tone']}" for skin in entries[len(FAKE_NAMES) - 1]["skins"][:2]}
    for style in STYLES:
        source = emoji_sources.STYLES[style]
        folder = root / source.package
        write_json(folder / "package.json", {"version": source.version, "license": source.license})
        if style == "3d":
            (folder / "assets").mkdir()
            for hexcode in drawn:
                colours = [prepare_emoji.hash_fraction(hexcode, cell) * 220 for cell in range(48)]
                picture = Image.fromarray(np.array(colours).astype(np.uint8).reshape(4, 4, 3))
                path = folder / "assets" / f"{hexcode.lower()}.webp"
                picture.resize((32, 32), Image.NEAREST).save(path, lossless=True)
            continue
        icons = {name: {"body": draw(style, name)} for name in drawn.values()}
        if style == "firefox":
            icons = {name.replace("-", ""): icon for name, icon in icons.items() if name.startswith("thing-a")}
        if style == "flat":
            icons["thing-ap"] = {"body": draw("fluent", "thing-ap")}
        if style == "noto":
            icons["thing-aq"] = {"body": draw("noto", "thing-ar")}
            icons["renamed"] = icons.pop("thing-as")
        aliases = {"thing-as": {"parent": "renamed"}} if style == "noto" else {}
        write_json(folder / "icons.json", {"icons": icons, "aliases": aliases, "width": 16, "height": 16})
        write_json(folder / "info.json", {"license": {"spdx": source.license}})
        if style in emoji_sources.NAMING_STYLES:
            write_json(folder / "chars.json", {hexcode.lower(): name for hexcode, name in drawn.items()})
    return root


def run(npm_dir, output_dir, *arguments):
    prepare_emoji.main([f"--npm_dir={npm_dir}", f"--output_dir={output_dir}", "--size=32", *arguments])
    return output_dir


@pytest.fixture(scope="module")
def built(npm_dir, tmp_path_factory):
    return run(npm_dir, tmp_path_factory.mktemp("built") / "some" / "emoji")


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_two_builds_are_equal_byte_for_byte(npm_dir, built, tmp_path):
    again = run(npm_dir, tmp_path / "again")
    assert files_of(again) == files_of(built)
    assert filecmp.cmpfiles(again, built, files_of(built), shallow=False)[1:] == ([], [])


def test_each_picture_has_one_row_and_each_row_a_picture(built):
    rows = [row | {"split": split} for split in SPLITS for row in read_rows(built, split)]
    paths = [f"{row['split']}/{row['file_name']}" for row in rows]
    assert sorted(paths) == [path for path in files_of(built) if path.endswith(".png")]
    # 66 concepts in 8 styles, but for the turkey of "cartoon", and 8 of them in "firefox"; one in two skin tones
    assert sum(row["tone"] == "default" for row in rows) == 66 * 8 - 1 + 8
    assert {row["tone"] for row in rows} == {"default", "medium-light", "medium"}
    assert sum(row["tone"] != "default" for row in rows) == 2 * 8
    with Image.open(built / paths[0]) as picture:
        assert (picture.size, picture.mode) == ((32, 32), "RGB")


def test_icons_are_found_by_code_point_alias_and_squeezed_name(built):
    icons = {row["file_name"]: row["icon"] for split in SPLITS for row in read_rows(built, split)}
    assert icons["noto/thing-as.png"] == "@iconify-json/noto:renamed"
    assert icons["firefox/thing-as.png"] == "@iconify-json/fxemoji:thingas"
    assert icons["3d/thing-ap.png"] == "@lobehub/fluent-emoji-3d:e000"
    assert icons["blob/waving-person-tone2.png"] == "@iconify-json/noto-v1:waving-person-2"
    assert icons["3d/waving-person-tone2.png"].endswith("-1f3f3")  # the package has these two tones exchanged


def test_look_alikes_are_marked_and_never_in_test_combos(built):
    twins = {row["file_name"] for split in SPLITS for row in read_rows(built, split) if row["twin"]}
    assert twins == {"fluent/thing-ap.png", "flat/thing-ap.png", "noto/thing-aq.png", "noto/thing-ar.png"}
    assert not twins & {row["file_name"] for row in read_rows(built, "test_combos")}


def test_what_was_dropped_is_reported(npm_dir, tmp_path, capsys):
    run(npm_dir, tmp_path / "emoji", "--tones=")
    printed = capsys.readouterr().out
    assert "535 pictures of 66 concepts" in printed
    assert "  1 concepts: Japanese word buttons\n  1 concepts: country flags\n  2 concepts: regional" in printed
    assert "  1 skins: couples of two tones\n  1 styles of a concept: wrong match\n" in printed


def test_limit_and_concepts_choose(npm_dir, tmp_path):
    for name, arguments, count in (("limit", ["--limit=7"], 7), ("names", ["--concepts=thing bq,thing-cr"], 2)):
        folder = run(npm_dir, tmp_path / name, *arguments)
        assert len({row["concept"] for split in SPLITS for row in read_rows(folder, split)}) == count


@pytest.mark.parametrize("streaming", [False, True])
def test_a_set_without_some_split_loads(npm_dir, tmp_path, streaming):
    keys = map(emoji_sources.slug, FAKE_NAMES)
    held_out = next(key for key in keys if prepare_emoji.hash_fraction("concept", key) < 0.05)
    folder = run(npm_dir, tmp_path / "emoji", f"--concepts={held_out}")
    dataset = load_dataset(str(folder), streaming=streaming, cache_dir=tmp_path / "cache")
    assert list(dataset) == ["test_concepts"]
    assert len(list(dataset["test_concepts"])) >= 8


def test_overwrite_replaces_a_set_whole(npm_dir, tmp_path):
    folder = run(npm_dir, tmp_path / "emoji", "--limit=20")
    run(npm_dir, folder, "--concepts=thing ap", "--overwrite")
    assert {row["concept"] for split in SPLITS for row in read_rows(folder, split)} == {"thing-ap"}
    assert os.listdir(tmp_path) == ["emoji"]


def test_a_folder_that_something_is_mounted_at_is_filled_in_place(npm_dir, tmp_path, monkeypatch):
    folder = tmp_path / "mounted"
    folder.mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path == folder)
    rename = Path.rename

    def rename_but_no_mount(path, target):
        assert folder not in (path, Path(target))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_but_no_mount)
    inode = folder.stat().st_ino
    run(npm_dir, folder, "--limit=20")
    run(npm_dir, folder, "--concepts=thing ap", "--overwrite")
    assert {row["concept"] for split in SPLITS for row in read_rows(folder, split)} == {"thing-ap"}
    assert folder.stat().st_ino == inode and os.listdir(tmp_path) == ["mounted"]
    assert not [name for name in os.listdir(folder) if name.startswith(".")]


def assert_fails(capsys, message, npm_dir, output_dir, *arguments):
    with pytest.raises(SystemExit) as caught:
        run(npm_dir, output_dir, *arguments)
    assert caught.value.code != 0
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--size=50", "`--size` must be a positive multiple of 16, got 50"),
        ("--tones=1,6", "`--tones` must be numbers from 1 (light) to 5 (dark), got '1,6'"),
        ("--limit=0", "`--limit` must be at least 1, got 0"),
        ("--concepts=thing ax", "`--concepts` must name known concepts, got 'thing-ax'; the closest are ['thing-a"),
        ("--sharealike", "openmoji/package.json"),
    ],
)
def test_bad_values_are_named(npm_dir, tmp_path, capsys, argument, message):
    assert_fails(capsys, message, npm_dir, tmp_path / "emoji", argument)
    assert os.listdir(tmp_path) == []


def test_bad_folders_are_named(npm_dir, tmp_path, capsys):
    (tmp_path / "file").write_text("text")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("text")
    assert_fails(capsys, "fluent-emoji-3d/package.json", tmp_path / "missing", tmp_path / "emoji")
    assert_fails(capsys, "must be a folder, got the file", npm_dir, tmp_path / "file")
    assert_fails(capsys, "Not a directory", npm_dir, tmp_path / "file" / "emoji")
    assert_fails(capsys, "must be new or empty", npm_dir, tmp_path / "full")
    assert_fails(capsys, "has no SOURCES.json", npm_dir, tmp_path / "full", "--overwrite")
    assert files_of(tmp_path) == ["file", "full/thesis.txt"]


@pytest.fixture
def broken_npm_dir(npm_dir, tmp_path_factory):
    """A copy of the npm tree that a test may spoil."""
    return shutil.copytree(npm_dir, tmp_path_factory.mktemp("broken") / "node_modules")


def test_a_failure_while_drawing_leaves_nothing_behind(broken_npm_dir, npm_dir, tmp_path, capsys):
    folder = run(npm_dir, tmp_path / "emoji", "--limit=3")
    before = {name: (folder / name).read_bytes() for name in files_of(folder)}
    path = broken_npm_dir / "@iconify-json" / "twemoji" / "icons.json"
    icons = json.loads(path.read_text())
    icons["icons"]["thing-dp"]["body"] = "<path"
    write_json(path, icons)
    message = "Icon thing-dp of @iconify-json/twemoji cannot be rendered"
    assert_fails(capsys, message, broken_npm_dir, tmp_path / "new" / "emoji")
    assert_fails(capsys, message, broken_npm_dir, folder, "--overwrite")
    assert os.listdir(tmp_path) == ["emoji"]
    assert {name: (folder / name).read_bytes() for name in files_of(folder)} == before


def test_another_licence_truncated_json_and_another_version_are_told(broken_npm_dir, tmp_path, capsys):
    folder = broken_npm_dir / "@iconify-json" / "twemoji"
    write_json(folder / "package.json", {"version": "9.0.0"})
    run(broken_npm_dir, tmp_path / "emoji", "--limit=3")
    assert "warning: @iconify-json/twemoji should be 1.2.5, got 9.0.0" in capsys.readouterr().err
    assert json.loads((tmp_path / "emoji" / "SOURCES.json").read_text())["twemoji"]["version"] == "9.0.0"
    write_json(folder / "info.json", {"license": {"spdx": "GPL-3.0"}})
    assert_fails(capsys, "must be licensed CC-BY-4.0, got GPL-3.0", broken_npm_dir, tmp_path / "other")
    (folder / "icons.json").write_text('{"icons": {')
    assert_fails(capsys, "twemoji/icons.json as JSON", broken_npm_dir, tmp_path / "other")


def test_a_terminated_build_leaves_nothing_behind(npm_dir, tmp_path):
    command = [sys.executable, ROOT / "scripts" / "prepare_emoji.py", f"--output_dir={tmp_path / 'emoji'}"]
    process = subprocess.Popen([*command, f"--npm_dir={npm_dir}", "--size=2048"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(tmp_path.rglob("*.png"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert os.listdir(tmp_path) == []


def write_npm(folder, script):
    folder.mkdir(exist_ok=True)
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)


def test_npm_installs_the_pinned_versions_once_and_its_failures_are_told(npm_dir, tmp_path, monkeypatch, capsys):
    write_npm(tmp_path / "bin", f"/bin/cp -r '{npm_dir}' node_modules")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    arguments = [f"--cache_dir={tmp_path / 'cache'}", "--size=32", "--limit=3"]
    prepare_emoji.main([f"--output_dir={tmp_path / 'first'}", *arguments])
    wanted = json.loads((tmp_path / "cache" / "package.json").read_text())["dependencies"]
    assert wanted["@iconify-json/noto"] == "1.2.9" and wanted["emojibase-data"] == "17.0.0"
    assert not any("openmoji" in package for package in wanted)
    (tmp_path / "bin" / "npm").unlink()
    prepare_emoji.main([f"--output_dir={tmp_path / 'second'}", *arguments])
    assert files_of(tmp_path / "first") == files_of(tmp_path / "second")
    with pytest.raises(SystemExit):
        prepare_emoji.main([f"--output_dir={tmp_path / 'third'}", f"--cache_dir={tmp_path / 'other'}"])
    assert "npm was not found" in capsys.readouterr().err
    write_npm(tmp_path / "bin", "echo no such host >&2; exit 1")
    with pytest.raises(SystemExit):
        prepare_emoji.main([f"--output_dir={tmp_path / 'third'}", f"--cache_dir={tmp_path / 'other'}"])
    assert "no such host" in capsys.readouterr().err
    assert not (tmp_path / "third").exists()


def test_captions_of_a_concept_without_keywords():
    assert prepare_emoji.make_captions(make_concept(), "emojione", 0) == [
        "red heart, emojione style",
        "an emojione emoji of red heart",
        "red heart in emojione style",
        "an emojione style red heart",
        "red heart",
    ]


def test_captions_name_the_skin_tone_and_keywords_outside_the_name():
    concept = make_concept("woman with red hair", ["woman", "adult", "ginger"])
    captions = prepare_emoji.make_captions(concept, "noto", 4)
    assert captions[0] == "woman with red hair and medium-dark skin tone, noto style"
    assert captions[1].startswith("a noto emoji of ")
    assert len(captions) == 7 and len(set(captions)) == 7
    for caption in captions[5:]:
        assert {"adult", "ginger"} & set(caption.replace(",", "").split())
    assert captions[6].endswith(" with medium-dark skin tone, noto style")
    assert "woman" not in captions[6]
    assert prepare_emoji.make_captions(concept, "noto", 4) == captions
    assert len(prepare_emoji.make_captions(make_concept(tags=["love"]), "noto", 0)) == 6


@pytest.mark.parametrize(
    "name, label, key",
    [
        ("keycap: #", "keycap #", "keycap-hash"),
        ("keycap: *", "keycap *", "keycap-asterisk"),
        ("person: red hair", "person with red hair", "person-red-hair"),
        ("kiss: man, man", "kiss of man and man", "kiss-man-man"),
        ("three o’clock", "three o'clock", "three-oclock"),
        ("Piñata & Co", "Pinata & Co", "pinata-and-co"),
    ],
)
def test_cldr_names_become_words_and_keys(name, label, key):
    assert emoji_sources.readable_label(name) == label
    assert emoji_sources.slug(name) == key


def make_pictures():
    skins = {1: ("a", "a"), 5: ("b", "b")}
    concepts = [make_concept(f"concept {number}", skins=skins) for number in range(400)]
    places = [(concept, style, tone) for concept in concepts for style in STYLES[:6] for tone in (0, 1, 5)]
    return [emoji_sources.Picture(*place, icon="icon") for place in places]


def test_splits_follow_from_names_alone():
    pictures, others = make_pictures(), make_pictures()[::-1]
    prepare_emoji.assign_splits(pictures)
    prepare_emoji.assign_splits(others)
    assert pictures == others[::-1]


def test_splits_keep_concepts_pairs_and_shares_apart():
    pictures = make_pictures()
    prepare_emoji.assign_splits(pictures)
    concepts, pairs = defaultdict(set), defaultdict(set)
    for picture in pictures:
        concepts[picture.split].add(picture.concept.key)
        pairs[picture.split, picture.held_out].add(picture.pair)
    assert not concepts["test_concepts"] & (concepts["train"] | concepts["validation"] | concepts["test_combos"])
    assert not pairs["test_combos", "style"] & (pairs["train", ""] | pairs["validation", ""])
    assert not pairs["validation", ""] & pairs["train", ""]
    assert concepts["test_combos"] <= concepts["train"]
    assert 0.02 < len(concepts["test_concepts"]) / 400 < 0.09
    assert 0.22 < len(pairs["test_combos", "style"]) / 400 < 0.36
    assert 0.035 < len(pairs["validation", ""]) / len(pairs["validation", ""] | pairs["train", ""]) < 0.065


def test_look_alikes_are_not_held_out():
    held = make_pictures()
    prepare_emoji.assign_splits(held)
    marked = make_pictures()
    for picture in marked:
        picture.twin = True
    prepare_emoji.assign_splits(marked)
    assert {p.split for p in marked} == {"train", "validation", "test_concepts"}
    assert [p.path for p in marked if p.split == "test_concepts"] == [
        p.path for p in held if p.split == "test_concepts"
    ]
    for picture in marked:
        picture.twin, picture.double, picture.split, picture.held_out = False, True, "train", ""
    prepare_emoji.assign_splits(marked)
    assert {p.split for p in marked} == {"train", "validation"}


def test_thumbnails_average_blocks():
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[:2, :2, 0] = [[255, 0], [0, 255]]
    thumbnail = prepare_emoji.make_thumbnail(pixels)
    assert thumbnail.shape == (768,)
    assert thumbnail[0] == 0.5 and thumbnail.sum() == 0.5


def test_look_alikes_share_a_group_and_differ_in_name():
    base = np.random.default_rng(0).uniform(size=768)
    thumbnails = np.stack([base, base + 0.03, base + 0.03, base + 0.2, base])
    groups, names = ["a", "a", "b", "a", "a"], ["x", "y", "y", "z", "x"]
    marks = prepare_emoji.find_look_alikes(thumbnails, groups, names, 0.05)
    assert marks.tolist() == [True, True, False, False, True]
    assert not prepare_emoji.find_look_alikes(thumbnails, groups, names, 0.02).any()
    assert not prepare_emoji.find_look_alikes(thumbnails, groups, ["x"] * 5, 0.05).any()


@pytest.mark.parametrize("streaming", [False, True])
def test_the_fixture_loads_with_exactly_four_splits(tmp_path, streaming):
    dataset = load_dataset(str(FIXTURE), streaming=streaming, cache_dir=tmp_path)
    assert list(dataset) == SPLITS
    for split in SPLITS:
        rows = read_rows(FIXTURE, split)
        assert dataset[split].features == COLUMNS
        loaded = list(dataset[split])
        assert [row["captions"] for row in loaded] == [row["captions"] for row in rows]
        assert loaded and all(row["image"].size == (64, 64) for row in loaded)


def test_the_fixture_names_its_splits_and_sources():
    card = DatasetCard.load(FIXTURE / "README.md").data.to_dict()
    files = card["configs"][0]["data_files"]
    assert [(entry["split"], entry["path"]) for entry in files] == [(split, f"{split}/**") for split in SPLITS]
    assert card["license"] == ["apache-2.0", "cc-by-4.0", "mit"] and card["task_categories"] == ["text-to-image"]
    text = (FIXTURE / "README.md").read_text(encoding="utf-8")
    sources = json.loads((FIXTURE / "SOURCES.json").read_text(encoding="utf-8"))
    assert sorted(sources) == sorted([*STYLES, "names"])
    for style in STYLES:
        assert sources[style] == emoji_sources.STYLES[style]._asdict()
        assert f"{sources[style]['credit']}, {sources[style]['license']}" in text
    for split in SPLITS:
        total = text.split("| all | ")[1].split(" | ")[SPLITS.index(split)]
        assert total == str(len(read_rows(FIXTURE, split)))


def test_the_fixture_holds_the_common_concepts_in_several_styles():
    rows, styles = [row for split in SPLITS for row in read_rows(FIXTURE, split)], defaultdict(set)
    for row in rows:
        styles[row["concept"]].add(row["style"])
    for concept in "red-heart green-apple pizza rocket cat-face house castle alarm-clock".split():
        assert len(styles[concept]) >= 8
    assert set().union(*styles.values()) == set(STYLES)
    assert {row["tone"] for row in rows} == set(prepare_emoji.TONES)
    assert sum(path.stat().st_size for path in FIXTURE.rglob("*") if path.is_file()) <= 1.2e6


@pytest.mark.parametrize("shipped", [False, True])
def test_weights_of_a_training_pair_sum_to_one(built, shipped):
    sums, rows = defaultdict(float), read_rows(FIXTURE if shipped else built, "train")
    for row in rows:
        sums[row["concept"], row["style"]] += row["weight"]
    assert max(abs(total - 1) for total in sums.values()) < 1e-3
    assert any(row["weight"] < 1 for row in rows)
