# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Gives a pipeline a larger vocabulary and longer captions, as a start for a training of its transformer.

    python research/emoji/warm_start.py PIPELINE --dataset_name data/emoji-64 --output_dir runs/emoji-start

The new tokenizer splits each word of the pipeline's own captions (the column `text`) as before. Two things make a
transformer forget its captions within a hundred steps, and are avoided here: words that get other pieces, and more
padding. So only the vectors of the caption's positions are trained, on captions that the pipeline knows, until its
pictures are as likely as before.
"""

import argparse
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import datasets
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from rq_hf import RQImageGenerationPipeline, RQTransformerConfig, RQTransformerForImageGeneration

ROWS = 2  # of codes, from which the positions are fitted: the first ones depend most on the caption
STEPS, BATCH_SIZE, LEARNING_RATE = 200, 32, 0.02


def count_words(tokenizer: Tokenizer, captions: Iterable[str]) -> Counter[str]:
    words = Counter()
    for caption in captions:
        split = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(caption))
        words.update(word for word, _ in split)
    return words


def join(pieces: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """The pieces of a word with each occurrence of a pair joined."""
    joined, i = [], 0
    while i < len(pieces):
        found = tuple(pieces[i : i + 2]) == pair
        joined.append("".join(pair) if found else pieces[i])
        i += 2 if found else 1
    return joined


def grow_tokenizer(
    old: PreTrainedTokenizerFast, known: Iterable[str], captions: Iterable[str], vocab_size: int, max_length: int
) -> PreTrainedTokenizerFast:
    """Goes on with byte-pair encoding, without merges that would change a word of the `known` captions."""
    tokenizer = Tokenizer.from_str(old.backend_tokenizer.to_str())
    counts = count_words(tokenizer, captions)
    state = json.loads(tokenizer.to_str())
    vocab, merges = state["model"]["vocab"], state["model"]["merges"]
    for character, _ in sorted(Counter("".join(counts.elements())).items(), key=lambda item: (-item[1], item[0])):
        for symbol in (character, character + "</w>"):
            vocab.setdefault(symbol, len(vocab))
    state["model"] |= {"vocab": vocab}
    tokenizer = Tokenizer.from_str(json.dumps(state))
    kept = {pair for word in count_words(tokenizer, known) for pair in pairwise(tokenizer.encode(word).tokens)}
    words = [(tokenizer.encode(word).tokens, count) for word, count in counts.items()]
    pairs, places = Counter(), defaultdict(set)
    for place, (pieces, count) in enumerate(words):
        for pair in pairwise(pieces):
            pairs[pair] += count
            places[pair].add(place)
    while len(vocab) < vocab_size:
        best = max(pairs.keys() - kept, key=lambda pair: (pairs[pair], pair))
        if pairs[best] < 1:  # each word is one piece, or known
            break
        merges.append(list(best))
        vocab.setdefault("".join(best), len(vocab))
        for place in places.pop(best):
            pieces, count = words[place]
            joined = join(pieces, best)
            words[place] = joined, count
            for pair in pairwise(pieces):
                pairs[pair] -= count
            for pair in pairwise(joined):
                pairs[pair] += count
                places[pair].add(place)
    names = ("unk_token", "pad_token", "padding_side", "split_special_tokens", "model_input_names")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        model_max_length=max_length,
        **{name: getattr(old, name) for name in names},
    )


def word_parts(word: str, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Ids of another tokenizer for an entry of a vocabulary, whose words end with `</w>`."""
    known = tokenizer.get_vocab()
    if word in known:
        return [known[word]]
    ids = tokenizer(word.removesuffix("</w>"), add_special_tokens=False).input_ids
    return ids or [tokenizer.unk_token_id]


def widen(old: RQImageGenerationPipeline, tokenizer: PreTrainedTokenizerFast) -> RQImageGenerationPipeline:
    """The pipeline with another tokenizer. A new word starts as the mean of its parts in the old vocabulary, and a
    further position as the last but one of the old captions, where there was padding."""
    fields = old.transformer.config.to_dict() | {
        "vocab_size": len(tokenizer),
        "condition_length": tokenizer.model_max_length,
        "pad_token_id": tokenizer.pad_token_id,
        "null_condition_ids": tokenizer("", padding="max_length").input_ids,
    }
    transformer = RQTransformerForImageGeneration(RQTransformerConfig.from_dict(fields))
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    parts = [word_parts(word, old.tokenizer) for word, _ in words]
    weights, old_weights = transformer.state_dict(), old.transformer.state_dict()
    for name, weight in weights.items():
        before = old_weights[name]
        if weight.shape == before.shape:
            weight.copy_(before)
        elif "positions" in name:
            weight.copy_(before[torch.arange(len(weight)).clamp(max=len(before) - 2)])
            weight[-1] = before[-1]  # from it the first code is predicted
        else:  # vectors of words
            weight.copy_(torch.stack([before[each].mean(0) for each in parts]))
    transformer.set_codebook(old.rqvae.codebook)
    transformer.generation_config = old.transformer.generation_config
    return RQImageGenerationPipeline(rqvae=old.rqvae, transformer=transformer, tokenizer=tokenizer)


def fit_positions(pipeline: RQImageGenerationPipeline, rows: datasets.Dataset, seed: int = 0) -> None:
    """Trains the vectors of the caption's positions on the main captions, and on those without the style."""
    transformer, tokenizer = pipeline.transformer.eval().requires_grad_(False), pipeline.tokenizer
    positions = transformer.condition_positions.weight.requires_grad_(True)
    optimizer = torch.optim.Adam([positions], lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, STEPS)
    draw = random.Random(seed)
    for step in range(1, STEPS + 1):
        batch = rows[draw.sample(range(len(rows)), BATCH_SIZE)]
        captions = [text if draw.random() < 0.8 else text.rpartition(",")[0] for text in batch["text"]]
        input_ids = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        codes = pipeline.rqvae.encode(pipeline.image_processor.preprocess(batch["image"]))
        labels = codes.clone()
        labels[:, ROWS:] = -100
        loss = transformer(input_ids, codes, labels=labels, output_logits=False).image_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            print(f"step {step}: loss {loss.item():.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", metavar="PIPELINE")
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--vocab_size", type=int, default=4096)
    parser.add_argument("--max_length", type=int, default=24)
    arguments = parser.parse_args()
    rows = datasets.load_dataset(arguments.dataset_name, split="train")
    words = rows.select_columns(["tone", "alteration", "colour", "text", "captions"])
    of_default_tone = [row for row in words if row["tone"] == "default"]
    plain = [row["alteration"] == "none" and not row["colour"] for row in words]
    captions = (caption for row in of_default_tone for caption in row["captions"])
    known = [row["text"] for row, is_plain in zip(words, plain, strict=True) if is_plain]
    old = RQImageGenerationPipeline.from_pretrained(arguments.pipeline)
    tokenizer = grow_tokenizer(old.tokenizer, known, captions, arguments.vocab_size, arguments.max_length)
    pipeline = widen(old, tokenizer)
    kept = [i for i, row in enumerate(words) if plain[i] and row["tone"] == "default"]
    fit_positions(pipeline, rows.select(kept))
    pipeline.save_pretrained(arguments.output_dir)


if __name__ == "__main__":
    main()
