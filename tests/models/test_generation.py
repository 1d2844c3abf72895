# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Sampling of code maps: equal to teacher forcing, filters, randomness, guidance, known codes, callbacks, errors."""

import json
import logging

import pytest
import torch
from conftest import seeded
from transformers import CompileConfig, GenerationConfig, LogitsProcessorList, TopKLogitsWarper, TopPLogitsWarper

from rq_hf import RQGenerationConfig, RQTransformerForImageGeneration
from rq_hf.models.sampling import filter_logits

SIZE, SHAPE = 32, (2, 3, 3)  # K and (H, W, D) of the tiny models
LONG = torch.zeros(2, 1, dtype=torch.long)
KNOWN = torch.zeros(1, *SHAPE, dtype=torch.long)


def conditions(model, batch_size: int = 2) -> torch.Tensor:
    config = model.config
    return torch.randint(config.vocab_size, (batch_size, config.condition_length), generator=seeded(9))


def embeds(batch_size: int = 2) -> torch.Tensor:
    """Vectors of a text encoder, with zeros after the second place of the first row."""
    values = torch.randn(batch_size, 4, 5, generator=seeded(9))
    values[0, 2:] = 0
    return values


def record_logits(model) -> list[torch.Tensor]:
    """A list that the logits of every following draw are appended to, `(B, K)` each."""
    recorded = []
    model.depth_decoder.head.register_forward_hook(lambda *arguments: recorded.append(arguments[2][:, 0].float()))
    return recorded


def support(logits: torch.Tensor) -> torch.Tensor:
    return logits > float("-inf")


@pytest.mark.parametrize("kind", ["text", "embeds", "class", "none"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_cached_generation_equals_teacher_forcing(make_transformer, kind, shared, attention):
    model = make_transformer(kind, shared_codebook=shared, attn_implementation=attention)
    condition = {"prompt_embeds": embeds(3)} if kind == "embeds" else {"input_ids": conditions(model, 3)}
    recorded = record_logits(model)
    codes = model.generate(**condition, do_sample=False)
    cached = torch.stack(recorded, dim=1).view(3, *SHAPE, SIZE)
    logits = model(codes=codes, **condition).logits
    assert torch.equal(codes, logits.argmax(-1)) and codes.unique().numel() >= 4
    torch.testing.assert_close(cached, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["text", "class", "none"])
def test_redrawn_codes_are_those_that_generation_draws_after_the_given_ones(make_transformer, kind):
    model, settings = make_transformer(kind), dict(temperature=[1.0, 0.5, 0.7], top_k=8, top_p=0.9)
    model.generation_config.update(do_sample=False, temperature=0.1, guidance_scale=3.0)  # which it does not read
    input_ids = conditions(model, 1)
    codes = torch.randint(SIZE, (1, *SHAPE), generator=seeded(1))
    redrawn = model.redraw_codes(codes, RQGenerationConfig(**settings), seeded(2), input_ids=input_ids)
    assert redrawn.shape == codes.shape and (redrawn != codes).any()
    for row in range(SHAPE[0]):
        for column in range(SHAPE[1]):
            known = torch.ones(SHAPE, dtype=torch.bool)
            known[row, column] = False
            drawn = model.generate(
                input_ids, do_sample=True, known_codes=codes, known_mask=known, generator=seeded(2),
                guidance_scale=1.0, **settings,
            )  # fmt: skip
            assert torch.equal(drawn[:, row, column], redrawn[:, row, column])


def test_generation_leaves_nothing_on_the_model_and_makes_no_graph(tiny_transformer):
    before = {name: set(vars(module)) for name, module in tiny_transformer.named_modules()}
    recorded = record_logits(tiny_transformer)
    tiny_transformer.generate(conditions(tiny_transformer))
    assert {name: set(vars(module)) for name, module in tiny_transformer.named_modules()} == before
    assert not any(logits.requires_grad for logits in recorded)


def test_equal_generators_give_equal_codes_and_with_one_per_picture_a_batch_equals_its_singles(tiny_transformer):
    input_ids = conditions(tiny_transformer, 3)
    state = torch.get_rng_state()
    first, second, other = (tiny_transformer.generate(input_ids, generator=seeded(seed)) for seed in (1, 1, 2))
    together = tiny_transformer.generate(input_ids, generator=[seeded(5), seeded(6), seeded(7)])
    assert torch.equal(first, second) and not torch.equal(first, other)
    for index, seed in enumerate((5, 6, 7)):
        single = tiny_transformer.generate(input_ids[index : index + 1], generator=seeded(seed))
        assert torch.equal(together[index : index + 1], single)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(tiny_transformer.generate(input_ids), tiny_transformer.generate(input_ids))


def test_draws_are_as_frequent_as_the_filtered_probabilities(make_transformer):
    model = make_transformer("none", code_shape=(1, 1, 2), initializer_range=0.1)
    count, temperature, top_k, top_p = 20000, [0.7, 3.0], [12, 0], [1.0, 0.5]
    recorded, input_ids = record_logits(model), torch.zeros(count, 1, dtype=torch.long)
    settings = dict(temperature=temperature, top_k=top_k, top_p=top_p)
    codes = model.generate(input_ids, generator=seeded(3), **settings).view(count, 2)
    first = codes[:, 0].mode().values
    for depth, drawn in enumerate((codes[:, 0], codes[codes[:, 0] == first, 1])):
        row = 0 if depth == 0 else int((codes[:, 0] == first).nonzero()[0])
        logits = recorded[depth][row : row + 1] / temperature[depth]
        filtered = filter_logits(logits, top_k[depth], top_p[depth])[0]
        probabilities = filtered.softmax(-1)
        frequencies = torch.bincount(drawn, minlength=SIZE) / len(drawn)
        deviation = (probabilities * (1 - probabilities) / len(drawn)).sqrt()
        assert ((frequencies - probabilities).abs() <= 4.5 * deviation).all()
        assert torch.equal(frequencies > 0, support(filtered)) and support(filtered).sum() < SIZE


@pytest.mark.parametrize("top_k", [0, 1, 3, 10, 40, 100])
@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.9, 0.999, 1.0])
def test_filters_keep_what_the_librarys_keep(top_k, top_p):
    logits = torch.randn(64, 40, dtype=torch.float64) * torch.linspace(0.1, 5, 64, dtype=torch.float64)[:, None]
    tied = logits.mul(2).round()  # few values
    for values in (logits, tied):
        expected = values.clone()
        if top_k:
            expected = TopKLogitsWarper(top_k=top_k)(None, expected)
        if top_p < 1:
            expected = TopPLogitsWarper(top_p=top_p)(None, expected)
        smallest = expected.masked_fill(~support(expected), float("inf")).amin(-1, keepdim=True)
        filtered = filter_logits(values, top_k, top_p)
        assert torch.equal(support(filtered), values >= smallest)  # what ties with the last kept one stays too
        assert torch.equal(filtered[support(filtered)], values[support(filtered)])
        if values is logits:
            assert torch.equal(filtered, expected)


def test_a_low_temperature_and_a_small_nucleus_are_greedy(tiny_transformer):
    input_ids = conditions(tiny_transformer)
    greedy = tiny_transformer.generate(input_ids, do_sample=False)
    coldest = [dict(temperature=temperature) for temperature in (1e-4, 1e-40)]
    for settings in (*coldest, dict(top_k=1), *(dict(top_p=top_p) for top_p in (1e-40, 1e-46, 5e-324))):
        assert torch.equal(tiny_transformer.generate(input_ids, **settings), greedy), settings
    assert not torch.equal(tiny_transformer.generate(input_ids, temperature=5.0), greedy)


@pytest.mark.parametrize("mask_shape", [SHAPE[:2], SHAPE, (1, *SHAPE), (3, *SHAPE)])
def test_known_codes_stay_and_the_others_follow_from_them(tiny_transformer, mask_shape):
    input_ids, known = conditions(tiny_transformer, 3), torch.randint(SIZE, (3, *SHAPE))
    mask = torch.rand(mask_shape) < 0.4
    codes = tiny_transformer.generate(input_ids, do_sample=False, known_codes=known, known_mask=mask)
    full = (mask[..., None] if mask.ndim == 2 else mask).expand_as(codes)
    assert 0 < full.sum() < full.numel()
    expected = tiny_transformer(input_ids, codes).logits.argmax(-1)
    assert torch.equal(codes, torch.where(full, known, expected))
    assert not torch.equal(codes, torch.where(full, known, tiny_transformer.generate(input_ids, do_sample=False)))


@pytest.mark.parametrize("kind", ["text", "class"])
def test_guidance_is_its_formula(make_transformer, kind):
    model = make_transformer(kind)
    input_ids, recorded = conditions(model), record_logits(model)
    null = torch.tensor([model.config.null_condition_ids]).expand_as(input_ids)
    negative = (input_ids + 1) % model.config.vocab_size
    for options, other in (({}, null), ({"negative_input_ids": negative}, negative)):
        for scale in (0.0, 0.5, 3):
            recorded.clear()
            codes = model.generate(input_ids, do_sample=False, guidance_scale=scale, **options)
            seen = torch.stack(recorded, dim=1).view(4, *SHAPE, SIZE)
            conditional, null_logits = model(input_ids, codes).logits, model(other, codes).logits
            torch.testing.assert_close(seen, torch.cat([conditional, null_logits]), rtol=1e-5, atol=1e-5)
            assert torch.equal(codes, (null_logits + scale * (conditional - null_logits)).argmax(-1))


@pytest.mark.parametrize("answer", [lambda _: None, lambda codes: codes, torch.clone])
def test_the_callback_sees_every_position_in_order_and_changes_nothing_by_itself(tiny_transformer, answer):
    input_ids, seen = conditions(tiny_transformer), []

    def look(position, codes):
        seen.append((position, codes.clone()))
        return answer(codes)

    codes = tiny_transformer.generate(input_ids, generator=seeded(4), callback=look)
    assert torch.equal(codes, tiny_transformer.generate(input_ids, generator=seeded(4)))
    assert [position for position, _ in seen] == list(range(6))
    for position, so_far in seen:
        assert so_far.shape == (2, *SHAPE)
        flat, final = so_far.flatten(1, 2), codes.flatten(1, 2)
        assert torch.equal(flat[:, : position + 1], final[:, : position + 1]) and not flat[:, position + 1 :].any()


def test_the_callback_may_replace_codes_that_the_rest_follows(tiny_transformer):
    input_ids = conditions(tiny_transformer)

    def replace(position, codes):
        if position == 2:
            codes = codes.clone()
            codes[:, 0, 2] = torch.tensor([7, 0, 31])
            return codes

    codes = tiny_transformer.generate(input_ids, do_sample=False, callback=replace)
    assert (codes[:, 0, 2] == torch.tensor([7, 0, 31])).all()
    expected = tiny_transformer(input_ids, codes).logits.argmax(-1)
    assert torch.equal(codes[:, 1], expected[:, 1]) and torch.equal(codes[:, 0, :2], expected[:, 0, :2])
    assert not torch.equal(codes[:, 1], tiny_transformer.generate(input_ids, do_sample=False)[:, 1])


@pytest.mark.parametrize("compiled", [None, CompileConfig(backend="eager", mode=None)], ids=["plain", "compiled"])
@pytest.mark.parametrize("kind", ["text", "class"])
def test_known_beginnings_are_read_at_once_and_change_nothing_in_fp32(make_transformer, kind, compiled):
    model = make_transformer(kind)
    input_ids = conditions(model)
    whole = model.generate(input_ids, generator=seeded(4))
    calls = []
    model.depth_decoder.head.register_forward_hook(lambda *_: calls.append(1))
    for rows, guidance in (([0, 1], 1.0), ([0, 0], 2.0)):
        free = model.generate(input_ids[rows], generator=seeded(4), guidance_scale=guidance)
        for known in (1, 3, 5, 6):
            mask = torch.arange(6).view(SHAPE[:2]) < known
            calls.clear()
            codes = model.generate(
                input_ids[rows], known_codes=free, known_mask=mask, generator=seeded(4), guidance_scale=guidance,
                compile_config=compiled,
            )  # fmt: skip
            assert torch.equal(codes, free)
            assert compiled or len(calls) == (6 - known) * SHAPE[2]
    seen, mask = [], torch.tensor([[True, True, False], [False] * 3])
    model.generate(
        input_ids, known_codes=whole, known_mask=mask, compile_config=compiled,
        callback=lambda position, _: seen.append(position),
    )  # fmt: skip
    assert seen == [2, 3, 4, 5]


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_logits_processors_see_the_codes_so_far_and_change_the_logits(make_transformer, guidance_scale):
    model, seen = make_transformer("class"), []

    def forbid_what_was_drawn(codes, logits):
        seen.append(codes)
        return logits.scatter(1, codes, float("-inf"))

    codes = model.generate(
        conditions(model), generator=seeded(4), guidance_scale=guidance_scale,
        logits_processor=LogitsProcessorList([forbid_what_was_drawn]),
    ).flatten(1)  # fmt: skip
    assert all(len(row.unique()) == codes.shape[1] for row in codes)
    assert all(torch.equal(before, codes[:, :count]) for count, before in enumerate(seen))
    assert len(seen) == codes.shape[1]


def test_unused_settings_are_warned_about(make_transformer, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model = make_transformer("text")
    settings = GenerationConfig(do_sample=True, temperature=[1.0, 0.5, 0.5], num_return_sequences=4, min_p=0.1)
    model.generate(conditions(model), generation_config=settings)
    assert "does not use these generation settings: min_p, num_return_sequences" in caplog.text


def test_conditions_and_codes_may_be_small_integers(tiny_transformer):
    input_ids = conditions(tiny_transformer)
    expected = tiny_transformer.generate(input_ids, generator=seeded(0))
    for dtype in (torch.uint8, torch.uint16):
        assert torch.equal(tiny_transformer.generate(input_ids, known_codes=expected.to(dtype)), expected)
        assert torch.equal(tiny_transformer.generate(input_ids.to(dtype), generator=seeded(0)), expected)
    with pytest.raises(ValueError, match=r"`known_codes` must be integers in \[0, 32\), got values from 3[2-9]"):
        tiny_transformer.generate(input_ids, known_codes=(expected + SIZE).to(torch.uint16))


def test_settings_are_refused_without_drawing(make_transformer):
    model = make_transformer("class", null_condition_ids=None)
    settings = model.settings_of_call(temperature=[1.0, 0.5, 0.5], top_k=torch.tensor(3), guidance_scale=None)
    assert settings.to_settings() == {"temperature": [1.0, 0.5, 0.5], "top_k": 3}
    for settings, match in (
        ({"temperature": 0}, "`temperature` must be greater than 0 .*, got 0"),
        ({"top_p": 1.5}, r"`top_p` must be in \(0, 1\], got 1.5"),
        ({"top_k": [1.5] * 3}, r"`top_k` must be an integer of at least 0; 0 keeps all codes, got \[1.5, 1.5, 1.5\]"),
        ({"top_k": [5, 5]}, r"`top_k` must be a number or a list of one per depth \(3\), got \[5, 5\]"),
        ({"guidance_scale": -0.5}, "`guidance_scale` must be .*at least 0, got -0.5"),
        ({"do_sample": 1}, "`do_sample` must be True or False, got 1"),
        ({"temprature": 1}, "There is no setting `temprature`; the closest one is `temperature`"),
        ({"num_draft_steps": 8}, "RQTransformerForImageGeneration has no setting `num_draft_steps`, got 8"),
        ({"generation_config": 3}, "`generation_config` must be a GenerationConfig, got 3"),
    ):
        for call in (model.settings_of_call, lambda **settings: model.generate(LONG, **settings)):
            with pytest.raises(ValueError, match=match):
                call(**settings)
    with pytest.raises(ValueError, match="needs a negative prompt .*, or a model trained .*`null_condition_ids`"):
        model.generate(LONG, guidance_scale=2.0)
    assert model.generate(LONG, guidance_scale=2.0, negative_input_ids=LONG + 1).shape == (2, *SHAPE)


def test_the_generation_config_is_saved_and_loaded_and_gives_the_defaults(make_transformer, tmp_path):
    model = make_transformer("class")
    input_ids = conditions(model)
    sampled = model.generate(input_ids, generator=seeded(1))
    settings = dict(temperature=[0.5, 1.0, 2.0], top_k=[1, 4, 8], top_p=0.9, guidance_scale=1.5)
    explicit = model.generate(input_ids, generator=seeded(1), **settings)
    assert not torch.equal(sampled, explicit)
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert saved == settings | {"transformers_version": saved["transformers_version"]}  # what differs from defaults
    loaded = RQTransformerForImageGeneration.from_pretrained(tmp_path)
    assert isinstance(loaded.generation_config, RQGenerationConfig)
    assert torch.equal(loaded.generate(input_ids, generator=seeded(1)), explicit)
    off = dict(temperature=1.0, top_k=0, top_p=1.0, guidance_scale=1.0)
    assert torch.equal(loaded.generate(input_ids, generator=seeded(1), **off), sampled)  # an argument wins
    other = GenerationConfig(do_sample=True)
    assert torch.equal(loaded.generate(input_ids, generator=seeded(1), generation_config=other), sampled)
    greedy = loaded.generate(input_ids, generation_config=GenerationConfig(do_sample=False))
    assert torch.equal(greedy, model.generate(input_ids, do_sample=False, guidance_scale=1.0))


def test_half_precision_and_autocast_generate(make_transformer):
    model = make_transformer()
    input_ids = conditions(model)
    with torch.autocast("cpu", torch.bfloat16):
        recorded = record_logits(model)
        codes = model.generate(input_ids, generator=seeded(0))
        cached = torch.stack(recorded, dim=1).view(2, *SHAPE, SIZE)
        logits = model(input_ids, codes).logits
    torch.testing.assert_close(cached, logits.float(), rtol=0.05, atol=0.2)
    for dtype in (torch.bfloat16, torch.float16):
        assert model.to(dtype).generate(input_ids).shape == (2, *SHAPE)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_an_error(tiny_transformer, value):
    with torch.no_grad():
        tiny_transformer.depth_decoder.head.linear.bias[3] = value
    for do_sample in (True, False):
        with pytest.raises(ValueError, match="logits must be finite, got NaN or infinity"):
            tiny_transformer.generate(conditions(tiny_transformer), do_sample=do_sample)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(top_k=-1), "`top_k` must be an integer of at least 0; 0 keeps all codes, got -1"),
        (dict(top_p=0.0), r"`top_p` must be in \(0, 1\], got 0.0"),
        (dict(temperature="hot"), "`temperature` must be greater than 0 .*, got 'hot'"),
        (dict(guidance_scale=float("nan")), "`guidance_scale` must be .*at least 0, got nan"),
        (dict(negative_input_ids=LONG + 9, guidance_scale=2.0), r"`negative_input_ids` must be integers in \[0, 5\)"),
        (dict(negative_input_ids=LONG[[0, 0, 1]], guidance_scale=2.0), r"must have .* \(2, 1\), got \(3, 1\)"),
        (dict(generator=[torch.Generator()]), r"`generator` must be one or a list of 2, got 1"),
        (dict(generator=42), "`generator` must be .*got 42"),
        (dict(known_mask=torch.ones(2, 3, dtype=torch.bool)), "`known_mask` needs `known_codes`"),
        (dict(known_codes=KNOWN[..., :2]), r"`known_codes` must .* or \(2, 2, 3, 3\), got \(1, 2, 3, 2\)"),
        (dict(known_codes=KNOWN.expand(3, *SHAPE)), r"`known_codes` must have shape .*got \(3, 2, 3, 3\)"),
        (dict(known_codes=KNOWN + SIZE), r"`known_codes` must be integers in \[0, 32\)"),
        (dict(known_codes=KNOWN.tolist()), "`known_codes` must be a tensor, got list"),
        (dict(compile_config={"fullgraph": True}), "`compile_config` must be a CompileConfig, got {'fullgraph'"),
        (dict(known_codes=KNOWN, known_mask=KNOWN), "`known_mask` must be a bool tensor, got torch.int64"),
        (dict(known_codes=KNOWN, known_mask=KNOWN[0, :, :2, 0] == 0), r"`known_mask` must have shape .*got \("),
        (dict(callback=lambda position, codes: codes[:, :1]), r"callback.* must have shape \(2, 2, 3, 3\), got"),
        (dict(callback=lambda position, codes: codes / 2), r"callback.* integers in \[0, 32\), got torch.float"),
    ],
)
def test_bad_settings_are_refused(make_transformer, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_transformer("class").generate(LONG, **arguments)


def test_guidance_of_vectors_leads_away_from_the_null_vector(make_transformer):
    model, zeros = make_transformer("embeds"), torch.zeros(1, 4, 5)
    guided, again = (
        model.generate(prompt_embeds=embeds(), guidance_scale=3.0, generator=seeded(1), **negative)
        for negative in ({}, {"negative_prompt_embeds": zeros})
    )
    assert torch.equal(guided, again)
    null = model.condition_positions(model.condition_projection.null.expand(1, 4, -1))
    assert torch.equal(model.condition_states(prompt_embeds=zeros), null)
    likelihoods = model.log_likelihood(codes=guided, prompt_embeds=embeds())
    assert likelihoods.shape == (2,) and (likelihoods < 0).all()


@pytest.mark.parametrize(
    "kind, name, value, message",
    [
        ("text", "input_ids", torch.zeros(2, 5, dtype=torch.long), r"have shape \(batch_size, 6\), got \(2, 5\)"),
        ("text", "input_ids", torch.zeros(0, 6, dtype=torch.long), r"have shape \(batch_size, 6\), got \(0, 6\)"),
        ("text", "input_ids", torch.zeros(2, 6, dtype=torch.bool), r"be integers in \[0, 80\), got torch.bool"),
        ("text", "input_ids", torch.full((2, 6), 80), r"be integers in \[0, 80\), got values from 80 to 80"),
        ("text", "input_ids", torch.full((2, 6), -1), r"be integers in \[0, 80\), got values from -1"),
        ("text", "prompt_embeds", torch.zeros(1, 6, 5), r"have shape \(batch_size, 6, 32\), got \(1, 6, 5\)"),
        ("embeds", "input_ids", torch.zeros(1, 4, dtype=torch.long), "be None"),
        ("embeds", "prompt_embeds", torch.zeros(1, 4, 6), r"have shape \(batch_size, 4, 5\)"),
        ("embeds", "prompt_embeds", torch.full((1, 4, 5), float("nan")), "be finite"),
    ],
)
def test_bad_conditions_are_refused(make_transformer, kind, name, value, message):
    with pytest.raises(ValueError, match=f"`{name}` must {message}"):
        make_transformer(kind).generate(**{name: value})


@pytest.mark.parametrize("contextual", [False, True])
@pytest.mark.parametrize("kind", ["text", "class"])
def test_vectors_of_ids_are_taken_in_place_of_the_ids(make_transformer, kind, contextual):
    model = make_transformer(kind, contextual=contextual)
    input_ids, codes = conditions(model), KNOWN.expand(2, *SHAPE)
    prompt_embeds = model.embed_ids(input_ids)
    null = torch.tensor([model.config.null_condition_ids])
    drawn = [
        model.generate(**condition, guidance_scale=2.0, generator=seeded(1), **negative)
        for condition in ({"input_ids": input_ids}, {"prompt_embeds": prompt_embeds})
        for negative in ({}, {"negative_input_ids": null}, {"negative_prompt_embeds": model.null_embeds()})
    ]
    assert all(torch.equal(each, drawn[0]) for each in drawn)
    for method in (
        lambda **given: model(codes=codes, **given).logits,
        lambda **given: model.log_likelihood(codes=codes, **given),
    ):
        assert torch.equal(method(input_ids=input_ids), method(prompt_embeds=prompt_embeds))
    for given, got in (({}, "neither"), ({"input_ids": input_ids, "prompt_embeds": prompt_embeds}, "both")):
        for call in (model.generate, lambda **given: model(codes=codes, **given)):
            with pytest.raises(ValueError, match=f"One of `input_ids` and `prompt_embeds` must be given, got {got}"):
                call(**given)


def test_a_negative_prompt_without_guidance_is_not_used(tiny_transformer):
    input_ids = conditions(tiny_transformer)
    plain, other = (
        tiny_transformer.generate(input_ids, generator=seeded(1), **negative)
        for negative in ({}, {"negative_input_ids": input_ids})
    )
    assert torch.equal(plain, other)
