# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The demo's prompt rewriter: the captions that it learns to read, and its training."""

import copy
import importlib
import random
import re
import sys
from pathlib import Path

import datasets
import pytest
from transformers import AutoModelForMaskedLM, AutoTokenizer

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
    assert f"{name}, flat style" in drawn and f"the {name}" in text and re.search(rf"(two|three|four) {name}s", text)
    assert re.search(rf"(red|green) {name}", text)
    if key == "heart":
        assert "ticker" in drawn and re.search(r"(groß|klein|alt|rot)\w+ Herz", text)
        assert re.search("corazón (roj|negr|blanc|azul|verde)", text)
    if key == "cat with wry smile":
        assert "cat wry smile" in drawn


@pytest.fixture
def data(tmp_path):
    texts = ["heart, flat style", "heart, 3d style", "star, 3d style", "red heart, outline style", "star, noto style"]
    columns = {"text": texts, "style": ["flat", "3d", "3d", "outline", "noto"], "colour": ["", "", "", "red", ""]}
    columns |= {"concept": ["heart", "heart", "star", "heart", "star"], "tone": ["default"] * 4 + ["dark"]}
    columns |= {"alteration": ["none"] * 5}
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "data" / "train.parquet")
    return tmp_path / "data"


def test_the_rewriter_learns_main_captions(data, tiny_tokenizer, monkeypatch, tmp_path):
    tiny_tokenizer = copy.deepcopy(tiny_tokenizer)  # calls change its padding
    known = training.main_captions(datasets.load_dataset(str(data), split="train"))
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

    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    monkeypatch.setattr(training, "install_packages", lambda folder: folder)
    monkeypatch.setattr(training, "read_caption_maker", lambda folder, keys: make_captions(keys))
    losses = []
    monkeypatch.setattr(training.Trainer, "log", lambda trainer, logs, *args: losses.append(logs.get("loss")))
    options = f"--tokenizer {tmp_path / 'tokenizer'} --dataset_name {data} --output_dir {tmp_path / 'out'}"
    options += " --num_layers 1 --warmup_steps 2 --logging_steps 5 --per_device_train_batch_size 8 --max_steps 10"
    options += " --bf16 false --use_cpu true --learning_rate 0.01"
    training.main(options.split())
    assert losses[1] < 0.8 * losses[0]
    rewriter = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert rewriter.config.vocab_size == len(tokenizer) == len(tiny_tokenizer)
    assert rewriter(input_ids=batch["input_ids"]).logits.shape == (*batch["input_ids"].shape, len(tokenizer))
