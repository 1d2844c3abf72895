# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
r"""Trains a small image-text model by contrast, to re-rank pictures of captions (`--ranker`).

    python scripts/train_ranker.py --dataset_name data/emoji-64 --caption_column captions --filter tone=default \
        --transform emoji --validation_split validation --num_caption_variants 4 --output_dir runs/emoji-ranker

The folder is an ordinary CLIP model with its processor; `rq_hf.CLIPRanker` loads it. A tokenizer is trained on the
captions first.
"""

import sys
from pathlib import Path

from transformers import HfArgumentParser
from transformers.trainer_utils import set_seed

from rq_hf import train_caption_tokenizer
from rq_hf.training import (
    CodeDataset,
    DataArguments,
    load_dataset_splits,
    resume_checkpoint,
    start_logging,
    training_pictures,
)
from rq_hf.training.ranker import (
    CaptionEncoder,
    RankerArguments,
    RankerTrainer,
    add_end_token,
    caption_variants,
    small_ranker,
)
from rq_hf.training.selector_arguments import SelectorTrainingArguments, check_data


def main(argv: list[str] | None = None) -> None:
    parser = HfArgumentParser((RankerArguments, DataArguments, SelectorTrainingArguments), description=__doc__)
    net, data, training = parser.parse_args_into_dataclasses(argv)
    check_data(data, "caption_column")
    start_logging(training)
    checkpoint = resume_checkpoint(training.output_dir, training.resume_from_checkpoint)
    set_seed(training.seed)
    splits, captions = load_dataset_splits(data), {}
    for name, rows in splits.items():
        captions[name] = caption_variants(rows[data.caption_column], net.num_caption_variants, name)
    texts = (caption for variants in captions["train"] for caption in variants)
    tokenizer = add_end_token(train_caption_tokenizer(texts, net.vocab_size, net.max_length))
    prepared = {}
    for name, rows in splits.items():
        is_training = name == "train"
        pictures = training_pictures(rows, data, training, net.image_size, 3, augment=is_training)
        prepared[name] = CodeDataset(
            pictures, captions[name], training.seed, encoder=CaptionEncoder(tokenizer), training=is_training
        )
    model, processor = small_ranker(net, tokenizer)
    trainer = RankerTrainer(
        model=model, args=training, train_dataset=prepared["train"], eval_dataset=prepared.get("validation")
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        processor.save_pretrained(Path(training.output_dir))
    trainer.evaluate_and_save()
    trainer.finish()


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"ValueError: {error}")
