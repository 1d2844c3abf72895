# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The recipes under scripts/configs: they build, they belong together, and they have the published sizes."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

from rq_hf import RQTransformerConfig, RQTransformerForImageGeneration, RQVAEConfig, RQVAEModel
from rq_hf.training import (
    TRANSFORMS,
    CodeDataArguments,
    DataArguments,
    RQTransformerTrainingArguments,
    RQVAETrainingArguments,
)

CONFIG_FOLDER = Path(__file__).resolve().parents[1] / "scripts" / "configs"
CONFIGS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(CONFIG_FOLDER.glob("*.json"))}
NAME = re.compile(r"(?P<dataset>[a-z0-9]+(-[a-z]+)?)-(rqvae|rqt)-(?P<shape>\d+x\d+x\d+)-(?P<size>[\w.-]+)")

PUBLISHED = [name for name, config in CONFIGS.items() if "paper" in config["card"]]
RQVAES = [name for name in CONFIGS if "-rqt-" not in name]
TRANSFORMERS = [name for name in CONFIGS if name not in RQVAES]

# Millions of parameters of the published models. An RQ-VAE's codebook, a buffer, is counted; a transformer's is not.
PARAMETERS_IN_MILLIONS = {
    "imagenet-rqvae-8x8x4-k16384": 104.402,
    "imagenet-rqvae-8x8x4-k16384-50e": 104.402,
    "lsun-cat-rqvae-8x8x4-k16384": 104.402,
    "lsun-bedroom-rqvae-8x8x4-k16384": 104.402,
    "lsun-church-rqvae-8x8x4-k16384": 104.402,
    "ffhq-rqvae-8x8x4-k2048": 100.732,
    "cc3m-rqt-8x8x4-654M": 654.062,
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


def build_config(name: str) -> RQVAEConfig | RQTransformerConfig:
    config_class = RQVAEConfig if name in RQVAES else RQTransformerConfig
    return config_class(**CONFIGS[name]["model"])


def field_names(dataclass_type: type) -> set[str]:
    return {field.name for field in dataclasses.fields(dataclass_type)}


@pytest.mark.parametrize("name", CONFIGS)
def test_sections_name_only_known_fields_and_build(name, tmp_path):
    config = CONFIGS[name]
    assert set(config) == {"model", "training", "data", "card"}
    build_config(name)
    arguments_class, data_class = RQTransformerTrainingArguments, CodeDataArguments
    if name in RQVAES:
        arguments_class, data_class = RQVAETrainingArguments, DataArguments
    assert set(config["data"]) <= field_names(data_class)
    assert data_class(**config["data"]).transform in TRANSFORMS
    assert set(config["training"]) <= field_names(arguments_class)
    arguments_class(**config["training"] | {"output_dir": str(tmp_path), "use_cpu": True})


@pytest.mark.parametrize("name", PUBLISHED)
def test_file_name_states_the_code_shape_and_the_output_folder(name):
    shape = NAME.fullmatch(name)["shape"]
    assert shape == "x".join(str(size) for size in build_config(name).code_shape)
    assert CONFIGS[name]["training"]["output_dir"] == f"runs/{name}"


@pytest.mark.parametrize("name", PARAMETERS_IN_MILLIONS)
def test_parameter_count_is_the_published_one(name):
    with torch.device("meta"):
        model = (RQVAEModel if name in RQVAES else RQTransformerForImageGeneration)(build_config(name))
    count = sum(parameter.numel() for parameter in model.parameters())
    if name in RQVAES:
        count += model.codebook.numel()
    assert count / 1e6 == pytest.approx(PARAMETERS_IN_MILLIONS[name], abs=5e-4)


def test_default_configs_are_the_imagenet_rqvae_and_the_cc3m_transformer():
    assert RQVAEConfig().to_dict() == build_config("imagenet-rqvae-8x8x4-k16384").to_dict()
    assert RQTransformerConfig().to_dict() == build_config("cc3m-rqt-8x8x4-654M").to_dict()


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name in TRANSFORMERS])
def test_transformer_fits_the_rqvae_that_its_card_names(name):
    rqvae_name = CONFIGS[name]["card"]["rqvae"]
    assert CONFIGS[name]["data"]["rqvae_name_or_path"] == CONFIGS[rqvae_name]["training"]["output_dir"]
    transformer, rqvae = build_config(name), build_config(rqvae_name)
    for field in ("code_shape", "codebook_size", "codebook_dim", "shared_codebook"):
        assert getattr(transformer, field) == getattr(rqvae, field), field


@pytest.mark.parametrize("name", [name for name in CONFIGS if "model_name_or_path" in CONFIGS[name]["training"]])
def test_finetuned_rqvae_has_the_architecture_of_its_origin(name):
    origin = CONFIGS[Path(CONFIGS[name]["training"]["model_name_or_path"]).name]
    assert origin["training"]["output_dir"] == CONFIGS[name]["training"]["model_name_or_path"]
    assert CONFIGS[name]["model"] == origin["model"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_batch_per_process_and_accumulation_give_the_published_batch(name):
    training, card = CONFIGS[name]["training"], CONFIGS[name]["card"]
    batch = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"] * card["processes"]
    assert batch == card["global_batch_size"]


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name in TRANSFORMERS])
def test_card_sampling_lies_inside_the_codebook(name):
    card = CONFIGS[name]["card"]
    for sampling in (card["sampling"], card["released"]["sampling"]):
        assert set(sampling) == {"temperature", "top_k", "top_p"}
        assert sampling["temperature"] > 0 and 0 < sampling["top_p"] <= 1
        assert 1 <= sampling["top_k"] <= CONFIGS[name]["model"]["codebook_size"]


def test_every_released_archive_has_a_transformer_config():
    archives = {CONFIGS[name]["card"]["released"]["archive"] for name in PUBLISHED if name in TRANSFORMERS}
    names = ["ffhq", "church", "cat", "bedroom", "cc3m"]
    names += [f"imagenet_{size}" for size in ("480M", "821M", "1.4B", "1.4B_rqvae_50e", "3.8B_rqvae_50e")]
    assert archives == {f"{name}.tar.gz" for name in names}


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name in TRANSFORMERS])
def test_card_of_a_released_model_has_its_licence_and_its_published_figure(name):
    card = CONFIGS[name]["card"]
    assert card["released"]["license"] == "cc-by-nc-sa-4.0"
    assert 0 < card["published"]["fid"] < 20
