# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The captions that the demo's prompt rewriter learns to read, and their targets."""

import copy
import importlib
import random
import re
import sys
from pathlib import Path

import datasets
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "research" / "emoji"))
captions, training = map(importlib.import_module, ("rewriter_captions", "train_rewriter"))
Words = captions.Words
WORDS = {
    "star": Words("star", {"love": 1.0, "sky": 1.0}, [], {}, {}),
    "heart": Words("heart", {"love": 1.0, "ticker": 1.0}, ["pump"], {"de": ["Herz"], "es": ["corazón"]}, {}),
    "love letter": Words(
        "love letter", {"sky": 1.0, "heart": 1.0, "love": 1.0, "letter": 1.0}, [], {"de": ["Liebesbrief"]}, {}
    ),
    "blue heart": Words("blue heart", {"heart": 1.0}, [], {"de": ["blaues Herz"]}, {}),
    "cat with wry smile": Words("cat with wry smile", {"cat": 1.0}, [], {}, {}),
}


def make_captions(keys=tuple(WORDS), blocked=()):
    return captions.CaptionMaker(
        {key: WORDS[key] for key in keys}, set(blocked), ["so", "merely"], ["dreams"], {}, {"heart": {"ticker"}}
    )


def test_a_term_belongs_to_one_concept_the_plainest_that_it_names():
    owners = captions.owners(WORDS, {"heart": {"love"}})
    assert owners["heart"] == "heart" and owners["herz"] == "heart"  # a name comes before keywords
    assert owners["love"] == "heart"  # the same meaning
    assert captions.owners(WORDS, {})["love"] == "love letter"  # a part of the name
    assert owners["sky"] == "star"  # the shortest name, then the first
    assert owners["letter"] == "love letter" and owners["cat"] == "cat with wry smile"
    assert make_captions().words["love letter"].keywords == {"love": 1.0, "letter": 1.0}


def test_plain_words_mean_what_most_people_mean_and_are_drawn_often():
    boats = {"a": Words("motor boat", {"boat": 1.0}, [], {}, {}), "b": Words("sailboat", {}, [], {}, {})}
    assert captions.owners(boats, {})["boat"] == "b"
    maker = captions.CaptionMaker(boats, set(), ["so"], [], {}, {})
    assert maker.common == [("boat", "b")] and "boat" in maker.draw("b", "flat", random.Random(0), "boat")


@pytest.mark.parametrize("key", WORDS)
def test_captions_ask_for_one_concept_among_properties_and_other_things(key):
    maker, rng, name = make_captions(blocked={"pump"}), random.Random(0), WORDS[key].name
    drawn = [maker.draw(key, "flat", rng) for _ in range(400)]
    text = "\n".join(drawn)
    others = {term for term, owner in maker.owners.items() if owner != key and " " in term}
    assert not any(re.search(rf"\b{term}\b", text, re.IGNORECASE) for term in others)
    assert "pump" not in text and name in drawn and len(set(drawn)) > 100
    assert f"{name}, flat style" in drawn and re.search(rf"(red|green) {name}", text)
    if key == "heart":
        assert "ticker" in drawn and re.search(r"(groß|klein|alt|rot)\w+ Herz", text)
        assert re.search("corazón (roj|negr|blanc|azul|verde)", text)


def test_targets_are_the_main_captions(tiny_tokenizer):
    texts = ["heart, flat style", "heart, 3d style", "star, 3d style", "red heart, outline style", "star, noto style"]
    columns = {"text": texts, "style": ["flat", "3d", "3d", "outline", "noto"], "colour": ["", "", "", "red", ""]}
    columns |= {"concept": ["heart", "heart", "star", "heart", "star"], "tone": ["default"] * 4 + ["dark"]}
    columns |= {"alteration": ["none"] * 5}
    known = training.main_captions(datasets.Dataset.from_dict(columns))
    tiny_tokenizer = copy.deepcopy(tiny_tokenizer)  # calls change its padding
    assert known == {
        "heart": {"3d": "heart, 3d style", "flat": "heart, flat style"},
        "star": {"3d": "star, 3d style"},
    }
    batches = training.CaptionBatches(known, make_captions(known), tiny_tokenizer, 64, 0)
    texts = [text for styles in known.values() for text in styles.values()]
    targets = {tuple(tiny_tokenizer(text, truncation=True, padding="max_length").input_ids) for text in [*texts, ""]}
    batch = next(iter(batches))
    assert batch["input_ids"].shape == batch["labels"].shape == (64, tiny_tokenizer.model_max_length)
    assert set(map(tuple, batch["labels"].tolist())) <= targets and batch["attention_mask"].all()
