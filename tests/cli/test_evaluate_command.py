# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`rq-hf evaluate` hands models, data and settings to the functions that measure."""

import json
from pathlib import Path

import datasets
import pytest
import torch

from rq_hf import RQImageGenerationPipeline
from rq_hf.cli import main
from rq_hf.evaluation.generation import evaluate_likelihood
from rq_hf.evaluation.reconstruction import evaluate_rqvae
from rq_hf.images import decode_picture
from rq_hf.training.transforms import PictureTransform

FLAGS = ["--split", "validation", "--filter", "tone=default", "--device", "cpu", "--batch_size", 4]


def evaluate(*arguments: object) -> dict:
    main(["evaluate", *map(str, arguments)])
    return json.loads(Path(arguments[-1]).read_text())


@pytest.fixture(scope="module")
def rows(data) -> datasets.Dataset:
    return datasets.load_dataset(str(data), split="validation").select(range(9))


def pixels(rows: datasets.Dataset) -> list[dict[str, torch.Tensor]]:
    transform = PictureTransform(16, training=False)
    return [{"pixel_values": transform(decode_picture(row["image"]))} for row in rows]


@pytest.fixture
def pipeline(make_pipeline, tmp_path) -> RQImageGenerationPipeline:
    pipe = make_pipeline("text")
    pipe.save_pretrained(tmp_path / "model")
    return pipe


def test_rqvae_measures_a_split(pipeline, data, rows, tmp_path, capsys):
    flags = ["--dataset_name", data, *FLAGS, "--feature_extractor", "pixels"]
    results = evaluate("rqvae", tmp_path / "model", *flags, "--output", tmp_path / "rqvae.json")
    expected = evaluate_rqvae(pipeline.rqvae, pixels(rows), batch_size=8)
    assert results["num_pictures"] == len(rows) == expected["num_pictures"]
    assert results["metrics"]["psnr"] == pytest.approx(expected["metrics"]["psnr"])
    assert "rfid_pixels" in results["metrics"] or "frechet_distance_pixels" in results["metrics"]
    assert "| psnr |" in capsys.readouterr().out and (tmp_path / "rqvae.png").exists()


def test_likelihood_reads_captions(pipeline, data, rows, tmp_path):
    flags = ["--dataset_name", data, *FLAGS, "--caption_column", "captions"]
    results = evaluate("likelihood", tmp_path / "model", *flags, "--output", tmp_path / "likelihood.json")
    captions = [captions[0] for captions in rows["captions"]]
    expected = evaluate_likelihood(pipeline, pixels(rows), captions, batch_size=8)
    assert results["metrics"]["loss"] == pytest.approx(expected["metrics"]["loss"])


def test_prompts_draws_a_sample_of_rows_into_a_folder_and_goes_on_where_it_was(pipeline, data, tmp_path):
    flags = ["--dataset_name", data, *FLAGS, "--caption_column", "captions"]
    flags += ["--num_prompts", 3, "--feature_extractor", "pixels", "--copies_of", "train", "--temperature", "1,1,0.5"]
    output = tmp_path / "prompts.json"
    first = evaluate("prompts", tmp_path / "model", *flags, "--output", output)
    pictures = {path: path.read_bytes() for path in (tmp_path / "prompts").glob("*.png")}
    assert len(pictures) == 3 == first["num_pictures"]
    assert {"top1", "style", "near_copies"} <= set(first["metrics"])
    next(iter(pictures)).unlink()
    assert evaluate("prompts", tmp_path / "model", *flags, "--output", output)["metrics"] == first["metrics"]
    assert pictures == {path: path.read_bytes() for path in (tmp_path / "prompts").glob("*.png")}
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"prompt": "a heart", "concept": "red-heart"}\n')
    of_a_file = ["--dataset_name", data, "--feature_extractor", "pixels", "--prompts", asked]
    results = evaluate("prompts", tmp_path / "model", *of_a_file, "--output", tmp_path / "asked.json")
    assert results["num_pictures"] == 1 and "style" not in results["metrics"]


def test_samples_compares_with_a_folder_or_a_data_set(make_pipeline, pipeline, data, tmp_path):
    pictures = ["--num_pictures", 4, "--feature_extractor", "pixels"]
    captions = ["--dataset_name", data, *FLAGS, "--caption_column", "captions"]
    text = evaluate("samples", tmp_path / "model", *captions, *pictures, "--output", tmp_path / "text.json")
    make_pipeline("class").save_pretrained(tmp_path / "class")
    reference = ["--reference", tmp_path / "text", "--seed", 1, "--device", "cpu"]
    of_classes = evaluate("samples", tmp_path / "class", *pictures, *reference, "--output", tmp_path / "class.json")
    for results, folder in ((text, "text"), (of_classes, "class")):
        assert results["num_pictures"] == len(list((tmp_path / folder).glob("*.png"))) == 4
        assert results["metrics"]["frechet_distance_pixels"] > 0


@pytest.mark.parametrize(
    "wrong",
    [["--top_p", 2], ["--reference", "typo"], ["--split", "typo"], ["--batch_size", 0], ["--feature_extractor", "x"]],
)
def test_a_refused_evaluation_leaves_nothing_and_good_options_work_afterwards(pipeline, data, tmp_path, wrong):
    (tmp_path / "results").mkdir()
    command = ["samples", tmp_path / "model", "--dataset_name", data, *FLAGS, "--caption_column", "captions"]
    command += ["--num_pictures", 2, "--feature_extractor", "pixels"]
    output = ["--output", tmp_path / "results" / "a.json"]
    with pytest.raises(SystemExit):
        evaluate(*command, *wrong, *output)
    assert not any((tmp_path / "results").iterdir())
    assert evaluate(*command, *output)["num_pictures"] == 2


@pytest.mark.parametrize(
    "what, options, expected",
    [
        ("samples", ["--num_pictures", 4], "`--caption_column`"),
        ("samples", ["--num_pictures", 4, "--dataset_name", "DATA"], "`--split` must be given"),
        ("prompts", ["--dataset_name", "DATA"], "`--split`"),
        ("rqvae", ["--dataset_name", "DATA", "--split", "nothing"], "split` must be one of"),
        ("rqvae", ["--dataset_name", "DATA", *FLAGS, "--filter", "nothing"], "`filter` must be"),
        ("likelihood", ["--dataset_name", "DATA", *FLAGS, "--caption_column", "x"], "`caption_column`"),
        ("likelihood", ["--dataset_name", "DATA", *FLAGS], "`conditions` must hold"),
    ],
)
def test_what_is_missing_is_named(pipeline, data, tmp_path, what, options, expected):
    options = [data if word == "DATA" else word for word in options]
    with pytest.raises(SystemExit) as ended:
        evaluate(what, tmp_path / "model", *options, "--output", tmp_path / "a.json")
    assert expected in ended.value.code
