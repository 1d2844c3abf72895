# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Evaluates an RQ-VAE and leaves its figures; `accelerate launch` starts it.

python tests/two_processes_evaluation.py FOLDER
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from gloo_threads import gloo_threads

from rq_hf import RQVAEModel
from rq_hf.training import RQVAETrainer, RQVAETrainingArguments
from rq_hf.training.classifier import ClassifierArguments, ClassifierTrainer, small_classifier
from rq_hf.training.selector_arguments import SelectorTrainingArguments


class Pictures(torch.utils.data.Dataset):
    def __init__(self, pictures: torch.Tensor):
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.pictures[index]}


class Labelled(Pictures):
    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int]:
        return super().__getitem__(index) | {"labels": index % 3}


class Numbers(torch.utils.data.IterableDataset):
    """Of a user, who leaves it to `Trainer` to deal them out."""

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for number in range(100):
            yield {"pixel_values": torch.tensor(number)}


def classifier_trainer(folder: str, pictures: Pictures) -> ClassifierTrainer:
    torch.manual_seed(0)
    arguments = SelectorTrainingArguments(
        output_dir=folder, use_cpu=True, report_to="none", per_device_eval_batch_size=2, disable_tqdm=True
    )
    model = small_classifier(ClassifierArguments("convnext", image_size=16, width=8), ["a", "b", "c"])
    return ClassifierTrainer(model=model, args=arguments, eval_dataset=Labelled(pictures.pictures))


def main(folder: str) -> None:
    arguments = RQVAETrainingArguments(
        output_dir=folder, use_cpu=True, report_to="none", per_device_eval_batch_size=2, disable_tqdm=True,
        perceptual_weight=0.0, adversarial_weight=0.0,
    )  # fmt: skip
    model = RQVAEModel.from_pretrained(Path(folder, "rqvae"))
    pictures = Pictures(torch.load(Path(folder, "pictures.pt")))
    trainer = RQVAETrainer(model=model, args=arguments, eval_dataset=pictures)
    metrics = trainer.evaluate() | trainer.predict(pictures).metrics
    trainer.train_dataset, trainer._train_batch_size = Numbers(), 2
    metrics["rows"] = [int(row) for row in next(iter(trainer.get_train_dataloader()))["pixel_values"]]
    Path(folder, f"metrics-{arguments.process_index}.json").write_text(json.dumps(metrics))
    classifies = classifier_trainer(folder, pictures)
    judged = classifies.predict(classifies.eval_dataset)
    Path(folder, f"classifier-{arguments.process_index}.json").write_text(
        json.dumps(judged.metrics | {"logits": judged.predictions.tolist(), "labels": judged.label_ids.tolist()})
    )
    trainer.finish()
    assert not gloo_threads()  # one of them could abort the process while it exits


if __name__ == "__main__":
    main(*sys.argv[1:])
