# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Pipelines on disk: saved and loaded, in any precision, with code or without, whole or broken."""

import json

import pytest
import torch
from conftest import assert_draws_alike, draw
from diffusers import AutoPipelineForText2Image, DiffusionPipeline
from safetensors.torch import load_file, save_file

from rq_hf import RQImageGenerationPipeline, RQInpaintPipeline, RQTransformerForImageGeneration, RQVAEModel
from rq_hf.pipelines import load_component

CALLS = {"text": {}, "class": dict(prompt=None, class_labels="goose"), "none": dict(prompt=None)}


def index_of(folder) -> dict:
    return json.loads((folder / "model_index.json").read_text())


@pytest.mark.parametrize(
    "load", [RQImageGenerationPipeline, DiffusionPipeline, AutoPipelineForText2Image], ids=["own", "base", "auto"]
)
@pytest.mark.parametrize("kind", CALLS)
def test_a_saved_pipeline_comes_back_and_draws_the_same(make_pipeline, kind, tmp_path, load):
    pipe = make_pipeline(kind)
    pipe.save_pretrained(tmp_path)
    assert index_of(tmp_path)["rqvae"] == ["rq_hf", "RQVAEModel"]
    assert index_of(tmp_path)["transformer"] == ["rq_hf", "RQTransformerForImageGeneration"]
    loaded = load.from_pretrained(tmp_path)
    assert type(loaded) is RQImageGenerationPipeline and (loaded.tokenizer is None) == (kind != "text")
    assert torch.equal(*(draw(each, output_type="pt", **CALLS[kind]) for each in (loaded, pipe)))


def test_sampling_settings_are_saved_with_the_pipeline(tiny_pipeline, tmp_path):
    tiny_pipeline.transformer.generation_config.update(top_k=[1, 2, 3], temperature=0.5)
    tiny_pipeline.save_pretrained(tmp_path / "first")
    loaded = RQImageGenerationPipeline.from_pretrained(tmp_path / "first")
    assert_draws_alike(loaded, tiny_pipeline)
    loaded.transformer.generation_config.temperature = 0.7
    loaded.save_pretrained(tmp_path / "second")
    assert index_of(tmp_path / "second")["_generation_config"] == {"temperature": 0.7, "top_k": [1, 2, 3]}
    (tmp_path / "second" / "transformer" / "generation_config.json").unlink()  # diffusers does not download it
    again = RQImageGenerationPipeline.from_pretrained(tmp_path / "second")
    assert_draws_alike(again, loaded)
    loaded.transformer.generation_config.top_p = 0.3  # stays when another pipeline takes the components
    assert RQInpaintPipeline.from_pipe(loaded).transformer.generation_config.top_p == 0.3
    transformer = tiny_pipeline.transformer
    RQImageGenerationPipeline.from_pretrained(tmp_path / "second", transformer=transformer)
    assert transformer.generation_config.temperature == 0.5
    tiny_pipeline.save_pretrained(tmp_path / "second", variant="fp16")
    names = {path.name for path in (tmp_path / "second" / "rqvae").glob("*.safetensors")}
    assert names == {"model.safetensors", "model.fp16.safetensors"}


def test_a_component_can_be_passed_or_left_out(saved, tiny_pipeline, pictures):
    rqvae = RQVAEModel.from_pretrained(saved / "rqvae")
    pipe = RQImageGenerationPipeline.from_pretrained(saved, rqvae=rqvae)
    assert pipe.rqvae is rqvae
    assert_draws_alike(pipe, tiny_pipeline)
    assert torch.equal(draw(RQImageGenerationPipeline.from_pretrained(saved, rqvae=None)), draw(tiny_pipeline))
    without_transformer = RQImageGenerationPipeline.from_pretrained(saved, transformer=None)
    assert len(without_transformer.reconstruct(pictures / 2 + 0.5).images) == 8


def test_a_component_is_loaded_from_its_own_folder_or_a_pipelines(saved, tiny_pipeline, pictures):
    codes = tiny_pipeline.rqvae.encode(pictures)
    for folder in (saved, saved / "rqvae"):
        assert torch.equal(load_component(RQVAEModel, folder, "rqvae").encode(pictures), codes)
    loaded = load_component(RQTransformerForImageGeneration, saved, "transformer", dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["rqvae", "not/there/folder", "me/typo"])
def test_a_name_of_no_pipeline_is_an_error_with_the_name(hub, saved, monkeypatch, name):
    monkeypatch.chdir(saved)
    with pytest.raises((OSError, ValueError), match=name):
        RQImageGenerationPipeline.from_pretrained(name)


def test_missing_weights_and_folders_are_named(saved, tmp_path):
    name, file = "decoder.conv_out.bias", saved / "rqvae" / "model.safetensors"
    loads = [RQImageGenerationPipeline.from_pretrained, lambda folder: load_component(RQVAEModel, folder, "rqvae")]
    weights = load_file(file)
    del weights[name]
    save_file(weights, file, {"format": "pt"})
    for load in (*loads, DiffusionPipeline.from_pretrained):
        with pytest.raises(ValueError, match=f"must hold all weights of RQ.*, but 1 are missing, such as `{name}`"):
            load(saved)
    file.unlink()
    for load in loads:
        with pytest.raises(OSError, match="model.safetensors"):
            load(saved)
        for path in (tmp_path / "typo", str(tmp_path / "typo")):
            with pytest.raises((OSError, ValueError), match="typo"):
                load(path)
