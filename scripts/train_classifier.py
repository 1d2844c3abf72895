# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
r"""Trains a small image classifier, to select pictures (`--classifier`) or to judge the selection (`--judge`).

    python scripts/train_classifier.py --dataset_name data/fashion-mnist --label_column label --half 0 \
        --architecture resnet --seed 0 --output_dir runs/fashion-classifier-a
    python scripts/train_classifier.py --dataset_name data/fashion-mnist --label_column label --half 1 \
        --architecture convnext --seed 1 --output_dir runs/fashion-classifier-b

The two share neither net nor pictures, so that the second can judge what the first has selected. The folder is an
ordinary `AutoModelForImageClassification` with its image processor.
"""

import sys
from pathlib import Path

from transformers import HfArgumentParser
from transformers.trainer_utils import set_seed

from rq_hf.training import (
    DataArguments,
    load_dataset_splits,
    resume_checkpoint,
    start_logging,
    training_pictures,
)
from rq_hf.training.classifier import (
    ClassifierArguments,
    ClassifierTrainer,
    LabelledPictures,
    half_of,
    labels_of,
    picture_processor,
    small_classifier,
)
from rq_hf.training.selector_arguments import SelectorTrainingArguments, check_data


def main(argv: list[str] | None = None) -> None:
    parser = HfArgumentParser((ClassifierArguments, DataArguments, SelectorTrainingArguments), description=__doc__)
    net, data, training = parser.parse_args_into_dataclasses(argv)
    check_data(data, "label_column")
    start_logging(training)
    checkpoint = resume_checkpoint(training.output_dir, training.resume_from_checkpoint)
    set_seed(training.seed)
    splits, names, prepared = load_dataset_splits(data), None, {}
    for name, rows in splits.items():
        is_training = name == "train"
        labels, names = labels_of(rows, data.label_column, names)  # a half may lack a class
        if is_training:
            rows = half_of(rows, net.half)
            labels, _ = labels_of(rows, data.label_column, names)
        pictures = training_pictures(rows, data, training, net.image_size, 3, augment=is_training)
        prepared[name] = LabelledPictures(pictures, labels)
    trainer = ClassifierTrainer(
        model=small_classifier(net, names),
        args=training,
        train_dataset=prepared["train"],
        eval_dataset=prepared.get("validation"),
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        picture_processor(net.image_size).save_pretrained(Path(training.output_dir))
    trainer.evaluate_and_save()
    trainer.finish()


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"ValueError: {error}")
