# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Low-rank adapters of the transformer."""

import copy
import re
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from peft import PeftModel
from picture_files import FIXTURE
from PIL import Image
from training_runs import COMMON, assert_equal

from rq_hf import RQImageGenerationPipeline
from rq_hf.cli import main
from rq_hf.training import CodeDataArguments, Recipe, RQTransformerTrainingArguments, train_rq_transformer
from rq_hf.training.lora import add_lora

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "research" / "finetuning"))
from striped_cats import write_cats  # noqa: E402

CAPTION = "green apple, noto style"


@pytest.fixture
def base(make_pipeline, tmp_path) -> str:
    """A pipeline of random weights."""
    make_pipeline().save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.fixture
def recipe(base, tmp_path):
    """Makes the recipe of a training on one picture."""

    def make(run: str, **training) -> Recipe:
        options = {"lora_rank": 4, "model_name_or_path": base, "bpe_dropout": 0.0, "learning_rate": 1e-2}
        arguments = RQTransformerTrainingArguments(output_dir=str(tmp_path / run), **COMMON | options | training)
        names = {"dataset_name": str(FIXTURE), "rqvae_name_or_path": base, "tokenizer_name_or_path": base}
        return Recipe(arguments, CodeDataArguments(caption_column="text", max_train_samples=1, **names))

    return make


def test_new_adapters_change_nothing_and_alone_train(tiny_transformer):
    config, original = tiny_transformer.config, copy.deepcopy(tiny_transformer)
    input_ids = torch.zeros(2, config.condition_length, dtype=torch.long)
    codes = torch.randint(config.codebook_size, (2, *config.code_shape))
    adapted = add_lora(tiny_transformer, rank=2, alpha=8)
    torch.testing.assert_close(adapted(input_ids, codes).logits, original(input_ids, codes).logits)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in trained)
    matrices = 4 * (config.num_spatial_layers + config.num_depth_layers)
    assert len(trained) == 2 * matrices


def test_an_adapter_learns_what_the_base_does_not_draw_and_belongs_to_it(recipe, base, tmp_path):
    trainer = train_rq_transformer(recipe("run", max_steps=15))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    merged = RQImageGenerationPipeline.from_pretrained(tmp_path / "run")
    loaded = RQImageGenerationPipeline.from_pretrained(base)
    loaded.transformer = PeftModel.from_pretrained(loaded.transformer, tmp_path / "run" / "adapter")
    input_ids, codes = loaded.encode_prompt(CAPTION), torch.zeros(1, 4, 4, 3, dtype=torch.long)
    logits = merged.transformer(input_ids, codes).logits
    torch.testing.assert_close(loaded.transformer(input_ids, codes).logits, logits, rtol=1e-4, atol=1e-4)
    with loaded.transformer.disable_adapter():
        assert not torch.allclose(loaded.transformer(input_ids, codes).logits, logits, atol=1e-2)
    assert "of rank 4" in (tmp_path / "run" / "adapter" / "README.md").read_text()


def test_training_an_adapter_resumes_exactly(recipe):
    options = {"save_strategy": "steps", "save_steps": 3, "ema_decay": 0.5, "lr_scheduler_type": "constant"}
    expected = train_rq_transformer(recipe("whole", **options))
    train_rq_transformer(recipe("run", max_steps=3, **options))
    trainer = train_rq_transformer(recipe("run", resume_from_checkpoint="last", **options))
    assert trainer.resumed_checkpoint is not None and trainer.state.global_step == 6
    assert_equal(trainer.average.shadow_params, expected.average.shadow_params)


def test_the_adapter_alone_is_pushed_and_loads_by_its_repository(hub, recipe, base):
    train_rq_transformer(recipe("run", max_steps=1, push_to_hub=True, hub_model_id="me/adapter"))
    files = set(hub.files("me/adapter")) - {".gitattributes"}
    assert files == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    pipeline = RQImageGenerationPipeline.from_pretrained(base)
    pipeline.load_lora_weights("me/adapter")
    assert pipeline(CAPTION).images[0].size == (16, 16)


def old_loss(model: str | Path, images: list[Image.Image], captions: list[str]) -> float:
    """How unlikely a pipeline finds pictures of these captions."""
    pipe = RQImageGenerationPipeline.from_pretrained(model)
    pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1 for image in images])
    codes = pipe.rqvae.encode(pixels)
    with torch.no_grad():
        return pipe.transformer(pipe.encode_prompt(captions), codes, labels=codes).loss.item()


def test_the_steps_of_the_guide_keep_old_pictures_better_than_training_on_new_ones_alone(
    make_pipeline, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    pipe, names = make_pipeline(), ["red heart", "green apple", "castle"]
    pipe.transformer.generation_config.top_k = 1
    pipe.save_pretrained("checkpoints/emoji-64")
    images = pipe(names).images
    columns = {"image": images, "text": names, "tone": ["default"] * 3, "alteration": ["none"] * 3, "colour": [""] * 3}
    Path("data/emoji-64").mkdir(parents=True)
    datasets.Dataset.from_dict(columns).to_parquet("data/emoji-64/train.parquet")
    write_cats(Path("cats"), count=2)
    guide = (ROOT / "docs" / "finetuning.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```json\n([^`]*lora_rank.*?)```", guide, re.DOTALL)
    Path("garfield.json").write_text(recipe)
    (mix,) = re.findall(r"```py\n(from pathlib.*?)```", guide, re.DOTALL)
    (command,) = re.findall(r"rq-hf (train-rqt garfield\.json[^\n]*)", guide)
    losses = {}
    for kind, count in {"alone": 0, "mixed": 3}.items():
        exec(mix.replace("take(3000)", f"take({count})").replace("* 50", "* 1"), {})
        flags = "--use_cpu true --disable_tqdm true --max_steps 25 --warmup_steps 0 --learning_rate 1e-2"
        main([*command.split(), *flags.split(), *"--per_device_train_batch_size 5 --code_temperature 0.01".split()])
        losses[kind] = old_loss("runs/garfield", images, names)
    assert losses["mixed"] < losses["alone"]
