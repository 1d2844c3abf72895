# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Trainings in Python, on plain data sets and without packages that they do not use."""

import subprocess
import sys
from pathlib import Path

import pytest
from picture_files import write_shapes
from PIL import Image
from training_runs import rqt_trainer

from rq_hf.training import CodeDataArguments, PictureCollator

EXAMPLE = """
from datasets import load_dataset

from rq_hf import RQImageGenerationPipeline, RQTransformerConfig, RQTransformerForImageGeneration
from rq_hf import RQVAEConfig, RQVAEModel, train_caption_tokenizer
from rq_hf.training import PictureCollator, RQTransformerTrainer, RQTransformerTrainingArguments
from rq_hf.training import RQVAETrainer, RQVAETrainingArguments

rows = load_dataset("data/mine", split="train")  # columns "image" and "text"
tower = {"base_channels": 16, "channel_multiplier": [1, 2, 2, 4], "attention_levels": [], "latent_channels": 32}
rqvae = RQVAEModel(RQVAEConfig(image_size=64, codebook_size=64, codebook_dim=16, norm_num_groups=8, **tower))
options = {"max_steps": 5, "learning_rate": 1e-3, "report_to": "none"}
arguments = RQVAETrainingArguments("runs/rqvae", perceptual_weight=0, adversarial_weight=0, **options)
RQVAETrainer(rqvae, arguments, train_dataset=rows, data_collator=PictureCollator(rqvae.config)).train()

tokenizer = train_caption_tokenizer(rows["text"], vocab_size=256, max_length=8)
words = {"vocab_size": len(tokenizer), "condition_length": 8, "pad_token_id": tokenizer.pad_token_id}
sizes = {"hidden_size": 64, "num_spatial_layers": 2, "num_depth_layers": 1, "num_attention_heads": 4}
transformer = RQTransformerForImageGeneration(RQTransformerConfig.from_rqvae_config(rqvae.config, **words, **sizes))
transformer.set_codebook(rqvae.codebook)
collator = PictureCollator(rqvae.config, transformer.config, tokenizer)
arguments = RQTransformerTrainingArguments("runs/transformer", **options)
RQTransformerTrainer(transformer, arguments, rqvae=rqvae, train_dataset=rows, data_collator=collator).train()

pipe = RQImageGenerationPipeline(rqvae, transformer, tokenizer)
pipe.save_pretrained("runs/mine")
pipe("a red circle").images[0].save("red-circle.png")
"""
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


def test_the_example_trains_both_stages_on_a_plain_data_set_and_draws(tmp_path, monkeypatch):
    write_shapes(tmp_path / "data" / "mine", 12)
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(compile(EXAMPLE, "example", "exec"), namespace)
    assert Image.open("red-circle.png").size == (64, 64)
    rows, batch = namespace["rows"], namespace["collator"]([namespace["rows"][index] for index in (0, 1)])
    assert batch["pixel_values"].shape == (2, 3, 64, 64) and batch["pixel_values"].min() >= -1
    expected = namespace["tokenizer"](rows["text"][:2], padding="max_length").input_ids
    assert batch["input_ids"].tolist() == expected


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


def test_conditions_that_a_collator_would_not_drop_are_refused(tmp_path):
    trainer = rqt_trainer(tmp_path)
    collator = PictureCollator(trainer.rqvae.config)
    trainer.args.condition_dropout = 0.1
    with pytest.raises(ValueError, match="`condition_dropout` must be 0 with a `PictureCollator`"):
        type(trainer)(trainer.model, trainer.args, rqvae=trainer.rqvae, data_collator=collator)
