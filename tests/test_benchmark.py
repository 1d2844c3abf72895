# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""scripts/benchmark.py: its tables hold every candidate with its ratio. No test asks for a speed."""

import json
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def benchmark(load_script):
    return load_script("benchmark")


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_quantizer_is_measured_against_the_bare_products(benchmark, tmp_path, capsys):
    sizes = ["--num_vectors", "64", "--codebook_dim", "8", "--codebook_size", "96", "--code_depth", "2"]
    path = tmp_path / "new" / "quantizer.json"
    benchmark.main(["quantizer", *sizes, "--rounds", "3", "--device", "cpu", "--output", str(path)])
    results, printed = json.loads(path.read_text()), capsys.readouterr().out
    rows = {row["name"]: row for row in results["times"]}
    assert rows["bare products"]["ratio"] == 1
    for name in ("rq_hf, evaluation", "rq_hf, training, per_step", "rq_hf, training, per_depth"):
        row = rows[name]
        assert row["quartiles"][0] <= row["seconds"] <= row["quartiles"][1]
        assert row["ratio"] == pytest.approx(row["seconds"] / rows["bare products"]["seconds"])
        assert f"| {name} |" in printed
    assert {row["name"] for row in results["memory"]} >= {"rq_hf, training, per_step", "rq_hf, training, per_depth"}
    assert results["command"].startswith("python scripts/benchmark.py quantizer --num_vectors 64")


def test_towers_agree_in_every_memory_format(benchmark, tiny_rqvae, tmp_path):
    tiny_rqvae.save_pretrained(tmp_path / "rqvae")
    path = tmp_path / "rqvae.json"
    arguments = ["rqvae", "--model", str(tmp_path / "rqvae"), "--image_size", "16", "--batch_size", "2"]
    benchmark.main([*arguments, "--rounds", "2", "--device", "cpu", "--output", str(path)])
    results = json.loads(path.read_text())
    for tower in ("encoder", "decoder"):
        assert len(results[tower]) == 4
        assert all(row["largest difference"] < 1e-5 for row in results[tower])


@pytest.fixture
def recipe(tmp_path) -> Path:
    """A tiny recipe, and that of its RQ-VAE beside it."""
    rqvae = {
        "image_size": 16, "base_channels": 8, "channel_multiplier": [1, 2], "num_res_blocks": 1, "norm_num_groups": 4,
        "attention_levels": [], "latent_channels": 8, "codebook_size": 512, "codebook_dim": 8, "code_depth": 4,
    }  # fmt: skip
    transformer = {
        "vocab_size": 10, "condition_length": 3, "hidden_size": 16, "num_spatial_layers": 1, "num_depth_layers": 1,
        "num_attention_heads": 2,
    }  # fmt: skip
    (tmp_path / "rqvae.json").write_text(json.dumps({"model": rqvae}))
    path = tmp_path / "rqt.json"
    path.write_text(json.dumps({"model": transformer, "card": {"rqvae": "rqvae"}}))
    return path


def test_a_training_step_is_measured_against_the_naive_loss(benchmark, recipe, tmp_path, monkeypatch, capsys):
    # More than one block of so few codes.
    monkeypatch.setattr("rq_hf.modeling_rq_transformer.loss_block_elements", lambda device_type, num_classes: 2**18)
    path = tmp_path / "train.json"
    arguments = ["train", "--config", str(recipe), "--loss_batch_size", "8", "--rounds", "2", "--device", "cpu"]
    benchmark.main([*arguments, "--output", str(path)])
    results, printed = json.loads(path.read_text()), capsys.readouterr().out
    step, loss = ({row["name"]: row for row in results[name]} for name in ("step", "loss"))
    assert set(step) == {"naive loss", "rq_hf", "rq_hf, from pictures", "encoder alone"}
    assert step["naive loss"]["ratio"] == loss["naive loss"]["ratio"] == 1
    assert loss["rq_hf"]["loss"] == pytest.approx(loss["naive loss"]["loss"], rel=1e-5)
    assert step["rq_hf"]["loss"] == pytest.approx(step["naive loss"]["loss"], rel=0.1)
    assert "| rq_hf, from pictures |" in printed
    if loss["rq_hf"]["extra_mib"] is not None:
        logits = 8 * 8 * 8 * 4 * 512 * 4 / 2**20  # MiB
        assert loss["naive loss"]["extra_mib"] > 1.9 * logits
        assert loss["rq_hf"]["extra_mib"] < loss["naive loss"]["extra_mib"]


def test_sampling_is_measured_against_the_loop_without_cache(benchmark, recipe, tmp_path, capsys):
    path = tmp_path / "generate.json"
    arguments = ["generate", "--config", str(recipe), "--against", str(recipe), "--without_cache", "--top_k", "9"]
    precisions = ["--precisions", "fp32", "bf16"]
    arguments += ["--batch_sizes", "1", "2", *precisions, "--rounds", "1", "--device", "cpu", "--output", str(path)]
    benchmark.main(arguments)
    results, printed = json.loads(path.read_text()), capsys.readouterr().out
    for batch_size in (1, 2):
        rows = {row["name"]: row for row in results[f"batch of {batch_size}"]}
        assert set(rows) == {"rq_hf fp32", "rq_hf bf16", "without cache", "rqt fp32", "rqt bf16"}
        row = rows["rq_hf fp32"]
        assert row["faster"] == 1 and row["equal greedy codes"] == 1
        assert row["pictures/s"] == pytest.approx(batch_size / row["seconds"])
        limit = results[f"batch of {batch_size}, linear maps alone"][0]["seconds"]
        assert row["share of the limit"] == pytest.approx(limit / row["seconds"])
    assert "| without cache |" in printed


@pytest.mark.parametrize("kind", ["text", "class"])
def test_every_linear_map_of_sampling_is_counted(load_script, make_transformer, kind):
    sampling, model = load_script("benchmark_sampling"), make_transformer(kind)
    rows_seen: dict[torch.nn.Module, list[int]] = {}
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(
                lambda *arguments: rows_seen.setdefault(arguments[0], []).append(
                    arguments[1][0].numel() // arguments[0].in_features
                )
            )
    input_ids = torch.arange(2 * model.config.condition_length).view(2, -1) % model.config.vocab_size
    model.generate(input_ids)
    counted: dict[torch.nn.Module, list[int]] = {}
    for linears, rows, calls in sampling.linear_sequences(model, 2):
        for linear in linears:
            counted.setdefault(linear, []).extend([rows] * calls)
    assert {linear: sorted(rows) for linear, rows in counted.items()} == {
        linear: sorted(rows) for linear, rows in rows_seen.items()
    }


def test_pictures_are_decoded_alike_and_made_from_conditions(benchmark, recipe, tmp_path):
    path = tmp_path / "decode.json"
    arguments = ["decode", "--config", str(recipe.with_name("rqvae.json")), "--transformer", str(recipe)]
    benchmark.main([*arguments, "--batch_sizes", "2", "--rounds", "1", "--device", "cpu", "--output", str(path)])
    results = json.loads(path.read_text())
    assert {row["name"] for row in results["decode 2"]} == {"rq_hf", "rq_hf, channels_last", "rq_hf, sliced"}
    assert all(row["largest difference"] < 1e-5 for row in results["decode 2"])
    assert [row["name"] for row in results["conditions to pictures 2"]] == ["rq_hf fp32"]


def test_a_recipe_without_its_rqvae_is_refused(benchmark, recipe):
    with pytest.raises(ValueError, match="must name its RQ-VAE in `card`, or have"):
        benchmark.main(["train", "--config", str(recipe.with_name("rqvae.json"))])
    emoji = Path(__file__).resolve().parents[1] / "scripts" / "configs" / "emoji-rqt-8x8x3-15M.json"
    with pytest.raises(ValueError, match="must name its RQ-VAE in `card`, or have a `code_shape`, got neither"):
        benchmark.main(["generate", "--config", str(emoji), "--rounds", "1"])


def test_memory_is_that_of_the_call_alone(benchmark):
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of the memory is read from /proc")
    taken = benchmark.extra_memory(lambda: torch.ones(24 * 2**20 // 4).sum(), "cpu")
    assert 23 < taken < 30
    assert benchmark.extra_memory(lambda: torch.ones(1), "cpu") < 4
    kept = {}
    fill = lambda: kept or kept.update(ones=torch.ones(24 * 2**20 // 4))  # noqa: E731
    assert benchmark.extra_memory(fill, "cpu") < 4
    assert 23 < benchmark.extra_memory(fill, "cpu", release=kept.clear) < 30


def test_bad_arguments_are_refused(benchmark, tmp_path, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["quantizer", "--rounds", "0"])
    assert "`--rounds` must be at least 1, got 0." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        benchmark.main(["generate", "--batch_sizes", "4", "0"])
    assert "`--batch_sizes` must be at least 1, got [4, 0]." in capsys.readouterr().err
    with pytest.raises(ValueError, match="must be a checkout of the official code"):
        sizes = ["--num_vectors", "4", "--codebook_dim", "4", "--codebook_size", "4"]
        benchmark.main(["quantizer", *sizes, "--device", "cpu", "--official", str(tmp_path)])


def test_the_place_of_a_checkout_is_not_recorded(benchmark):
    expected = "python scripts/benchmark.py train --rounds 3 --official"
    assert benchmark.shown_command(["train", "--rounds", "3", "--official", "/x/y/"]) == f"{expected} PATH"
    assert benchmark.shown_command(["train", "--rounds", "3", "--official=/x/y"]) == f"{expected}=PATH"
