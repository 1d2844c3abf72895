# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The likelihood of real codes is the loss of the model, and reports hold what was measured."""

import json

import pytest
import torch
from picture_sets import Pixels
from PIL import Image

from rq_hf.evaluation.generation import evaluate_likelihood
from rq_hf.evaluation.report import markdown_report, write_report
from rq_hf.files import write_whole


@pytest.mark.parametrize("kind", ["text", "class", "none"])
def test_likelihood_is_the_loss_of_the_model_whatever_the_batch_size(make_pipeline, pictures, tmp_path, kind):
    pipe, input_ids = make_pipeline(kind), None
    if kind == "text":
        input_ids = pipe.tokenizer(["a red heart", "rocket"] * 4, padding="max_length", return_tensors="pt").input_ids
    elif kind == "class":
        input_ids = torch.tensor([0, 3] * 4)[:, None]
    samples = list(Pixels(pictures))
    if input_ids is not None:
        with pytest.raises(ValueError, match="`samples` must hold the `input_ids` of a caption or class"):
            evaluate_likelihood(pipe, samples)
        samples = [sample | {"input_ids": ids} for sample, ids in zip(samples, input_ids, strict=True)]
    results = evaluate_likelihood(pipe, samples, batch_size=3, output=tmp_path / "results.json")
    codes = pipe.rqvae.encode(pictures)
    with torch.no_grad():
        ids = torch.zeros(8, 1, dtype=torch.long) if input_ids is None else input_ids
        output = pipe.transformer(ids, codes, labels=codes)
    assert results["num_pictures"] == 8
    assert results["metrics"]["loss"] == pytest.approx(output.image_loss.item(), rel=1e-5)
    by_depth = [results["metrics"][f"loss_depth_{depth}"] for depth in (1, 2, 3)]
    assert by_depth == pytest.approx(output.depth_losses.tolist(), rel=1e-5)
    assert json.loads((tmp_path / "results.json").read_text()) == results


def test_reports_are_tables_of_the_metrics_and_of_every_list_of_rows_or_leave_no_file(tmp_path):
    results = {"num_pictures": 2, "metrics": {"psnr": 28.60981}, "depths": [{"depth": 1, "psnr": 20.0}]}
    write_report(results, tmp_path / "new" / "results.json")
    assert json.loads((tmp_path / "new" / "results.json").read_text()) == results
    metrics = "| metric | value |\n| --- | --- |\n| psnr | 28.61 |"
    depths = "| depth | psnr |\n| --- | --- |\n| 1 | 20 |"
    assert markdown_report(results) == f"{metrics}\n\n{depths}"
    assert (tmp_path / "new" / "results.md").read_text() == f"{metrics}\n\n{depths}\n"
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match="cannot write mode HSV as PNG"):
        write_report(results, tmp_path / "empty" / "a.json", Image.new("HSV", (8, 8)))
    assert not any((tmp_path / "empty").iterdir())


def test_files_are_whole_or_absent(tmp_path):
    (tmp_path / "old").write_text("old")
    for name, error in (("old", OSError), ("new", OSError), ("old", KeyboardInterrupt), ("new", SystemExit)):
        with pytest.raises(error), write_whole(tmp_path / name) as unfinished:
            unfinished.write_text("half")
            raise error
    assert [path.name for path in tmp_path.iterdir()] == ["old"] and (tmp_path / "old").read_text() == "old"
