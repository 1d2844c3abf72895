# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Command lines of the trainings."""

import json
from pathlib import Path

import pytest

from rq_hf.cli.parsing import parse_recipe
from rq_hf.models import RQTransformerConfig, RQVAEConfig
from rq_hf.training import RQTransformerTrainingArguments, RQVAETrainingArguments
from rq_hf.training.arguments import CodeDataArguments, DataArguments, Recipe

FIXTURE = Path(__file__).parents[1] / "fixtures" / "recipes" / "emoji-rqt-fixture.json"
EMOJI = str(Path(__file__).parents[2] / "research" / "emoji" / "recipes" / "emoji-rqt-8x8x3-15M.json")
CPU = ["--use_cpu", "true", "--bf16", "false"]


def parse_rqt(*argv: str, default: Path | None = None) -> Recipe:
    classes = (RQTransformerConfig, RQTransformerTrainingArguments, CodeDataArguments)
    return parse_recipe("rq-hf train-rqt", *classes, "", [*argv, *CPU], default)


def parse_rqvae(*argv: str, default: Path | None = None) -> Recipe:
    classes = (RQVAEConfig, RQVAETrainingArguments, DataArguments)
    return parse_recipe("rq-hf train-rqvae", *classes, "", [*argv, *CPU], default)


def test_a_recipe_is_found_by_name_and_by_file(tmp_path):
    named = parse_rqt("imagenet-rqt-8x8x4-1.4B")
    assert named.name == "imagenet-rqt-8x8x4-1.4B" and named.training.output_dir == "runs/imagenet-rqt-8x8x4-1.4B"
    assert named.model["hidden_size"] == 1536 and named.data.label_column == "label"
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"model": {"hidden_size": 8}, "training": {"output_dir": "there", "max_steps": 3}}))
    mine = parse_rqt(str(path))
    assert (mine.name, mine.model, mine.training.output_dir) == ("mine", {"hidden_size": 8}, "there")
    assert mine.training.max_steps == 3


def test_flags_win_over_the_recipe():
    recipe = parse_rqvae(
        "small-rqvae-64", "--max_steps", "7", "--channel_multiplier", "[1,2,2]", "--validation_split", "",
        "--output_dir", "here", "--image_size=32", "--l1_weight", "0",
    )  # fmt: skip
    assert recipe.training.max_steps == 7 and recipe.training.output_dir == "here" and recipe.training.l1_weight == 0
    assert recipe.model["channel_multiplier"] == [1, 2, 2] and recipe.model["image_size"] == 32
    assert recipe.model["codebook_size"] == 512 and recipe.data.validation_split is None
    assert parse_rqt("small-rqt-64", "--label_column", "label").data.caption_column is None


def test_the_default_recipe_gives_way_to_own_data():
    whole = parse_rqt(default=FIXTURE)
    assert whole.name == "emoji-rqt-fixture" and whole.card["license"] == "cc-by-4.0"
    own_data = parse_rqt("--dataset_name", "mine", default=FIXTURE)
    assert own_data.model == whole.model and set(own_data.card) == {"training_commands"}
    assert own_data.data == CodeDataArguments("mine", validation_split="validation", hold_out=True)
    named = parse_rqt(str(FIXTURE), "--dataset_name", "mine", default=FIXTURE)
    assert named.data.caption_column == "captions" and named.card["license"] == "cc-by-4.0"


def test_a_pipeline_to_fine_tune_brings_its_architecture_rqvae_and_tokenizer():
    recipe = parse_rqt(EMOJI, "--model-name-or-path", "mine", "--tokenizer_name_or_path", "other")
    assert recipe.training.model_name_or_path == "mine" and recipe.training.muon_learning_rate == 0.0066
    assert recipe.model == {} and recipe.data.caption_column == "captions"
    assert recipe.data.rqvae_name_or_path is None and recipe.data.tokenizer_name_or_path == "other"


def test_rows_are_held_out_unless_a_validation_split_is_asked_for():
    for words, expected in (([], True), (["--validation_split", "dev"], False), (["--validation-split=dev"], False)):
        assert parse_rqvae("lsun-cat-rqvae-8x8x4-k16384", *words).data.hold_out == expected


def test_help_has_own_flags_in_groups_before_those_of_transformers(capsys):
    with pytest.raises(SystemExit):
        parse_rqt("--help")
    text = capsys.readouterr().out
    titles = ["\ndata:", "\ntraining of this stage:", "\nmodel:", "\ntraining in general (transformers.Training"]
    places = [text.index(title) for title in titles]
    flags = ["  --caption_column", "  --code_temperature", "  --hidden_size", "  --learning_rate"]
    assert places == sorted(places) and text.index("--no_soft_labels") < places[2]
    for flag, start, end in zip(flags, places, [*places[1:], len(text)], strict=True):
        assert start < text.index(flag) < end, flag


def test_the_command_is_kept_for_the_card():
    assert parse_rqt(str(FIXTURE)).card["training_commands"] == [f"rq-hf train-rqt {FIXTURE.name} {' '.join(CPU)}"]
    assert len(parse_rqt(EMOJI).card["training_commands"]) == 4  # the recipe's own
    assert "training_commands" not in parse_rqt(str(FIXTURE), "--hub_token", "secret").card


def test_without_a_recipe_the_recipes_of_the_stage_are_listed():
    with pytest.raises(ValueError, match="must be a JSON file or one of ffhq-rqvae-8x8x4-k2048, .*small-rqv") as error:
        parse_rqvae()
    assert "-rqt-" not in str(error.value)


def test_an_unknown_name_is_an_error_with_the_closest_known_one(tmp_path, capsys):
    typos = {"--learning_rat": "learning_rate", "--hidden_siz=1": "hidden_size", "--caption-colum": "caption_column"}
    for word, close in typos.items():
        with pytest.raises(SystemExit):
            parse_rqt(str(FIXTURE), word)
        message = f"error: unknown argument {word!r}; the closest one is `{close}`; see rq-hf train-rqt --help\n"
        assert capsys.readouterr().err == message
    for section, name in (("model", "hiden_size"), ("training", "max_step"), ("data", "captions_column")):
        path = tmp_path / "mine.json"
        path.write_text(json.dumps({section: {name: 1}}))
        with pytest.raises(ValueError, match=f"Recipe 'mine', section `{section}`: there is no field `{name}`; the"):
            parse_rqt(str(path))
    with pytest.raises(ValueError, match="section `model`: there is no field"):
        parse_rqvae("imagenet-rqt-8x8x4-480M")  # a recipe of the other stage


def test_a_bad_value_is_an_error_of_the_command_line(capsys):
    with pytest.raises(SystemExit) as ended:
        parse_rqt(str(FIXTURE), "--max_steps", "many")
    assert ended.value.code == 2
    message = "argument --max_steps/--max-steps: invalid int value: 'many'; see rq-hf train-rqt --help"
    assert capsys.readouterr().err == f"error: {message}\n"
    with pytest.raises(SystemExit):
        parse_rqt("--max_steps", "1", str(FIXTURE), default=FIXTURE)
    assert "RECIPE must come first" in capsys.readouterr().err
    with pytest.raises(ValueError, match="`self_correction` must be 0"):
        parse_rqt(str(FIXTURE), "--self_correction", "0.5", "--soft_labels", "false")
