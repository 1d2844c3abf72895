# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The two configurations: defaults, refusals, and files."""

import json
import logging

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from rq_hf import RQTransformerConfig, RQVAEConfig

CONFIG_CLASSES = [RQVAEConfig, RQTransformerConfig]


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_defaults_are_the_imagenet_rqvae_and_a_transformer_that_fits_it():
    rqvae, transformer = RQVAEConfig(), RQTransformerConfig()
    assert rqvae.downsample_factor == 32
    assert rqvae.code_shape == transformer.code_shape == (8, 8, 4)
    assert transformer.num_positions == 64
    assert RQTransformerConfig.from_rqvae_config(rqvae).to_dict() == transformer.to_dict()
    for config in (rqvae, transformer):  # there are no invented labels
        assert config.id2label is None and config.label2id is None and config.num_labels is None


@pytest.mark.parametrize(
    "config_class, field, closest",
    [
        (RQVAEConfig, "code_dpeth", "code_depth"),
        (RQTransformerConfig, "hidden_sizes", "hidden_size"),
        (RQTransformerConfig, "top_k", ""),  # belongs in the generation config
    ],
)
def test_a_field_that_a_caller_made_up_is_refused_and_the_closest_named(config_class, field, closest):
    with pytest.raises(ValueError, match=f"{config_class.__name__} has no field `{field}`.*`{closest}"):
        config_class(**{field: 3})


@pytest.mark.parametrize(
    "config_class, fields, message",
    [
        (RQVAEConfig, {"code_depth": 0}, "'code_depth'.* greater or equal to 1, got 0"),
        (RQVAEConfig, {"num_res_blocks": 10**9}, "'num_res_blocks'.* smaller or equal to 500"),
        (RQVAEConfig, {"channel_multiplier": []}, "`channel_multiplier` must be a list of integers of at least 1"),
        (RQVAEConfig, {"channel_multiplier": [1, 0]}, r"`channel_multiplier` .* at least 1, got \(1, 0\)"),
        (RQVAEConfig, {"attention_levels": [6]}, "`attention_levels` must be indexes of the 6 levels"),
        (RQVAEConfig, {"image_size": 250}, "`image_size` must be a multiple of the downsample factor.* 32, got 250"),
        (RQVAEConfig, {"base_channels": 48}, "`norm_num_groups` must be a divisor.*48"),
        (RQVAEConfig, {"codebook_decay": 1}, "'codebook_decay'.* smaller than 1, got 1"),
        (RQVAEConfig, {"codebook_decay": float("nan")}, "'codebook_decay'.* got nan"),
        (RQVAEConfig, {"codebook_decay": True}, "'codebook_decay' with value True"),
        (RQVAEConfig, {"codebook_epsilon": 0}, "'codebook_epsilon'.* greater than 0"),
        (RQVAEConfig, {"commitment_weight": -1}, "'commitment_weight'.* greater or equal to 0"),
        (RQVAEConfig, {"code_depth": None}, "'code_depth' expected int"),
        (RQTransformerConfig, {"code_shape": (8, 8)}, r"`code_shape` must be three integers .*\(8, 8\)"),
        (RQTransformerConfig, {"code_shape": (8, 0, 4)}, r"`code_shape` must be .* at least 1, got \(8, 0, 4\)"),
        (RQTransformerConfig, {"num_depth_layers": 0}, "`num_depth_layers` must be at least 1 for codes of more"),
        (RQTransformerConfig, {"num_attention_heads": 3}, "`hidden_size` must be a multiple of .* = 3, got 1280"),
        (RQTransformerConfig, {"hidden_act": "gelo"}, "'hidden_act'.*gelo"),
        (RQTransformerConfig, {"intermediate_size": 0}, "`intermediate_size` must be at least 1"),
        (RQTransformerConfig, {"dropout": 1.0}, "'dropout'.* smaller than 1"),
        (RQTransformerConfig, {"text_loss_weight": 1.5}, "'text_loss_weight'.* must be a probability"),
        (RQTransformerConfig, {"pad_token_id": 16384}, r"`pad_token_id` must be in \[0, 16384\)"),
        (RQTransformerConfig, {"null_condition_ids": [0, 0]}, "`null_condition_ids` must be 32 ids"),
        (RQTransformerConfig, {"null_condition_ids": [-1] * 32}, "`null_condition_ids` must be 32 ids"),
        (RQTransformerConfig, {"vocab_size": 1, "id2label": {1: "b"}}, r"`id2label` must be names of .* in \[0, 1\)"),
    ],
)
def test_values_that_do_not_fit_are_refused(config_class, fields, message):
    with pytest.raises(StrictDataclassError, match=f"(?s){message}"):
        config_class(**fields)


@pytest.mark.parametrize("labels", [{0: None}, {-1: "cat"}, ["cat"], 3])
def test_labels_are_names_by_id(labels):
    with pytest.raises(StrictDataclassError, match="id2label"):
        RQTransformerConfig(vocab_size=4, condition_length=1, id2label=labels)
    assert RQTransformerConfig(vocab_size=4, condition_length=1, id2label={"2": "cat"}).class_ids == [2]


def test_a_transformer_takes_the_codes_of_its_rqvae_and_refuses_to_contradict_it():
    rqvae = RQVAEConfig(image_size=64, channel_multiplier=[1, 2, 4], attention_levels=[2], shared_codebook=False)
    config = RQTransformerConfig.from_rqvae_config(rqvae, vocab_size=10, condition_length=1, code_shape=[16, 16, 4])
    assert (config.code_shape, config.codebook_size, config.codebook_dim) == ((16, 16, 4), 16384, 256)
    assert config.shared_codebook is False and config.vocab_size == 10
    for field, value in {"code_shape": (8, 8, 4), "codebook_size": 9, "shared_codebook": True}.items():
        with pytest.raises(ValueError, match=f"`{field}` must be the RQ-VAE's"):
            RQTransformerConfig.from_rqvae_config(rqvae, **{field: value})


@pytest.mark.parametrize("config_class", CONFIG_CLASSES)
def test_a_saved_configuration_comes_back_equal_and_without_warnings(config_class, tmp_path, caplog):
    fields = {
        RQVAEConfig: {"image_size": 64, "channel_multiplier": [1, 2], "attention_levels": [], "codebook_decay": 0},
        RQTransformerConfig: {"vocab_size": 4, "condition_length": 1, "id2label": {0: "cat", 1: "goose, gander"}},
    }[config_class]
    config = config_class(**fields)
    config.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        for loaded in (config_class.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
            assert type(loaded) is config_class
            assert loaded.to_dict() | {"_name_or_path": ""} == config.to_dict()
            assert loaded.code_shape == config.code_shape and isinstance(loaded.code_shape, tuple)
            assert loaded.id2label == config.id2label and loaded.label2id == config.label2id
    assert "no field" not in caplog.text


@pytest.mark.parametrize("config_class", CONFIG_CLASSES)
def test_an_unknown_field_of_a_file_is_left_out_with_a_warning(config_class, tmp_path, caplog):
    config = config_class()
    config.use_cache = False  # as `Trainer` leaves it
    config.save_pretrained(tmp_path)
    others = {"auto_map": {"AutoModel": "code.Model"}, "quantization_config": {"bits": 4}}  # as libraries leave them
    edit_json(tmp_path / "config.json", codebook_sizes=5, transformers_weights="other.safetensors", top_k=3, **others)
    with caplog.at_level(logging.WARNING):
        config = config_class.from_pretrained(tmp_path)
    assert not any(hasattr(config, name) for name in ("codebook_sizes", "transformers_weights", "top_k"))
    assert {name: getattr(config, name) for name in others} == others
    unknown = [line for line in caplog.text.splitlines() if "has no field" in line]
    assert len(unknown) == 2 and "`transformers_weights`" in caplog.text
    assert (
        f"{config_class.__name__} has no field `codebook_sizes`; the closest known one is `codebook_size`"
        in caplog.text
    )


def test_bad_values_of_a_file_and_beside_it_are_refused(tmp_path):
    RQVAEConfig().save_pretrained(tmp_path)
    with pytest.raises(StrictDataclassError, match="greater or equal to 1"):
        RQVAEConfig.from_pretrained(tmp_path, code_depth=0)
    assert RQVAEConfig.from_pretrained(tmp_path, code_depth=2).code_shape == (8, 8, 2)
    assert RQVAEConfig.from_pretrained(tmp_path, channel_multiplier=[1] * 6).channel_multiplier == (1,) * 6
    edit_json(tmp_path / "config.json", image_size=100)
    with pytest.raises(StrictDataclassError, match="`image_size` must be a multiple"):
        RQVAEConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("config_class", CONFIG_CLASSES)
def test_a_field_made_up_beside_a_file_is_refused_and_the_closest_named(config_class, tmp_path):
    config_class().save_pretrained(tmp_path)
    message = f"{config_class.__name__} has no field `codbook_size`; the closest known one is `codebook_size`"
    for load in (config_class.from_pretrained, AutoConfig.from_pretrained):
        with pytest.raises(ValueError, match=message):
            load(tmp_path, codbook_size=64)
    with pytest.raises(ValueError, match=message):
        config_class.from_dict(config_class().to_dict(), codbook_size=64)
    options = dict(trust_remote_code=True, token=None, local_files_only=True, subfolder="")
    assert AutoConfig.from_pretrained(tmp_path, codebook_size=64, **options).codebook_size == 64
    loaded, unused = config_class.from_pretrained(tmp_path, something=1, return_unused_kwargs=True)
    assert unused["something"] == 1
