# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The likelihood of real codes is the loss of the model, and reports hold what was measured."""

import json

import pytest
import torch
from picture_sets import Pixels

from rq_hf.evaluation.generation import evaluate_likelihood
from rq_hf.evaluation.report import markdown_report, write_report

CONDITIONS = {"text": ["a red heart", "rocket"] * 4, "class": [0, "volcano"] * 4, "none": None}


@pytest.mark.parametrize("kind", CONDITIONS)
def test_likelihood_is_the_loss_of_the_model_whatever_the_batch_size(make_pipeline, pictures, tmp_path, kind):
    pipe, conditions = make_pipeline(kind), CONDITIONS[kind]
    results = evaluate_likelihood(pipe, Pixels(pictures), conditions, batch_size=3, output=tmp_path / "figures.json")
    input_ids = {
        "text": lambda: pipe.encode_prompt(conditions),
        "class": lambda: torch.tensor([0, 3] * 4)[:, None],
        "none": lambda: torch.zeros(8, 1, dtype=torch.long),
    }[kind]()
    codes = pipe.rqvae.encode(pictures)
    with torch.no_grad():
        output = pipe.transformer(input_ids, codes, labels=codes)
    assert results["num_pictures"] == 8
    assert results["metrics"]["loss"] == pytest.approx(output.image_loss.item(), rel=1e-5)
    by_depth = [results["metrics"][f"loss_depth_{depth}"] for depth in (1, 2, 3)]
    assert by_depth == pytest.approx(output.depth_losses.tolist(), rel=1e-5)
    assert json.loads((tmp_path / "figures.json").read_text()) == results


def test_reports_are_tables_of_the_metrics_and_of_every_list_of_rows(tmp_path):
    results = {"num_pictures": 2, "metrics": {"psnr": 28.60981}, "depths": [{"depth": 1, "psnr": 20.0}]}
    write_report(results, tmp_path / "new" / "results.json")
    assert json.loads((tmp_path / "new" / "results.json").read_text()) == results
    metrics = "| metric | value |\n| --- | --- |\n| psnr | 28.61 |"
    depths = "| depth | psnr |\n| --- | --- |\n| 1 | 20 |"
    assert markdown_report(results) == f"{metrics}\n\n{depths}"
    assert (tmp_path / "new" / "results.md").read_text() == f"{metrics}\n\n{depths}\n"
