# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters of the transformer."""

import copy
import re
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from picture_files import FIXTURE
from training_runs import COMMON, assert_equal

from rq_hf import RQImageGenerationPipeline
from rq_hf.cli import main
from rq_hf.training import CodeDataArguments, Recipe, RQTransformerTrainingArguments, train_rq_transformer
from rq_hf.training.lora import add_lora

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "research" / "finetuning"))
from striped_cats import write_cats  # noqa: E402

CAPTION = "green apple, noto style"


def ids_of(pipe: RQImageGenerationPipeline, captions: list[str]) -> torch.LongTensor:
    return pipe.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


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
    input_ids, codes = ids_of(loaded, [CAPTION]), torch.zeros(1, 4, 4, 3, dtype=torch.long)
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


def divergence(model: str | Path, base: RQImageGenerationPipeline, captions: list[str]) -> float:
    """Mean KL divergence of the codes of a model from its base, on what the base draws."""
    input_ids = ids_of(base, captions)
    codes = base.transformer.generate(input_ids, generator=torch.Generator().manual_seed(0))
    transformer = RQImageGenerationPipeline.from_pretrained(model).transformer
    with torch.no_grad():
        expected, found = (each(input_ids, codes).logits.log_softmax(-1) for each in (base.transformer, transformer))
    return (expected.exp() * (expected - found)).sum(-1).mean().item()


def test_the_steps_of_the_guide_keep_what_the_base_draws(make_pipeline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipe, names = make_pipeline(), ["red heart", "green apple", "castle"]
    pipe.save_pretrained("checkpoints/emoji-64")
    write_cats(Path("cats"), count=2)
    guide = (ROOT / "docs" / "finetuning.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```json\n([^`]*lora_rank.*?)```", guide, re.DOTALL)
    Path("garfield.json").write_text(recipe)
    (prepare,) = re.findall(r"```py\n(import json.*?)```", guide, re.DOTALL)
    prepare = prepare.replace('pipe.tokenizer.init_kwargs["emoji_names"].values()', repr(names))
    exec(prepare.replace("pipe.rewrite(names)", "names"), {})  # this pipeline has no rewriter
    (command,) = re.findall(r"rq-hf (train-rqt garfield\.json[^\n]*)", guide)
    flags = "--disable_tqdm true --max_steps 25 --warmup_steps 0 --learning_rate 1e-2 --save_strategy no"
    found = {}
    for kind, captions in {"alone": "", "kept": "keep.txt"}.items():
        more = ["--prior_captions", captions, "--per_device_train_batch_size", "2", "--code_temperature", "0.01"]
        main([*command.split(), *flags.split(), *more])
        found[kind] = divergence("runs/garfield", pipe, names)
    assert found["kept"] < 0.2 * found["alone"]


def test_prior_captions_are_refused_without_an_adapter_or_any_caption(recipe, tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    for captions, options, message in (
        ("empty.txt", {}, "hold a caption a line"),
        ("none.txt", {}, "must be a text file"),
        ("empty.txt", {"lora_rank": None}, "needs `lora_rank`"),
    ):
        bad = recipe("run", **options)
        bad.data.prior_captions = str(tmp_path / captions)
        with pytest.raises(ValueError, match=message):
            train_rq_transformer(bad)
    assert not (tmp_path / "run").exists()
