# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""scripts/benchmark.py: its tables hold every candidate with its ratio. No test asks for a speed."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "benchmark.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_memory_is_that_of_the_call_alone(benchmark):
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of the memory is read from /proc")
    taken = benchmark.extra_memory(lambda: torch.ones(24 * 2**20 // 4).sum(), "cpu")
    assert 23 < taken < 30
    assert benchmark.extra_memory(lambda: torch.ones(1), "cpu") < 4


def test_bad_arguments_are_refused(benchmark, tmp_path, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["quantizer", "--rounds", "0"])
    assert "`--rounds` must be at least 1, got 0." in capsys.readouterr().err
    with pytest.raises(ValueError, match="must be a checkout of the official code"):
        sizes = ["--num_vectors", "4", "--codebook_dim", "4", "--codebook_size", "4"]
        benchmark.main(["quantizer", *sizes, "--device", "cpu", "--official", str(tmp_path)])
