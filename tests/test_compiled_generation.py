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
import torch.nn.functional as F
from torch._inductor.codecache import CppCodeCache
from torch._inductor.fx_passes import mkldnn_fusion
from torch._inductor.utils import run_and_get_code
from transformers import CompileConfig, GenerationConfig

from rq_hf import cpu_draws, sampling_steps
from rq_hf.residual_quantizer import inverse_cdf_sample

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


@pytest.mark.parametrize("top_k", [1, 7, 100, None])
@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.9999, None])
def test_compiled_draws_are_those_of_pytorchs_operators(top_k, top_p):
    cpu_draws.compile_draws()
    assert cpu_draws.has_compiled_draws()
    generator = seeded(0)
    for size, spread, temperature in [(5, 1, 1.0), (100, 3, 0.7), (1023, 0.01, 1.0), (1024, 5, 0.1), (9000, 30, 2.0)]:
        logits = torch.randn(32, size, generator=generator) * spread
        logits[:8] = logits[:8].round(decimals=2)  # many ties
        logits[8:10] = logits[8:10, :1]  # nothing but ties
        logits[10:12, size // 2] = 1e30  # all others in one bin
        uniforms = torch.rand(32, generator=generator)
        uniforms[::7], uniforms[1::7] = 0.0, 1 - 2**-24
        filtered = sampling_steps.filter_logits(logits / temperature, top_k, top_p)
        expected = inverse_cdf_sample(filtered.softmax(-1), uniforms)
        kept = size if top_k is None else min(top_k, size)
        drawn = torch.ops.rq_hf.draw_codes(logits, uniforms, temperature, kept, 1.0 if top_p is None else top_p)
        differs = drawn != expected
        # Sums in another order: a draw that falls on the border of two codes, or a nucleus that ends there.
        assert differs.float().mean() <= 1 / 32, (size, spread)
        assert torch.equal(drawn[:4], expected[:4])


def test_compiled_draws_of_logits_that_are_not_finite_are_codes():
    cpu_draws.compile_draws()
    logits = torch.randn(6, 300, generator=seeded(0))
    logits[0, 7] = torch.nan
    logits[1, 7] = -torch.nan
    logits[2, 7], logits[3, 7], logits[4] = torch.inf, -torch.inf, torch.nan
    drawn = torch.ops.rq_hf.draw_codes(logits, torch.full((6,), 0.5), 1.0, 20, 0.9)
    assert 0 <= drawn.min() and drawn.max() < 300
    assert drawn[2] == 7


def test_draws_without_a_compiled_operator_are_pytorchs(make_transformer, monkeypatch):
    def fail(source: str):
        raise RuntimeError("no compiler for this")

    monkeypatch.setattr(CppCodeCache, "load", fail)
    monkeypatch.setattr(cpu_draws, "has_compiled_draws", lambda: False)
    monkeypatch.setattr(sampling_steps, "has_compiled_draws", lambda: False)
    monkeypatch.setattr(cpu_draws, "_draws_failed", False)
    model = make_transformer("class")
    expected = model.generate(conditions(model), generator=seeded(0), top_k=20)
    with pytest.warns(UserWarning, match="no compiler for this"):
        codes = model.generate(conditions(model), generator=seeded(0), top_k=20, compile_config=COMPILED)
    assert torch.equal(codes, expected)


def test_redrawn_codes_may_be_drawn_by_the_compiled_operator(make_transformer):
    model = make_transformer("text")
    model.generation_config.update(temperature=0.8, top_k=12, top_p=0.9)
    input_ids = conditions(model)
    codes = model.generate(input_ids, generator=seeded(0))
    expected = model.redraw_codes(input_ids, codes, seeded(1))
    with torch.no_grad(), torch.profiler.profile() as profile:
        assert torch.equal(model.redraw_codes(input_ids, codes, seeded(1), compiled_draws=True), expected)
    assert "rq_hf::draw_codes" in {event.key for event in profile.key_averages()}
    with torch.no_grad(), torch.profiler.profile() as profile:  # though the operator is there now
        assert torch.equal(model.redraw_codes(input_ids, codes, seeded(1)), expected)
    assert "rq_hf::draw_codes" not in {event.key for event in profile.key_averages()}
    with torch.autocast("cpu", torch.bfloat16):  # as in training
        rounded = model.redraw_codes(input_ids, codes, seeded(1), compiled_draws=True)
        assert torch.equal(rounded, model.redraw_codes(input_ids, codes, seeded(1)))


def test_conditions_of_compiled_sampling_are_read_by_onednn():
    inputs, weight, bias = torch.randn(2, 40, 16), torch.randn(24, 16), torch.randn(24)

    def operators(*arguments: torch.Tensor) -> tuple[torch.Tensor, set[str]]:
        with torch.no_grad(), torch.profiler.profile() as profile, sampling_steps.ProductsByOneDNN():
            output = F.linear(*arguments)
        return output, {event.key for event in profile.key_averages()}

    for arguments in [(inputs, weight, bias), (inputs, weight)]:
        output, names = operators(*arguments)
        torch.testing.assert_close(output, F.linear(*arguments), rtol=0, atol=1e-5)
        assert "mkldnn::_linear_pointwise" in names
    output, names = operators(inputs.double(), weight.double())
    assert "mkldnn::_linear_pointwise" not in names and output.dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert operators(inputs, weight)[0].dtype == torch.bfloat16


def test_guards_are_evaluated_once_a_call(make_transformer, monkeypatch):
    made = []

    def recorded(program):
        made.append(left_out(program))
        assert made[-1] is not program
        return made[-1]

    left_out = sampling_steps.without_guards
    monkeypatch.setattr(sampling_steps, "without_guards", recorded)
    model = make_transformer("class")
    expected = model.generate(conditions(model), do_sample=False)
    for count in (1, 2):
        codes = model.generate(conditions(model), do_sample=False, compile_config=COMPILED)
        assert torch.equal(codes, expected) and len(made) == count


def test_caches_are_used_again_and_change_nothing(make_transformer):
    model = make_transformer("text")

    def address() -> int:
        return sampling_steps._caches[model][0].keys.data_ptr()

    options = {"do_sample": False, "compile_config": COMPILED}
    expected = [model.generate(each, do_sample=False) for each in (conditions(model), conditions(model).flip(1))]
    assert torch.equal(model.generate(conditions(model), **options), expected[0])
    first = address()
    with torch.no_grad():
        assert torch.equal(model.generate(conditions(model).flip(1), **options), expected[1])
    assert address() == first
    with torch.inference_mode():  # its tensors cannot be written to outside, nor those of outside kept in it
        assert torch.equal(model.generate(conditions(model), **options), expected[0])
    assert torch.equal(model.generate(conditions(model), **options), expected[0])
    assert torch.equal(model.generate(conditions(model, 2), **options), expected[0][:2])
    assert sampling_steps._caches[model][0].keys.shape[0] == 2
    for rows in ([0, 1], [1, 1], [1, 0]):  # equal conditions are read once, into caches of other ones
        assert torch.equal(model.generate(conditions(model)[rows], **options), expected[0][rows])
    with torch.no_grad():
        model.code_head.linear.bias[0] = torch.nan
    with pytest.raises(ValueError, match="must be finite"):
        model.generate(conditions(model, 2), **options)
    assert model not in sampling_steps._caches


def test_a_function_of_several_programs_keeps_its_guards():
    program = torch.compile(lambda x: x + 1, backend="eager", dynamic=False)
    assert sampling_steps.without_guards(program) is program  # none yet
    program(torch.zeros(2))
    assert sampling_steps.without_guards(program)(torch.zeros(2)).tolist() == [1.0, 1.0]
    program(torch.zeros(3))
    assert sampling_steps.without_guards(program) is program
    assert sampling_steps.without_guards(len) is len


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
