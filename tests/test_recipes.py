# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Every recipe under scripts/configs trains two steps through its script, made small by flags alone."""

import dataclasses
import json
import math
import sys
from pathlib import Path

import datasets
import pytest
import torch
from feature_weights import write_vgg16
from picture_files import FIXTURE, emoji_rows, jpeg, write_folder, write_shard
from safetensors import safe_open
from transformers import get_scheduler

from rq_hf import RQImageGenerationPipeline, RQVAEConfig, RQVAEModel, train_caption_tokenizer
from rq_hf.training import (
    TRANSFORMS,
    RQTransformerTrainer,
    RQTransformerTrainingArguments,
    RQVAETrainingArguments,
)
from rq_hf.training.schedules import cool_down

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))
import train_rqt  # noqa: E402
import train_rqvae  # noqa: E402

RECIPES = {path.stem: json.loads(path.read_text()) for path in sorted((SCRIPTS / "configs").glob("*.json"))}
TRANSFORMERS = [name for name in RECIPES if "-rqt-" in name]
RQVAES = [name for name in RECIPES if name not in TRANSFORMERS]
# All that decides how the weights move, which no flag below touches.
KEPT = (
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "weight_decay", "adam_beta1",
    "adam_beta2", "max_grad_norm", "bf16", "gradient_checkpointing", "codebook_update", "l1_weight",
    "perceptual_weight", "adversarial_weight", "discriminator_start_step", "code_temperature", "stochastic_codes",
    "soft_labels", "condition_dropout", "bpe_dropout", "cache_latents", "attn_implementation",
    "early_stopping_patience", "muon_learning_rate", "scheduled_sampling", "scheduled_sampling_temperature",
    "scheduled_sampling_passes", "scheduled_sampling_warmup_steps", "scheduled_sampling_delay", "ema_decay",
)  # fmt: skip
SHORT = {
    "use_cpu": True, "max_steps": 2, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2,
    "dataloader_num_workers": 0, "logging_steps": 1, "report_to": "none", "disable_tqdm": True,
    "max_eval_samples": 2,
}  # fmt: skip


def small_rqvae(model: dict) -> dict:
    """The recipe's map of codes, depth and choice of codebooks on narrow towers and small pictures."""
    config = RQVAEConfig(**model)
    side = config.code_shape[0]
    return {
        "image_size": 2 * side, "base_channels": 8, "channel_multiplier": [1, 1], "num_res_blocks": 1,
        "attention_levels": [1], "latent_channels": 8, "norm_num_groups": 4, "codebook_size": 64, "codebook_dim": 8,
    }  # fmt: skip


SMALL_TRANSFORMER = {"hidden_size": 32, "num_spatial_layers": 2, "num_depth_layers": 1, "num_attention_heads": 2}


def rqvae_of(name: str) -> dict:
    """Fields of the RQ-VAE that a transformer's recipe stands on."""
    rqvae = RECIPES[name]["card"].get("rqvae", "emoji-rqvae-8x8x3-4M")
    return RECIPES[rqvae]["model"]


@pytest.fixture(scope="session")
def vgg16_file(tmp_path_factory) -> Path:
    """Random weights: the published ones cannot be had without a network."""
    return write_vgg16(tmp_path_factory.mktemp("vgg16"))


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    captions = [row["text"] for row in emoji_rows()]
    train_caption_tokenizer(captions, vocab_size=300, max_length=32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_rqvae_folder(tmp_path_factory):
    """Saves an untrained small RQ-VAE with the map, depth and codebooks of a recipe, once each."""
    folders = {}

    def make(model: dict) -> Path:
        fields = model | small_rqvae(model)
        key = json.dumps(fields, sort_keys=True)
        if key not in folders:
            torch.manual_seed(0)
            folders[key] = tmp_path_factory.mktemp("rqvae")
            RQVAEModel(RQVAEConfig(**fields)).save_pretrained(folders[key])
        return folders[key]

    return make


@pytest.fixture(scope="session")
def data_folders(tmp_path_factory) -> dict[str, Path]:
    """Data sets in the form that the recipes expect: tables with labels, folders of pictures, tar shards."""
    root, rows = tmp_path_factory.mktemp("data"), emoji_rows()[:10]
    table = datasets.Dataset.from_dict(
        {"image": [{"bytes": jpeg(row), "path": None} for row in rows], "label": list(range(0, 1000, 100))},
        features=datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(num_classes=1000)),
    )
    (root / "imagenet").mkdir()
    for split in ("train", "validation"):
        table.to_parquet(root / "imagenet" / f"{split}.parquet")
        write_shard(root / "cc3m" / split / "00000.tar", rows)
        write_folder(root / "ffhq", 10, split=split)
    write_folder(root / "lsun", 10)
    folders = {name: root / name for name in ("imagenet", "cc3m", "ffhq", "lsun")}
    fashion = dict.fromkeys(("fashion", "fashion32"), root / "imagenet")
    return folders | fashion | {"emoji": FIXTURE, "emoji32": FIXTURE}


@pytest.fixture
def used_transforms(monkeypatch, tmp_path) -> set[tuple[str, str]]:
    """Which transforms were called, as (name, "training" or "evaluation"); they still do their work."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")  # no latents of another test
    used = set()

    def noting(name, part, transform):
        def call(*arguments):
            used.add((name, part))
            return transform(*arguments)

        return call

    for name, parts in list(TRANSFORMS.items()):
        noted = [noting(name, part, each) for part, each in zip(("training", "evaluation"), parts, strict=True)]
        monkeypatch.setitem(TRANSFORMS, name, tuple(noted))
    return used


def run(script, name: str, output: Path, **flags) -> list[dict]:
    """Trains; returns what was logged at each step."""
    arguments = [str(SCRIPTS / "configs" / f"{name}.json")]
    cooldown = {"cooldown_steps": SHORT["max_steps"]} if "cooldown_steps" in RECIPES[name]["training"] else {}
    for flag, value in {**SHORT, **cooldown, **flags, "output_dir": output}.items():
        arguments += [f"--{flag}", value if isinstance(value, str | Path) else json.dumps(value)]
    script.main([str(argument) for argument in arguments])
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "loss" in entry]


def skip_without_muon(recipe: dict) -> None:
    if "muon_learning_rate" in recipe["training"] and not hasattr(torch.optim, "Muon"):
        pytest.skip("torch older than 2.9 has no Muon")


def assert_trained_as_the_recipe_says(name: str, arguments_class, output: Path, steps: list[dict]) -> dict:
    recipe = RECIPES[name]["training"]
    assert [entry["step"] for entry in steps] == [1, 2]
    assert all(math.isfinite(entry["loss"]) for entry in steps)

    used = json.loads((output / "checkpoint-2" / "training_args.json").read_text())
    kept = {field.name for field in dataclasses.fields(arguments_class)} & set(KEPT) & set(recipe)
    asked = {field: str(recipe[field]) if isinstance(recipe[field], dict | list) else recipe[field] for field in kept}
    assert {field: used[field] for field in kept} == asked

    state = torch.load(output / "checkpoint-2" / "optimizer.pt", weights_only=True)
    arguments = arguments_class(**recipe | {"output_dir": str(output), "use_cpu": True})
    by_muon = [group for group in state["param_groups"] if "ns_steps" in group]
    assert {group["initial_lr"] for group in by_muon} == {recipe.get("muon_learning_rate")} - {None}
    for group in state["param_groups"][: len(state["param_groups"]) - len(by_muon)]:
        assert group["betas"] == (arguments.adam_beta1, arguments.adam_beta2)
        assert group["initial_lr"] == arguments.learning_rate
    assert {group["weight_decay"] for group in state["param_groups"]} <= {arguments.weight_decay, 0.0}

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=arguments.learning_rate)
    schedule = get_scheduler(
        arguments.lr_scheduler_type, optimizer, arguments.get_warmup_steps(2), 2, arguments.lr_scheduler_kwargs
    )
    assert ("cooldown_steps" in recipe) == (used["cooldown_steps"] > 0)
    cool_down(schedule, 2, used["cooldown_steps"])
    for entry in steps:
        assert entry["learning_rate"] == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return used


@pytest.mark.parametrize("name", RQVAES)
def test_rqvae_recipe_trains_two_steps(name, tmp_path, vgg16_file, data_folders, make_rqvae_folder, used_transforms):
    recipe = RECIPES[name]
    skip_without_muon(recipe)
    flags = {"max_train_samples": 8, "dataset_name": data_folders[name.split("-")[0]], **small_rqvae(recipe["model"])}
    if recipe["training"].get("perceptual_weight", 1.0) > 0:
        flags["perceptual_weights"] = vgg16_file
    if "model_name_or_path" in recipe["training"]:
        flags["model_name_or_path"] = make_rqvae_folder(recipe["model"])
    steps = run(train_rqvae, name, tmp_path, **flags)
    used = assert_trained_as_the_recipe_says(name, RQVAETrainingArguments, tmp_path, steps)

    assert ("perceptual_loss" in steps[0]) == (used["perceptual_weight"] > 0)
    assert ("discriminator_loss" in steps[0]) == (used["adversarial_weight"] > 0)
    assert (recipe["data"]["transform"], "training") in used_transforms
    model = RQVAEModel.from_pretrained(tmp_path / "checkpoint-2")
    asked = RQVAEConfig(**recipe["model"])
    for field in ("code_shape", "shared_codebook", "codebook_decay", "restart_unused_codes", "commitment_weight"):
        assert getattr(model.config, field) == getattr(asked, field), field


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformer_recipe_trains_two_steps(
    name, tmp_path, tokenizer_folder, data_folders, make_rqvae_folder, used_transforms, monkeypatch
):
    recipe, trained = RECIPES[name], []
    skip_without_muon(recipe)
    train = RQTransformerTrainer.train
    monkeypatch.setattr(
        RQTransformerTrainer, "train", lambda self, **k: trained.append(self.model) or train(self, **k)
    )
    flags = {
        "max_train_samples": 8,
        "dataset_name": data_folders[name.split("-")[0]],
        "rqvae_name_or_path": make_rqvae_folder(rqvae_of(name)),
        "gradient_accumulation_steps": 2,
        **SMALL_TRANSFORMER,
    }
    if "codebook_size" in recipe["model"]:  # those that state the RQ-VAE's size
        flags |= {"codebook_size": 64, "codebook_dim": 8}
    if "caption_column" in recipe["data"]:
        flags["tokenizer_name_or_path"] = tokenizer_folder
    steps = run(train_rqt, name, tmp_path, **flags)
    assert_trained_as_the_recipe_says(name, RQTransformerTrainingArguments, tmp_path, steps)

    cached = recipe["training"].get("cache_latents", False)
    assert (recipe["data"]["transform"], "evaluation" if cached else "training") in used_transforms
    implementation = recipe["training"].get("attn_implementation", "sdpa")
    assert [model.config._attn_implementation for model in trained] == [implementation]
    dtype = getattr(torch, recipe["training"].get("save_dtype", "float32"))
    with safe_open(tmp_path / "transformer" / "model.safetensors", "pt") as weights:
        dtypes = {weights.get_tensor(key).dtype for key in weights.keys()}  # noqa: SIM118  it is no dictionary
    assert dtypes == {dtype}
    pipe = RQImageGenerationPipeline.from_pretrained(tmp_path)
    assert (tmp_path / "checkpoint-2" / "model.safetensors").exists()
    for field in ("vocab_size", "condition_length", "code_shape", "pad_token_id"):
        if field in recipe["model"]:
            expected = recipe["model"][field]
            assert getattr(pipe.transformer.config, field) == (tuple(expected) if field == "code_shape" else expected)
    for field, value in recipe["card"]["sampling"].items():
        assert getattr(pipe.transformer.generation_config, field) == value


def test_cc3m_recipe_streams(tmp_path, tokenizer_folder, data_folders, make_rqvae_folder, used_transforms):
    name = "cc3m-rqt-8x8x4-654M"
    arguments = {
        "dataset_name": data_folders["cc3m"], "rqvae_name_or_path": make_rqvae_folder(rqvae_of(name)),
        "tokenizer_name_or_path": tokenizer_folder, "streaming": True, "eval_strategy": "steps", "eval_steps": 2,
        "save_strategy": "steps", "save_steps": 2, "gradient_accumulation_steps": 2, "codebook_size": 64,
        "codebook_dim": 8, **SMALL_TRANSFORMER,
    }  # fmt: skip
    steps = run(train_rqt, name, tmp_path, **arguments)
    assert_trained_as_the_recipe_says(name, RQTransformerTrainingArguments, tmp_path, steps)
    assert used_transforms == {("cc3m", "training"), ("cc3m", "evaluation")}
    assert math.isfinite(json.loads((tmp_path / "eval_results.json").read_text())["eval_text_loss"])
