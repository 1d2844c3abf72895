# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Compiled sampling is the same step: equal codes, one program for all positions, reuse between calls."""

import copy

import pytest
import torch
from conftest import seeded
from transformers import CompileConfig

# Without a compiler: the graph that dynamo captures runs as it is.
CAPTURED = CompileConfig(backend="eager", mode=None, fullgraph=True, dynamic=False)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()


def conditions(model, batch_size: int = 2) -> torch.Tensor:
    config = model.config
    return torch.randint(config.vocab_size, (batch_size, config.condition_length), generator=seeded(9))


@pytest.mark.parametrize(
    "kind, attention, config",
    [
        ("text", "sdpa", CAPTURED),
        ("text", "eager", CAPTURED),
        ("class", "sdpa", CAPTURED),
        ("none", "eager", CAPTURED),
        pytest.param("text", "sdpa", CompileConfig(fullgraph=True, dynamic=False), marks=pytest.mark.slow),
    ],
)
def test_compiled_codes_equal_those_of_the_loop(make_transformer, kind, attention, config):
    model = make_transformer(kind, attn_implementation=attention)
    settings = dict(top_k=[20, 10, 5], top_p=0.9, temperature=0.8)
    plain = model.generate(conditions(model), generator=seeded(1), **settings)
    compiled = model.generate(conditions(model), generator=seeded(1), compile_config=config, **settings)
    assert torch.equal(plain, compiled)


def test_one_program_serves_all_positions_and_later_calls(make_transformer):
    programs = []

    def backend(graph, inputs):
        programs.append(graph)
        return graph.forward

    model, config = make_transformer("text"), CompileConfig(backend=backend, mode=None, fullgraph=True, dynamic=False)
    first = model.generate(conditions(model), generator=seeded(1), compile_config=config)
    second = model.generate(conditions(model), generator=seeded(1), compile_config=config)
    assert len(programs) == 1 and torch.equal(first, second)
    caches = model._compiled.caches
    for rows in (2, 1, 2):  # as the last batch of many candidates, which has fewer
        few = model.generate(conditions(model)[:rows], generator=[seeded(1), seeded(2)][:rows], compile_config=config)
        plain = model.generate(conditions(model)[:rows], generator=[seeded(1), seeded(2)][:rows])
        assert torch.equal(few, plain) and model._compiled.caches is caches
    assert len(programs) == 2
    model.generate(conditions(model, 3), compile_config=config)
    assert len(programs) == 3 and model._compiled.caches is not caches


def test_changed_weights_are_seen(make_transformer):
    model = make_transformer("class")
    codebook = model.codebook.weight.clone()
    model.set_codebook(codebook * torch.nan)
    with pytest.raises(ValueError, match="logits must be finite"):
        model.generate(conditions(model), compile_config=CAPTURED)
    model.set_codebook(codebook)
    before = model.generate(conditions(model), do_sample=False, compile_config=CAPTURED)
    with torch.no_grad():
        model.depth_decoder.head.linear.weight.neg_()
    after = model.generate(conditions(model), do_sample=False, compile_config=CAPTURED)
    assert torch.equal(after, model.generate(conditions(model), do_sample=False)) and not torch.equal(after, before)


@pytest.mark.parametrize("contextual", [False, True])
def test_a_copy_of_a_compiled_model_draws_with_its_own_weights(make_transformer, contextual):
    model = make_transformer("class", contextual=contextual)

    def codes(drawing, config=CAPTURED) -> torch.Tensor:
        return drawing.generate(conditions(model), generator=seeded(0), compile_config=config)

    drawn, copied = codes(model), copy.deepcopy(model)
    with torch.no_grad():
        copied.depth_decoder.head.linear.weight.neg_()
    assert torch.equal(codes(copied), codes(copied, None)) and not torch.equal(codes(copied), drawn)
    assert torch.equal(codes(model), drawn)


def test_guidance_known_codes_and_callbacks_work_compiled(make_transformer):
    model = make_transformer("text")
    plain = model.generate(conditions(model), generator=seeded(1))
    mask = torch.zeros(2, 3, dtype=torch.bool)
    mask[0] = True
    options = dict(guidance_scale=2.0, known_codes=plain.flip(0), known_mask=mask)

    def replace(position, codes):
        return codes.roll(1, dims=-1) if position == 4 else None

    results = [
        model.generate(conditions(model), generator=seeded(1), callback=replace, compile_config=config, **options)
        for config in (None, CAPTURED)
    ]
    assert torch.equal(*results)


@pytest.mark.parametrize("inference", [False, True])
def test_autocast_and_inference_mode_work_compiled(make_transformer, inference):
    with torch.inference_mode(inference), torch.autocast("cpu", torch.bfloat16):
        model = make_transformer("text")
        plain = model.generate(conditions(model), do_sample=False)
        assert torch.equal(model.generate(conditions(model), do_sample=False, compile_config=CAPTURED), plain)
