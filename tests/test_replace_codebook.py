# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`--replace_codebook`: pretrained models of both stages go on with other codes than their own."""

import sys
from pathlib import Path

import pytest
import torch
from picture_files import FIXTURE

from rq_hf import RQImageGenerationPipeline, RQTransformerForImageGeneration, RQVAEConfig, RQVAEModel
from rq_hf.training import RQVAETrainingArguments
from rq_hf.training.starting_point import with_kept_weights

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
    assert new.quantizer.num_updates.tolist() == [2] and old.quantizer.num_updates.item() > 2


def test_an_rqvae_of_wider_codes_has_new_maps_to_them(start, tmp_path, caplog):
    old = RQVAEModel.from_pretrained(start, subfolder="rqvae")
    new = run_stage1(tmp_path / "new", start, codebook_dim=2 * old.config.codebook_dim)
    assert new.codebook.shape[-1] == 2 * old.config.codebook_dim
    changed = {name for name in changed_weights(old, new) if not name.startswith("quantizer.")}
    assert changed == {"quant_conv.weight", "quant_conv.bias", "post_quant_conv.weight"}
    assert "Weights that are not those of" in caplog.text
    assert ": post_quant_conv.weight, quant_conv.bias, quant_conv.weight, quantizer." in caplog.text


def test_a_new_codebook_is_no_licence_for_another_encoder(start, tmp_path):
    with pytest.raises(ValueError, match="`model_name_or_path` must fit the model's fields"):
        run_stage1(tmp_path / "new", start, num_res_blocks=3, **NEW_CODES)
    assert not (tmp_path / "new").exists()


def nearest(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    return torch.cdist(new[0].double(), old[0].double()).argmin(-1)


def test_a_transformer_goes_on_with_codes_of_another_size_and_depth(start, tmp_path, caplog):
    run_stage1(tmp_path / "codes", start, **NEW_CODES)
    old = RQTransformerForImageGeneration.from_pretrained(start, subfolder="transformer")
    caplog.clear()
    pipeline = run_stage2(tmp_path / "new", start, tmp_path / "codes")
    new = pipeline.transformer
    assert new.config.code_shape == (*old.config.code_shape[:2], 1) and new.config.codebook_size == 24
    resized = {"codebook.weight", "code_head.linear.weight", "code_head.linear.bias", "depth_positions.weight"}
    assert changed_weights(old, new) == resized
    assert ": code_head.linear.bias, code_head.linear.weight, codebook.weight, depth_positions.weight." in caplog.text
    assert torch.equal(new.depth_positions.weight, old.depth_positions.weight[:1])
    assert torch.equal(new.codebook.weight, pipeline.rqvae.codebook)
    rows = nearest(new.codebook.weight, old.codebook.weight)
    assert torch.equal(new.code_head.linear.weight, old.code_head.linear.weight[rows])
    assert torch.equal(new.code_head.linear.bias, old.code_head.linear.bias[rows])
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a red apple", generator=torch.Generator().manual_seed(0)).images[0].size == (16, 16)


def test_a_transformer_predicts_as_before_where_codes_are_only_numbered_otherwise(start, tmp_path):
    rqvae = RQVAEModel.from_pretrained(start, subfolder="rqvae")
    order = torch.randperm(rqvae.config.codebook_size)
    rqvae.codebook.copy_(rqvae.codebook[:, order])
    rqvae.save_pretrained(tmp_path / "codes")
    with pytest.raises(
        ValueError, match="`transformer` and `rqvae` must have one codebook.*`--replace_codebook true`"
    ):
        run_stage2(tmp_path / "refused", start, tmp_path / "codes", replace_codebook="false")
    old = RQTransformerForImageGeneration.from_pretrained(start, subfolder="transformer").eval()
    new = run_stage2(tmp_path / "new", start, tmp_path / "codes").transformer.eval()
    assert torch.equal(new.codebook.weight, rqvae.codebook)
    codes, ids = torch.randint(len(order), (2, *new.config.code_shape)), torch.randint(80, (2, 6))
    with torch.no_grad():
        assert torch.allclose(new(ids, codes).logits, old(ids, order[codes]).logits[..., order], atol=1e-5)


def test_separate_codebooks_of_one_shape_keep_the_head(make_rqvae, make_transformer, tiny_tokenizer, tmp_path):
    rqvae = make_rqvae(shared_codebook=False)
    transformer = make_transformer("text", rqvae, shared_codebook=False)
    RQImageGenerationPipeline(rqvae, transformer, tiny_tokenizer).save_pretrained(tmp_path / "start")
    run_stage1(tmp_path / "codes", tmp_path / "start")
    new = run_stage2(tmp_path / "new", tmp_path / "start", tmp_path / "codes").transformer
    assert changed_weights(transformer, new) == {"codebook.weight"}


def test_wider_codes_have_new_maps_into_the_transformer(start, tmp_path):
    old = RQTransformerForImageGeneration.from_pretrained(start, subfolder="transformer")
    run_stage1(tmp_path / "codes", start, codebook_dim=2 * old.config.codebook_dim)
    new = run_stage2(tmp_path / "new", start, tmp_path / "codes").transformer
    assert changed_weights(old, new) == {"codebook.weight", "spatial_projection.weight", "depth_projection.weight"}


@pytest.mark.parametrize("depth, kept", [(1, None), (3, [9, 8, 7])])
def test_sampling_settings_of_each_depth_are_kept_with_their_depths_alone(start, tmp_path, caplog, depth, kept):
    pipeline = RQImageGenerationPipeline.from_pretrained(start)
    pipeline.transformer.generation_config.update(top_k=[9, 8, 7], top_p=0.8)
    pipeline.save_pretrained(start)
    run_stage1(tmp_path / "codes", start, code_depth=depth)
    pipeline = run_stage2(tmp_path / "new", start, tmp_path / "codes")
    assert pipeline.transformer.generation_config.top_k == kept
    assert pipeline.transformer.generation_config.top_p == 0.8
    assert ("`top_k` of the generation configuration, [9, 8, 7], is left out" in caplog.text) == (kept is None)


def test_a_new_vocabulary_does_not_excuse_weights_of_other_shapes(tiny_rqvae):
    config = RQVAEConfig.from_dict(tiny_rqvae.config.to_dict() | {"latent_channels": 16})
    with pytest.raises(ValueError, match="`model` must have the weights of its new configuration.*decoder.conv_in"):
        with_kept_weights(tiny_rqvae, config, ("quantizer.",))


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
