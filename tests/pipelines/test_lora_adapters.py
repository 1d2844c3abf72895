# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""LoRA adapters in a pipeline, compared with PEFT."""

import copy

import pytest
import torch
from conftest import draw
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

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


def test_a_scale_holds_for_one_call(pipe_and_adapters):
    pipe, folder, _ = pipe_and_adapters
    with pytest.raises(ValueError, match="`attention_kwargs` must be {'scale': s}, with an adapter"):
        pipe("rocket", attention_kwargs={"scale": 0.5})
    before = draw(pipe)
    pipe.load_lora_weights(folder / "one")
    pipe.set_adapters("default", 0.7)
    whole = draw(pipe)
    scaled = {scale: draw(pipe, attention_kwargs={"scale": scale}) for scale in (0.0, 0.3, 1.0)}
    assert torch.equal(scaled[0.0], before) and torch.equal(scaled[1.0], whole)
    assert torch.equal(draw(pipe), whole)  # also after an error
    with pytest.raises(ValueError, match="`top_k`"):
        pipe("rocket", top_k=0, attention_kwargs={"scale": 0.3})
    assert torch.equal(draw(pipe), whole)
    pipe.set_adapters("default", 0.7 * 0.3)
    assert torch.equal(draw(pipe), scaled[0.3]) and not torch.equal(scaled[0.3], whole)
    with pytest.raises(ValueError, match="`attention_kwargs` must be {'scale': s}"):
        pipe("rocket", attention_kwargs={"scala": 0.3})


def test_adapters_load_from_dictionaries_and_files_of_any_name(pipe_and_adapters):
    """Without a configuration `alpha` is that of the weights, else the rank."""
    pipe, folder, _ = pipe_and_adapters
    weights = load_file(folder / "one" / "adapter_model.safetensors")
    modules = {name.split(".lora_")[0] for name in weights}
    with_alpha = weights | {f"{module}.alpha": torch.tensor(8.0) for module in modules}
    pipe.load_lora_weights(folder / "one", "peft")
    expected = draw(pipe)
    for number, prefix in enumerate(("base_model.model.", "transformer.", "")):
        named = {name.replace("base_model.model.", prefix): value for name, value in with_alpha.items()}
        pipe.load_lora_weights(named, f"dictionary {number}")
        assert torch.equal(draw(pipe), expected)
    pipe.load_lora_weights(weights, "no alpha")
    pipe.set_adapters("no alpha", 4.0)  # alpha / rank of "peft"
    assert torch.equal(draw(pipe), expected)
    (folder / "one" / "adapter_model.safetensors").rename(folder / "one" / "best.safetensors")
    pipe.load_lora_weights(folder, "named", weight_name="best.safetensors", subfolder="one")
    assert torch.equal(draw(pipe), expected)
    (folder / "one" / "adapter_config.json").unlink()
    save_file(with_alpha, folder / "one" / "adapter_model.safetensors")
    pipe.load_lora_weights(folder / "one", "file alone", weight_name="adapter_model.safetensors")
    assert torch.equal(draw(pipe), expected)
    with pytest.raises(OSError, match="adapter_config.json"):  # its scale is unknown
        pipe.load_lora_weights(folder / "one", "no configuration")
    loaded = pipe.get_list_adapters()
    narrow = {name: value[:, :4] for name, value in weights.items()}
    for wrong in ({"typo.lora_A.weight": torch.ones(2, 4)}, narrow):  # is refused and leaves nothing
        with pytest.raises(ValueError, match="must fit the transformer"):
            pipe.load_lora_weights(wrong, "wrong")
        assert pipe.get_list_adapters() == loaded and torch.equal(draw(pipe), expected)
    with pytest.raises(ValueError, match="must be new, got 'peft'"):
        pipe.load_lora_weights(weights, "peft")


def test_a_pipeline_is_saved_without_adapters_or_with_fused_ones(pipe_and_adapters, tmp_path):
    pipe, folder, _ = pipe_and_adapters
    pipe.load_lora_weights(folder / "one")
    with pytest.raises(ValueError, match="without an adapter"):
        pipe.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    with pytest.raises(ValueError, match="`save_directory` must name a folder, got ''"):
        pipe.save_pretrained("")
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
    pipe.save_lora_weights(tmp_path / "saved", adapter_name="one")
    pipe.save_lora_weights(tmp_path / "alone", weight_name="two.safetensors")  # the active one
    with_peft = PeftModel.from_pretrained(copy.deepcopy(original), tmp_path / "saved")
    for name, saved in (("one", tmp_path / "saved"), ("two", tmp_path / "alone" / "two.safetensors")):
        pipe.set_adapters(name)
        expected = logits(pipe.transformer)
        pipe.load_lora_weights(saved, f"{name} again")
        assert torch.equal(logits(pipe.transformer), expected)
        if name == "one":
            torch.testing.assert_close(logits(with_peft), expected)
    pipe.set_adapters(["one", "two"])
    with pytest.raises(ValueError, match="`adapter_name` must be one of the loaded adapters"):
        pipe.save_lora_weights(tmp_path / "both")
