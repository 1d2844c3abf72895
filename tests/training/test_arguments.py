# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Recipes by name and path, and arguments that are refused."""

import json

import pytest

from rq_hf.training import RQTransformerTrainingArguments, RQVAETrainingArguments
from rq_hf.training.arguments import CodeDataArguments, DataArguments, Recipe, read_recipe


def test_a_recipe_may_lack_sections_and_its_paths_that_begin_with_a_dot_are_relative_to_it(tmp_path):
    data = {"dataset_name": "./pictures", "rqvae_name_or_path": "../rqvae", "filter": "a=.b", "max_eval_samples": 3}
    (tmp_path / "mine.json").write_text(json.dumps({"data": data, "card": {"license": "./x"}}))
    paths = {"dataset_name": str(tmp_path / "pictures"), "rqvae_name_or_path": str(tmp_path.parent / "rqvae")}
    expected = {"model": {}, "training": {}, "data": data | paths, "card": {"license": "./x"}, "sampling": {}}
    assert read_recipe(tmp_path / "mine.json") == expected


def test_an_unknown_recipe_is_refused_with_the_names_of_all(tmp_path):
    for name in ("cc3m-rqt", tmp_path / "none.json"):
        with pytest.raises(ValueError, match="must be a JSON file or one of .*cc3m-rqt-8x8x4-654M.*; got '"):
            read_recipe(name)


@pytest.mark.parametrize(
    "text, match",
    [
        ("{", "must be valid JSON"),
        ('{"model": 3}', "must be an object of the objects model, training, data, sampling, card"),
        ('{"trainning": {}}', r"must be model, training, data, sampling, card; got \['trainning'\]"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text, match):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ValueError, match=match):
        read_recipe(tmp_path / "bad.json")


def test_an_empty_text_takes_back_what_a_recipe_says():
    data = CodeDataArguments(validation_split="", filter="", tokenizer_name_or_path="")
    assert data.validation_split is data.filter is data.tokenizer_name_or_path is None


def test_bad_data_arguments_are_refused():
    with pytest.raises(ValueError, match="`transform` must be one of .*'imagenet'.* got 'flip'"):
        DataArguments(transform="flip")
    with pytest.raises(ValueError, match="Only one of `caption_column` and `label_column` can be given"):
        CodeDataArguments(caption_column="text", label_column="label")


@pytest.mark.parametrize(
    "arguments, changes, match",
    [
        (RQVAETrainingArguments, {"torch_compile": True}, "`fp16` and `torch_compile` must be False with a discrim"),
        (RQVAETrainingArguments, {"early_stopping_patience": 2}, "`eval_strategy` must not be 'no' with `early_stop"),
        (
            RQTransformerTrainingArguments,
            {"self_correction": 0.5, "soft_labels": False},
            "`self_correction` must be 0",
        ),
        (RQTransformerTrainingArguments, {"lora_rank": 2}, "`model_name_or_path` must be given with `lora_rank`"),
    ],
)
def test_training_arguments_that_cannot_work_together_are_refused(tmp_path, arguments, changes, match):
    with pytest.raises(ValueError, match=match):
        arguments(output_dir=str(tmp_path), use_cpu=True, **changes)


def test_types_are_those_of_the_declaration_and_integers_are_numbers(tmp_path):
    arguments = RQVAETrainingArguments(tmp_path, use_cpu=True, learning_rate=1, num_train_epochs=2, report_to=["none"])
    assert arguments.learning_rate == 1 and arguments.output_dir == str(tmp_path)
    for name, value, expected in (
        ("perceptual_net", "resnet", "Literal['vgg', 'lite0']"),
        ("lr_scheduler_kwargs", 3, "dict | str | None"),
    ):
        with pytest.raises(ValueError) as error:
            RQVAETrainingArguments(str(tmp_path), use_cpu=True, **{name: value})
        assert str(error.value) == f"`{name}` must be {expected}, got {value!r}."
    with pytest.raises(ValueError, match="`log_level` must be one of .*warning.*, got 'loud'"):
        RQVAETrainingArguments(str(tmp_path), use_cpu=True, log_level="loud")


@pytest.mark.parametrize(
    "section, facts, message",
    [
        ("card", {"datasets": "a"}, r"Section `card`: `datasets` must be list\[str\], got 'a'"),
        ("card", {"licence": "mit"}, "Section `card`: there is no field `licence`; the closest one is `license`"),
        ("sampling", {"temprature": 1}, "`temprature`; the closest one is `temperature`"),
        ("sampling", {"top_k": [1.5]}, r"`top_k` must be an integer .*, got \[1.5\]"),
        ("sampling", {"num_draft_steps": 8}, "has no setting `num_draft_steps`, got 8"),  # of another kind
    ],
)
def test_facts_and_sampling_settings_of_a_recipe_are_checked_with_it(tmp_path, section, facts, message):
    training = RQTransformerTrainingArguments(str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match=message):
        Recipe(training, DataArguments(), **{section: facts})
