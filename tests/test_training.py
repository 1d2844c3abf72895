# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Training: command lines, what the data decide, and both trainers."""

import copy
import functools
import json
from pathlib import Path
from unittest import mock

import datasets
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerState

from rq_hf import (
    RQImageGenerationPipeline,
    RQTransformerConfig,
    RQTransformerForImageGeneration,
    RQVAEConfig,
    RQVAEModel,
)
from rq_hf.caption_tokenizer import BPEDropoutEncoder
from rq_hf.training import (
    CodeDataArguments,
    CodeDataset,
    DataArguments,
    PictureDataset,
    RQTransformerTrainer,
    RQTransformerTrainingArguments,
    RQVAETrainer,
    RQVAETrainingArguments,
    cache_latents,
    initial_config,
    initial_model,
    load_tokenizer,
    parse_arguments,
    save_pipeline,
    transformer_config,
)
from rq_hf.training.arguments import ScriptArguments, own_fields
from rq_hf.training.callbacks import SetEpoch

FIXTURE = Path(__file__).parent / "fixtures" / "emoji"
CONFIGS = Path(__file__).resolve().parents[1] / "scripts" / "configs"


@pytest.fixture(scope="module")
def emoji() -> datasets.DatasetDict:
    return datasets.load_dataset(str(FIXTURE))


def write_config(folder: Path, **sections) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(sections))
    return path


def parse(path, *flags):
    return parse_arguments(
        RQVAEConfig, RQVAETrainingArguments, DataArguments, path, "test", [str(path), "--use_cpu", "true", *flags]
    )


def test_flags_win_over_the_configuration_file(tmp_path):
    path = write_config(
        tmp_path, model={"code_depth": 8}, training={"learning_rate": 0.1, "max_steps": 7}, card={"notes": "1"}
    )
    arguments = parse(path, "--learning_rate", "0.2", "--code_depth", "2", "--channel_multiplier", "[1, 2]")
    assert arguments.training.learning_rate == 0.2 and arguments.training.max_steps == 7
    assert arguments.model == {"code_depth": 2, "channel_multiplier": [1, 2]}
    assert arguments.card == {"notes": "1"}
    assert parse(path, "--num_train_epochs", "2").training.max_steps == -1  # steps would win over epochs
    assert parse(path, "--num_train_epochs=2", "--max_steps", "9").training.max_steps == 9


@pytest.mark.parametrize(
    "sections, flags, match",
    [
        ({"model": {"code_dept": 8}}, (), "`code_dept`; the closest known one is `code_depth`"),
        ({"training": {"learning_rat": 1}}, (), "the closest known one is `learning_rate`"),
        ({"data": {"dataset": "x"}}, (), "the closest known one is `dataset_name`"),
        ({"modle": {}}, (), "the closest known one is `model`"),
        ({"card": {"licence": "mit"}}, (), "Section `card` of .*`licence`; the closest known one is `license`"),
        ({"card": {"sampling": {"topk": 5}}}, (), "`sampling` of section `card` .*the closest known one is `top_k`"),
        ({"card": {"footprint": {"watts": 30}}}, (), "`footprint` of section .*closest known one is `power_watts`"),
        ({"card": {"footprint": {"power_watts": -1}}}, (), "`power_watts` must be a finite number of at least 0"),
        ({"card": {"sampling": 5}}, (), "`sampling` of section `card` of .* must be an object, got 5"),
        ({"training": {"codebook_update": "per_dept"}}, (), r"`codebook_update` must be one of .*got 'per_dept'"),
        ({}, ("--learning_rat", "1"), "the closest known one is `learning_rate`"),
        ({}, ("--code_dept=3",), "the closest known one is `code_depth`"),
    ],
)
def test_unknown_names_are_errors_that_name_the_closest(tmp_path, sections, flags, match):
    with pytest.raises(ValueError, match=match):
        parse(write_config(tmp_path, **sections), *flags)


def test_configuration_that_is_no_json_object_is_refused(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(ValueError, match="JSON file"):
        parse(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        parse(path)
    path.write_text('{"model": 3}')
    with pytest.raises(ValueError, match="sections"):
        parse(path)


def test_paths_that_start_with_a_dot_are_relative_to_the_file(tmp_path):
    (tmp_path / "configs").mkdir()
    path = write_config(tmp_path / "configs", data={"dataset_name": "../pictures"})
    assert parse(path).data.dataset_name == str(tmp_path / "pictures")
    files = {"train": ["./a.parquet", "*.tar"]}
    path = write_config(tmp_path / "configs", data={"dataset_name": "pictures", "data_files": files})
    expected = {"train": [str(tmp_path / "configs" / "a.parquet"), "*.tar"]}
    assert json.loads(parse(path).data.data_files) == expected


def test_an_epoch_reaches_the_parts_of_a_data_set():
    class Rows(torch.utils.data.Dataset):
        epoch = None

        def __len__(self) -> int:
            return 3

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    parts = [Rows(), Rows()]
    data = torch.utils.data.Subset(torch.utils.data.ConcatDataset(parts), [0, 4])
    loader = torch.utils.data.DataLoader(data)
    SetEpoch().on_epoch_begin(None, TrainerState(epoch=2.0), None, train_dataloader=loader)
    assert [part.epoch for part in parts] == [2, 2]


def stage2_arguments(data, tmp_path, **training) -> ScriptArguments:
    model = {"hidden_size": 16, "num_spatial_layers": 1, "num_depth_layers": 1, "num_attention_heads": 2}
    training = RQTransformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **training)
    return ScriptArguments(training=training, data=data, model=model)


def test_the_data_decide_the_condition(emoji, tiny_rqvae, tiny_tokenizer, tmp_path):
    rows = emoji["train"]
    captions = stage2_arguments(CodeDataArguments(caption_column="text"), tmp_path, condition_dropout=0.1)
    config = transformer_config(captions, tiny_rqvae, tiny_tokenizer, rows)
    assert config.vocab_size == len(tiny_tokenizer) and config.condition_length == tiny_tokenizer.model_max_length
    assert config.null_condition_ids == (tiny_tokenizer.pad_token_id,) * config.condition_length
    captions.model["vocab_size"] = len(tiny_tokenizer) - 1
    with pytest.raises(ValueError, match=f"`vocab_size` must be at least the tokenizer's {len(tiny_tokenizer)}, got"):
        transformer_config(captions, tiny_rqvae, tiny_tokenizer, rows)
    labels = stage2_arguments(CodeDataArguments(label_column="style"), tmp_path, condition_dropout=0.1)
    config = transformer_config(labels, tiny_rqvae, None, rows)
    styles = sorted(set(rows["style"]))
    assert config.vocab_size == len(styles) + 1 and config.null_condition_ids == (len(styles),)
    assert config.id2label == dict(enumerate(styles))
    neither = stage2_arguments(CodeDataArguments(), tmp_path)
    config = transformer_config(neither, tiny_rqvae, None, rows)
    assert config.vocab_size == config.condition_length == 1
    nothing_to_drop = stage2_arguments(CodeDataArguments(), tmp_path, condition_dropout=0.1)
    with pytest.raises(ValueError, match="nothing to drop"):
        transformer_config(nothing_to_drop, tiny_rqvae, None, rows)
    with pytest.raises(ValueError, match="exclude each other"):
        load_tokenizer(CodeDataArguments(caption_column="text", label_column="style"))
    with pytest.raises(ValueError, match="`tokenizer_name_or_path`"):
        load_tokenizer(CodeDataArguments(caption_column="text"))
    endless = copy.deepcopy(tiny_tokenizer)
    endless.model_max_length = 10**30  # what transformers takes for none
    endless.save_pretrained(tmp_path / "endless")
    with pytest.raises(ValueError, match="`tokenizer_name_or_path` must have a `model_max_length`.*endless"):
        load_tokenizer(CodeDataArguments(caption_column="text", tokenizer_name_or_path=str(tmp_path / "endless")))


def test_whole_numbers_are_labels_in_their_order(tiny_rqvae, tmp_path):
    rows = datasets.Dataset.from_dict({"label": [11, 2, 10, 0, *range(12)]})
    config = transformer_config(
        stage2_arguments(CodeDataArguments(label_column="label"), tmp_path), tiny_rqvae, None, rows
    )
    assert config.id2label == {index: str(index) for index in range(12)}


def test_given_names_leave_the_null_condition_an_id_of_its_own(tiny_rqvae, tmp_path):
    rows = datasets.Dataset.from_dict({"label": ["cat", "dog"]})
    arguments = stage2_arguments(CodeDataArguments(label_column="label"), tmp_path, condition_dropout=0.1)
    arguments.model["id2label"] = {"0": "dog", "1": "cat", "2": "eel"}  # as JSON gives it
    config = transformer_config(arguments, tiny_rqvae, None, rows)
    assert config.id2label == {0: "dog", 1: "cat", 2: "eel"} and config.label2id == {"dog": 0, "cat": 1, "eel": 2}
    assert config.null_condition_ids == (3,) and config.vocab_size == 4


CLASS_RECIPES = [path for path in sorted(CONFIGS.glob("*-rqt-*.json")) if '"label_column"' in path.read_text()]


@pytest.mark.parametrize("path", CLASS_RECIPES, ids=lambda path: path.stem)
def test_a_recipe_of_classes_has_room_for_a_null_condition(tiny_rqvae, tmp_path, path):
    recipe = json.loads(path.read_text())
    classes = recipe["model"].get("vocab_size", 10)
    labels = datasets.ClassLabel(names=[f"class {index}" for index in range(classes)])
    rows = datasets.Dataset.from_dict({"label": [0]}, features=datasets.Features({"label": labels}))
    arguments = stage2_arguments(CodeDataArguments(label_column="label"), tmp_path, condition_dropout=0.1)
    codes = ("code_shape", "codebook_size", "codebook_dim", "shared_codebook")  # the RQ-VAE's
    arguments.model = {name: value for name, value in recipe["model"].items() if name not in codes}
    config = transformer_config(arguments, tiny_rqvae, None, rows)
    assert config.vocab_size == classes + 1 and config.null_condition_ids == (classes,)
    arguments.training.condition_dropout = 0.0
    assert transformer_config(arguments, tiny_rqvae, None, rows).vocab_size == classes


def test_conditions_of_another_length_than_the_models_are_refused(emoji, tiny_rqvae, tiny_tokenizer, tmp_path):
    for column, tokenizer in (({"caption_column": "text"}, tiny_tokenizer), ({"label_column": "style"}, None)):
        arguments = stage2_arguments(CodeDataArguments(**column), tmp_path)
        arguments.model["condition_length"] = 9
        length = tiny_tokenizer.model_max_length if tokenizer is not None else 1
        with pytest.raises(ValueError, match=f"`condition_length` must be .*conditions, {length}.*, got 9"):
            transformer_config(arguments, tiny_rqvae, tokenizer, emoji["train"])


def test_early_stopping_follows_the_loss(tmp_path):
    options = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": "none", "early_stopping_patience": 2}
    arguments = RQTransformerTrainingArguments(**options, eval_strategy="steps", eval_steps=5)
    assert arguments.metric_for_best_model == "loss" and arguments.greater_is_better is False
    with pytest.raises(ValueError, match="`eval_strategy` must be steps or epoch with `early_stopping_patience`"):
        RQTransformerTrainingArguments(**options)
    with pytest.raises(ValueError, match="`num_caption_variants` must be at least 1, got 0"):
        CodeDataArguments(num_caption_variants=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"code_temperature": 0.0},
        {"code_temperature": [0.5, 0.0]},
        {"code_temperature": []},
        {"code_temperature": "0.5"},
        {"code_temperature": None},
        {"code_temperature": [0.5, None]},
        {"code_temperature": True},
        {"bpe_dropout": 1.5},
        {"scheduled_sampling": 1.5},
        {"scheduled_sampling_passes": 0},
        {"scheduled_sampling_temperature": 0.0},
        {"scheduled_sampling_temperature": [0.5, 0.0, 0.5]},
        {"scheduled_sampling_temperature": []},
        {"scheduled_sampling_warmup_steps": -1},
        {"scheduled_sampling_delay": -1},
        {"condition_dropout": -0.1},
        {"muon_learning_rate": -1e-3},
        {"muon_learning_rate": 1e-3, "lora_rank": 2, "model_name_or_path": "model"},
    ],
)
def test_bad_training_arguments_are_refused(tmp_path, changes):
    with pytest.raises(ValueError, match=f"`{next(iter(changes))}` must be"):
        RQTransformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **changes)


def test_stage1_training_lowers_the_loss_and_logs_its_parts(emoji, tiny_rqvae, tmp_path):
    pictures = PictureDataset(emoji["train"].select(range(16)), tiny_rqvae.config.image_size)
    arguments = RQVAETrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", max_steps=30, per_device_train_batch_size=8,
        learning_rate=3e-3, logging_steps=5, l1_weight=0.5, save_steps=30, disable_tqdm=True,
        perceptual_weight=0.0, adversarial_weight=0.0,
    )  # fmt: skip
    trainer = RQVAETrainer(model=tiny_rqvae, args=arguments, train_dataset=pictures, eval_dataset=pictures)
    codebook = tiny_rqvae.codebook.clone()
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    assert {"reconstruction_loss", "commitment_loss", "code_usage"} <= set(trainer.state.log_history[0])
    assert not torch.equal(codebook, tiny_rqvae.codebook)
    codebook = tiny_rqvae.codebook.clone()
    metrics = trainer.evaluate()
    assert torch.equal(codebook, tiny_rqvae.codebook)
    assert metrics["eval_psnr"] == pytest.approx(-10 * np.log10(metrics["eval_mse"]), abs=1e-2)
    saved = {path.name for path in (tmp_path / "checkpoint-30").iterdir()}
    assert "training_args.json" in saved and "training_args.bin" not in saved
    assert json.loads((tmp_path / "checkpoint-30" / "training_args.json").read_text())["l1_weight"] == 0.5


def stage2_trainer(emoji, rqvae, tokenizer, folder, cached=False, **training):
    rows = emoji["train"].select(range(12))
    pictures = PictureDataset(rows, rqvae.config.image_size)
    config = RQTransformerConfig.from_rqvae_config(
        rqvae.config, vocab_size=len(tokenizer), condition_length=tokenizer.model_max_length, pad_token_id=0,
        hidden_size=32, num_spatial_layers=1, num_depth_layers=1, num_attention_heads=2, dropout=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = RQTransformerForImageGeneration(config)
    model.set_codebook(rqvae.codebook)
    arguments = RQTransformerTrainingArguments(**{
        "output_dir": str(folder), "use_cpu": True, "report_to": "none", "max_steps": 12, "learning_rate": 3e-3,
        "per_device_train_batch_size": 6, "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True, **training,
    })  # fmt: skip
    source = cache_latents(pictures, rqvae.eval(), codes_only=arguments.hard_codes) if cached else pictures
    data = CodeDataset(source, rows["text"], encoder=BPEDropoutEncoder(tokenizer), bpe_dropout=0.1)
    return RQTransformerTrainer(model=model, args=arguments, rqvae=rqvae, train_dataset=data, eval_dataset=data)


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_stage2_trains_on_cached_latents_as_on_pictures(emoji, tiny_rqvae, tiny_tokenizer, tmp_path):
    runs = [
        stage2_trainer(emoji, tiny_rqvae, tiny_tokenizer, tmp_path / str(cached), cached) for cached in (False, True)
    ]
    for trainer in runs:
        trainer.train()
    assert losses(runs[0]) == pytest.approx(losses(runs[1]), abs=2e-2)  # latents are kept in half precision
    assert losses(runs[0])[-1] < losses(runs[0])[0]
    metrics = runs[0].evaluate()
    assert {"eval_loss", "eval_image_loss", "eval_text_loss"} <= set(metrics)
    assert not any(name.startswith("rqvae") for name, _ in runs[0].model.named_parameters())


def test_stage2_trains_on_cached_codes_where_they_are_all_it_needs(emoji, tiny_rqvae, tiny_tokenizer, tmp_path):
    hard = {"stochastic_codes": False, "soft_labels": False}
    runs = [
        stage2_trainer(emoji, tiny_rqvae, tiny_tokenizer, tmp_path / str(cached), cached, **hard)
        for cached in (False, True)
    ]
    assert [sorted(trainer.train_dataset[0]) for trainer in runs] == [
        ["input_ids", "pixel_values"],
        ["codes", "input_ids"],
    ]
    for trainer in runs:
        trainer.train()
    assert losses(runs[0]) == pytest.approx(losses(runs[1]), abs=1e-5)


def test_codes_alone_are_refused_where_latents_are_needed(emoji, tiny_rqvae, tiny_tokenizer, tmp_path):
    hard = {"stochastic_codes": False, "soft_labels": False}
    trainer = stage2_trainer(emoji, tiny_rqvae, tiny_tokenizer, tmp_path / "a", True, **hard)
    for name in hard:
        other = stage2_trainer(emoji, tiny_rqvae, tiny_tokenizer, tmp_path / name, True, **{**hard, name: True})
        other.train_dataset = trainer.train_dataset
        with pytest.raises(ValueError, match="Batches must have `pixel_values` or `latents` .*, got `codes`"):
            other.train()


def test_a_model_without_the_codebook_of_the_rqvae_is_refused(emoji, tiny_rqvae, tiny_tokenizer, tmp_path):
    trainer = stage2_trainer(emoji, tiny_rqvae, tiny_tokenizer, tmp_path)
    model = RQTransformerForImageGeneration(trainer.model.config)
    with pytest.raises(ValueError, match="must have one codebook, got two that differ"):
        RQTransformerTrainer(model=model, args=trainer.args, rqvae=tiny_rqvae, train_dataset=trainer.train_dataset)
    model.set_codebook(tiny_rqvae.codebook)
    RQTransformerTrainer(model=model, args=trainer.args, rqvae=tiny_rqvae, train_dataset=trainer.train_dataset)


def test_a_tokenizer_beside_the_model_leaves_its_padding_and_operations_are_counted(
    emoji, tiny_rqvae, tiny_tokenizer, tmp_path
):
    plain = stage2_trainer(emoji, tiny_rqvae, tiny_tokenizer, tmp_path / "a")
    beside = stage2_trainer(emoji, tiny_rqvae, tiny_tokenizer, tmp_path / "b")
    beside.processing_class = tiny_tokenizer
    for trainer in (plain, beside):
        trainer.model.config.pad_token_id = None
    model = copy.deepcopy(beside.model)
    beside.model_init, beside.model = lambda: model, None  # as a search of hyperparameters leaves it
    for trainer in (plain, beside):
        trainer.train()
    assert losses(beside) == losses(plain) and beside.model.config.pad_token_id is None

    model, config = plain.model, plain.model.config
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        inputs = plain.train_dataset[0]["input_ids"][None]
        codes = torch.zeros(1, *config.code_shape, dtype=torch.long)
        model.set_attn_implementation("eager")
        model(inputs, codes, labels=codes, output_logits=False)
    counted = 3 * counter.get_total_flops()  # with attention, projections and the text head
    per_picture = plain.state.total_flos / (plain.state.global_step * plain.args.per_device_train_batch_size)
    assert 0.5 * counted < per_picture < 1.2 * counted


def test_data_files_may_be_an_object_and_other_types_are_named(tmp_path):
    files = {"train": str(tmp_path / "*.parquet")}
    assert json.loads(DataArguments(data_files=files).data_files) == files
    for name, value, expected in (("filter", {"a": "b"}, "text"), ("image_column", None, "text")):
        with pytest.raises(ValueError, match=f"`{name}` must be {expected}, got {value!r}"):
            DataArguments(**{name: value})
    with pytest.raises(ValueError, match="`max_train_samples` must be an integer, got 1.5"):
        DataArguments(max_train_samples=1.5)


def test_conditions_that_cannot_be_encoded_are_refused_at_once(emoji, tiny_rqvae, tiny_tokenizer, tmp_path):
    pictures = stage2_trainer(emoji, tiny_rqvae, tiny_tokenizer, tmp_path).train_dataset.pictures
    with pytest.raises(ValueError, match=f"`conditions` must be one per picture .{len(pictures)}., got 1"):
        CodeDataset(pictures, ["a heart"])
    with pytest.raises(ValueError, match="`condition_dropout` needs `null_condition_ids`, got 0.5 without them"):
        CodeDataset(pictures, None, condition_dropout=0.5)
    with pytest.raises(ValueError, match=r"`condition_dropout` must be in \[0, 1\], got 7"):
        CodeDataset(pictures, None, condition_dropout=7, null_condition_ids=[0])


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch older than 2.9 has no Muon")
def test_stage2_training_with_muon_resumes_exactly(emoji, tiny_rqvae, tiny_tokenizer, tmp_path):
    flags = {"muon_learning_rate": 2e-2, "max_steps": 6, "save_strategy": "steps", "save_steps": 3, "bf16": True}
    runs = [stage2_trainer(emoji, tiny_rqvae, tiny_tokenizer, tmp_path / name, **flags) for name in "ab"]
    plain = stage2_trainer(
        emoji, tiny_rqvae, tiny_tokenizer, tmp_path / "plain", **{**flags, "muon_learning_rate": None}
    )
    runs[0].train()
    runs[1].train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    plain.train()
    assert losses(runs[0]) == losses(runs[1]) and losses(runs[0])[-1] < losses(runs[0])[0]
    rates = [group["lr"] for group in runs[0].optimizer.param_groups]
    assert rates == [group["lr"] for group in runs[1].optimizer.param_groups]
    for (name, weight), other, by_adam in zip(
        runs[0].model.named_parameters(), runs[1].model.parameters(), plain.model.parameters(), strict=True
    ):
        assert torch.equal(weight, other), name
        assert not torch.equal(weight, by_adam), name


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch older than 2.9 has no Muon")
def test_muon_is_refused_where_weights_are_sharded(emoji, tiny_rqvae, tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("rq_hf.training.muon.is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match="`muon_learning_rate` must be None with FSDP and DeepSpeed, got 0.001"):
        stage2_trainer(emoji, tiny_rqvae, tiny_tokenizer, tmp_path, muon_learning_rate=1e-3)


def test_a_rate_of_0_takes_back_the_muon_of_a_recipe(tmp_path):
    options = {"lora_rank": 2, "model_name_or_path": "model", "muon_learning_rate": 0.0}
    arguments = RQTransformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **options)
    assert arguments.muon_learning_rate is None


def test_muon_needs_a_torch_that_has_it(tmp_path, monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(ValueError, match="`muon_learning_rate` needs torch 2.9 or newer, got torch"):
        RQTransformerTrainingArguments(output_dir=str(tmp_path), use_cpu=True, muon_learning_rate=1e-3)


def test_attention_implementations_train_alike(emoji, tiny_rqvae, tiny_tokenizer, tmp_path):
    runs = [stage2_trainer(emoji, tiny_rqvae, tiny_tokenizer, tmp_path / name, max_steps=4) for name in "ab"]
    runs[1].model.set_attn_implementation("eager")
    for trainer in runs:
        trainer.train()
    assert losses(runs[0]) == pytest.approx(losses(runs[1]), abs=1e-4)


def start(model_class, fields, name_or_path):
    component = model_class.base_model_prefix
    config = initial_config(model_class.config_class, fields, name_or_path, component)
    return initial_model(model_class, config, name_or_path)


def test_fine_tuning_starts_from_the_pretrained_weights(tiny_rqvae, tmp_path):
    tiny_rqvae.save_pretrained(tmp_path)
    config = tiny_rqvae.config
    model = start(RQVAEModel, {"image_size": 2 * config.image_size, "code_depth": 1}, str(tmp_path))
    assert (model.config.image_size, model.config.code_depth) == (2 * config.image_size, 1)
    assert all(torch.equal(value, tiny_rqvae.state_dict()[name]) for name, value in model.state_dict().items())
    new = start(RQVAEModel, {name: getattr(config, name) for name in own_fields(RQVAEConfig)}, None)
    assert not torch.equal(new.codebook, tiny_rqvae.codebook)


@pytest.mark.parametrize("fields", [{"codebook_size": 7}, {"num_res_blocks": 3}, {"attention_levels": []}])
def test_fine_tuning_weights_of_another_architecture_is_refused(tiny_rqvae, tmp_path, fields):
    tiny_rqvae.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`model_name_or_path` must fit the model's fields"):
        start(RQVAEModel, fields, str(tmp_path))


def test_without_a_configuration_fine_tuning_takes_the_pretrained_fields(tiny_rqvae, tmp_path):
    tiny_rqvae.save_pretrained(tmp_path / "rqvae")
    path = write_config(tmp_path, model={"code_depth": 7})

    def model_fields(*flags) -> dict:
        flags = ["--use_cpu", "true", "--model_name_or_path", str(tmp_path / "rqvae"), *flags]
        return parse_arguments(RQVAEConfig, RQVAETrainingArguments, DataArguments, path, "test", flags).model

    assert model_fields() == {} and model_fields("--image_size", "64") == {"image_size": 64}
    assert parse(path, "--model_name_or_path", str(tmp_path / "rqvae")).model == {"code_depth": 7}


def test_without_a_configuration_other_data_and_models_take_nothing_of_the_fixture(tmp_path):
    path = write_config(
        tmp_path, model={"hidden_size": 7}, card={"license": "cc-by-4.0"},
        data={"dataset_name": "fixture", "caption_column": "captions", "filter": "tone=default",
              "validation_split": "test", "rqvae_name_or_path": "rqvae"},
    )  # fmt: skip

    def parsed(*flags) -> ScriptArguments:
        flags = ["--use_cpu", "true", *flags]
        kinds = RQTransformerConfig, RQTransformerTrainingArguments, CodeDataArguments
        return parse_arguments(*kinds, path, "test", flags)

    assert parsed().card == {"license": "cc-by-4.0"} and parsed().data.caption_column == "captions"
    tuned = parsed("--model_name_or_path=other")
    assert (tuned.card, tuned.model, tuned.data.caption_column) == ({}, {}, "captions")
    mine = parsed("--dataset_name", "mine", "--label_column", "label")
    assert (mine.card, mine.model) == ({}, {"hidden_size": 7})
    assert (mine.data.dataset_name, mine.data.caption_column, mine.data.filter) == ("mine", None, None)
    assert (mine.data.validation_split, mine.data.rqvae_name_or_path) == ("test", "rqvae")
    taken_back = parsed("--filter", "", "--caption_column=").data
    assert (taken_back.filter, taken_back.caption_column, taken_back.dataset_name) == (None, None, "fixture")


def test_several_gpus_in_one_process_are_refused(tiny_rqvae, tmp_path):
    arguments = RQVAETrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", adversarial_weight=0)
    arguments._n_gpu = 2
    with pytest.raises(ValueError, match="must train on one GPU, got 2: start by `accelerate launch`"):
        RQVAETrainer(model=tiny_rqvae, args=arguments)


def test_fine_tuning_of_a_transformer_keeps_what_the_data_do_not_say(emoji, tiny_pipeline, tmp_path):
    tiny_pipeline.save_pretrained(tmp_path / "pipeline")
    transformer, tokenizer = tiny_pipeline.transformer, tiny_pipeline.tokenizer
    arguments = stage2_arguments(
        CodeDataArguments(caption_column="text"), tmp_path, model_name_or_path=str(tmp_path / "pipeline")
    )
    arguments.model = {"dropout": 0.25}
    config = transformer_config(arguments, tiny_pipeline.rqvae, tokenizer, emoji["train"])
    assert config.dropout == 0.25 and config.pad_token_id == tokenizer.pad_token_id
    for name in ("hidden_size", "num_spatial_layers", "code_shape", "vocab_size", "null_condition_ids"):
        assert getattr(config, name) == getattr(transformer.config, name), name
    model = initial_model(RQTransformerForImageGeneration, config, arguments.training.model_name_or_path)
    assert all(torch.equal(value, transformer.state_dict()[name]) for name, value in model.state_dict().items())


def test_stochastic_codes_differ_between_steps_and_repeat_with_the_seed(emoji, tiny_rqvae, tiny_tokenizer, tmp_path):
    settings = {"learning_rate": 0.0, "per_device_train_batch_size": 12, "code_temperature": 5.0, "max_steps": 3}
    fixed = {"bpe_dropout": 0.0, **settings}
    first = stage2_trainer(emoji, tiny_rqvae, tiny_tokenizer, tmp_path / "a", **fixed)
    again = stage2_trainer(emoji, tiny_rqvae, tiny_tokenizer, tmp_path / "b", **fixed)
    for trainer in (first, again):
        trainer.train_dataset.bpe_dropout = 0.0
        trainer.train()
    assert losses(first) == losses(again)
    assert len(set(losses(first))) == 3
    hard = stage2_trainer(emoji, tiny_rqvae, tiny_tokenizer, tmp_path / "c", stochastic_codes=False, **fixed)
    hard.train_dataset.bpe_dropout = 0.0
    hard.train()
    assert max(losses(hard)) - min(losses(hard)) < 1e-4


def test_a_code_temperature_for_each_depth_reaches_codes_and_labels(emoji, tiny_rqvae, tiny_tokenizer, tmp_path):
    def trainer(name, temperature):
        return stage2_trainer(emoji, tiny_rqvae, tiny_tokenizer, tmp_path / name, code_temperature=temperature)

    pixels = torch.rand(4, 3, tiny_rqvae.config.image_size, tiny_rqvae.config.image_size) * 2 - 1
    hard = tiny_rqvae.encode(pixels)
    codes, _ = trainer("a", [1e-9, 1e4, 1.0])._quantize({"pixel_values": pixels}, torch.Generator())
    assert torch.equal(codes[..., 0], hard[..., 0])
    assert (codes[..., 1] == hard[..., 1]).float().mean() < 0.5
    assert trainer("b", [2.0]).args.code_temperature == trainer("b", 2.0).args.code_temperature == 2.0


@pytest.mark.parametrize("name", ["code_temperature", "scheduled_sampling_temperature"])
def test_two_temperatures_for_three_depths_are_refused(emoji, tiny_rqvae, tiny_tokenizer, tmp_path, name):
    with pytest.raises(ValueError, match=rf"`{name}` must be a number or a list of one per depth \(3\), got \[1"):
        stage2_trainer(emoji, tiny_rqvae, tiny_tokenizer, tmp_path, **{name: [1.0, 1.0]})


def test_scheduled_sampling_trains_on_codes_of_the_model_and_labels_of_the_picture(
    emoji, tiny_rqvae, tiny_tokenizer, tmp_path
):
    make = functools.partial(stage2_trainer, emoji, tiny_rqvae, tiny_tokenizer, bpe_dropout=0.0)
    trainer = make(tmp_path / "a", scheduled_sampling=1.0)
    pixels = torch.rand(4, 3, tiny_rqvae.config.image_size, tiny_rqvae.config.image_size) * 2 - 1
    latents = tiny_rqvae.encode_latents(pixels)
    codes, residuals = tiny_rqvae.quantize(latents)
    input_ids = torch.randint(1, 5, (4, trainer.model.config.condition_length))
    trainer.model.generation_config.do_sample = False

    def own_codes(seed):
        inputs, generator = {"input_ids": input_ids}, torch.Generator().manual_seed(seed)
        return trainer._with_own_codes(inputs, codes, residuals, generator)

    own, left = own_codes(0)
    assert torch.equal(own, trainer.model.redraw_codes(input_ids, codes))
    vectors = tiny_rqvae.quantizer.codebook(own)
    for depth in range(own.shape[-1]):  # what the drawn codes before it leave
        torch.testing.assert_close(left[..., depth, :], latents - vectors[..., :depth, :].sum(-2))
    trainer.args.scheduled_sampling = 0.5
    some, left_by_some = own_codes(0)
    kept = (some == codes).flatten(1).all(1)
    assert kept.sum() == 2
    assert torch.equal(some[~kept], own[~kept]) and torch.equal(left_by_some[~kept], left[~kept])
    assert torch.equal(left_by_some[kept], residuals[kept])
    trainer.args.scheduled_sampling, trainer.args.scheduled_sampling_passes = 1.0, 3
    with mock.patch.object(trainer.model, "redraw_codes", wraps=trainer.model.redraw_codes) as redraw:
        drawn_over, left_after = own_codes(0)
        sizes = [len(call.args[0]) for call in redraw.call_args_list]
        trainer.args.scheduled_sampling_temperature = [0.3, 0.2, 0.1]
        own_codes(0)
    assert [call.kwargs["temperature"] for call in redraw.call_args_list] == [None] * 3 + [[0.3, 0.2, 0.1]] * 3
    assert sizes in ([4, 2, 1], [4, 3, 1], [4, 3, 2])  # one, two and three times as many pictures, but for one more
    times = [own]
    for _ in range(2):
        times.append(trainer.model.redraw_codes(input_ids, times[-1]))
    passes = [[torch.equal(row, after[index]) for after in times] for index, row in enumerate(drawn_over)]
    assert all(any(row) for row in passes) and len({row.index(True) for row in passes}) > 1  # not all as many times
    vectors = tiny_rqvae.quantizer.codebook(drawn_over)
    torch.testing.assert_close(left_after[..., -1, :], latents - vectors[..., :-1, :].sum(-2))
    trainer.args.scheduled_sampling_warmup_steps, kept = 10, []
    for trainer.state.global_step in (0, 5, 10, 20):
        drawn, _ = own_codes(0)
        kept.append((drawn == codes).flatten(1).all(1).sum().item())
    assert kept == [4, 2, 0, 0]
    trainer.args.scheduled_sampling, counts = 0.1, []
    for seed in range(40):
        drawn, _ = own_codes(seed)
        counts.append(4 - (drawn == codes).flatten(1).all(1).sum().item())
    assert set(counts) == {0, 1} and 8 <= sum(counts) <= 24  # 0.4 on the mean

    runs = [make(tmp_path / name, scheduled_sampling=share) for name, share in (("b", 0.5), ("c", 0.5), ("d", 0.0))]
    for run in runs:
        run.train()
    assert losses(runs[0]) == losses(runs[1]) != losses(runs[2])
    assert losses(runs[0])[-1] < losses(runs[0])[0]


def test_drawn_pictures_come_back_after_the_delay_and_are_drawn_over(emoji, tiny_rqvae, tiny_tokenizer, tmp_path):
    make = functools.partial(
        stage2_trainer, emoji, tiny_rqvae, tiny_tokenizer,
        scheduled_sampling=0.5, scheduled_sampling_passes=3, scheduled_sampling_delay=2,
    )  # fmt: skip
    trainer = make(tmp_path / "a")
    model, config = trainer.model, trainer.model.config
    model.generation_config.do_sample = False
    generator, last = torch.Generator().manual_seed(0), {}
    for number in range(60):
        fresh = {
            "input_ids": torch.randint(1, 5, (4, config.condition_length)),
            "latents": torch.randn(4, *config.code_shape[:2], config.codebook_dim),
        }
        batch = trainer._with_returned(fresh)
        returned = len(batch.get("own_codes", ()))
        for name, values in fresh.items():
            assert batch[name].shape == values.shape and torch.equal(batch[name][returned:], values[returned:])
        codes, residuals = tiny_rqvae.quantize(batch["latents"])
        with mock.patch.object(model, "redraw_codes", wraps=model.redraw_codes) as redraw:
            own, left = trainer._with_own_codes(batch, codes, residuals, generator)
        assert redraw.call_count == 1 and len(redraw.call_args.args[0]) == 2  # one pass of half of the batch
        assert torch.equal(own[2:], codes[2:]) and torch.equal(left[2:], residuals[2:])
        vectors = tiny_rqvae.quantizer.codebook(own)
        torch.testing.assert_close(left[:2, ..., -1, :], (batch["latents"] - vectors[..., :-1, :].sum(-2))[:2])
        for row in range(2):
            picture, input_ids = batch["latents"][row].sum().item(), batch["input_ids"][row]
            before, count, when, same_ids = last.get(picture, (codes[row], 0, number - 2, input_ids))
            assert (row < returned) == (count > 0) and when == number - 2 and torch.equal(input_ids, same_ids)
            assert torch.equal(own[row], model.redraw_codes(input_ids[None], before[None])[0])
            last[picture] = own[row], count + 1, number, input_ids
    assert {count for _, count, when, _ in last.values() if when < 58} == {1, 2, 3}  # those that were drawn last
    trainer._on_their_way[0] = fresh | {"own_codes": own, "passes_left": torch.ones(4, dtype=torch.long)}
    small = trainer._with_returned({name: values[:1] for name, values in batch.items()})  # an epoch's last batch
    assert all(torch.equal(small[name], fresh[name][:1]) for name in fresh)
    assert torch.equal(small["own_codes"], own[:1]) and len(small["passes_left"]) == 1

    runs = [make(tmp_path / name) for name in ("b", "c")]
    for run in runs:
        run.train()
    assert losses(runs[0]) == losses(runs[1]) and len(runs[0]._on_their_way) == 2
    waiting = []
    runs[0]._with_returned = lambda batch: waiting.append(len(runs[0]._on_their_way)) or batch
    runs[0].train()
    assert waiting[0] == 0  # none of the training before


@pytest.mark.parametrize("compiled", [False, True])
def test_scheduled_sampling_draws_without_dropout(emoji, tiny_rqvae, tiny_tokenizer, tmp_path, compiled):
    trainer = stage2_trainer(
        emoji, tiny_rqvae, tiny_tokenizer, tmp_path, scheduled_sampling=1.0, max_steps=4,
        torch_compile=compiled, torch_compile_backend="eager" if compiled else None,
    )  # fmt: skip
    model = trainer.model
    for block in (*model.spatial_transformer.blocks, *model.depth_transformer.blocks):
        block.dropout.p = 0.5
    model.generation_config.do_sample = False
    redrawn, modes = model.redraw_codes, []

    def redraw(input_ids, codes, generator, compiled_draws, temperature):
        assert compiled_draws is compiled
        drawn = redrawn(input_ids, codes, generator)
        assert torch.equal(drawn, redrawn(input_ids, codes, generator))
        return drawn

    model.redraw_codes = redraw
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    trainer.train()
    assert modes == [True] * len(modes) and len(modes) > 0
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == int(compiled)  # one for all four steps


def test_scheduled_sampling_is_refused_without_soft_labels_and_where_weights_are_sharded(
    emoji, tiny_rqvae, tiny_tokenizer, tmp_path, monkeypatch
):
    make = functools.partial(stage2_trainer, emoji, tiny_rqvae, tiny_tokenizer, tmp_path, scheduled_sampling=0.5)
    with pytest.raises(ValueError, match="`scheduled_sampling` must be 0 without `soft_labels`, got 0.5"):
        make(soft_labels=False)
    monkeypatch.setattr("rq_hf.training.trainer.is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match="`scheduled_sampling` must be 0 with FSDP and ZeRO-3, got 0.5"):
        make()


def test_resuming_with_another_rqvae_of_the_same_shape_is_refused(emoji, tiny_rqvae, tiny_tokenizer, tmp_path):
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    stage2_trainer(emoji, tiny_rqvae, tiny_tokenizer, tmp_path, **settings).train()
    other = copy.deepcopy(tiny_rqvae)
    other.quantizer.codebook.weight.data.neg_()
    with pytest.raises(ValueError, match="must have one codebook, got two that differ: they do not"):
        stage2_trainer(emoji, other, tiny_tokenizer, tmp_path, **settings).train(resume_from_checkpoint=True)


def test_gradient_accumulation_equals_the_large_batch(emoji, tiny_rqvae, tiny_tokenizer, tmp_path):
    common = {"max_steps": 3, "stochastic_codes": False, "max_grad_norm": 0.0, "learning_rate": 1e-3}
    whole = stage2_trainer(emoji, tiny_rqvae, tiny_tokenizer, tmp_path / "a", per_device_train_batch_size=12, **common)
    parts = stage2_trainer(
        emoji, tiny_rqvae, tiny_tokenizer, tmp_path / "b", per_device_train_batch_size=6,
        gradient_accumulation_steps=2, **common,
    )  # fmt: skip
    for trainer in (whole, parts):
        trainer.model.config.pad_token_id = None  # the text loss is a mean over tokens, else batches weigh unequally
        trainer.train()
    assert losses(whole) == pytest.approx(losses(parts), abs=1e-4)


def test_pipeline_saved_in_half_precision_is_small_and_loads_in_its_own_dtype(tiny_pipeline, tmp_path):
    save_pipeline(tiny_pipeline, tmp_path / "whole")
    save_pipeline(tiny_pipeline, tmp_path / "half", torch.float16)
    sizes = [(tmp_path / name / "transformer" / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = RQImageGenerationPipeline.from_pretrained(tmp_path / "half")
    assert loaded.transformer.dtype == loaded.rqvae.dtype == loaded.rqvae.codebook.dtype == torch.float32
    averages = loaded.rqvae.quantizer.embedding_sum, tiny_pipeline.rqvae.quantizer.embedding_sum
    assert torch.equal(*averages)
    for ours, theirs in zip(loaded.transformer.parameters(), tiny_pipeline.transformer.parameters(), strict=True):
        assert torch.equal(ours, theirs.half().float())
