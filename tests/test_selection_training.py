# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Scripts that train what selects pictures: classifiers of two nets on two halves, and a ranker of captions."""

import json
from pathlib import Path

import datasets
import pytest
import torch
from transformers import AutoModelForImageClassification

from rq_hf import CLIPRanker, ImageClassifier
from rq_hf.selection import to_levels
from rq_hf.training import PictureDataset, RQTrainingArguments
from rq_hf.training.classifier import (
    ARCHITECTURES,
    ClassifierArguments,
    ClassifierTrainer,
    half_of,
    labels_of,
    picture_processor,
    small_classifier,
)
from rq_hf.training.ranker import caption_variants

FIXTURE = Path(__file__).resolve().parent / "fixtures" / "emoji"
SHORT = [
    "--dataset_name", FIXTURE, "--filter", "tone=default", "--transform", "emoji", "--validation_split", "validation",
    "--use_cpu", "true", "--per_device_train_batch_size", 8, "--max_train_samples", 64, "--disable_tqdm", "true",
    "--report_to", "none", "--save_strategy", "no",
]  # fmt: skip


def train(module, *arguments: object) -> None:
    module.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_classifier_is_trained_and_loads_as_any_other(load_script, architecture, tmp_path):
    output = tmp_path / "classifier"
    train(
        load_script("train_classifier"), *SHORT, "--label_column", "style", "--architecture", architecture, "--width",
        8, "--image_size", 16, "--half", 1, "--max_steps", 3, "--output_dir", output, "--learning_rate", 1e-3,
    )  # fmt: skip
    names = sorted(set(datasets.load_dataset(str(FIXTURE))["train"]["style"]))
    model = AutoModelForImageClassification.from_pretrained(output)
    assert list(model.config.id2label.values()) == names
    assert not list(output.rglob("*.bin")) and not list(output.rglob("*.pt"))
    results = json.loads((output / "eval_results.json").read_text())
    rows = datasets.load_dataset(str(FIXTURE))["validation"]
    rows = rows.select([index for index, tone in enumerate(rows["tone"]) if tone == "default"])
    pixels = torch.stack(
        [each["pixel_values"] for each in PictureDataset(rows, 16, transform="emoji", training=False)]
    )
    classifier = ImageClassifier(output)
    labels, _ = labels_of(rows, "style", names)
    right = classifier.probabilities(pixels).argmax(1) == torch.tensor(labels)
    assert results["eval_accuracy"] == pytest.approx(right.double().mean().item())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_accumulated_batches_count_as_one_large_batch(architecture, tmp_path):
    labels = torch.arange(4)
    pixels = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rows = [{"pixel_values": each, "labels": label} for each, label in zip(pixels, labels, strict=True)]
    losses = []
    for accumulation in (1, 4):
        torch.manual_seed(0)
        model = small_classifier(ClassifierArguments(architecture=architecture, width=8, image_size=16), list("abcd"))
        model.eval().train = lambda mode=True, model=model: model  # no statistics of batches
        arguments = RQTrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, report_to="none", save_strategy="no", max_steps=1, logging_steps=1,
            per_device_train_batch_size=4 // accumulation, gradient_accumulation_steps=accumulation, disable_tqdm=True,
        )  # fmt: skip
        trainer = ClassifierTrainer(model=model, args=arguments, train_dataset=rows)
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.parametrize(
    "script, column", [("train_classifier", "--label_column"), ("train_ranker", "--caption_column")]
)
def test_streams_are_refused(load_script, script, column, tmp_path):
    arguments = ["--dataset_name", FIXTURE, column, "style", "--streaming", "true", "--output_dir", tmp_path / "out"]
    with pytest.raises(ValueError, match="`streaming` must be false here, got true"):
        train(load_script(script), *arguments, "--use_cpu", "true", "--max_steps", 1)


def test_the_saved_processor_gives_the_pixels_of_the_training():
    row = datasets.load_dataset(str(FIXTURE))["train"].select([0])
    pixels = PictureDataset(row, 16, transform="emoji", training=False)[0]["pixel_values"]
    found = picture_processor(16)(
        list(to_levels(pixels[None])), return_tensors="pt", input_data_format="channels_first"
    )
    torch.testing.assert_close(found.pixel_values[0], pixels, rtol=0, atol=1e-5)


def test_halves_share_no_picture_and_are_alike_for_every_seed():
    rows = datasets.Dataset.from_dict({"number": list(range(101))})
    first, second = (set(half_of(rows, half)["number"]) for half in (0, 1))
    assert not first & second and first | second == set(range(101)) and abs(len(first) - len(second)) == 1
    torch.manual_seed(5)
    assert set(half_of(rows, 0)["number"]) == first
    assert half_of(rows, None) is rows


def test_both_halves_know_the_classes_of_all_rows(load_script, tmp_path):
    start = SHORT.index("--validation_split")
    train(
        load_script("train_classifier"), *SHORT[:start], *SHORT[start + 2 :], "--label_column", "concept", "--half", 0,
        "--architecture", "resnet", "--width", 8, "--image_size", 16, "--max_steps", 1, "--output_dir", tmp_path,
    )  # fmt: skip
    names = AutoModelForImageClassification.from_pretrained(tmp_path).config.id2label.values()
    rows = datasets.load_dataset(str(FIXTURE))["train"]
    rows = rows.select([index for index, tone in enumerate(rows["tone"]) if tone == "default"][:64])
    assert set(names) == set(rows["concept"]) > set(half_of(rows, 0)["concept"])


def test_a_ranker_learns_to_find_pictures_by_their_captions(load_script, tmp_path):
    output = tmp_path / "ranker"
    train(
        load_script("train_ranker"), *SHORT, "--caption_column", "captions", "--num_caption_variants", 1,
        "--image_size", 32, "--hidden_size", 32, "--num_layers", 2, "--vocab_size", 300, "--max_steps", 60,
        "--learning_rate", 3e-3, "--output_dir", output, "--lr_scheduler_type", "constant", "--max_train_samples", 16,
        "--per_device_train_batch_size", 16, "--logging_steps", 10,
    )  # fmt: skip
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
    assert 0 <= json.loads((output / "eval_results.json").read_text())["eval_retrieval"] <= 1
    ranker = CLIPRanker(output)
    rows = datasets.load_dataset(str(FIXTURE))["train"]
    rows = rows.select([index for index, tone in enumerate(rows["tone"]) if tone == "default"][:16])
    pixels = torch.stack(
        [each["pixel_values"] for each in PictureDataset(rows, 32, transform="emoji", training=False)]
    )
    texts = [captions[0] for captions in rows["captions"]]
    likeness = ranker.embed_texts(texts) @ ranker.embed_pictures(pixels).T
    assert (likeness.argmax(1) == torch.arange(16)).double().mean() > 0.5
    tokenizer = ranker.processor.tokenizer
    inputs = tokenizer("a heart")
    assert set(inputs) == {"input_ids", "attention_mask"}
    assert inputs.input_ids[-1] == tokenizer.eos_token_id == ranker.model.config.text_config.eos_token_id


def test_what_is_missing_or_wrong_is_named(load_script, tmp_path):
    classifier, ranker = load_script("train_classifier"), load_script("train_ranker")
    with pytest.raises(ValueError, match="`label_column` must be given"):
        train(classifier, *SHORT, "--output_dir", tmp_path)
    with pytest.raises(ValueError, match="`caption_column` must be given"):
        train(ranker, *SHORT, "--output_dir", tmp_path)
    with pytest.raises(ValueError, match="`half` must be 0, 1 or None, got 2"):
        train(classifier, *SHORT, "--label_column", "style", "--half", 2, "--output_dir", tmp_path)
    for script, column, name, value, expected in (
        (classifier, "label_column", "width", 0, "at least 1"),
        (ranker, "caption_column", "num_layers", 0, "at least 1"),
        (ranker, "caption_column", "patch_size", 128, "from 1 to `image_size` = 64"),
        (ranker, "caption_column", "dropout", 1.5, r"in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must be {expected}, got {value}"):
            train(script, *SHORT, f"--{column}", "style", f"--{name}", value, "--output_dir", tmp_path)
    for script, column in ((classifier, "label_column"), (ranker, "caption_column")):
        with pytest.raises(ValueError, match="`model_name_or_path` must be None, got 'x'"):
            train(script, *SHORT, f"--{column}", "style", "--model_name_or_path", "x", "--output_dir", tmp_path)
        with pytest.raises(ValueError, match="`push_to_hub` must be False, got True"):
            train(script, *SHORT, f"--{column}", "style", "--push_to_hub", "true", "--output_dir", tmp_path)
    assert caption_variants(["a", ["b", None, "c", "d"]], 2, "train") == [["a"], ["b", "c"]]
    for values, row in ((["a", None], 1), (["a", []], 1), ([[None]], 0), ([3], 0)):
        with pytest.raises(ValueError, match=f"`caption_column` must hold text in every row, got .* in row {row} of"):
            caption_variants(values, 2, "train")
    with pytest.raises(ValueError, match="`num_caption_variants` must be at least 1, got 0"):
        train(ranker, *SHORT, "--caption_column", "text", "--num_caption_variants", 0, "--output_dir", tmp_path)
    smoothed = [*SHORT, "--label_smoothing_factor", 0.5, "--vocab_size", 300]
    with pytest.raises(ValueError, match="`label_smoothing_factor` must be 0, got 0.5: captions are the labels"):
        train(ranker, *smoothed, "--caption_column", "text", "--output_dir", tmp_path)
    rows = datasets.Dataset.from_dict({"label": ["a", "b"]})
    with pytest.raises(ValueError, match=r"`label_column` must hold labels of \['a'\], got also \['b'\]"):
        labels_of(rows, "label", ["a"])
