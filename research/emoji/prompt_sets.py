# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Write the prompt sets that `prompt_accuracy.py --prompts FILE.jsonl` scores: what people may type.

python research/emoji/prompt_sets.py --dataset data/emoji-64 --part validation --output_dir runs/prompts-validation

Each line of a set is {"prompt", "concept"} with a "style" where the prompt names one. Choose models and settings by
the part "validation"; measure the part "test" once. They share no sentence, and no concept but in pairs and colours.
"""

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import datasets
from emoji_captions import (
    HELD_OUT_LANGUAGE,
    VALIDATION_FRAMES,
    Words,
    fill,
    fold_to_ascii,
    hash_fraction,
    misspell,
    read_words,
    split_words,
)
from prepare_emoji import ONE_COLOUR_STYLES, STYLES, install_packages, read_concepts

Prompt = dict[str, str]

PARTS = ("validation", "test")
GROUPS = ("animals and nature", "food and drink", "travel and places", "activities", "objects", "smileys")
LANGUAGES = {"german": "de", "spanish": "es", "french": "fr", "italian": "it", "polish": "pl", "turkish": "tr"}
LANGUAGES["unseen-catalan"] = HELD_OUT_LANGUAGE
TEST_FRAMES = (
    "please sketch {a} | {a}, if you would | i am looking for {a} | my son wants {a} | just {a} for my page | "
    "is there {a}? | help me with {a} | one more {} | the best {} ever | a {} for a birthday card"
).split(" | ")


def part_of(key: str) -> str:
    return PARTS[int(hash_fraction("part", key) * 2)]


def common_concepts(words: dict[str, Words], groups: dict[str, str], trained: set[str], part: str) -> list[str]:
    """Keys of trained concepts that a part asks for: things with a name of one or two words, half of them each."""
    return [
        key
        for key in sorted(words)
        if key in trained and groups[key] in GROUPS and len(split_words(words[key].name)) <= 2 and part_of(key) == part
    ]


def is_new(word: str, name: str) -> bool:
    """Whether a word shares none of its parts with a name, also not as a plural."""
    stems = {part.rstrip("s") for part in split_words(name)}
    return stems.isdisjoint(part.rstrip("s") for part in split_words(word))


def word_prompts(words: dict[str, Words], keys: Sequence[str], lists: dict[str, Sequence[str]]) -> list[Prompt]:
    """Words for exactly one concept that share nothing with its name.

    Args:
        words: of all concepts, by key.
        keys: concepts to ask for.
        lists: for each concept the words to choose from.
    """
    num_concepts = Counter(word for each in lists.values() for word in set(each))
    names = {each.name.lower() for each in words.values()}
    return [
        {"prompt": word, "concept": key}
        for key in keys
        for word in lists[key]
        if num_concepts[word] == 1 and word.isascii() and word not in names and is_new(word, words[key].name)
    ]


def language_prompts(words: dict[str, Words], keys: Sequence[str], language: str) -> list[Prompt]:
    """Names in another language that differ from the English ones."""
    prompts = []
    for key in keys:
        names = (
            words[key].held_out["language"] if language == HELD_OUT_LANGUAGE else words[key].foreign.get(language, [])
        )
        if names and fold_to_ascii(names[0]).lower() != words[key].name.lower():
            prompts.append({"prompt": names[0].lower(), "concept": key})
    return prompts


def row_prompts(rows: datasets.Dataset, styles: Iterable[str], held_out: str = "") -> list[Prompt]:
    """The main captions of unaltered pictures in the default skin tone, of some styles, that hold out this."""
    return [
        {"prompt": row["text"], "concept": row["concept"], "style": row["style"]}
        for row in rows
        if row["tone"] == "default" and row["alteration"] == "none"
        if row["style"] in styles and row["held_out"] == held_out
    ]


def make_sets(
    splits: dict[str, datasets.Dataset], words: dict[str, Words], groups: dict[str, str], part: str
) -> dict[str, list[Prompt]]:
    """All sets of a part, by name."""
    trained = row_prompts(splits["train"], STYLES)
    keys = common_concepts(words, groups, {prompt["concept"] for prompt in trained}, part)
    names = [{"prompt": words[key].name, "concept": key} for key in keys]
    rng = random.Random(f"prompts {part}")
    frames = VALIDATION_FRAMES if part == "validation" else TEST_FRAMES
    typos = [prompt | {"prompt": misspell(prompt["prompt"], rng)} for prompt in names]
    sets = {
        "trained": [prompt for prompt in trained if prompt["concept"] in set(keys)],
        "names": names,
        "sentences": [prompt | {"prompt": fill(rng.choice(frames), prompt["prompt"])} for prompt in names],
        "typos": [each for each in typos if each["prompt"] != words[each["concept"]].name],
        "paintings": [prompt | {"prompt": fill("a painting of {a}", prompt["prompt"])} for prompt in names],
    }
    lists = {
        "keywords": {key: list(each.keywords) for key, each in words.items()},
        "synonyms": {key: each.synonyms for key, each in words.items()},
        "unseen-keywords": {key: each.held_out["keyword"] for key, each in words.items()},
        "unseen-emojilib": {key: each.held_out["emojilib"] for key, each in words.items()},
    }
    sets |= {name: word_prompts(words, keys, each) for name, each in lists.items()}
    sets |= {name: language_prompts(words, keys, language) for name, language in LANGUAGES.items()}
    if part == "validation":
        sets["unseen-pairs"] = row_prompts(splits["validation"], STYLES)
    else:
        sets["unseen-pairs"] = row_prompts(splits["test_combos"], STYLES, held_out="style")
    colours = row_prompts(splits["test_combos"], ONE_COLOUR_STYLES, held_out="colour")
    half = PARTS.index(part)
    sets["unseen-colours"] = [
        prompt for prompt in colours if int(hash_fraction("part", prompt["concept"]) * 2) == half
    ]
    return sets


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="folder that prepare_emoji.py wrote")
    parser.add_argument("--part", choices=PARTS, default="validation", help="(%(default)s)")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for one JSONL file a set")
    parser.add_argument("--num_prompts", type=int, default=300, help="of a set, at most (%(default)s)")
    parser.add_argument("--npm_dir", type=Path, default="~/.cache/rq_hf/npm", help="of the words (%(default)s)")
    options = parser.parse_args(argv)
    npm_dir = install_packages(options.npm_dir.expanduser())
    concepts = read_concepts(npm_dir)
    splits = {
        name: rows.remove_columns(["image", "captions"])
        for name, rows in datasets.load_dataset(options.dataset).items()
    }
    sets = make_sets(
        splits, read_words(concepts, npm_dir)[0], {each.key: each.group for each in concepts}, options.part
    )
    options.output_dir.mkdir(parents=True, exist_ok=True)
    for name, prompts in sets.items():
        chosen = sorted(prompts, key=lambda prompt: hash_fraction("prompt", name, *prompt.values()))[
            : options.num_prompts
        ]
        lines = (json.dumps(prompt, ensure_ascii=False) + "\n" for prompt in chosen)
        (options.output_dir / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{name}: {len(chosen)} of {len(prompts)}")


if __name__ == "__main__":
    main()
