# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Compiled sampling draws the codes of the loop as it is written. Slow: each program takes a compiler some seconds."""

import gc
import shutil
import threading
import time
import weakref

import pytest
import torch
from torch._inductor.fx_passes import mkldnn_fusion
from torch._inductor.utils import run_and_get_code
from transformers import CompileConfig, GenerationConfig

from rq_hf import sampling_steps

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU"),
]
COMPILED = CompileConfig(fullgraph=True, dynamic=False)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def conditions(model, batch_size: int = 3) -> torch.Tensor:
    config = model.config
    return torch.randint(config.vocab_size, (batch_size, config.condition_length), generator=seeded(9))


@pytest.fixture(autouse=True)
def no_programs():
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", ["text", "class", "none"])
def test_compiled_codes_equal_those_of_the_loop(make_transformer, kind):
    model = make_transformer(kind)
    input_ids, generators = conditions(model), lambda: [seeded(row) for row in range(3)]
    options = {"temperature": [0.9, 1.1, 1.0], "top_k": 20, "top_p": 0.9}
    expected = model.generate(input_ids, generator=generators(), **options)
    codes = model.generate(input_ids, generator=generators(), compile_config=COMPILED, **options)
    assert torch.equal(codes, expected) and codes.unique().numel() >= 4
    single = model.generate(input_ids[1:2], generator=seeded(1), compile_config=COMPILED, **options)
    assert torch.equal(single, expected[1:2])


def test_kernels_can_be_tried_for_the_products_of_the_model(make_transformer):
    model = make_transformer("text")
    expected = model.generate(conditions(model), generator=seeded(0), top_k=20)
    config = CompileConfig(mode="max-autotune", fullgraph=True, dynamic=False)
    codes = model.generate(conditions(model), generator=seeded(0), top_k=20, compile_config=config)
    assert torch.equal(codes, expected)
    programs = sampling_steps._programs[model][1]
    assert programs and all("'max_autotune': True" in key for key in programs)


def test_guidance_known_codes_and_callbacks_work_compiled(make_transformer):
    model = make_transformer("class", null_condition_ids=[0], shared_codebook=False)
    known = torch.randint(32, (1, *model.config.code_shape), generator=seeded(3))
    mask = torch.zeros(model.config.code_shape[:2], dtype=torch.bool)
    mask[0, 1] = True
    seen = []

    def callback(position, codes):
        seen.append(position)
        return torch.full_like(codes, 5) if position == 2 else None

    options = {"guidance_scale": 1.5, "known_codes": known, "known_mask": mask, "callback": callback}
    expected = model.generate(conditions(model), do_sample=False, **options)
    codes = model.generate(conditions(model), do_sample=False, compile_config=COMPILED, **options)
    assert torch.equal(codes, expected)
    assert len(seen) == 2 * model.config.num_positions


def test_hooks_that_interrupt_the_program_change_nothing(make_transformer):
    model = make_transformer("class")
    expected = model.generate(conditions(model), do_sample=False)
    seen = []
    model.code_head.register_forward_hook(lambda module, inputs, output: seen.append(output.max().item()))
    for _ in range(2):
        codes = model.generate(conditions(model), do_sample=False, compile_config=CompileConfig(fullgraph=False))
        assert torch.equal(codes, expected)
    assert len(seen) == 2 * model.config.num_positions * model.config.code_shape[2]


def test_state_of_weights_notices_changes_whatever_their_layout():
    module = torch.nn.Module()
    module.register_buffer("column", torch.randn(8, 3)[:, 0])
    module.register_buffer("expanded", torch.zeros(1).expand(8))
    module.register_buffer("odd", torch.randn(9)[1:8])
    module.register_buffer("small", torch.tensor([True, False, True]))
    module.halves = torch.nn.Parameter(torch.randn(4, 3).half())
    before = sampling_steps.weights_state(module)
    assert sampling_steps.weights_state(module) == before
    for name, tensor in [*module.named_buffers(), *module.named_parameters()]:
        kept = tensor.data.clone()
        tensor.data[-1] = ~tensor.data[-1] if tensor.dtype == torch.bool else tensor.data[-1] + 1
        assert sampling_steps.weights_state(module) != before, name
        tensor.data[-1] = kept[-1]


@pytest.mark.parametrize("way", ["copy", "data"])
def test_changed_weights_are_compiled_anew(make_transformer, way):
    model = make_transformer("class")
    settings = GenerationConfig(do_sample=False, compile_config=COMPILED)
    before = model.generate(conditions(model), generation_config=settings)
    for parameter in model.code_head.linear.parameters():
        flipped = parameter.detach().flip(0)
        if way == "copy":
            with torch.no_grad():
                parameter.copy_(flipped)
        else:
            parameter.data.copy_(flipped)  # as PEFT merges adapters: torch counts no change
    after = model.generate(conditions(model), generation_config=settings)
    assert torch.equal(after, model.generate(conditions(model), do_sample=False))
    assert not torch.equal(after, before)


def test_products_with_packed_weights_are_those_of_onednn(make_transformer):
    model = make_transformer("none")
    chosen = mkldnn_fusion._get_mkldnn_device_op
    _, code = run_and_get_code(model.generate, conditions(model, 4), do_sample=False, compile_config=COMPILED)
    assert "linear_pointwise" in code[0] and "mkl_linear" not in code[0]
    assert mkldnn_fusion._get_mkldnn_device_op is chosen


def test_threads_that_compile_at_once_leave_torch_as_it_was():
    chosen = mkldnn_fusion._get_mkldnn_device_op

    def compile_for(seconds: float) -> None:
        with sampling_steps.packed_by_onednn():
            time.sleep(seconds)

    threads = [threading.Thread(target=compile_for, args=(seconds,)) for seconds in (0.2, 0.4)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    assert mkldnn_fusion._get_mkldnn_device_op is chosen


def test_batch_sizes_and_settings_beyond_the_limit_replace_older_programs(make_transformer, monkeypatch):
    monkeypatch.setattr(sampling_steps, "MAX_PROGRAMS", 2)
    model = make_transformer("class")
    for _ in range(2):
        for batch_size in (1, 2, 3):
            expected = model.generate(conditions(model, batch_size), do_sample=False)
            codes = model.generate(conditions(model, batch_size), do_sample=False, compile_config=COMPILED)
            assert torch.equal(codes, expected)
    assert len(sampling_steps._programs[model][1]) == 2


def test_programs_go_with_their_weights_and_their_model(make_transformer):
    model = make_transformer("class")
    model.generate(conditions(model), do_sample=False, compile_config=COMPILED)
    programs = [weakref.ref(program) for program in sampling_steps._programs[model][1].values()]
    assert len(programs) == 1
    with torch.no_grad():
        model.code_head.linear.bias.add_(1)
    model.generate(conditions(model), do_sample=False, compile_config=COMPILED)
    gc.collect()
    assert [program() for program in programs] == [None]
    model = weakref.ref(model)
    gc.collect()
    assert model() is None
