# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Pipelines on disk and on the Hub: saved, pushed and loaded, in any precision, whole or broken."""

import json
import logging
import warnings

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines import pipeline_loading_utils
from huggingface_hub.errors import RepositoryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

import rq_hf
from rq_hf import RQImageGenerationPipeline, RQTransformerForImageGeneration, RQVAEModel
from rq_hf.pipeline_rq_image_generation import load_component
from rq_hf.sharing import push_folder

PROMPT = "a red heart"
CALLS = {"text": dict(prompt=PROMPT), "class": dict(class_labels="goose"), "none": dict()}
BOTH_CLASSES = pytest.mark.parametrize("load", [RQImageGenerationPipeline, DiffusionPipeline], ids=["own", "base"])


def draw(pipe, *args, output_type: str = "np", **kwargs):
    generator = torch.Generator().manual_seed(0)
    return pipe(*args, generator=generator, output_type=output_type, **kwargs).images


@pytest.fixture(params=CALLS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def pipe(make_pipeline, kind) -> RQImageGenerationPipeline:
    return make_pipeline(kind)


@BOTH_CLASSES
def test_a_saved_pipeline_comes_back_and_draws_the_same(pipe, kind, tmp_path, load):
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["rqvae"] == ["rq_hf", "RQVAEModel"]
    assert index["transformer"] == ["rq_hf", "RQTransformerForImageGeneration"]
    loaded = load.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded) is RQImageGenerationPipeline
    assert (loaded.tokenizer is None) == (kind != "text")
    assert np.array_equal(draw(loaded, **CALLS[kind]), draw(pipe, **CALLS[kind]))


def test_the_checkpoints_own_sampling_settings_are_the_defaults(tiny_pipeline, tmp_path):
    expected = draw(tiny_pipeline, PROMPT, top_k=[1, 2, 3], temperature=0.5)
    tiny_pipeline.transformer.generation_config.top_k = [1, 2, 3]
    tiny_pipeline.transformer.generation_config.temperature = 0.5
    tiny_pipeline.save_pretrained(tmp_path)
    loaded = RQImageGenerationPipeline.from_pretrained(tmp_path)
    assert np.array_equal(draw(loaded, PROMPT), expected)


def test_what_is_saved_in_one_precision_loads_in_any(tiny_pipeline, tmp_path):
    tiny_pipeline.save_pretrained(tmp_path / "float32")
    for source, saved, dtype in [
        ("float32", "bfloat16", torch.bfloat16),
        ("bfloat16", "again", torch.float32),
        ("bfloat16", "float16", torch.float16),
        ("float16", "and again", torch.bfloat16),
    ]:
        pipe = RQImageGenerationPipeline.from_pretrained(tmp_path / source, dtype=dtype)
        assert pipe.transformer.dtype == pipe.rqvae.dtype == dtype
        assert torch.equal(pipe.rqvae.codebook, tiny_pipeline.rqvae.codebook)
        assert draw(pipe, PROMPT).shape == (1, 16, 16, 3)
        pipe.save_pretrained(tmp_path / saved)
    cast = tiny_pipeline.to(torch.bfloat16)
    assert draw(cast, PROMPT).dtype == np.float32
    cast.save_pretrained(tmp_path / "cast")
    RQImageGenerationPipeline.from_pretrained(tmp_path / "cast", dtype=torch.float32)


def test_pickled_components_are_refused(tiny_pipeline, tmp_path):
    tiny_pipeline.save_pretrained(tmp_path)
    (tmp_path / "rqvae" / "model.safetensors").unlink()
    torch.save(tiny_pipeline.rqvae.state_dict(), tmp_path / "rqvae" / "pytorch_model.bin")
    with pytest.raises(OSError, match="no file named model.safetensors"):
        RQImageGenerationPipeline.from_pretrained(tmp_path)


def test_a_component_can_be_passed_or_left_out(tiny_pipeline, pictures, tmp_path):
    tiny_pipeline.save_pretrained(tmp_path)
    rqvae = RQVAEModel.from_pretrained(tmp_path / "rqvae")
    pipe = RQImageGenerationPipeline.from_pretrained(tmp_path, rqvae=rqvae)
    assert pipe.rqvae is rqvae and np.array_equal(draw(pipe, PROMPT), draw(tiny_pipeline, PROMPT))
    without_rqvae = RQImageGenerationPipeline.from_pretrained(tmp_path, rqvae=None)
    codes = draw(tiny_pipeline, PROMPT, output_type="latent")
    assert torch.equal(draw(without_rqvae, PROMPT, output_type="latent"), codes)
    with pytest.raises(ValueError, match="`rqvae`"):
        without_rqvae(PROMPT)
    without_transformer = RQImageGenerationPipeline.from_pretrained(tmp_path, transformer=None)
    assert len(without_transformer.reconstruct(pictures / 2 + 0.5).images) == 8
    with pytest.raises(ValueError, match="`transformer`"):
        without_transformer(PROMPT)


@pytest.mark.parametrize(
    "component, name", [("rqvae", "decoder.conv_out.bias"), ("transformer", "code_head.norm.bias")]
)
def test_a_pipeline_whose_files_lack_a_weight_is_refused(tiny_pipeline, tmp_path, component, name):
    tiny_pipeline.save_pretrained(tmp_path)
    path = tmp_path / component / "model.safetensors"
    weights = load_file(path)
    del weights[name]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ValueError, match=f"must hold a whole .*, but lacks weights such as `{name}` .1 are missing"):
        RQImageGenerationPipeline.from_pretrained(tmp_path)
    model_class = type(getattr(tiny_pipeline, component))  # loads as transformers' do
    model, loaded = model_class.from_pretrained(tmp_path, subfolder=component, output_loading_info=True)
    assert loaded["missing_keys"] == {name} and model.missing_weights == [name]
    parts = {component: model}
    assert getattr(RQImageGenerationPipeline.from_pretrained(tmp_path, **parts), component) is model


def test_a_model_with_a_compiled_part_is_saved_under_its_own_names(tiny_pipeline, tmp_path):
    expected = {name: value.clone() for name, value in tiny_pipeline.rqvae.state_dict().items()}
    tiny_pipeline.rqvae.decoder = torch.compile(tiny_pipeline.rqvae.decoder)
    tiny_pipeline.transformer.code_head.linear = torch.compile(tiny_pipeline.transformer.code_head.linear)
    tiny_pipeline.save_pretrained(tmp_path)
    again = RQImageGenerationPipeline.from_pretrained(tmp_path)
    assert expected.keys() == again.rqvae.state_dict().keys()
    assert all(torch.equal(again.rqvae.state_dict()[name], value) for name, value in expected.items())


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_later_save_leaves_nothing_of_an_earlier_one_that_would_be_loaded(tiny_pipeline, tmp_path, variant):
    def names() -> list[str]:
        return sorted(path.name for path in (tmp_path / "transformer").glob("model*"))

    bias = tiny_pipeline.transformer.code_head.linear.bias
    for size in (None, "60KB", None, "80KB"):
        with torch.no_grad():
            bias.add_(1.0)
        tiny_pipeline.save_pretrained(tmp_path, variant=variant, max_shard_size=size)
        loaded = RQImageGenerationPipeline.from_pretrained(tmp_path, variant=variant)
        assert torch.equal(loaded.transformer.code_head.linear.bias, bias)
        assert len(names()) == 1 if size is None else "index" in "".join(names()) and len(names()) > 2
        assert all(variant is None or variant in name for name in names())


@pytest.mark.parametrize(
    "settings, message", [({"do_sample": False}, "temperature"), ({"temperature": np.float32(0.5)}, "plain numbers")]
)
def test_sampling_settings_that_cannot_be_saved_leave_an_earlier_save_as_it_was(
    tiny_pipeline, tmp_path, settings, message
):
    tiny_pipeline.transformer.generation_config.update(do_sample=True, temperature=0.5)
    tiny_pipeline.save_pretrained(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with torch.no_grad():
        tiny_pipeline.rqvae.decoder.conv_out.bias.add_(1.0)
    tiny_pipeline.transformer.generation_config.update(**settings)
    for save in (
        tiny_pipeline.save_pretrained,
        lambda _: tiny_pipeline.transformer.save_pretrained(tmp_path / "transformer"),
    ):
        with pytest.raises(ValueError, match=message):
            save(tmp_path)
        assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_missing_and_truncated_files_are_errors(tiny_pipeline, tmp_path):
    tiny_pipeline.save_pretrained(tmp_path)
    for component in ("rqvae", "transformer"):
        for name, error in {"config.json": OSError, "model.safetensors": OSError}.items():
            path = tmp_path / component / name
            content = path.read_bytes()
            path.unlink()
            with pytest.raises(error, match=name):
                RQImageGenerationPipeline.from_pretrained(tmp_path)
            path.write_bytes(content[: len(content) // 2])
            with pytest.raises((OSError, SafetensorError), match="not a valid JSON|deserializing header"):
                RQImageGenerationPipeline.from_pretrained(tmp_path)
            path.write_bytes(content)
    RQImageGenerationPipeline.from_pretrained(tmp_path)
    (tmp_path / "model_index.json").unlink()
    for load in (RQImageGenerationPipeline, DiffusionPipeline):
        with pytest.raises(OSError, match=r"model_index\.json"):
            load.from_pretrained(tmp_path)


@BOTH_CLASSES
@pytest.mark.parametrize("max_shard_size", [None, "40KB"], ids=["whole", "sharded"])
def test_a_pushed_pipeline_is_loaded_by_its_repository_id(hub, tiny_pipeline, tmp_path, load, max_shard_size):
    if max_shard_size is None:
        tiny_pipeline.push_to_hub("me/tiny")
    else:
        options = dict(push_to_hub=True, repo_id="me/tiny", max_shard_size=max_shard_size)
        tiny_pipeline.save_pretrained(str(tmp_path), **options)
    files = hub.files("me/tiny")
    assert {"model_index.json", "rqvae/config.json", "transformer/generation_config.json"} <= set(files)
    assert "tokenizer/tokenizer.json" in files
    assert ("transformer/model.safetensors" in files) == (max_shard_size is None)
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in files)
    loaded = load.from_pretrained("me/tiny")
    assert type(loaded) is RQImageGenerationPipeline
    assert np.array_equal(draw(loaded, PROMPT), draw(tiny_pipeline, PROMPT))


@BOTH_CLASSES
@pytest.mark.parametrize("way", ["pushed", "saved", "an older folder"])
def test_the_sampling_settings_of_a_pipeline_come_from_the_hub_too(hub, tiny_pipeline, tmp_path, load, way):
    """diffusers downloads no generation_config.json of a model."""
    settings = {"top_k": [1, 2, 3], "temperature": 0.5}
    expected = draw(tiny_pipeline, PROMPT, **settings)
    assert not np.array_equal(draw(tiny_pipeline, PROMPT), expected)
    tiny_pipeline.transformer.generation_config.update(**settings)
    if way == "pushed":
        tiny_pipeline.push_to_hub("me/tiny")
    else:
        tiny_pipeline.save_pretrained(str(tmp_path), push_to_hub=way == "saved", repo_id="me/tiny")
    if way == "an older folder":
        path = tmp_path / "transformer" / "config.json"
        path.write_text(tiny_pipeline.transformer.config.to_json_string())
        assert "top_k" not in path.read_text()
        push_folder(tmp_path, "me/tiny")
    loaded = load.from_pretrained("me/tiny")
    assert [path.name for path in hub.cache.rglob("generation_config.json")] == []
    assert loaded.transformer.generation_config.do_sample is True
    assert np.array_equal(draw(loaded, PROMPT), expected)


def test_models_are_pushed_and_loaded_by_their_repository_ids(hub, tiny_rqvae, make_transformer):
    for model, name in ((tiny_rqvae, "me/rqvae"), (make_transformer("class"), "me/transformer")):
        model.push_to_hub(name)
        assert not any(file.endswith(".bin") for file in hub.files(name))
        for load in (type(model).from_pretrained, AutoModel.from_pretrained):
            loaded = load(name)
            assert type(loaded) is type(model)
            assert all(torch.equal(tensor, loaded.state_dict()[key]) for key, tensor in model.state_dict().items())
        assert AutoConfig.from_pretrained(name).to_dict()["model_type"] == model.config.model_type


def test_a_pipelines_components_are_loaded_from_its_repository(hub, tiny_pipeline):
    tiny_pipeline.push_to_hub("me/tiny")
    rqvae = RQVAEModel.from_pretrained("me/tiny", subfolder="rqvae")
    transformer = RQTransformerForImageGeneration.from_pretrained("me/tiny", subfolder="transformer")
    assert torch.equal(rqvae.codebook, transformer.codebook.weight)
    assert transformer.generation_config.do_sample is True


def test_what_is_in_the_cache_loads_without_the_hub(hub, tiny_pipeline):
    tiny_pipeline.push_to_hub("me/tiny")
    load_component(RQVAEModel, "me/tiny", "rqvae")
    hub.repositories.clear()
    rqvae = load_component(RQVAEModel, "me/tiny", "rqvae", local_files_only=True)
    assert torch.equal(rqvae.codebook, tiny_pipeline.rqvae.codebook)
    with pytest.raises(OSError, match="couldn't find them in the cached files"):
        load_component(RQVAEModel, "me/other", "rqvae", local_files_only=True)


def test_a_repository_without_its_files_is_an_error(hub, tiny_rqvae, tmp_path):
    with pytest.raises((OSError, RepositoryNotFoundError), match="me/nothing"):
        RQVAEModel.from_pretrained("me/nothing")
    tiny_rqvae.push_to_hub("me/rqvae")
    with pytest.raises(OSError, match=r"model_index\.json"):
        RQImageGenerationPipeline.from_pretrained("me/rqvae")


def test_loading_warns_of_nothing(tiny_pipeline, tmp_path, caplog, monkeypatch):
    tiny_pipeline.save_pretrained(tmp_path)
    for library in ("diffusers", "transformers"):
        monkeypatch.setattr(logging.getLogger(library), "propagate", True)
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        RQImageGenerationPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert caplog.text == ""


# One test for each private name of diffusers that the package leans on.


def test_diffusers_knows_the_library_and_its_names():
    entry = pipeline_loading_utils.LOADABLE_CLASSES["rq_hf"]
    assert entry == {"PreTrainedModel": ["save_pretrained", "from_pretrained"]}
    for name in ("PreTrainedModel", "RQVAEModel", "RQTransformerForImageGeneration", "RQImageGenerationPipeline"):
        assert hasattr(rq_hf, name)
    assert issubclass(RQTransformerForImageGeneration, rq_hf.PreTrainedModel)


def test_diffusers_finds_the_pipeline_class_by_name():
    assert diffusers.RQImageGenerationPipeline is RQImageGenerationPipeline
