# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Pipelines on disk: saved and loaded, in any precision, with code or without, whole or broken."""

import json

import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForText2Image, DiffusionPipeline
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from rq_hf import RQImageGenerationPipeline, RQTransformerForImageGeneration, RQVAEModel
from rq_hf.pipelines import load_component

PROMPT = "a red heart"
CALLS = {"text": dict(prompt=PROMPT), "class": dict(class_labels="goose"), "none": dict()}


def draw(pipe, **kwargs):
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        generator=torch.Generator().manual_seed(0), output_type="latent", **kwargs or {"prompt": PROMPT}
    ).images


def index_of(folder) -> dict:
    return json.loads((folder / "model_index.json").read_text())


def lose_weight(path, name: str) -> None:
    weights = load_file(path)
    del weights[name]
    save_file(weights, path, {"format": "pt"})


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
    arguments = dict(generator=torch.Generator().manual_seed(0), output_type="np", **CALLS[kind])
    expected = pipe(**arguments | {"generator": torch.Generator().manual_seed(0)}).images
    assert np.array_equal(loaded(**arguments).images, expected)


def test_sampling_settings_are_saved_with_the_pipeline(tiny_pipeline, tmp_path):
    settings = dict(top_k=[1, 2, 3], temperature=0.5)
    expected = draw(tiny_pipeline, prompt=PROMPT, **settings)
    tiny_pipeline.transformer.generation_config.top_k = [1, 2, 3]
    tiny_pipeline.transformer.generation_config.temperature = 0.5
    tiny_pipeline.save_pretrained(tmp_path / "first")
    assert settings.items() <= index_of(tmp_path / "first")["sampling"].items()
    (tmp_path / "first" / "transformer" / "generation_config.json").unlink()  # diffusers does not download it
    loaded = RQImageGenerationPipeline.from_pretrained(tmp_path / "first")
    assert torch.equal(draw(loaded), expected)
    loaded.transformer.generation_config.temperature = 0.7
    loaded.save_pretrained(tmp_path / "second")
    assert index_of(tmp_path / "second")["sampling"]["temperature"] == 0.7
    given = RQImageGenerationPipeline.from_pretrained(tmp_path / "second", sampling={"temperature": 0.9})
    assert given.transformer.generation_config.temperature == 0.9


def test_a_repository_with_code_needs_no_trust_where_the_library_is_installed(tiny_pipeline, tmp_path):
    """A test of `_dict_from_json_file`, a private method of diffusers."""
    expected = draw(tiny_pipeline)
    tiny_pipeline.save_pretrained(tmp_path)
    index = index_of(tmp_path) | {
        "_class_name": ["pipeline", "RQImageGenerationPipeline"],
        "rqvae": ["modeling_rqvae", "RQVAEModel"],
        "transformer": ["modeling_rq_transformer", "RQTransformerForImageGeneration"],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    for path in ("pipeline.py", "rqvae/modeling_rqvae.py", "transformer/modeling_rq_transformer.py"):
        (tmp_path / path).write_text("raise RuntimeError('this code must not run')\n")
    loaded = RQImageGenerationPipeline.from_pretrained(tmp_path)
    assert type(loaded) is RQImageGenerationPipeline and type(loaded.rqvae) is RQVAEModel
    assert torch.equal(draw(loaded), expected)
    loaded.save_pretrained(tmp_path / "again")
    assert index_of(tmp_path / "again")["_class_name"] == "RQImageGenerationPipeline"
    assert index_of(tmp_path / "again")["rqvae"] == ["rq_hf", "RQVAEModel"]


def test_a_component_can_be_passed_or_left_out(tiny_pipeline, pictures, tmp_path):
    expected = draw(tiny_pipeline)
    tiny_pipeline.save_pretrained(tmp_path)
    rqvae = RQVAEModel.from_pretrained(tmp_path / "rqvae")
    pipe = RQImageGenerationPipeline.from_pretrained(tmp_path, rqvae=rqvae)
    assert pipe.rqvae is rqvae and torch.equal(draw(pipe), expected)
    assert torch.equal(draw(RQImageGenerationPipeline.from_pretrained(tmp_path, rqvae=None)), expected)
    without_transformer = RQImageGenerationPipeline.from_pretrained(tmp_path, transformer=None)
    assert len(without_transformer.reconstruct(pictures / 2 + 0.5).images) == 8


def test_a_transformer_with_an_adapter_is_not_saved(tiny_pipeline, tmp_path):
    adapted = get_peft_model(tiny_pipeline.transformer, LoraConfig(r=2, target_modules=["out_proj"]))
    tiny_pipeline.transformer = adapted
    with pytest.raises(ValueError, match="`transformer` must be saved without an adapter"):
        tiny_pipeline.save_pretrained(tmp_path / "adapted")
    assert not (tmp_path / "adapted").exists()
    tiny_pipeline.transformer = adapted.merge_and_unload()
    tiny_pipeline.save_pretrained(tmp_path / "merged")
    assert torch.equal(draw(RQImageGenerationPipeline.from_pretrained(tmp_path / "merged")), draw(tiny_pipeline))


def test_a_component_is_loaded_from_its_own_folder_or_a_pipelines(tiny_pipeline, pictures, tmp_path):
    tiny_pipeline.save_pretrained(tmp_path)
    codes = tiny_pipeline.rqvae.encode(pictures)
    for folder in (tmp_path, tmp_path / "rqvae"):
        assert torch.equal(load_component(RQVAEModel, folder, "rqvae").encode(pictures), codes)
    loaded = load_component(RQTransformerForImageGeneration, tmp_path, "transformer", dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16


@pytest.mark.parametrize("load", [RQImageGenerationPipeline, DiffusionPipeline], ids=["own", "base"])
@pytest.mark.parametrize("component, name", [("rqvae", "quant_conv.bias"), ("transformer", "code_head.linear.bias")])
def test_a_pipeline_that_lacks_weights_is_refused(tiny_pipeline, tmp_path, load, component, name):
    tiny_pipeline.save_pretrained(tmp_path)
    lose_weight(tmp_path / component / "model.safetensors", name)
    with pytest.raises(ValueError, match=f"must hold all weights of RQ.*, but 1 are missing, such as `{name}`"):
        load.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff"])
@pytest.mark.parametrize("name", ["model_index.json", "rqvae/config.json", "tokenizer/tokenizer.json"])
def test_a_damaged_file_is_an_error_that_names_the_folder(tiny_pipeline, tmp_path, name, content):
    tiny_pipeline.save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises((OSError, ValueError), match=str(tmp_path)):
        RQImageGenerationPipeline.from_pretrained(tmp_path)


def test_a_path_that_does_not_exist_is_named(tmp_path):
    for path in (tmp_path / "typo", str(tmp_path / "typo")):
        with pytest.raises((OSError, ValueError), match="typo"):
            RQImageGenerationPipeline.from_pretrained(path)


def test_a_component_that_lacks_weights_is_refused(tiny_pipeline, tmp_path):
    tiny_pipeline.save_pretrained(tmp_path)
    lose_weight(tmp_path / "rqvae" / "model.safetensors", "decoder.conv_out.bias")
    with pytest.raises(
        ValueError, match="must hold all weights of RQVAEModel, but 1 .*such as `decoder.conv_out.bias`"
    ):
        load_component(RQVAEModel, tmp_path, "rqvae")
    (tmp_path / "rqvae" / "model.safetensors").unlink()
    with pytest.raises(OSError, match="model.safetensors"):
        load_component(RQVAEModel, tmp_path, "rqvae")
    with pytest.raises(OSError):
        load_component(RQVAEModel, tmp_path / "rqvea", "rqvae")
