# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The recipes that come with the library: they build, they belong together, and they have the published sizes."""

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModel

from rq_hf import RQTransformerConfig, RQVAEConfig
from rq_hf.training import RQTransformerTrainingArguments, RQVAETrainingArguments
from rq_hf.training.arguments import CodeDataArguments, DataArguments, read_recipe, recipe_names
from rq_hf.training.transforms import TRANSFORMS

FIXTURES = Path(__file__).parents[1] / "fixtures" / "recipes"
RECIPES = {name: read_recipe(name) for name in recipe_names()}
ALL = RECIPES | {path.stem: read_recipe(path) for path in sorted(FIXTURES.glob("*.json"))}
TRANSFORMERS = [name for name in ALL if "-rqt-" in name or "-crqt-" in name]
RQVAES = [name for name in ALL if name not in TRANSFORMERS]
PUBLISHED = [name for name in RECIPES if "paper" in RECIPES[name]["card"]]
CLASSES = {
    "rqvae": (RQVAEConfig, RQVAETrainingArguments, DataArguments),
    "rqt": (RQTransformerConfig, RQTransformerTrainingArguments, CodeDataArguments),
}

# Millions of parameters of the published models. An RQ-VAE's codebook, a buffer, is counted; a transformer's is not.
PARAMETERS_IN_MILLIONS = {
    "imagenet-rqvae-8x8x4-k16384": 104.402,
    "imagenet-rqvae-8x8x4-k16384-50e": 104.402,
    "lsun-cat-rqvae-8x8x4-k16384": 104.402,
    "lsun-bedroom-rqvae-8x8x4-k16384": 104.402,
    "lsun-church-rqvae-8x8x4-k16384": 104.402,
    "ffhq-rqvae-8x8x4-k2048": 100.732,
    "cc3m-rqt-8x8x4-654M": 654.062,
    "cc3m-crqt-8x8x4-333M": 331.001,
    "cc3m-crqt-8x8x4-654M": 652.749,
    "imagenet-crqt-8x8x4-333M": 333.324,
    "imagenet-crqt-8x8x4-821M": 820.901,
    "imagenet-crqt-8x8x4-1.4B": 1387.532,
    "imagenet-rqt-8x8x4-480M": 480.921,
    "imagenet-rqt-8x8x4-821M": 820.899,
    "imagenet-rqt-8x8x4-1.4B": 1387.530,
    "imagenet-rqt-8x8x4-1.4B-rqvae-50e": 1387.530,
    "imagenet-rqt-8x8x4-3.8B": 3822.488,
    "ffhq-rqt-8x8x4-355M": 355.394,
    "lsun-church-rqt-8x8x4-370M": 370.088,
    "lsun-cat-rqt-8x8x4-612M": 612.061,
    "lsun-bedroom-rqt-8x8x4-612M": 612.061,
}


def stage(name: str) -> str:
    return "rqvae" if name in RQVAES else "rqt"


def build_config(name: str) -> RQVAEConfig | RQTransformerConfig:
    if name in RQVAES:
        return RQVAEConfig(**ALL[name]["model"])
    return CONFIG_MAPPING[ALL[name]["training"].get("model_type", "rq_transformer")](**ALL[name]["model"])


@pytest.mark.parametrize("name", ALL)
def test_a_recipe_builds_and_holds_only_what_differs_from_the_defaults(name, tmp_path):
    for section, section_class in zip(("model", "training", "data"), CLASSES[stage(name)], strict=True):
        values = ALL[name][section]
        given = values | ({"output_dir": str(tmp_path), "use_cpu": True} if section == "training" else {})
        built, default = section_class(**given), section_class(**{key: given[key] for key in given.keys() - values})
        assert set(values) <= {field.name for field in dataclasses.fields(section_class)}
        assert not [key for key in values if getattr(built, key) == getattr(default, key)], section
    assert ALL[name]["data"].get("transform", "center_crop") in TRANSFORMS


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_builds_with_the_published_number_of_parameters(name):
    with torch.device("meta"):
        model = AutoModel.from_config(build_config(name))
    count = sum(parameter.numel() for parameter in model.parameters())
    if name in RQVAES:
        count += model.codebook.numel()
    assert count / 1e6 == pytest.approx(PARAMETERS_IN_MILLIONS.get(name, count / 1e6), abs=5e-4)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name in TRANSFORMERS])
def test_a_published_transformer_fits_its_rqvae(name):
    folder = RECIPES[name]["data"]["rqvae_name_or_path"]
    transformer, rqvae = build_config(name), build_config(folder.removeprefix("runs/"))
    for field in ("code_shape", "codebook_size", "codebook_dim", "shared_codebook"):
        assert getattr(transformer, field) == getattr(rqvae, field), field


@pytest.mark.parametrize("name", PUBLISHED)
def test_processes_batch_and_accumulation_give_the_published_batch(name):
    training, card = RECIPES[name]["training"], RECIPES[name]["card"]
    batch = training.get("per_device_train_batch_size", 8) * training.get("gradient_accumulation_steps", 1)
    assert batch * card["processes"] == card["global_batch_size"]


def test_the_guide_lists_all_recipes():
    table = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert {line.split("`")[1] for line in table.splitlines() if line.startswith("| `")} == set(recipe_names())
