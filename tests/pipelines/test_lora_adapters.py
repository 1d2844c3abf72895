# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""LoRA adapters in a pipeline, compared with PEFT."""

import copy

import pytest
import torch
from conftest import draw
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from rq_hf.training.lora import LORA_TARGET_MODULES


def logits(transformer) -> torch.Tensor:
    config = transformer.config
    input_ids = torch.arange(config.condition_length)[None] % config.vocab_size
    codes = torch.arange(torch.tensor(config.code_shape).prod()).view(1, *config.code_shape) % config.codebook_size
    with torch.no_grad():
        return transformer(input_ids, codes).logits


@pytest.fixture
def pipe_and_adapters(tiny_pipeline, tmp_path):
    """A pipeline, the folder of the adapters "one" and "two", and its transformer as it was."""
    original = copy.deepcopy(tiny_pipeline.transformer)
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        config = LoraConfig(r=2, lora_alpha=8, target_modules=LORA_TARGET_MODULES, init_lora_weights=False)
        get_peft_model(copy.deepcopy(original), config).save_pretrained(tmp_path / name, save_embedding_layers=False)
    return tiny_pipeline, tmp_path, original


def test_adapters_load_weigh_fuse_and_unload_as_by_peft(pipe_and_adapters):
    pipe, folder, original = pipe_and_adapters
    before = draw(pipe)
    pipe.load_lora_weights(folder / "one", adapter_name="one")
    with_peft = PeftModel.from_pretrained(copy.deepcopy(original), folder / "one", adapter_name="one")
    torch.testing.assert_close(logits(pipe.transformer), logits(with_peft))
    pipe.load_lora_weights(str(folder / "two"), adapter_name="two")
    assert pipe.get_active_adapters() == ["two"]

    pipe.set_adapters(["one", "two"], [0.7, 0.4])
    assert pipe.get_list_adapters() == {"transformer": ["one", "two"]} and pipe.get_active_adapters() == ["one", "two"]
    with_peft.load_adapter(folder / "two", adapter_name="two")
    with_peft.add_weighted_adapter(["one", "two"], [0.7, 0.4], "sum", combination_type="cat")
    with_peft.set_adapter("sum")
    expected = with_peft.merge_and_unload()
    torch.testing.assert_close(logits(pipe.transformer), logits(expected))
    weighted = draw(pipe)
    assert not torch.equal(weighted, before)
    pipe.transformer, adapted = expected, pipe.transformer
    assert torch.equal(draw(pipe), weighted)
    pipe.transformer = adapted

    pipe.fuse_lora()
    assert torch.equal(draw(pipe), weighted)
    pipe.unfuse_lora()
    pipe.disable_lora()
    assert torch.equal(draw(pipe), before)
    pipe.enable_lora()
    pipe.delete_adapters("two")
    assert pipe.get_list_adapters() == {"transformer": ["one"]}
    pipe.unload_lora_weights()
    assert torch.equal(draw(pipe), before) and pipe.get_list_adapters() == {}
    assert pipe.transformer.state_dict().keys() == original.state_dict().keys()


def test_adapters_load_from_dictionaries_and_files_of_any_name(pipe_and_adapters):
    """Without a configuration `alpha` is that of the weights, else the rank. Names are those of diffusers."""
    pipe, folder, _ = pipe_and_adapters
    weights = load_file(folder / "one" / "adapter_model.safetensors")
    modules = {name.split(".lora_")[0] for name in weights}
    pipe.load_lora_weights(folder / "one")
    expected = draw(pipe)
    for prefix in ("base_model.model.", "transformer.", ""):
        alphas = {f"{module}.alpha": torch.tensor(8.0) for module in modules}
        named = {name.replace("base_model.model.", prefix): value for name, value in (weights | alphas).items()}
        pipe.load_lora_weights(named)
        assert torch.equal(draw(pipe), expected)
    assert pipe.get_list_adapters() == {"transformer": [f"default_{number}" for number in range(4)]}
    pipe.load_lora_weights(weights, "no alpha")
    pipe.set_adapters("no alpha", 4.0)  # alpha / rank of the configuration
    assert torch.equal(draw(pipe), expected)
    (folder / "one" / "adapter_model.safetensors").rename(folder / "one" / "best.safetensors")
    pipe.load_lora_weights(folder, weight_name="best.safetensors", subfolder="one")
    assert torch.equal(draw(pipe), expected)
    (folder / "one" / "adapter_config.json").unlink()
    with pytest.raises(OSError, match="adapter_config.json"):  # its scale is unknown
        pipe.load_lora_weights(folder / "one", weight_name="best.safetensors")
    loaded = pipe.get_list_adapters()
    narrow = {name: value[:, :4] for name, value in weights.items()}
    for wrong in ({"typo.lora_A.weight": torch.ones(2, 4)}, narrow):  # is refused and leaves nothing
        with pytest.raises(ValueError, match="must fit the transformer"):
            pipe.load_lora_weights(wrong, "wrong")
        assert pipe.get_list_adapters() == loaded and torch.equal(draw(pipe), expected)
    with pytest.raises(ValueError, match="must be new, got 'default_0'"):
        pipe.load_lora_weights(weights, "default_0")


def test_a_pipeline_is_saved_without_adapters_or_with_fused_ones(pipe_and_adapters, tmp_path):
    pipe, folder, _ = pipe_and_adapters
    pipe.load_lora_weights(folder / "one")
    with pytest.raises(ValueError, match="without an adapter"):
        pipe.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    adapted = draw(pipe)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "saved")
    assert torch.equal(draw(type(pipe).from_pretrained(tmp_path / "saved")), adapted)


def test_a_loaded_adapter_is_saved_for_this_library_and_for_peft(pipe_and_adapters, tmp_path):
    pipe, folder, original = pipe_and_adapters
    with pytest.raises(ValueError, match=r"`adapter_name` must be one of the loaded adapters \[\], got None"):
        pipe.save_lora_weights(tmp_path / "saved")
    for name in ("one", "two"):
        pipe.load_lora_weights(folder / name, name)
    pipe.save_lora_weights(tmp_path / "one saved", adapter_name="one")
    pipe.save_lora_weights(tmp_path / "two saved")  # the active one
    for name in ("one", "two"):
        pipe.set_adapters(name)
        expected = logits(pipe.transformer)
        pipe.load_lora_weights(tmp_path / f"{name} saved")
        assert torch.equal(logits(pipe.transformer), expected)
        with_peft = PeftModel.from_pretrained(copy.deepcopy(original), tmp_path / f"{name} saved")
        torch.testing.assert_close(logits(with_peft), expected)
    pipe.set_adapters(["one", "two"])
    with pytest.raises(ValueError, match="`adapter_name` must be one of the loaded adapters"):
        pipe.save_lora_weights(tmp_path / "both")
