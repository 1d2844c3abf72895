# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`--replace_codebook`: pretrained models of both stages go on with other codes than their own."""

import sys
from pathlib import Path

import pytest
import torch
from picture_files import FIXTURE

from rq_hf import RQImageGenerationPipeline, RQTransformerForImageGeneration, RQVAEModel
from rq_hf.training import RQVAETrainingArguments

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
import train_rqt  # noqa: E402
import train_rqvae  # noqa: E402

NEW_CODES = {"codebook_size": 24, "code_depth": 1}


def run(main, folder: Path, model: Path, **flags) -> Path:
    """Trains by a script for two steps, without any progress at rate 0, in `folder`."""
    config = folder.parent / f"{folder.name}.json"
    config.write_text("{}")
    options = {
        "output_dir": folder, "model_name_or_path": model, "dataset_name": FIXTURE, "use_cpu": "true",
        "report_to": "none", "max_steps": 2, "learning_rate": 0.0, "weight_decay": 0.0,
        "per_device_train_batch_size": 4, "save_strategy": "no", "replace_codebook": "true", **flags,
    }  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    main([str(config), *(part for name, value in given.items() for part in (f"--{name}", str(value)))])
    return folder


def run_stage1(folder: Path, model: Path, **flags) -> RQVAEModel:
    flags = {"perceptual_weight": 0, "adversarial_weight": 0, **flags}
    return RQVAEModel.from_pretrained(run(train_rqvae.main, folder, model, **flags))


def run_stage2(folder: Path, model: Path, rqvae: Path, **flags) -> RQImageGenerationPipeline:
    flags = {
        "rqvae_name_or_path": rqvae, "tokenizer_name_or_path": model, "caption_column": "text",
        "condition_dropout": 0.1, "dropout": 0.0, **flags,
    }  # fmt: skip
    return RQImageGenerationPipeline.from_pretrained(run(train_rqt.main, folder, model, **flags))


@pytest.fixture
def start(make_pipeline, tmp_path) -> Path:
    make_pipeline("text").save_pretrained(tmp_path / "start")
    return tmp_path / "start"


def changed_weights(old: torch.nn.Module, new: torch.nn.Module) -> set[str]:
    before, after = old.state_dict(), new.state_dict()
    assert before.keys() == after.keys()
    return {name for name, weight in before.items() if not torch.equal(weight, after[name])}


def test_an_rqvae_goes_on_with_a_codebook_of_another_size(start, tmp_path):
    old = RQVAEModel.from_pretrained(start, subfolder="rqvae")
    new = run_stage1(tmp_path / "new", start, **NEW_CODES)
    assert (new.config.codebook_size, new.config.code_depth) == (24, 1)
    assert new.codebook.shape == (1, 24, old.config.codebook_dim)
    assert all(name.startswith("quantizer.") for name in changed_weights(old, new))
    assert new.quantizer.num_updates.tolist() == [2]  # and not those of the old codebook besides


def test_an_rqvae_starts_its_codebook_anew_at_the_same_size(start, tmp_path):
    old = RQVAEModel.from_pretrained(start, subfolder="rqvae")
    new = run_stage1(tmp_path / "new", start)
    assert new.config.to_diff_dict() == old.config.to_diff_dict() | {"dtype": "float32"}
    assert "quantizer.codebook.weight" in changed_weights(old, new)
    assert not (old.codebook[0, :, None] == new.codebook[0, None]).all(-1).any()


def test_an_rqvae_of_wider_codes_has_new_maps_to_them(start, tmp_path, caplog):
    old = RQVAEModel.from_pretrained(start, subfolder="rqvae")
    new = run_stage1(tmp_path / "new", start, codebook_dim=2 * old.config.codebook_dim)
    assert new.codebook.shape[-1] == 2 * old.config.codebook_dim
    changed = {name.split(".")[0] for name in changed_weights(old, new)}
    assert changed == {"quantizer", "quant_conv", "post_quant_conv"}
    assert "New weights: post_quant_conv.weight, quant_conv.bias, quant_conv.weight, quantizer." in caplog.text


def test_a_new_codebook_is_no_licence_for_another_encoder(start, tmp_path):
    with pytest.raises(ValueError, match="`model_name_or_path` must fit the model's fields"):
        run_stage1(tmp_path / "new", start, num_res_blocks=3, **NEW_CODES)
    assert not (tmp_path / "new").exists()


def test_a_transformer_goes_on_with_codes_of_another_size_and_depth(start, tmp_path, caplog):
    run_stage1(tmp_path / "codes", start, **NEW_CODES)
    old = RQTransformerForImageGeneration.from_pretrained(start, subfolder="transformer")
    caplog.clear()
    pipeline = run_stage2(tmp_path / "new", start, tmp_path / "codes")
    new = pipeline.transformer
    assert new.config.code_shape == (*old.config.code_shape[:2], 1) and new.config.codebook_size == 24
    replaced = {"codebook.weight", "code_head.linear.weight", "code_head.linear.bias", "depth_positions.weight"}
    assert changed_weights(old, new) == replaced
    assert "New weights: code_head.linear.bias, code_head.linear.weight, codebook.weight, depth_p" in caplog.text
    assert torch.equal(new.codebook.weight, pipeline.rqvae.codebook)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a red apple", generator=torch.Generator().manual_seed(0)).images[0].size == (16, 16)


def test_a_transformer_keeps_its_head_for_another_codebook_of_the_same_size(start, tmp_path):
    run_stage1(tmp_path / "codes", start)
    with pytest.raises(ValueError, match="`transformer` and `rqvae` must have one codebook"):
        run_stage2(tmp_path / "refused", start, tmp_path / "codes", replace_codebook="false")
    old = RQTransformerForImageGeneration.from_pretrained(start, subfolder="transformer")
    pipeline = run_stage2(tmp_path / "new", start, tmp_path / "codes")
    assert changed_weights(old, pipeline.transformer) == {"codebook.weight"}
    assert torch.equal(pipeline.transformer.codebook.weight, pipeline.rqvae.codebook)


def test_codes_and_captions_may_be_replaced_at_once(start, tmp_path):
    run_stage1(tmp_path / "codes", start, **NEW_CODES)
    old = RQTransformerForImageGeneration.from_pretrained(start, subfolder="transformer")
    flags = {"replace_condition_vocabulary": "true", "label_column": "style", "caption_column": None}
    new = run_stage2(tmp_path / "new", start, tmp_path / "codes", **flags).transformer
    assert new.config.condition_length == 1 and new.config.code_shape[2] == 1
    kept = [name for name in old.state_dict() if "transformer" in name or "projection" in name]
    assert kept and all(torch.equal(old.state_dict()[name], new.state_dict()[name]) for name in kept)


def test_model_fields_that_contradict_the_new_codes_are_refused(start, tmp_path):
    with pytest.raises(ValueError, match=r"`codebook_size` must be the RQ-VAE's, \d+, got 7"):
        run_stage2(tmp_path / "new", start, start, codebook_size=7)


def test_replacing_needs_something_to_replace_and_to_train(start, tmp_path):
    with pytest.raises(ValueError, match="`model_name_or_path` must be given with `replace_codebook`, got None"):
        RQVAETrainingArguments(output_dir=str(tmp_path / "new"), replace_codebook=True)
    with pytest.raises(ValueError, match="`replace_codebook` must be false with `train_decoder_only`"):
        run_stage1(tmp_path / "new", start, train_decoder_only="true")
    with pytest.raises(ValueError, match="`replace_codebook` needs a `model_name_or_path`, got None"):
        run_stage2(tmp_path / "new", start, start, model_name_or_path=None)
    with pytest.raises(ValueError, match="`replace_codebook` must be false with `lora_rank`"):
        run_stage2(tmp_path / "new", start, start, lora_rank=2)
    assert not (tmp_path / "new").exists()
