# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
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


def parse_rqt(*argv: str) -> Recipe:
    classes = (RQTransformerConfig, RQTransformerTrainingArguments, CodeDataArguments)
    return parse_recipe("rq-hf train-rqt", *classes, "", [*argv, *CPU])


def parse_rqvae(*argv: str) -> Recipe:
    return parse_recipe("rq-hf train-rqvae", RQVAEConfig, RQVAETrainingArguments, DataArguments, "", [*argv, *CPU])


def test_a_recipe_is_found_by_name_and_by_file_and_flags_win_over_it(tmp_path):
    named = parse_rqt("imagenet-rqt-8x8x4-1.4B")
    assert named.name == "imagenet-rqt-8x8x4-1.4B" and named.training.output_dir == "runs/imagenet-rqt-8x8x4-1.4B"
    assert named.model["hidden_size"] == 1536 and named.data.label_column == "label"
    model, training = {"hidden_size": 8, "code_shape": [1, 1, 4]}, {"output_dir": "there", "max_steps": 3}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"model": model, "training": training, "data": {"caption_column": "text"}}))
    mine = parse_rqt(
        str(path), "--max_steps", "7", "--code_shape", "[2,2,2]", "--validation_split", "", "--vocab_size=32",
        "--condition_dropout", "0", "--label_column", "label",
    )  # fmt: skip
    assert mine.model == {"hidden_size": 8, "code_shape": [2, 2, 2], "vocab_size": 32} and mine.name == "mine"
    assert (mine.training.output_dir, mine.training.max_steps, mine.training.condition_dropout) == ("there", 7, 0)
    assert mine.data.caption_column is mine.data.validation_split is None and mine.data.label_column == "label"


def test_a_pipeline_to_fine_tune_brings_its_architecture_rqvae_and_tokenizer():
    recipe = parse_rqt(EMOJI, "--model_name_or_path", "mine", "--tokenizer_name_or_path", "other")
    assert recipe.training.model_name_or_path == "mine" and recipe.training.muon_learning_rate == 0.0066
    assert recipe.model == {} and recipe.data.caption_column == "captions"
    assert recipe.data.rqvae_name_or_path is None and recipe.data.tokenizer_name_or_path == "other"


def test_rows_are_held_out_unless_a_validation_split_is_asked_for():
    for words, expected in (([], True), (["--validation_split", "dev"], False), (["--validation_split=dev"], False)):
        assert parse_rqvae("lsun-cat-rqvae-8x8x4-k16384", *words).data.hold_out == expected


def test_help_has_own_flags_in_groups_before_those_of_transformers(capsys):
    with pytest.raises(SystemExit):
        parse_rqt("--help")
    text = capsys.readouterr().out
    titles = ["\ndata:", "\ntraining of this stage:", "\nmodel:", "\ntraining in general (transformers.Training"]
    places = [text.index(title) for title in titles]
    flags = ["  --caption_column", "  --code_temperature", "  --hidden_size", "  --learning_rate"]
    assert places == sorted(places) and text.index("--soft_labels") < places[2]
    for flag, start, end in zip(flags, places, [*places[1:], len(text)], strict=True):
        assert start < text.index(flag) < end, flag


def test_the_card_and_the_command_are_kept():
    recipe = parse_rqt(str(FIXTURE))
    assert recipe.sampling == {"top_k": 100, "top_p": 0.9} and recipe.card["license"] == "cc-by-4.0"
    assert recipe.card["training_commands"] == [f"rq-hf train-rqt {FIXTURE.name} {' '.join(CPU)}"]
    assert len(parse_rqt(EMOJI).card["training_commands"]) == 4  # the recipe's own
    assert "training_commands" not in parse_rqt(str(FIXTURE), "--hub_token", "secret").card


def test_the_recipe_comes_first_and_without_one_those_of_the_stage_are_listed(capsys):
    with pytest.raises(SystemExit) as ended:
        parse_rqt("--max_steps", "1", str(FIXTURE))
    assert ended.value.code == 2 and "RECIPE must come first" in capsys.readouterr().err
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


def test_flags_are_texts_or_json_values_of_the_type_of_their_field():
    words = "--learning_rate 1 --weight_decay .5 --code_temperature 1 0.5 0.25 --filter 5 --soft_labels false".split()
    words += ["--cache_latents", "--lr_scheduler_kwargs", '{"num_cycles": 1}', "--eval_steps", "2"]
    recipe = parse_rqt(str(FIXTURE), *words, "--streaming", "yes", "--num_train_epochs", "2", "--run_name", "7")
    training, data = recipe.training, recipe.data
    assert (training.learning_rate, training.weight_decay, training.code_temperature) == (1, 0.5, [1, 0.5, 0.25])
    assert not training.soft_labels and training.cache_latents and training.lr_scheduler_kwargs == {"num_cycles": 1}
    assert (training.num_train_epochs, training.max_steps, training.run_name) == (2, -1, "7")
    assert (data.filter, data.streaming, training.eval_steps) == ("5", True, 2)


def test_recipes_flags_and_python_refuse_the_same_values_in_the_same_words(tmp_path):
    path, training = tmp_path / "mine.json", ("training", RQTransformerTrainingArguments)
    cases = [
        (*training, "condition_dropout", 2),
        (*training, "save_dtype", "float8"),
        (*training, "seed", 2**40),
        (*training, "max_steps", 2.7),
        ("data", CodeDataArguments, "max_eval_samples", "two"),
        ("data", CodeDataArguments, "num_caption_variants", 0),
    ]
    for section, arguments, name, value in cases:
        words = [str(each) for each in (value if isinstance(value, list) else [value])]
        path.write_text(json.dumps({section: {name: value}}))
        with pytest.raises(ValueError) as of_recipe:
            parse_rqt(str(path))
        path.write_text("{}")
        with pytest.raises(ValueError) as of_flag:
            parse_rqt(str(path), f"--{name}", *words)
        with pytest.raises(ValueError) as of_python:
            arguments(**{name: value}, **({"use_cpu": True} if section == "training" else {}))
        messages = [str(each.value) for each in (of_recipe, of_flag, of_python)]
        messages[0] = messages[0].removeprefix(f"Recipe 'mine', section `{section}`: ")
        assert messages[0] == messages[1] == messages[2]
        assert messages[0].startswith(f"`{name}`")
    assert [each.name for each in tmp_path.iterdir()] == ["mine.json"]
