# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""transformers' own model tests pass on both models, and so does what the skipped ones among them are about."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers_suite import TESTERS

from rq_hf import RQTransformerForImageGeneration, RQVAEModel

RUNNER = Path(__file__).parents[1] / "transformers_suite.py"
# Tests that pass with transformers 5.24, less a few that other versions may lack.
LEAST_PASSED = {"RQVAEModel": 55, "RQTransformerForImageGeneration": 60}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Outcome of each of transformers' tests, and the runner's summary."""
    report = tmp_path_factory.mktemp("transformers") / "report.json"
    command = [sys.executable, str(RUNNER), "--report", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if not report.exists():
        pytest.fail(f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stderr}", pytrace=False)
    return json.loads(report.read_text(encoding="utf-8")), done.stdout


def make_model(model_class, **options):
    torch.manual_seed(0)
    config, inputs = TESTERS[model_class].prepare_config_and_inputs_for_common()
    return model_class._from_config(config, **options), inputs


def test_reasons_of_skips_are_printed(outcomes, record_property):
    tests, summary = outcomes
    record_property("printed at the end", summary)
    reasons = {outcome.split(": ", 1)[1] for model in tests.values() for outcome in model.values() if ": " in outcome}
    assert reasons and all(reason.strip() and reason in summary for reason in reasons)


@pytest.mark.parametrize("model", LEAST_PASSED)
def test_transformers_own_tests_pass(outcomes, model):
    tests = outcomes[0][model]
    failed = [f"{name} {outcome}" for name, outcome in tests.items() if outcome.startswith("failed")]
    assert not failed, "\n".join(failed)
    assert list(tests.values()).count("passed") >= LEAST_PASSED[model]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 5e-3), (torch.bfloat16, 1e-2)], ids=str)
def test_eager_attention_matches_sdpa_in_half_precision(dtype, tolerance):
    sdpa, inputs = make_model(RQTransformerForImageGeneration, dtype=dtype, attn_implementation="sdpa")
    eager = copy.deepcopy(sdpa)
    eager.set_attn_implementation("eager")
    assert (sdpa.config._attn_implementation, eager.config._attn_implementation) == ("sdpa", "eager")
    with torch.no_grad():
        expected, actual = sdpa.eval()(**inputs), eager.eval()(**inputs)
    assert expected.logits.dtype == dtype
    torch.testing.assert_close(actual.logits, expected.logits, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(actual.text_logits, expected.text_logits, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("model_class", TESTERS, ids=lambda model_class: model_class.__name__)
def test_tuple_holds_the_fields_of_the_output_in_order(model_class):
    model, inputs = make_model(model_class)
    if "codes" in inputs:
        inputs["labels"] = inputs["codes"]
    with torch.no_grad():
        fields, values = model.eval()(**inputs).to_tuple(), model(**inputs, return_dict=False)
    assert len(fields) == len(values) == (6 if "codes" in inputs else 5)
    assert all(torch.equal(field, value) for field, value in zip(fields, values, strict=True))


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_(en|dis)able. is deprecated:FutureWarning")
def test_rqvae_gradients_are_the_same_with_reentrant_checkpointing():
    model, inputs = make_model(RQVAEModel)
    block_runs = []
    model.encoder.down_blocks[0].register_forward_pre_hook(lambda *_: block_runs.append("run"))

    def gradients():
        model.train().zero_grad()
        model(**inputs).loss.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    expected = gradients()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    torch.testing.assert_close(gradients(), expected)
    assert len(block_runs) == 1 + 2, "the backward pass runs a checkpointed block again"
    model.gradient_checkpointing_disable()
    torch.testing.assert_close(gradients(), expected)
    assert len(block_runs) == 1 + 2 + 1
