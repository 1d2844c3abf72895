# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Trains the demo's prompt rewriter: a small masked language model that says what a prompt means in known words.

    python research/emoji/train_rewriter.py --tokenizer checkpoints/emoji-64/tokenizer --dataset_name data/emoji-64 \
        --output_dir runs/rewriter

The transformer draws the main captions of its pictures ("castle, fluent style") and draws worse whenever it learns
others. So it stays as it is, and the rewriter learns from captions alone: for every caption of a picture it says the
main one, by the cross-entropy of each place of the row, padding included. A caption without a style stands for the
first of STYLES that its concept has; the styles whose pictures are recognised best come first. Arguments of
[`TrainingArguments`] may follow, such as `--resume_from_checkpoint runs/rewriter/checkpoint-500`.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import torch
from emoji_captions import misspell
from prepare_emoji import install_packages
from rewriter_captions import CaptionMaker, read_caption_maker
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
MISSPELT, IN_PIECES, EMPTY = 0.3, 0.2, 0.01  # shares with a typing error, with BPE dropout, of no caption
COMMON = 0.12  # share of captions with a keyword that several concepts have
BPE_DROPOUT = 0.1
FULL_LENGTH = 2  # every second batch has the length that prompts are read at; the others that of their longest caption
NUM_BATCHES = 16  # that are drawn together and sorted by length


@dataclass
class RewriterArguments(TrainingArguments):
    """What the training needs beside the arguments of [`Trainer`], some of which have other defaults."""

    tokenizer: str = ""
    dataset_name: str = ""
    npm_dir: str = "~/.cache/rq_hf/npm"
    start: str | None = None  # folder of a rewriter to go on with; otherwise a new one
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


def main_captions(rows: datasets.Dataset) -> dict[str, dict[str, str]]:
    """By concept and style the caption that the transformer knows: of plain pictures, the preferred style first."""
    plain = rows.filter(
        lambda tone, alteration, colour: tone == "default" and alteration == "none" and not colour,
        input_columns=["tone", "alteration", "colour"],
    )
    found: dict[str, dict[str, str]] = {}
    for row in sorted(plain, key=lambda row: STYLES.index(row["style"])):
        found.setdefault(row["concept"], {}).setdefault(row["style"], row["text"])
    return found


class CaptionBatches(torch.utils.data.IterableDataset):
    """Endless batches of captions and main captions, ids `(B, length)` each."""

    def __init__(
        self,
        main: dict[str, dict[str, str]],
        captions: CaptionMaker,
        tokenizer: PreTrainedTokenizerFast,
        batch_size: int,
        seed: int,
    ):
        self.captions, self.tokenizer, self.batch_size, self.seed = captions, tokenizer, batch_size, seed
        self.in_pieces = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self.in_pieces.model.dropout = BPE_DROPOUT
        self.pictures = [(concept, style) for concept, styles in main.items() for style in styles]
        names = {concept: next(iter(styles.values())).partition(",")[0] for concept, styles in main.items()}
        self.pictures += [(concept, style) for concept, style in self.pictures if len(names[concept].split()) < 3]
        self.targets = {
            concept: {style: self.encode(text) for style, text in styles.items()} for concept, styles in main.items()
        }

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        rng = random.Random(self.seed)
        while True:
            pairs = [self.draw(rng) for _ in range(NUM_BATCHES * self.batch_size)]
            pairs.sort(key=lambda pair: max(map(len, pair)))
            batches = [pairs[start : start + self.batch_size] for start in range(0, len(pairs), self.batch_size)]
            rng.shuffle(batches)
            for number, batch in enumerate(batches):
                is_full = number % FULL_LENGTH == 0
                longest = self.tokenizer.model_max_length if is_full else max(len(max(p, key=len)) for p in batch)
                yield {
                    "input_ids": self.pad([p[0] for p in batch], longest),
                    "labels": self.pad([p[1] for p in batch], longest),
                    # Padding is read, too: a main caption may be longer than what stands for it.
                    "attention_mask": torch.ones(len(batch), longest, dtype=torch.long),
                }

    def draw(self, rng: random.Random) -> tuple[list[int], list[int]]:
        """Ids of a caption, and of the main caption that it stands for."""
        if rng.random() < EMPTY:
            return [], []
        concept, style = rng.choice(self.pictures)
        if rng.random() < COMMON and self.captions.common:
            term, concept = rng.choice(self.captions.common)
            style = rng.choice(list(self.targets[concept]))
            caption = self.captions.draw(concept, style, rng, term)
        else:
            caption = self.captions.draw(concept, style, rng)
        names_style = re.search(rf"\b{style}\b", caption, re.IGNORECASE)
        target = self.targets[concept][style if names_style else next(iter(self.targets[concept]))]
        caption = misspell(caption, rng) if rng.random() < MISSPELT else caption
        ids = self.in_pieces.encode(caption).ids if rng.random() < IN_PIECES else self.encode(caption)
        return ids[: self.tokenizer.model_max_length], target

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, truncation=True).input_ids

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
        layer_norm_eps=1e-5,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    return MegatronBertForMaskedLM(config)


def main(argv: list[str] | None = None) -> None:
    (arguments,) = HfArgumentParser(RewriterArguments).parse_args_into_dataclasses(argv)
    columns = ["text", "concept", "style", "tone", "alteration", "colour"]
    known = main_captions(datasets.load_dataset(arguments.dataset_name, split="train").select_columns(columns))
    npm_dir = install_packages(Path(arguments.npm_dir).expanduser())
    captions = read_caption_maker(npm_dir, set(known))
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    batches = CaptionBatches(known, captions, tokenizer, arguments.per_device_train_batch_size, arguments.seed)
    torch.manual_seed(arguments.seed)
    if arguments.start is None:
        model = new_rewriter(tokenizer, arguments.num_layers)
    else:
        model = MegatronBertForMaskedLM.from_pretrained(arguments.start, dtype=torch.float32)
    arguments.per_device_train_batch_size = 1  # an item of the data is a batch
    trainer = RewriterTrainer(model, arguments, train_dataset=batches, data_collator=lambda batches: batches[0])
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    trainer.save_model()
    tokenizer.save_pretrained(arguments.output_dir)


if __name__ == "__main__":
    main()
