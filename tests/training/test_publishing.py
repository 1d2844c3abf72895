# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Whole trainings by recipes, and what they leave: models, pipelines, cards, one push."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, list_repo_commits
from huggingface_hub.errors import StrictDataclassError
from picture_files import FIXTURE
from safetensors.torch import load_file
from training_runs import COMMON, RQVAE_FIELDS, assert_equal

from rq_hf import RQImageGenerationPipeline, RQVAEModel
from rq_hf.hub import write_card
from rq_hf.training import (
    CodeDataArguments,
    DataArguments,
    Recipe,
    RQTransformerTrainingArguments,
    RQVAETrainingArguments,
    save_pipeline,
    train_rq_transformer,
    train_rqvae,
)

DATA = {"dataset_name": str(FIXTURE), "validation_split": "validation", "max_train_samples": 12, "max_eval_samples": 4}
CARD = {"license": "cc-by-4.0", "summary": "A test."}
SAMPLING = {"temperature": 0.5, "top_k": 7}
SMALL = {"hidden_size": 16, "num_spatial_layers": 1, "num_depth_layers": 1, "num_attention_heads": 2, "dropout": 0.0}


@pytest.fixture
def models(make_pipeline, tmp_path) -> str:
    """A pipeline of random weights."""
    make_pipeline().save_pretrained(tmp_path / "models")
    return str(tmp_path / "models")


def rqvae_recipe(folder: Path, model: dict | None = None, data: dict | None = None, **training) -> Recipe:
    losses = {"perceptual_weight": 0.0, "adversarial_weight": 0.0}
    arguments = RQVAETrainingArguments(output_dir=str(folder), **COMMON | losses | {"max_steps": 2} | training)
    return Recipe(arguments, DataArguments(**DATA | (data or {})), RQVAE_FIELDS if model is None else model, CARD)


def rqt_recipe(folder: Path, models: str, model: dict | None = None, data: dict | None = None, **training) -> Recipe:
    options = COMMON | {"max_steps": 2, "eval_pictures": 2} | training
    arguments = RQTransformerTrainingArguments(output_dir=str(folder), **options)
    names = {"rqvae_name_or_path": models, "tokenizer_name_or_path": models, "caption_column": "text"}
    data = CodeDataArguments(**DATA | names | (data or {}))
    return Recipe(arguments, data, SMALL if model is None else model, CARD, SAMPLING)


def test_stage_1_leaves_a_model_with_a_card(tmp_path):
    trainer = train_rqvae(rqvae_recipe(tmp_path / "run", ema_decay=0.5))
    saved = RQVAEModel.from_pretrained(tmp_path / "run")
    assert_equal([weight.detach() for weight in saved.parameters()], trainer.average.shadow_params)
    card = ModelCard.load(tmp_path / "run" / "README.md")
    assert card.data.license == "cc-by-4.0" and card.data.model_name == "run" and card.data.get("widget") is None
    for text in ("A test.", "| max_steps | 2 |", "| seed | 3 |", "| PSNR (dB) |", "](pictures/step-2.png)"):
        assert text in card.text, text
    assert "logging_steps" not in card.text and str(tmp_path) not in card.text
    assert (tmp_path / "run" / "eval_results.json").is_file()


def test_stage_2_leaves_a_pipeline_that_draws_with_the_settings_of_the_recipe(models, tmp_path):
    trainer = train_rq_transformer(rqt_recipe(tmp_path / "run", models, cache_latents=True, condition_dropout=0.1))
    pipeline = RQImageGenerationPipeline.from_pretrained(tmp_path / "run")
    sampling = pipeline.transformer.generation_config
    assert sampling.temperature == 0.5 and sampling.top_k == 7
    assert pipeline.transformer.config.hidden_size == 16
    assert torch.equal(pipeline.transformer.codebook.weight, trainer.rqvae.codebook)
    assert pipeline("a red heart", generator=torch.Generator().manual_seed(0)).images[0].size == (16, 16)
    card = ModelCard.load(tmp_path / "run" / "README.md")
    assert "| temperature | 0.5 |" in card.text and "image loss" in card.text
    assert f'pipe("{trainer.train_dataset.rows[0]["text"]}"' in card.text  # a prompt of the data
    captions = list(dict.fromkeys(trainer.train_dataset.rows["text"][:6]))
    assert [example["text"] for example in card.data.get("widget")] == captions  # the page offers them
    assert (tmp_path / "run" / "pictures" / "step-2.png").is_file()


def test_a_model_field_is_refused_before_anything_is_read(tmp_path):
    for field, message in (({"hidden_siz": 8}, "`hidden_siz`"), ({"dropout": 2}, "'dropout'.*\n.*smaller than 1")):
        recipe = rqt_recipe(tmp_path / "run", "nowhere", SMALL | field, {"dataset_name": "nowhere"})
        with pytest.raises((ValueError, StrictDataclassError), match=message):
            train_rq_transformer(recipe)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("column", ["label_column", None])
def test_stage_2_trains_on_labels_and_on_nothing(models, tmp_path, column):
    data = {"caption_column": None, "label_column": column and "style", "max_train_samples": None}
    model = SMALL | ({"vocab_size": 2} if column else {})  # which leaves too little room for the styles
    trainer = train_rq_transformer(rqt_recipe(tmp_path / "run", models, model, data))
    pipeline = RQImageGenerationPipeline.from_pretrained(tmp_path / "run")
    config = pipeline.transformer.config
    assert pipeline.tokenizer is None and config.condition_length == 1
    if column:
        assert config.vocab_size == len(config.id2label) > 2
        assert pipeline(class_labels=config.id2label[1]).images[0].size == (16, 16)
    else:
        assert config.vocab_size == 1 and pipeline().images[0].size == (16, 16)
    assert trainer.state.global_step == 2


def test_both_stages_train_on_a_stream(models, tmp_path):
    train_rqvae(rqvae_recipe(tmp_path / "1", data={"streaming": True}))
    trainer = train_rq_transformer(rqt_recipe(tmp_path / "2", models, data={"streaming": True}, max_steps=5))
    assert trainer.state.global_step == 5  # more batches than the 12 rows have


def test_fine_tuning_starts_from_the_weights_of_a_pipeline_with_fields_that_fit_them(models, tmp_path):
    write_card(models, "pipeline", {"model_name": "old", "metrics": {"psnr": 28.125}, "datasets": ["me/data"]})
    common = {"model_name_or_path": models, "learning_rate": 0.0, "max_steps": 1}
    rqvae = train_rqvae(rqvae_recipe(tmp_path / "1", {"codebook_decay": 0.5}, **common)).model
    assert rqvae.config.codebook_decay == 0.5
    unnamed = {"rqvae_name_or_path": None, "tokenizer_name_or_path": None}  # the pipeline brings them along
    transformer = train_rq_transformer(rqt_recipe(tmp_path / "2", models, {"dropout": 0.3}, unnamed, **common)).model
    assert transformer.config.dropout == 0.3
    pretrained = RQImageGenerationPipeline.from_pretrained(models)
    for model, base in ((rqvae, pretrained.rqvae), (transformer, pretrained.transformer)):
        assert_equal(list(model.parameters()), list(base.parameters()))
    for run in ("1", "2"):
        card = ModelCard.load(tmp_path / run / "README.md")
        assert (
            "The model is based on `models` and has other weights." in card.text and "| max_steps | 1 |" in card.text
        )
        assert card.text.lstrip().startswith(f"# {run}\n") and "28.1" not in str(card)


def test_a_training_resumes_by_its_recipe_and_starts_afresh_in_an_empty_folder_alone(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 1, "resume_from_checkpoint": "last"}
    train_rqvae(rqvae_recipe(tmp_path / "run", max_steps=1, **saving))
    trainer = train_rqvae(rqvae_recipe(tmp_path / "run", **saving))
    assert trainer.resumed_checkpoint.endswith("checkpoint-1") and trainer.state.global_step == 2
    with pytest.raises(ValueError, match="`output_dir` must have no checkpoints for a fresh start"):
        train_rqvae(rqvae_recipe(tmp_path / "run"))


def test_a_pipeline_in_half_precision_is_small_and_loads_in_its_own_dtype(tiny_pipeline, tmp_path):
    save_pipeline(tiny_pipeline, tmp_path, dtype="float16")
    weights = load_file(tmp_path / "rqvae" / "model.safetensors")
    assert weights["encoder.conv_in.weight"].dtype == torch.float16
    assert weights["quantizer.embedding_sum"].dtype == torch.float32
    loaded = RQImageGenerationPipeline.from_pretrained(tmp_path)
    for model, before in ((loaded.rqvae, tiny_pipeline.rqvae), (loaded.transformer, tiny_pipeline.transformer)):
        for value, expected in zip(model.parameters(), before.parameters(), strict=True):
            assert value.dtype == torch.float32 and torch.equal(value, expected.half().float())


def test_a_training_pushes_once_what_it_has_left(hub, models, tmp_path):
    pushing = {"push_to_hub": True, "hub_private_repo": True, "save_strategy": "steps", "save_steps": 1}
    train_rqvae(rqvae_recipe(tmp_path / "1", hub_model_id="me/codes", **pushing))
    train_rq_transformer(rqt_recipe(tmp_path / "2", models, hub_model_id="me/emoji", **pushing))
    for name in ("me/codes", "me/emoji"):
        assert hub.repository(name).private
        assert [commit.title for commit in list_repo_commits(name)] == ["End of training", "initial commit"]
        files = hub.files(name)
        assert "README.md" in files and "pictures/step-2.png" in files
        assert not any(path.endswith((".bin", ".pt", ".pth")) or path.startswith("checkpoint") for path in files)
        assert f'from_pretrained("{name}")' in ModelCard.load(name).text
    pushed, saved = (RQVAEModel.from_pretrained(source) for source in ("me/codes", tmp_path / "1"))
    assert torch.equal(pushed.codebook, saved.codebook)
    assert RQImageGenerationPipeline.from_pretrained("me/emoji")("a pizza").images[0].size == (16, 16)
