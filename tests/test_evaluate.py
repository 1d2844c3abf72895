# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""scripts/evaluate.py from the command line to its files."""

import argparse
import filecmp
import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from feature_weights import write_inception, write_vgg16
from PIL import Image

from rq_hf import RQVAEModel
from rq_hf.cards import evaluation_results
from rq_hf.evaluation.likelihood import condition_ids
from rq_hf.evaluation.prompts import copies
from rq_hf.evaluation.rows import column_texts
from rq_hf.metrics import (
    measure_reconstruction,
    model_index,
    reconstruction_distances,
    stored_pictures,
    write_json,
)
from rq_hf.metrics.drawing import TILE_SIZE
from rq_hf.training import PictureDataset

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
evaluate = importlib.import_module("evaluate")

FIXTURE = ROOT / "tests" / "fixtures" / "emoji"
COMBOS = ["--dataset_name", str(FIXTURE), "--split", "test_combos"]


@pytest.fixture
def pipeline_folder(tiny_pipeline, tmp_path) -> Path:
    tiny_pipeline.save_pretrained(tmp_path / "pipeline")
    return tmp_path / "pipeline"


@pytest.fixture
def run(tmp_path):
    """Runs the script in this process and returns what it wrote."""

    def run(*argv: object) -> dict:
        path = tmp_path / "results" / "evaluation.json"
        evaluate.main([*map(str, argv), "--output", str(path)])
        figures = {"evaluation-reconstructions.png", "evaluation-code-norms.png"} if argv[0] == "rqvae" else set()
        assert {each.name for each in path.parent.iterdir()} == {path.name, "evaluation.md", *figures}
        return json.loads(path.read_text(encoding="utf-8"))

    return run


def default_tone(split: str) -> datasets.Dataset:
    rows = datasets.load_dataset(str(FIXTURE))[split]
    return rows.select([index for index, tone in enumerate(rows["tone"]) if tone == "default"])


def test_prompts_end_to_end_whatever_the_batch_size(run, pipeline_folder, tmp_path, capsys):
    rows = default_tone("test_combos")
    folders = [tmp_path / "in-one-batch", tmp_path / "in-threes"]
    whole = run("prompts", pipeline_folder, *COMBOS, "--batch_size", 64, "--save_pictures", folders[0])
    parts = run("prompts", pipeline_folder, *COMBOS, "--batch_size", 3, "--save_pictures", folders[1])
    for part in ("dataset", "model", "metrics", "floors", "sampling"):
        assert whole[part] == parts[part]
    names = sorted(path.name for path in folders[0].iterdir())
    assert names == sorted([f"{index:05d}.png" for index in range(len(rows))] + ["metadata.jsonl", "sheet.png"])
    assert filecmp.cmpfiles(*folders, names, shallow=False) == (names, [], [])

    entries = [json.loads(line) for line in (folders[0] / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [entry["prompt"] for entry in entries] == list(rows["text"])
    ranks = [entry["concept_rank"] for entry in entries]
    assert whole["metrics"] == pytest.approx(
        {
            "concept_top1": sum(rank < 1 for rank in ranks) / len(ranks),
            "concept_top5": sum(rank < 5 for rank in ranks) / len(ranks),
            "style_accuracy": sum(entry["style_hit"] for entry in entries) / len(entries),
        }
    )
    with Image.open(folders[0] / "sheet.png") as sheet:
        assert sheet.width > 6 * TILE_SIZE and sheet.height > len(rows) / 3 * TILE_SIZE

    assert whole["dataset"]["num_pictures"] == len(rows)
    assert set(whole["floors"]) == {"other_style_copy", "other_styles_mean", "shifted", "chance"}
    assert whole["command"].startswith("python scripts/evaluate.py prompts ")
    results = {result.metric_type: result for result in evaluation_results(whole)}
    assert {name: result.metric_value for name, result in results.items()} == whole["metrics"]
    assert results["concept_top5"].dataset_split == "test_combos"
    table = capsys.readouterr().out
    assert "| real picture, 2 px lower | " in table and "| model | " in table


def test_a_sample_of_prompts_is_seeded_and_grows_without_changing_its_pictures(run, pipeline_folder, tmp_path):
    train = ["--dataset_name", FIXTURE, "--split", "train"]
    few, more, other = tmp_path / "few", tmp_path / "more", tmp_path / "other"
    run("prompts", pipeline_folder, *train, "--num_prompts", 3, "--save_pictures", few)
    results = run("prompts", pipeline_folder, *train, "--num_prompts", 5, "--save_pictures", more)
    run("prompts", pipeline_folder, *train, "--num_prompts", 3, "--seed", 1, "--save_pictures", other)
    assert results["dataset"]["num_pictures"] == 5
    prompts = [
        [json.loads(line)["prompt"] for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
        for folder in (few, more, other)
    ]
    assert prompts[1][:3] == prompts[0] != prompts[2] and len(set(prompts[1])) == 5
    assert set(prompts[1]) <= set(default_tone("train")["text"])
    names = [f"{index:05d}.png" for index in range(3)]
    assert filecmp.cmpfiles(few, more, names, shallow=False) == (names, [], [])


def test_prompts_of_one_concept_are_compared_with_pictures_of_all(run, pipeline_folder):
    concept = default_tone("test_combos")["concept"][0]
    one = [*COMBOS, "--filter", f"tone=default,concept={concept}"]
    alone = run("prompts", pipeline_folder, *one)
    among_all = run("prompts", pipeline_folder, *one, "--gallery_filter", "tone=default")
    assert among_all["dataset"]["num_pictures"] == alone["dataset"]["num_pictures"] > 0
    assert alone["floors"]["chance"]["concept_top1"] == 1
    assert among_all["floors"]["chance"]["concept_top1"] < 0.5


class Alike(torch.nn.Module):
    """Sees no difference, and of pictures that are equally near the one that makes a hit counts."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.zeros(pictures.shape[0], 2)


def test_prompts_are_judged_by_features_as_well(run, pipeline_folder, tmp_path, capsys):
    torch.jit.script(Alike()).save(tmp_path / "alike.pt")
    flags = ["--num_prompts", 3, "--feature_extractor", "efficientnet_lite0", tmp_path / "alike.pt"]
    results = run("prompts", pipeline_folder, *COMBOS, *flags, "--copies_of", "train")
    plain = run("prompts", pipeline_folder, *COMBOS, "--num_prompts", 3)
    assert results["metrics"] == plain["metrics"] and results["floors"] == plain["floors"]
    judged, alike = (results["features"][name] for name in ("efficientnet_lite0", "alike"))
    assert set(alike["metrics"].values()) == {1.0} != set(results["metrics"].values())
    assert alike["floors"]["other_styles_mean"] == {"num_pictures": 3, **alike["metrics"]}
    assert judged["floors"]["chance"] == alike["floors"]["chance"] == results["floors"]["chance"]
    assert judged["floors"]["shifted"]["style_accuracy"] > judged["floors"]["chance"]["style_accuracy"]
    train = len(default_tone("train"))
    assert results["copies"] == {"split": "train", "num_pictures": train, "exact": 0.0, "near": 0.0}
    tables = capsys.readouterr().out
    assert "| by efficientnet_lite0 | pictures |" in tables and f"copies of {train} pictures of train" in tables
    (tmp_path / "alike.pt").rename(tmp_path / "pixels.pt")  # would hide the figures of the pixels
    with pytest.raises(ValueError, match="`--feature_extractor` must not be called 'pixels'"):
        run("prompts", pipeline_folder, *COMBOS, "--feature_extractor", tmp_path / "pixels.pt")


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_copies_are_what_the_rqvae_makes_of_pictures(make_rqvae, num_channels, dtype):
    rqvae = make_rqvae(num_channels=num_channels).to(dtype)
    rows = default_tone("train").select(range(7))
    known = torch.stack([PictureDataset(rows, 16, num_channels, training=False)[i]["pixel_values"] for i in (2, 5)])
    with torch.no_grad():
        copied = stored_pictures(rqvae.decode(rqvae.encode(known.to(dtype))))
    noise = torch.randint(-4, 5, copied[:1].shape, generator=torch.Generator().manual_seed(0))
    noisy = (copied[:1].int() + noise).clamp(0, 255).to(torch.uint8)
    drawn = torch.cat([stored_pictures(known), copied, noisy])  # the pictures themselves are none
    arguments = argparse.Namespace(image_column="image", transform="center_crop", batch_size=3, copies_of="train")
    expected = {"split": "train", "num_pictures": 7, "exact": 2 / 5, "near": 3 / 5}
    assert copies(drawn, rows, rqvae, arguments) == expected


def test_sampling_options_reach_the_model(run, pipeline_folder, tmp_path):
    folders = [tmp_path / f"{seed}-{top_k}" for seed in (0, 1) for top_k in ("all", "one")]
    for folder in folders:
        seed, top_k = folder.name.split("-")
        options = ["--top_k", "1,1,1", "--temperature", "0.5"] if top_k == "one" else []
        results = run("prompts", pipeline_folder, *COMBOS, "--seed", seed, "--save_pictures", folder, *options)
        assert results["sampling"]["top_k"] == ([1, 1, 1] if options else None)
        assert results["sampling"]["temperature"] == (0.5 if options else None)
    names = [path.name for path in sorted(folders[0].glob("0*.png"))]
    assert filecmp.cmpfiles(folders[1], folders[3], names, shallow=False)[0] == names  # the likeliest, for any seed
    assert filecmp.cmpfiles(folders[0], folders[2], names, shallow=False)[0] != names


def test_columns_may_have_other_names_and_types(run, pipeline_folder, tmp_path):
    names = {"image": "picture", "concept": "thing", "style": "look", "captions": "words"}
    styles = sorted(set(datasets.load_dataset(str(FIXTURE))["train"]["style"]))
    (tmp_path / "renamed").mkdir()
    for split in ("train", "validation", "test"):
        rows = default_tone("test_combos" if split == "test" else split).cast_column(
            "style", datasets.ClassLabel(names=styles)
        )
        rows.rename_columns(names).remove_columns(["text", "tone"]).to_parquet(
            tmp_path / "renamed" / f"{split}.parquet"
        )
    columns = [
        f"--{flag}_column={names[name]}" for flag, name in zip(["image", "concept", "style"], names, strict=False)
    ]
    options = ["--split", "test", "--filter", "", "--caption_column", "words", *columns]
    renamed = run("prompts", pipeline_folder, "--dataset_name", tmp_path / "renamed", *options)
    original = run("prompts", pipeline_folder, *COMBOS)
    # The three splits hold all pictures of the prompted concepts; `test_concepts`, left out, adds strangers.
    assert renamed["floors"]["shifted"]["style_accuracy"] == original["floors"]["shifted"]["style_accuracy"]
    assert renamed["metrics"]["style_accuracy"] == original["metrics"]["style_accuracy"]
    assert renamed["dataset"]["num_pictures"] == original["dataset"]["num_pictures"]


def test_rqvae_end_to_end(run, tiny_pipeline, pipeline_folder, tmp_path, capsys):
    results = run("rqvae", pipeline_folder, *COMBOS, "--batch_size", 5, "--num_pictures", 3)
    rows = datasets.load_dataset(str(FIXTURE))["test_combos"]
    pixel_values = torch.stack([sample["pixel_values"] for sample in PictureDataset(rows, 16, training=False)])
    distances = reconstruction_distances(tiny_pipeline.rqvae, len(rows), ["efficientnet_lite0"])
    report = measure_reconstruction(tiny_pipeline.rqvae, [pixel_values], distances)
    assert results["dataset"]["num_pictures"] == len(rows)
    assert results["metrics"] == pytest.approx(report.metrics, rel=1e-3)
    assert [row["depth"] for row in results["depths"]] == [1, 2, 3]
    pairs = zip(results["depths"], report.depths, strict=True)
    assert all(row == pytest.approx(expected, rel=1e-3) for row, expected in pairs)
    assert results["halves"]["num_pictures"] == len(rows) // 2
    floor = results["halves"]["frechet_distance_efficientnet_lite0"]["real"]
    assert floor == pytest.approx(report.halves["frechet_distance_efficientnet_lite0"]["real"], rel=1e-3)
    assert results["code_norms"]["edges"] == pytest.approx(report.norms.edges, rel=1e-3)
    assert {result.metric_type for result in evaluation_results(results)} == set(report.metrics)
    tables = capsys.readouterr().out
    assert "| psnr | " in tables and "real from real: the floor" in tables
    with Image.open(tmp_path / "results" / "evaluation-reconstructions.png") as sheet:
        assert sheet.width > 4 * 128 and sheet.height > 3 * 128
    with Image.open(tmp_path / "results" / "evaluation-code-norms.png") as chart:
        assert chart.size == (960, 560)


def test_rqvae_alone_measures_what_the_filter_leaves(run, tiny_pipeline, pipeline_folder, tmp_path, capsys):
    tiny_pipeline.rqvae.save_pretrained(tmp_path / "rqvae")
    cheap = ["--filter", "tone=default", "--feature_extractor", "none"]
    alone, part = (run("rqvae", folder, *COMBOS, *cheap) for folder in (tmp_path / "rqvae", pipeline_folder))
    assert alone["metrics"] == part["metrics"] and alone["halves"] == {}
    assert alone["dataset"]["num_pictures"] == len(default_tone("test_combos"))
    assert "floor" not in capsys.readouterr().out


def test_sheet_shows_pictures_drawn_by_the_seed(run, pipeline_folder, tmp_path):
    sheets = []
    for seed in (0, 0, 1):
        run("rqvae", pipeline_folder, *COMBOS, "--feature_extractor", "none", "--seed", seed)
        sheets.append((tmp_path / "results" / "evaluation-reconstructions.png").read_bytes())
    assert sheets[0] == sheets[1] != sheets[2]


@pytest.mark.slow
def test_rfid_and_lpips_take_weights_from_files(run, pipeline_folder, tmp_path):
    weights = ["--inception_weights", write_inception(tmp_path), "--lpips_weights", write_vgg16(tmp_path), "--lpips"]
    extractors = ["--feature_extractor", "inception", "efficientnet_lite0"]
    few = ["--dataset_name", FIXTURE, "--split", "test_concepts", "--filter", "concept=banana"]
    results = run("rqvae", pipeline_folder, *few, *extractors, *weights)
    names = {"rfid", "frechet_distance_efficientnet_lite0", "lpips"}
    assert names <= set(results["metrics"]) and all(names <= set(row) for row in results["depths"])
    assert set(results["halves"]) == {"num_pictures", *names - {"lpips"}}
    assert not any("fid" in name for name in results["metrics"] if name != "rfid")


@pytest.mark.parametrize("command", ["rqvae", "prompts", "likelihood"])
def test_results_are_written_as_json(command, pipeline_folder, tmp_path):
    output = tmp_path / "results" / "results.md"
    with pytest.raises(ValueError, match=r"`--output` must end in \.json, got .*results\.md'"):
        evaluate.main([command, str(pipeline_folder), *COMBOS, "--output", str(output)])
    assert not output.parent.exists()


def test_weights_that_cannot_be_had_stop_before_any_picture_is_read(run, pipeline_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.URL_INCEPTION_V3", "http://127.0.0.1:9/weights")
    monkeypatch.setattr("rq_hf.evaluation.rqvae.picture_batches", lambda *arguments: pytest.fail("pictures were read"))
    with pytest.raises(OSError, match="cannot be downloaded"):
        run("rqvae", pipeline_folder, *COMBOS, "--feature_extractor", "inception")
    with pytest.raises(ValueError, match="`weights` must be a .pth or .safetensors file, got .*none"):
        run("rqvae", pipeline_folder, *COMBOS, "--lpips", "--lpips_weights", tmp_path / "none.pth")


@pytest.mark.parametrize(
    "command, flags, match",
    [
        ("prompts", ["--split", "tset"], r"`--split` must be one of \['train'"),
        ("rqvae", ["--split", "tset"], r"`--split` must be one of \['train'"),
        ("rqvae", ["--image_column", "picture"], "`--image_column` must name a column"),
        ("prompts", ["--caption_column", "caption"], "`--caption_column` must name a column"),
        ("prompts", ["--concept_column", "thing"], "`--concept_column` must name a column"),
        ("prompts", ["--filter", "colour=red"], "`filter` must name a column"),
        ("prompts", ["--filter", "tone"], "`filter` must be COLUMN=VALUE"),
        ("prompts", ["--num_prompts", "0"], "`--num_prompts` must be at least 1, got 0"),
        ("prompts", ["--num_prompts", "5000"], "`--num_prompts` must be at most"),
        ("prompts", ["--style_group", "3d", "flta"], r"`--style_group` must name styles of .*got \['flta'\]"),
        ("prompts", ["--batch_size", "0"], "`--batch_size` must be at least 1"),
        ("prompts", ["--save_pictures", str(FIXTURE)], "`--save_pictures` must be a new or empty folder"),
        ("prompts", ["--top_p", "1.5"], "`top_p` must be"),
        ("prompts", ["--num_candidates", "4"], "`ranker` and `num_candidates` need each other"),
        ("prompts", ["--likelihood_weight", "1"], "`likelihood_weight` needs a `ranker` that compares captions"),
        ("prompts", ["--classifier", "some"], "`--classifier` needs a model of classes, got one of captions"),
        ("likelihood", ["--label_column", "tone"], "`--label_column` must not be given for a model of captions"),
        ("prompts", ["--copies_of", "tset"], r"`--copies_of` must be one of \['train'.*got 'tset'"),
        ("prompts", ["--feature_extractor", "none", "inception"], "`--feature_extractor` must be none or the names"),
        ("prompts", ["--copies_of", "train", "--gallery_filter", "style=none"], "`filter` must leave some rows"),
        ("prompts", ["--feature_extractor", "nonet"], "`name` must be one of .*got 'nonet'"),
        ("rqvae", ["--num_pictures", "0"], "`--num_pictures` must be at least 1"),
        ("rqvae", ["--feature_extractor", "none", "inception"], "`--feature_extractor` must be none or the names"),
        ("rqvae", ["--inception_weights", "w.pth"], "`--inception_weights` needs `--feature_extractor inception`"),
        ("rqvae", ["--lpips_weights", "w.pth"], "`--lpips_weights` needs `--lpips`"),
        ("rqvae", ["--filter", "style=blob"], "`num_pictures` must be at least 4 for a Frechet distance, got 2"),
    ],
)
def test_bad_options_are_refused(command, flags, match, run, pipeline_folder):
    with pytest.raises(ValueError, match=match):
        run(command, pipeline_folder, *COMBOS, *flags)


def test_models_of_another_kind_are_refused(run, make_pipeline, pipeline_folder, tmp_path):
    with pytest.raises(ValueError, match="`MODEL` must be a pipeline"):
        run("prompts", pipeline_folder / "rqvae", *COMBOS)
    with pytest.raises(ValueError, match="must hold a whole RQVAEModel, but lacks weights such as"):
        run("rqvae", pipeline_folder / "transformer", *COMBOS)
    make_pipeline("class").save_pretrained(tmp_path / "classes")
    with pytest.raises(ValueError, match="`MODEL` must draw captions"):
        run("prompts", tmp_path / "classes", *COMBOS)


def test_checkpoint_without_some_weights_is_refused(run, tiny_rqvae, tmp_path):
    weights = tiny_rqvae.state_dict()
    weights.pop("quant_conv.weight")
    tiny_rqvae.save_pretrained(tmp_path / "incomplete", state_dict=weights)
    assert RQVAEModel.from_pretrained(tmp_path / "incomplete").quant_conv.weight is not None  # made up
    with pytest.raises(ValueError, match=r"lacks weights such as `quant_conv\.weight`"):
        run("rqvae", tmp_path / "incomplete", *COMBOS)


@pytest.mark.parametrize("command", ["rqvae", "prompts"])
def test_missing_model_or_data_set_is_named(command, run, pipeline_folder, tmp_path):
    with pytest.raises(ValueError, match="The model must be a folder or a Hub id, got .*none"):
        run(command, tmp_path / "none", *COMBOS)
    with pytest.raises(OSError, match="none"):
        run(command, pipeline_folder, "--dataset_name", tmp_path / "none", "--split", "train")


def test_bad_input_is_one_line_on_the_command_line(tmp_path):
    finished = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "evaluate.py"), "prompts", str(tmp_path / "none"), *COMBOS],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 1 and "Traceback" not in finished.stderr
    assert finished.stderr.strip().splitlines()[-1].startswith("ValueError: The model must be a folder or a Hub id")


def test_results_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "evaluation.json"
    write_json(path, {"metrics": {"psnr": 1.0}})
    with pytest.raises(TypeError):
        write_json(path, {"metrics": {"psnr": object()}})
    assert json.loads(path.read_text()) == {"metrics": {"psnr": 1.0}}
    assert list(tmp_path.iterdir()) == [path]


def test_the_index_leaves_out_what_is_not_finite():
    results = {"dataset": {"name": "emoji"}, "metrics": {"psnr": math.inf, "ssim": 1.0, "codes_used": 3}}
    assert "type: ssim" in model_index(results, "tiny") and "psnr" not in model_index(results, "tiny")


def test_likelihood_is_the_loss_of_the_model_whatever_the_batch_size(run, pipeline_folder, tiny_pipeline):
    arguments = ("likelihood", pipeline_folder, *COMBOS, "--dtype", "float32", "bfloat16", "--filter", "tone=default")
    results = run(*arguments)
    (whole, half), parts = results["rows"], run(*arguments, "--batch_size", 3)["rows"]
    assert [row["dtype"] for row in results["rows"]] == ["float32", "bfloat16"]
    for row, part, tolerance in zip((whole, half), parts, (1e-6, 1e-3), strict=True):
        assert part["loss"] == pytest.approx(row["loss"], rel=tolerance)
    size = tiny_pipeline.rqvae.config.image_size
    pictures = PictureDataset(default_tone("test_combos"), size, transform="center_crop", training=False)
    codes = tiny_pipeline.rqvae.encode(torch.stack([picture["pixel_values"] for picture in pictures]))
    input_ids = tiny_pipeline.encode_prompt(list(default_tone("test_combos")["text"]))
    with torch.no_grad():
        outputs = tiny_pipeline.transformer(input_ids, codes, labels=codes)
    assert whole["loss"] == pytest.approx(outputs.image_loss.item(), rel=1e-5) == results["metrics"]["loss"]
    for depth, loss in enumerate(outputs.depth_losses, start=1):
        assert whole[f"loss_depth_{depth}"] == pytest.approx(loss.item(), rel=1e-5)
    assert (whole["relative difference"], whole["same likeliest codes"]) == (0, 1)
    assert 0 < abs(half["relative difference"]) < 0.01 and 0.5 < half["same likeliest codes"] <= 1


def test_classes_that_are_called_by_numbers_are_found_by_name(make_pipeline):
    """As in training, where labels of 1, 2, 3 become ids 0, 1, 2."""
    pipeline = make_pipeline("class")
    pipeline.transformer.config.id2label = {0: "1", 1: "2", 2: "3", 3: "4"}
    rows = datasets.Dataset.from_dict({"label": [1, 4, 2]})
    arguments = argparse.Namespace(label_column="label")
    assert condition_ids(pipeline, rows, arguments).tolist() == [[0], [3], [1]]


def test_rows_without_a_text_are_named():
    rows = datasets.Dataset.from_dict({"text": [["a", None], ["b"], []]})
    assert column_texts(rows.select([0, 1]), "text") == ["a", "b"]
    with pytest.raises(ValueError, match=r"Column 'text' must hold a text in every row, got \[\] in row 2"):
        column_texts(rows, "text")


def test_drawn_pictures_are_saved_beside_real_ones_of_any_kind_of_column(run, pipeline_folder, tmp_path):
    rows = default_tone("test_combos").select(range(4))
    columns = {name: rows[name] for name in ("text", "concept", "style", "tone")}
    arrays = [np.asarray(picture.convert("RGB").resize((16, 16))) for picture in rows["image"]]
    features = datasets.Features({
        **{name: datasets.Value("string") for name in columns}, "image": datasets.Array3D((16, 16, 3), "uint8")
    })  # fmt: skip
    (tmp_path / "data").mkdir()
    table = datasets.Dataset.from_dict({**columns, "image": arrays}, features=features)
    table.to_parquet(tmp_path / "data" / "test.parquet")
    arguments = ["--dataset_name", tmp_path / "data", "--split", "test", "--save_pictures", tmp_path / "drawn"]
    run("prompts", pipeline_folder, *arguments)
    assert (tmp_path / "drawn" / "sheet.png").is_file()


@pytest.mark.parametrize("condition", ["class", "none"])
def test_likelihood_of_models_without_captions(run, make_pipeline, tmp_path, condition):
    pipeline = make_pipeline(condition)
    pipeline.save_pretrained(tmp_path / "pipeline")
    pictures = default_tone("test_combos").select(range(4))["image"]
    rows = datasets.Dataset.from_dict({"image": list(pictures), "label": [0, 2, 1, 2]})
    rows = rows.cast_column("image", datasets.Image())
    (tmp_path / "data").mkdir()
    rows.to_parquet(tmp_path / "data" / "test.parquet")
    arguments = ["likelihood", tmp_path / "pipeline", "--dataset_name", tmp_path / "data", "--split", "test"]
    if condition == "class":
        with pytest.raises(ValueError, match="`--label_column` must be given for a model of classes, got none"):
            evaluate.main([str(each) for each in arguments])
        arguments += ["--label_column", "label"]
        gap = rows.cast_column("label", datasets.ClassLabel(num_classes=4)).map(
            lambda row, index: row if index else {"label": None}, with_indices=True
        )
        (tmp_path / "gap").mkdir()
        gap.to_parquet(tmp_path / "gap" / "test.parquet")
        with pytest.raises(ValueError, match="Column 'label' must hold a text in every row, got None in row 0"):
            run(*[tmp_path / "gap" if each == tmp_path / "data" else each for each in arguments])
    measured = run(*arguments)["rows"][0]["loss"]
    size = pipeline.rqvae.config.image_size
    prepared = PictureDataset(rows, size, transform="center_crop", training=False)
    codes = pipeline.rqvae.encode(torch.stack([picture["pixel_values"] for picture in prepared]))
    input_ids = torch.tensor([[0], [2], [1], [2]]) if condition == "class" else torch.zeros(4, 1, dtype=torch.long)
    with torch.no_grad():
        loss = pipeline.transformer(input_ids, codes, labels=codes).image_loss.item()
    assert measured == pytest.approx(loss, rel=1e-5)
