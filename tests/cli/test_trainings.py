# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The training commands from start to end: recipes made small by flags, and scripts as a user runs them."""

import json
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub.dataclasses import strict
from picture_files import COLOURS, FIXTURE, shown_colour, write_shapes
from transformers import AutoConfig, AutoModel

from rq_hf import (
    RQGenerationConfig,
    RQImageGenerationPipeline,
    RQTransformerConfig,
    RQTransformerForImageGeneration,
    RQVAEConfig,
    RQVAEModel,
    train_caption_tokenizer,
)
from rq_hf.cli import main
from rq_hf.training import RQTransformerTrainingArguments
from rq_hf.training.arguments import read_recipe

ROOT = Path(__file__).parents[2]
LAUNCH = ["-m", "accelerate.commands.launch"]
SHORT = {
    "use_cpu": True, "max_steps": 2, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2,
    "dataloader_num_workers": 0, "logging_steps": 1, "disable_tqdm": True, "max_train_samples": 8,
    "max_eval_samples": 2,
}  # fmt: skip
SMALL_TRANSFORMER = {"hidden_size": 32, "num_spatial_layers": 2, "num_depth_layers": 1, "num_attention_heads": 2}


def run(command: str, *arguments: object, **flags: object) -> None:
    words = [str(argument) for argument in arguments]
    for name, value in flags.items():
        words += [f"--{name}", str(value) if isinstance(value, str | Path) else json.dumps(value)]
    main([command, *words])


def logged(output: Path) -> list[dict]:
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "loss" in entry]


def small_rqvae(recipe: dict) -> dict:
    """Fields that keep a recipe's map of codes on narrow towers."""
    side = RQVAEConfig(**recipe["model"]).code_shape[0]
    return {
        "image_size": 2 * side, "base_channels": 8, "channel_multiplier": [1, 1], "num_res_blocks": 1,
        "attention_levels": [1], "latent_channels": 8, "norm_num_groups": 4, "codebook_size": 64, "codebook_dim": 8,
    }  # fmt: skip


def check_two_steps(output: Path) -> list[dict]:
    steps = logged(output)
    assert [entry["step"] for entry in steps] == [1, 2] and all(math.isfinite(entry["loss"]) for entry in steps)
    return steps


@pytest.mark.slow
@pytest.mark.parametrize(
    "first, second",
    [
        ("imagenet-rqvae-8x8x4-k4096-separate", None),
        ("lsun-cat-rqvae-8x8x4-k16384", "lsun-cat-rqt-8x8x4-612M"),
        ("imagenet-rqvae-8x8x4-k16384", "imagenet-rqt-8x8x4-3.8B"),
        ("imagenet-rqvae-8x8x4-k16384", "cc3m-rqt-8x8x4-654M"),
        ("small-rqvae-64", "small-rqt-64"),
    ],
)
def test_recipes_of_both_stages_train_two_steps(first, second, data, tmp_path, capsys):
    recipe, output, flags = read_recipe(first), tmp_path / "rqvae", {}
    small = small_rqvae(recipe)
    if recipe["training"].get("perceptual_weight", 1) > 0:
        flags["perceptual_net"] = "lite0"  # VGG's weights are downloaded
    if "model_name_or_path" in recipe["training"]:
        RQVAEModel(RQVAEConfig(**recipe["model"] | small)).save_pretrained(tmp_path / "origin")
        flags["model_name_or_path"], small = tmp_path / "origin", {}
    run("train-rqvae", first, dataset_name=data, output_dir=output, **SHORT, **small, **flags)
    is_adversarial = recipe["training"].get("adversarial_weight", 1) > 0
    assert ("discriminator_loss" in check_two_steps(output)[0]) == is_adversarial
    assert RQVAEModel.from_pretrained(output).config.code_shape == RQVAEConfig(**recipe["model"]).code_shape
    if second is None:
        return

    recipe, output = read_recipe(second), tmp_path / "run"
    flags = {"rqvae_name_or_path": tmp_path / "rqvae", "gradient_accumulation_steps": 2, "save_steps": 2}
    if "caption_column" in recipe["data"]:
        tokenizer = train_caption_tokenizer(["a red heart", "a green apple"], vocab_size=100, max_length=32)
        tokenizer.save_pretrained(tmp_path / "tokenizer")
        flags |= {"tokenizer_name_or_path": tmp_path / "tokenizer", "caption_column": "captions"}
    for name, value in (("codebook_size", 64), ("codebook_dim", 8)):
        flags |= {name: value} if name in recipe["model"] else {}
    run("train-rqt", second, dataset_name=data, output_dir=output, **SHORT, **SMALL_TRANSFORMER, **flags)
    check_two_steps(output)
    pipe = RQImageGenerationPipeline.from_pretrained(output)
    for field, value in recipe["sampling"].items():
        assert getattr(pipe.transformer.generation_config, field) == value
    if "label_column" in recipe["data"]:
        assert shlex.split(capsys.readouterr().out)[-1] == pipe.transformer.config.id2label[0]
    assert (output / "checkpoint-2" / "model.safetensors").exists()


def python(folder: Path, *arguments: object) -> subprocess.CompletedProcess:
    command, environment = [sys.executable, *map(str, arguments)], os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)


@pytest.mark.slow
def test_the_shells_take_a_user_from_pictures_to_a_pipeline_that_draws(tmp_path):
    """Own data: tokenizer, RQ-VAE, transformer, pictures."""

    def command(*words: object) -> str:
        program = [ROOT / "scripts" / words[0]] if words[0].endswith(".py") else ["-m", "rq_hf.cli", words[0]]
        finished = python(tmp_path, *program, *words[1:])
        assert finished.returncode == 0, finished.stderr[-4000:]
        return finished.stdout

    own = ["--dataset_name", FIXTURE, "--use_cpu", "true", "--max_steps", 2, "--eval_steps", 2, "--save_steps", 2]
    own += ["--max_train_samples", 16, "--max_eval_samples", 4, "--disable_tqdm", "true"]
    sizes = ["--vocab_size", 300, "--max_length", 8]
    captions = ["--dataset_name", FIXTURE, "--caption_column", "captions"]
    told = command("train-tokenizer", *captions, *sizes, "--output_dir", "tokenizer")
    assert "300 entries saved in tokenizer. Next: rq-hf train-rqt small-rqt-64 --dataset_name " in told
    told = command("train_rqvae.py", "small-rqvae-64", *own, "--image_size", 32, "--output_dir", "rqvae")
    assert told.endswith("rqvae holds the RQ-VAE; docs/own_pictures.md shows the next steps.\n")
    assert (ROOT / "docs" / "own_pictures.md").exists()
    models = ["--rqvae_name_or_path", "rqvae", "--tokenizer_name_or_path", "tokenizer", "--hidden_size", 12]
    models += ["--caption_column", "captions", "--bf16", "false", "--output_dir", "pipeline"]
    told = command("train_rqt.py", "small-rqt-64", *own, *models)
    assert told.endswith("pipeline holds the pipeline. Next: rq-hf generate pipeline 'YOUR CAPTION'\n")
    assert "cc-by-4.0" not in (tmp_path / "pipeline" / "README.md").read_text()  # the licence of our pictures
    assert command("generate", "pipeline", "a red heart", "--num_images", 1) == "out/a-red-heart.png\n"


@pytest.mark.slow
def test_bare_accelerate_launch_trains_on_the_fixture(tmp_path):
    finished = python(tmp_path, *LAUNCH, ROOT / "scripts" / "train_rqt.py")
    assert finished.returncode == 0, finished.stderr[-4000:]
    output = tmp_path / "runs" / "emoji-rqt-fixture"
    losses = [entry["loss"] for entry in logged(output)]
    assert losses[-1] < losses[0]
    RQImageGenerationPipeline.from_pretrained(output)


def test_without_an_rqvae_or_a_tokenizer_the_command_that_makes_it_is_named(make_rqvae, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = {"dataset_name": FIXTURE, "use_cpu": True}
    with pytest.raises(SystemExit) as ended:
        run("train-rqt", "small-rqt-64", **words)
    command = f"rq-hf train-rqvae small-rqvae-64 --dataset_name {FIXTURE} --output_dir runs/small-rqvae-64"
    assert str(ended.value.code).startswith("error: `rqvae_name_or_path` must be ")
    assert str(ended.value.code).endswith(f"; `{command}` makes one.")
    make_rqvae().save_pretrained("runs/small-rqvae-64")
    with pytest.raises(SystemExit, match="error: `tokenizer_name_or_path` .*`rq-hf train-tokenizer --dataset_name "):
        run("train-rqt", "small-rqt-64", **words)


@strict
class MirroredConfig(RQTransformerConfig):
    model_type = "mirrored"
    axis: int = 1


class MirroredGenerationConfig(RQGenerationConfig):
    defaults = RQGenerationConfig.defaults | {"is_mirrored": False}


class MirroredTransformer(RQTransformerForImageGeneration):
    """A third way to draw: from the bottom, or from the right."""

    config_class = MirroredConfig
    settings_class = MirroredGenerationConfig

    has_drawn = False

    def generate(self, *args, **kwargs):
        type(self).has_drawn = True
        return super().generate(*args, **kwargs).flip(self.config.axis)


def test_a_kind_of_transformer_that_is_registered_trains_by_a_recipe_with_its_name(make_rqvae, tmp_path):
    make_rqvae().save_pretrained(tmp_path / "rqvae")
    training = {"model_type": "mirrored", "use_cpu": True}
    sections = {"training": training, "data": {"dataset_name": str(FIXTURE), "rqvae_name_or_path": "./rqvae"}}
    sections |= {"model": SMALL_TRANSFORMER | {"axis": 2}, "sampling": {"is_mirrored": True, "top_k": 3}}
    for name, values in {"mirrored": sections, "short": {"training": training}, "empty": {}}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(values))
    message = "`model_type` must be one of rq_transformer, contextual_rq_transformer, got 'mirrored'."
    for recipe, flags in (("short", {}), ("empty", {"model_type": "mirrored", "use_cpu": True})):
        with pytest.raises(SystemExit) as ended:
            run("train-rqt", tmp_path / f"{recipe}.json", **flags)
        assert ended.value.code == f"error: {message}"
    with pytest.raises(ValueError, match=message):
        RQTransformerTrainingArguments(str(tmp_path / "run"), use_cpu=True, model_type="mirrored")
    AutoConfig.register("mirrored", MirroredConfig)
    AutoModel.register(MirroredConfig, MirroredTransformer)
    flags = {"validation_split": "validation", "output_dir": tmp_path / "run", "axis": 1}
    run("train-rqt", tmp_path / "mirrored.json", **SHORT, **flags)
    check_two_steps(tmp_path / "run")
    model = AutoModel.from_pretrained(tmp_path / "run" / "transformer")
    assert type(model) is MirroredTransformer and model.config.axis == 1
    assert json.loads((tmp_path / "run" / "model_index.json").read_text())["_generation_config"]["is_mirrored"]
    assert MirroredTransformer.has_drawn


@pytest.mark.slow
def test_the_small_recipes_learn_the_colours_of_sixty_shapes(tmp_path, monkeypatch, capsys):
    """The commands of a user, with fewer steps of fewer pictures."""
    write_shapes(tmp_path / "data" / "mine")
    monkeypatch.chdir(tmp_path)
    few = {"dataset_name": "data/mine", "disable_tqdm": True, "per_device_train_batch_size": 8}
    run("train-rqvae", "small-rqvae-64", **few, max_steps=120, code_depth=2)
    run("train-tokenizer", dataset_name="data/mine", max_length=8)
    run("train-rqt", "small-rqt-64", **few, max_steps=300, num_spatial_layers=2)
    assert "Next: rq-hf generate runs/small-rqt-64" in capsys.readouterr().out
    pipe = RQImageGenerationPipeline.from_pretrained("runs/small-rqt-64")
    prompts = [f"a {colour} {shape}" for colour in COLOURS for shape in ("circle", "square", "triangle")]
    pictures = pipe(prompts, generator=[torch.Generator().manual_seed(seed) for seed in range(len(prompts))]).images
    shown = [shown_colour(picture) == prompt.split()[1] for picture, prompt in zip(pictures, prompts, strict=True)]
    assert sum(shown) >= 0.8 * len(shown), shown
