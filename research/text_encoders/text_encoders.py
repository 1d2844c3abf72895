# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""What the comparison of text encoders needs beside the commands of the library; README.md has all of them in order.

    python research/text_encoders/text_encoders.py prepare --dataset data/emoji-64 --prompts build/prompts-test \\
        --minilm build/minilm --smollm2 build/smollm2 --output_dir build/encoders
    python research/text_encoders/text_encoders.py measure runs/bpe runs/minilm runs/smollm2

`prepare` writes a small data set of one style, the prompts that ask for its concepts, and the two encoders as folders
that `--text_encoder` loads. `measure` counts weights and times single prompts.
"""

import argparse
import json
import re
import statistics
import time
from hashlib import sha256
from pathlib import Path

import datasets
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from rq_hf import RQImageGenerationPipeline

STYLE = "twemoji"
NUM_READ, NUM_KEPT = 34, 6  # captions of a picture, easy ones first: so many are read, so many at most are kept
SETS = ("trained", "sentences", "synonyms", "keywords", "unseen-keywords")  # of research/emoji/prompt_sets.py
PROMPTS = ["a red heart", "rocket", "show me a green apple in twemoji style", "pizza, twemoji style"]


def kept_captions(captions: list[str], name: str) -> list[str]:
    """The first different captions with the concept's whole name: no synonym, keyword or other language."""
    return list(dict.fromkeys(text for text in captions[:NUM_READ] if name in text))[:NUM_KEPT]


def words_of(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def prepare(options: argparse.Namespace) -> None:
    asked = {
        name: [json.loads(line) for line in (options.prompts / f"{name}.jsonl").read_text().splitlines()]
        for name in SETS
    }
    concepts = {prompt["concept"] for prompt in asked["sentences"]}
    rows = datasets.load_dataset(options.dataset, split="train").select_columns(
        ["image", "text", "captions", "concept", "style", "tone", "alteration"]
    )
    looks = zip(rows["concept"], rows["style"], rows["tone"], rows["alteration"], strict=True)
    look = (STYLE, "default", "none")
    rows = rows.select([index for index, each in enumerate(looks) if each[0] in concepts and each[1:] == look])
    names = [text.removesuffix(f", {STYLE} style") for text in rows["text"]]
    captions = [kept_captions(*each) for each in zip(rows["captions"], names, strict=True)]
    rows = rows.remove_columns("captions").add_column("captions", captions)
    order = sorted(range(len(rows)), key=lambda index: sha256(rows["concept"][index].encode()).digest())
    rows = rows.select(order[: options.num_concepts])
    (options.output_dir / "data").mkdir(parents=True, exist_ok=True)
    (options.output_dir / "prompts").mkdir(exist_ok=True)
    rows.to_parquet(options.output_dir / "data" / "train.parquet")
    texts = {text for captions in rows["captions"] for text in captions}
    print(f"{len(rows)} pictures with {len(texts)} different captions")
    known = set(rows["concept"])
    for name, prompts in asked.items():
        chosen = [each for each in prompts if each["concept"] in known and each.get("style", STYLE) == STYLE]
        lines = [json.dumps({"prompt": each["prompt"], "concept": each["concept"]}) + "\n" for each in chosen]
        (options.output_dir / "prompts" / f"{name}.jsonl").write_text("".join(lines))
        words = {word for text in texts for word in words_of(text)}
        new = sum(not words_of(each["prompt"]) <= words for each in chosen)
        print(f"{name}: {len(chosen)} prompts, {new} with a word that no caption has")

    write_encoders(options)


def write_encoders(options: argparse.Namespace) -> None:
    AutoModel.from_pretrained(options.minilm).save_pretrained(options.output_dir / "minilm")
    AutoTokenizer.from_pretrained(options.minilm).save_pretrained(options.output_dir / "minilm")
    (weights,) = options.smollm2.glob("*.gguf")
    packed = AutoModel.from_pretrained(options.smollm2, gguf_file=weights.name, dtype=torch.float32)
    config = AutoConfig.from_pretrained(options.smollm2, gguf_file=weights.name)
    model = AutoModel.from_config(config)  # a model that was loaded from GGUF cannot be saved
    model.load_state_dict(packed.state_dict())
    model.save_pretrained(options.output_dir / "smollm2")
    tokenizer = AutoTokenizer.from_pretrained(options.smollm2, gguf_file=weights.name)
    tokenizer.save_pretrained(options.output_dir / "smollm2")


def milliseconds(call, num_calls: int = 21) -> float:
    """The median of single calls, without the first."""
    times = []
    for number in range(num_calls):
        start = time.perf_counter()
        call(PROMPTS[number % len(PROMPTS)])
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def measure(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    print("| pipeline | weights of the transformer | of the text encoder | ms to encode a prompt | ms to draw it |")
    print("| --- | --- | --- | --- | --- |")
    for folder in options.pipelines:
        pipe = RQImageGenerationPipeline.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        sizes = [0 if model is None else model.num_parameters() for model in (pipe.transformer, pipe.text_encoder)]
        times = [milliseconds(pipe.encode_prompt), milliseconds(pipe, 9)]
        cells = [f"{size / 1e6:.1f} M" for size in sizes] + [f"{each:.1f}" for each in times]
        print(f"| {folder} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("prepare")
    command.add_argument("--dataset", required=True, help="folder that prepare_emoji.py wrote")
    command.add_argument("--prompts", type=Path, required=True, help="folder that prompt_sets.py wrote")
    command.add_argument("--minilm", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    command.add_argument("--smollm2", type=Path, required=True, help="folder of SmolLM2-135M as GGUF")
    command.add_argument("--num_concepts", type=int, default=60, help="(%(default)s)")
    command.add_argument("--output_dir", type=Path, required=True)
    command.set_defaults(run=prepare)
    command = commands.add_parser("measure")
    command.add_argument("pipelines", nargs="+")
    command.set_defaults(run=measure)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
