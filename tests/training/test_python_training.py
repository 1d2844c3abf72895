# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Trainings in Python, on plain data sets and without packages that they do not use."""

import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from picture_files import write_shapes
from PIL import Image
from training_runs import COMMON, rqt_trainer

from rq_hf import RQImageGenerationPipeline, train_caption_tokenizer
from rq_hf.training import (
    CodeDataArguments,
    PictureCollator,
    RQTransformerTrainer,
    RQTransformerTrainingArguments,
    RQVAETrainer,
    RQVAETrainingArguments,
)

# Both stages on tensors, and a picture.
PLAIN = """
import sys
for name in ("peft", "lpips", "torchvision"): sys.modules[name] = None
sys.path.insert(0, sys.argv[1])
import torch
from training_runs import rqt_trainer, rqvae_trainer
rqvae_trainer("rqvae", max_steps=1).train()
trainer = rqt_trainer("rqt", max_steps=1)
trainer.train()
trainer.rqvae.decode(trainer.model.generate(torch.ones(1, 4).long()))
"""


def test_both_stages_train_on_a_plain_data_set(make_rqvae, make_transformer, tmp_path):
    rows = datasets.load_dataset(str(write_shapes(tmp_path / "data", 12)), split="train")
    rqvae, tokenizer = make_rqvae(), train_caption_tokenizer(rows["text"], vocab_size=80, max_length=6)
    options = COMMON | {"max_steps": 2}
    arguments = RQVAETrainingArguments(str(tmp_path), perceptual_weight=0, adversarial_weight=0, **options)
    RQVAETrainer(rqvae, arguments, train_dataset=rows, data_collator=PictureCollator(rqvae.config)).train()
    transformer = make_transformer("text", rqvae, vocab_size=len(tokenizer))
    collator = PictureCollator(rqvae.config, transformer.config, tokenizer)
    arguments = RQTransformerTrainingArguments(str(tmp_path), **options)
    RQTransformerTrainer(transformer, arguments, rqvae=rqvae, train_dataset=rows, data_collator=collator).train()
    RQImageGenerationPipeline(rqvae, transformer, tokenizer).save_pretrained(tmp_path / "mine")
    pipe = RQImageGenerationPipeline.from_pretrained(tmp_path / "mine")
    assert pipe("a red circle").images[0].size == (16, 16)
    batch = collator([rows[0], rows[1]])
    assert batch["pixel_values"].shape == (2, 3, 16, 16) and batch["pixel_values"].min() >= -1
    assert batch["input_ids"].tolist() == tokenizer(rows["text"][:2], padding="max_length").input_ids


@pytest.mark.slow
def test_plain_training_and_drawing_need_no_peft_lpips_or_torchvision(tmp_path):
    words = [sys.executable, "-c", PLAIN, str(Path(__file__).parents[1])]
    subprocess.run(words, check=True, cwd=tmp_path)


def test_a_collator_reads_the_columns_that_are_named(make_rqvae, make_transformer):
    rqvae = make_rqvae()
    data = CodeDataArguments(image_column="picture", label_column="kind")
    collator = PictureCollator(rqvae.config, make_transformer("class", rqvae).config, data=data)
    picture = Image.new("RGB", (40, 30), (255, 0, 0))
    batch = collator([{"picture": picture, "kind": "volcano"}, {"picture": picture, "kind": "goose"}])
    assert batch["input_ids"].tolist() == [[3], [1]]
    assert batch["pixel_values"][0, :, 3, 3].tolist() == [1, -1, -1]
    for broken in (None, {"bytes": b"no picture", "path": None}):
        with pytest.raises(ValueError, match="Column 'picture' must hold pictures that can be decoded"):
            collator([{"picture": picture, "kind": "volcano"}, {"picture": broken, "kind": "goose"}])


def test_conditions_that_a_collator_would_not_drop_are_refused(tmp_path):
    trainer = rqt_trainer(tmp_path)
    collator = PictureCollator(trainer.rqvae.config)
    trainer.args.condition_dropout = 0.1
    with pytest.raises(ValueError, match="`condition_dropout` must be 0 with a `PictureCollator`"):
        type(trainer)(trainer.model, trainer.args, rqvae=trainer.rqvae, data_collator=collator)
