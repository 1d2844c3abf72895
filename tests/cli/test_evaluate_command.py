# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""`rq-hf evaluate` hands models, data and settings to the functions that measure."""

import json
from pathlib import Path

import datasets
import pytest
import torch
from picture_sets import BROKEN, CLASSES, COLUMNS, NAMES, write_rows

from rq_hf import RQImageGenerationPipeline
from rq_hf.cli import main
from rq_hf.evaluation.generation import evaluate_likelihood
from rq_hf.evaluation.reconstruction import evaluate_rqvae
from rq_hf.images import decode_image
from rq_hf.training import CodeDataArguments, DataArguments
from rq_hf.training.conditions import evaluation_samples
from rq_hf.training.data import load_splits
from rq_hf.training.transforms import PictureTransform

FLAGS = ["--split", "validation", "--filter", "tone=default", "--device", "cpu", "--batch_size", 4]


def evaluate(*arguments: object) -> dict:
    main(["evaluate", *map(str, arguments)])
    return json.loads(Path(arguments[-1]).read_text())


@pytest.fixture
def pipeline(make_pipeline, tmp_path) -> RQImageGenerationPipeline:
    pipe = make_pipeline("text")
    pipe.save_pretrained(tmp_path / "model")
    return pipe


def test_rqvae_and_likelihood_measure_a_split(pipeline, data, tmp_path, capsys):
    rows = datasets.load_dataset(str(data), split="validation").select(range(9))
    pixels = map(PictureTransform(16, training=False), map(decode_image, rows["image"]))
    captions = [captions[0] for captions in rows["captions"]]
    ids = pipeline.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    columns = zip(pixels, ids, strict=True)
    samples = [{"pixel_values": pixel_values, "input_ids": input_ids} for pixel_values, input_ids in columns]
    flags = ["--dataset_name", data, *FLAGS]
    nats = tmp_path / "likelihood.json"
    found = evaluate("likelihood", tmp_path / "model", *flags, "--caption_column", "captions", "--output", nats)
    expected = evaluate_likelihood(pipeline, samples)
    assert found["metrics"]["loss"] == pytest.approx(expected["metrics"]["loss"])
    flags += ["--feature_extractor", "pixels"]
    found = evaluate("rqvae", tmp_path / "model", *flags, "--output", tmp_path / "rqvae.json")
    expected = evaluate_rqvae(pipeline.rqvae, samples)
    assert found["num_pictures"] == len(rows) == expected["num_pictures"]
    assert found["metrics"]["psnr"] == pytest.approx(expected["metrics"]["psnr"])
    assert found["metrics"]["frechet_distance_pixels"] > 0
    assert "| psnr |" in capsys.readouterr().out and (tmp_path / "rqvae.png").exists()


def test_rows_that_a_training_held_out_are_measured_by_a_flag(pipeline, tmp_path):
    data = write_rows(tmp_path / "data", {})
    parts = load_splits(DataArguments(str(data), validation_split="validation", hold_out=True))
    for split, rows in parts.items():
        flags = ["--dataset_name", data, "--split", split, "--hold_out", "--output", tmp_path / f"{split}.json"]
        assert evaluate("rqvae", tmp_path / "model", *flags)["num_pictures"] == len(rows)


@pytest.mark.parametrize(
    "what, part, value",
    [
        ("rqvae", "image", BROKEN),
        ("samples", "text", None),
        ("likelihood", "text", " "),
    ],
    ids=lambda value: None if isinstance(value, str) else "broken" if value else "missing",
)
def test_rows_without_a_part_are_left_out_of_all_parts_and_counted(pipeline, tmp_path, caplog, what, part, value):
    flags = ["--split", "train", "--device", "cpu", "--batch_size", 4]
    flags += [] if what == "likelihood" else ["--feature_extractor", "pixels"]
    flags += [] if what == "rqvae" else ["--caption_column", "text"]
    flags += ["--num_pictures", 4, "--precision_recall"] if what == "samples" else []
    found = []
    for name, rows in (("clean", {}), ("spoilt", {part: value})):
        data, output = write_rows(tmp_path / f"{name}-data", rows), tmp_path / f"{name}.json"
        results = evaluate(what, tmp_path / "model", "--dataset_name", data, *flags, "--output", output)
        drawn = {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.png")}
        found.append((results["num_pictures"], pytest.approx(results["metrics"], rel=1e-6), drawn))
    assert found[0] == (results["num_pictures"], results["metrics"], drawn)
    assert "Of 8 rows, 2 are left out" in caplog.text


@pytest.mark.parametrize(
    "model, spoilt, feature, values",
    [
        ("names", {"label": None}, None, COLUMNS["label"]),
        ("names", {"label": -1}, datasets.ClassLabel(names=NAMES), CLASSES),
        ("names", {}, datasets.ClassLabel(names=[NAMES[index] for index in (3, 1, 0, 2)]), COLUMNS["label"]),
        ("numbers", {}, None, [label + 1 for label in CLASSES]),
    ],
    ids=["missing", "missing of a ClassLabel", "reordered", "numbers from 1"],
)
def test_likelihood_maps_labels_as_training_does(make_pipeline, tmp_path, model, spoilt, feature, values):
    pipe = make_pipeline("class")
    if model == "numbers":
        pipe.transformer.config.id2label = {index: str(index + 1) for index in range(4)}
    pipe.save_pretrained(tmp_path / "model")
    folder = write_rows(tmp_path / "data", spoilt, feature, label=values)
    flags = ["--dataset_name", folder, "--split", "train", "--label_column", "label", "--device", "cpu"]
    found = evaluate("likelihood", tmp_path / "model", *flags, "--output", tmp_path / "nats.json")
    data = CodeDataArguments(str(folder), label_column="label")
    samples = evaluation_samples(data, ["train"], pipe.rqvae.config, pipe.transformer.config)["train"]
    assert [sample["input_ids"].item() for sample in samples] == CLASSES
    expected = [{**sample, "input_ids": torch.tensor([label])} for sample, label in zip(samples, CLASSES, strict=True)]
    assert found["metrics"] == pytest.approx(evaluate_likelihood(pipe, expected)["metrics"])


def test_samples_compares_with_a_folder_or_a_data_set(make_pipeline, pipeline, data, tmp_path):
    pictures = ["--num_pictures", 4, "--feature_extractor", "pixels"]
    captions = ["--dataset_name", data, *FLAGS, "--caption_column", "captions"]
    text = evaluate("samples", tmp_path / "model", *captions, *pictures, "--output", tmp_path / "text.json")
    make_pipeline("class", null_condition_ids=(0,), id2label=None).save_pretrained(tmp_path / "class")  # 0 is no class
    reference = ["--reference", tmp_path / "text", "--seed", 1, "--device", "cpu"]
    of_classes = evaluate("samples", tmp_path / "class", *pictures, *reference, "--output", tmp_path / "labels.json")
    for results, folder in ((text, "text"), (of_classes, "labels")):
        assert results["num_pictures"] == len(list((tmp_path / folder).glob("*.png"))) == 4
        assert results["metrics"]["frechet_distance_pixels"] > 0


def test_a_refused_evaluation_leaves_nothing_and_good_options_work_afterwards(pipeline, data, tmp_path):
    (tmp_path / "results").mkdir()
    command = ["samples", tmp_path / "model", "--dataset_name", data, *FLAGS, "--caption_column", "captions"]
    command += ["--num_pictures", 2, "--feature_extractor", "pixels"]
    output, before = ["--output", tmp_path / "results" / "a.json"], sorted(data.rglob("*"))
    refused = {
        "`top_p`": ["--top_p", 2],
        "got none": ["--reference", "typo"],
        r"`split` must be one of \['train', 'validation'\], got 'typo'": ["--split", "typo"],
        "need at least 4 `conditions`": ["--num_pictures", 3, "--precision_recall"],
        "`--split` must have 10 captions or more, got 9": ["--num_pictures", 10],
        "outside of the folder of the data set": ["--output", data / "a.json"],
    }
    for match, wrong in refused.items():
        with pytest.raises(SystemExit, match=match):
            evaluate(*command, *output, *wrong)
    with pytest.raises(SystemExit, match="`--dataset_name` must be given"):
        evaluate("samples", tmp_path / "model", "--num_pictures", 4, *output)
    with pytest.raises(SystemExit, match="`caption_column` or `label_column` must name"):
        evaluate("likelihood", tmp_path / "model", "--dataset_name", data, *FLAGS, *output)
    with pytest.raises(SystemExit, match="none among the 0 that pass `filter`"):
        evaluate("rqvae", tmp_path / "model", "--dataset_name", data, *FLAGS, "--filter", "tone=x", *output)
    assert not any((tmp_path / "results").iterdir()) and sorted(data.rglob("*")) == before
    assert evaluate(*command, *output)["num_pictures"] == 2
