# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The Contextual RQ-Transformer: what is masked cannot be seen, partitions, Draft-and-Revise, losses."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import seeded
from transformers import CompileConfig

from rq_hf import ContextualRQTransformerForImageGeneration, RQGenerationConfig
from rq_hf.models.generation_masked import balanced_partition

SHAPE, SIZE = (2, 3, 3), 32  # of the tiny models


@pytest.fixture(params=["text", "embeds", "class", "none"])
def model_and_condition(request, make_transformer):
    model = make_transformer(request.param, contextual=True, initializer_range=0.2)
    return model, make_condition(model, 2)


def make_condition(model, count: int) -> dict[str, torch.Tensor]:
    config = model.config
    if config.condition_dim is not None:
        values = torch.randn(count, config.condition_length, config.condition_dim, generator=seeded(9))
        values[0, 2:] = 0
        return {"prompt_embeds": values}
    return {"input_ids": torch.randint(config.vocab_size, (count, config.condition_length), generator=seeded(9))}


def make_codes(count: int = 2, shape=SHAPE) -> torch.Tensor:
    return torch.randint(SIZE, (count, *shape), generator=seeded(1))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_hidden_codes_change_no_logit_and_visible_ones_change_those_of_all_positions(make_transformer, attention):
    model = make_transformer("text", contextual=True, attn_implementation=attention, initializer_range=0.2)
    condition, codes = make_condition(model, 1), make_codes(1)
    mask = torch.zeros(1, *SHAPE[:2], dtype=torch.bool)
    mask[:, 0, 1] = mask[:, 1, 2] = True
    expected = model(codes=codes, mask=mask, **condition).logits
    for place in ((0, 1), (1, 2)):
        changed = codes.clone()
        changed[:, place[0], place[1]] += 1
        logits = model(codes=changed % SIZE, mask=mask, **condition).logits
        others = torch.ones(SHAPE[:2], dtype=torch.bool)
        others[place] = False
        torch.testing.assert_close(logits[:, others], expected[:, others])
        torch.testing.assert_close(logits[:, place[0], place[1], 0], expected[:, place[0], place[1], 0])
    changed = codes.clone()
    changed[:, 1, 0, -1] = (changed[:, 1, 0, -1] + 1) % SIZE  # the last position in no order sees it, too
    difference = (model(codes=changed, mask=mask, **condition).logits - expected).abs().flatten(3).amax(-1)
    assert (difference > 1e-4).all()


def test_the_loss_is_the_cross_entropy_of_hidden_positions_alone(model_and_condition):
    model, condition = model_and_condition
    codes, labels = make_codes(), make_codes().flip(0)
    mask = model.training_inputs(codes, seeded(3))["mask"]
    output = model(codes=codes, mask=mask, labels=labels, output_logits=True, **condition)
    losses = F.cross_entropy(output.logits[mask].flatten(0, 1), labels[mask].flatten(), reduction="none").view(-1, 3)
    torch.testing.assert_close(output.loss, losses.mean())
    torch.testing.assert_close(output.depth_losses, losses.mean(0))
    one_hot = F.one_hot(labels, SIZE).float()
    torch.testing.assert_close(model(codes=codes, mask=mask, labels=one_hot, **condition).loss, output.loss)
    residuals = model.codebook(labels)  # whose nearest codes are the labels
    soft = model(codes=codes, mask=mask, residuals=residuals, label_temperature=1e-9, **condition)
    torch.testing.assert_close(soft.loss, output.loss)


def test_masks_of_training_hide_two_thirds_of_the_positions_on_average_and_never_none():
    config = dict(vocab_size=1, condition_length=1, code_shape=(8, 8, 1), codebook_size=2, codebook_dim=2)
    config |= dict(hidden_size=2, num_spatial_layers=1, num_depth_layers=0, num_attention_heads=1)
    model = ContextualRQTransformerForImageGeneration(ContextualRQTransformerForImageGeneration.config_class(**config))
    mask = model.training_inputs(torch.zeros(4000, 8, 8, 1, dtype=torch.long), seeded(0))["mask"].flatten(1)
    assert mask.float().mean() == pytest.approx(2 / math.pi + 0.5 / 64, abs=0.01)
    assert mask.any(1).all() and mask.all(1).any()
    assert mask.float().mean(0).std() < 0.02  # every position equally often


@pytest.mark.parametrize("num_parts", [1, 2, 5, 7, 12])
def test_partitions_cover_each_position_once_in_parts_of_nearly_equal_size(num_parts):
    is_drawn = torch.rand(4, 12, generator=seeded(0)) < 0.7
    is_drawn[0] = True
    keys = torch.rand(4, 12, generator=seeded(1))
    parts = balanced_partition(keys, is_drawn, num_parts)
    for row in range(4):
        sizes = [int((part[row] < 12).sum()) for part in parts]
        found = torch.cat([part[row][part[row] < 12] for part in parts])
        assert sorted(found.tolist()) == is_drawn[row].nonzero().flatten().tolist()
        assert max(sizes) - min(sizes) <= 1 and sum(sizes) == is_drawn[row].sum()
        assert torch.equal(found, keys[row].masked_fill(~is_drawn[row], 9).argsort()[: len(found)])


def test_equal_seeds_give_equal_codes_and_a_batch_equals_its_singles(model_and_condition):
    model, condition = model_and_condition
    settings = {"num_draft_steps": 4, "top_k": 8}
    generators = [[seeded(5), seeded(6)] for _ in range(2)]
    together, again = (model.generate(**condition, **settings, generator=each) for each in generators)
    assert torch.equal(together, again) and together.shape == (2, *SHAPE)
    for index, seed in enumerate((5, 6)):
        single = {name: values[index : index + 1] for name, values in condition.items()}
        assert torch.equal(model.generate(**single, **settings, generator=seeded(seed))[0], together[index])


def test_known_codes_stay_and_all_others_are_drawn_at_every_step_count(model_and_condition):
    model, condition = model_and_condition
    codes, hole = make_codes(), torch.zeros(SHAPE, dtype=torch.bool)
    hole[0, 1:] = True
    hole[1, 0, 2] = True  # a single depth
    for steps, rounds in ((1, 0), (3, 1), (64, 2)):
        settings = {"num_draft_steps": steps, "num_revise_rounds": rounds}
        drawn = model.generate(**condition, known_codes=codes, known_mask=~hole, generator=seeded(0), **settings)
        assert torch.equal(drawn[:, ~hole], codes[:, ~hole]) and not torch.equal(drawn, codes)
    nothing = model.generate(**condition, known_codes=codes, generator=seeded(0))
    assert torch.equal(nothing, codes)


def test_guidance_of_each_phase_has_its_own_scale(make_transformer):
    model = make_transformer("class", contextual=True, initializer_range=0.3)
    ids, settings = torch.tensor([[1]]), {"num_draft_steps": 3}
    plain = {"guidance_scale": 1.0, "revise_guidance_scale": 1.0}
    drawn = [
        model.generate(ids, generator=seeded(0), **settings, **plain | changed)
        for changed in ({}, {"guidance_scale": 5.0}, {"revise_guidance_scale": 5.0}, {"num_revise_rounds": 0})
    ]
    assert len(torch.cat(drawn).flatten(1).unique(dim=0)) == 4


@pytest.mark.parametrize("name, values", [("guidance_scale", (1.0, 5.0)), ("temperature", (1.0, 0.1))])
def test_revisions_follow_the_draft_of_a_call_unless_it_says_otherwise(make_transformer, name, values):
    """So that a call with `guidance_scale=1.0` turns the guidance of a checkpoint's revisions off."""
    model = make_transformer("class", contextual=True, initializer_range=0.3)
    plain, other = values

    def codes(**settings) -> torch.Tensor:
        return model.generate(torch.tensor([[1]]), num_draft_steps=3, generator=seeded(0), **settings)

    both = [codes(**{name: value, f"revise_{name}": value}) for value in values]
    assert torch.equal(codes(), both[0]) and torch.equal(codes(**{name: other}), both[1])
    setattr(model.generation_config, f"revise_{name}", other)
    assert torch.equal(codes(), codes(**{name: plain, f"revise_{name}": other})) and not torch.equal(codes(), both[0])
    assert torch.equal(codes(**{name: plain}), both[0]) and torch.equal(codes(**{name: other}), both[1])


def test_callbacks_replace_codes_and_interrupts_end_the_loop(make_transformer):
    model, seen = make_transformer("class", contextual=True), []

    def callback(step: int, codes: torch.Tensor) -> torch.Tensor:
        seen.append(codes.clone())
        return torch.full_like(codes, 7)

    settings = {"num_draft_steps": 6, "num_revise_rounds": 0}
    codes = model.generate(torch.tensor([[1]]), callback=callback, interrupt=lambda: len(seen) == 3, **settings)
    assert len(seen) == 3 and (codes == 7).all() and ((seen[1] == 7).all(-1).sum() == 5)
    steps = RQGenerationConfig(num_draft_steps=8, num_revise_rounds=2, num_revise_steps=3)
    assert model.num_steps(steps) == 14


def test_an_overfitted_model_redraws_its_pictures_restores_any_hole_and_leaves_them_alone(make_transformer):
    torch.manual_seed(0)
    model = make_transformer("class", contextual=True, dropout=0.0).train()
    ids, codes, generator = torch.tensor([[0], [1], [2]]), make_codes(3), seeded(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        loss = model(ids, codes, labels=codes, **model.training_inputs(codes, generator)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    greedy = {"do_sample": False}
    assert torch.equal(model.generate(ids, num_draft_steps=4, **greedy), codes)
    for seed in range(3):
        known = torch.rand(3, *SHAPE[:2], 1, generator=seeded(seed)).expand(3, *SHAPE) < 0.5
        assert torch.equal(model.generate(ids, known_codes=codes, known_mask=known, **greedy), codes)
    assert torch.equal(model.redraw_codes(codes, RQGenerationConfig(top_k=1), input_ids=ids), codes)
    others = codes.roll(1, 0)
    assert (model.log_likelihood(ids, codes) > model.log_likelihood(ids, others) + 1).all()


def test_the_likelihood_is_that_of_each_part_given_the_others(make_transformer):
    model = make_transformer("class", contextual=True, initializer_range=0.2)
    ids, codes = torch.tensor([[0], [1]]), make_codes()
    for depth in (1, 3):
        found = model.log_likelihood(ids, codes, depth, num_parts=6)
        expected = torch.zeros(2)
        for row in range(2):
            for column in range(3):
                mask = torch.zeros(2, *SHAPE[:2], dtype=torch.bool)
                mask[:, row, column] = True
                logits = model(ids, codes, mask).logits[:, row, column, depth - 1].log_softmax(-1)
                expected += logits.gather(1, codes[:, row, column, depth - 1, None])[:, 0] / 6
        torch.testing.assert_close(found, expected)


def test_it_starts_from_an_autoregressive_model(make_transformer, tmp_path):
    source = make_transformer("text")
    model = ContextualRQTransformerForImageGeneration.from_autoregressive(source)
    ours, theirs = model.state_dict(), source.state_dict()
    assert {*ours} - {*theirs} == {"position_mask.weight"}
    assert all(name.startswith("text_head.") for name in {*theirs} - {*ours})
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items() if name in theirs)
    assert model.config.code_shape == source.config.code_shape and not model.training
    model.generation_config.num_draft_steps, model.generation_config.top_p = 7, 0.5
    model.save_pretrained(tmp_path)
    loaded = ContextualRQTransformerForImageGeneration.from_pretrained(tmp_path).generation_config
    assert loaded.num_draft_steps == 7 and loaded.top_p == 0.5 and loaded.do_sample


def test_each_half_of_the_positions_is_redrawn_given_the_other_half_as_it_was(make_transformer):
    model = make_transformer("class", contextual=True, code_shape=(1, 2, 1))
    ids, codes = torch.arange(4)[:, None], make_codes(4, (1, 2, 1))
    redrawn = model.redraw_codes(codes, RQGenerationConfig(top_k=1), input_ids=ids)
    for place in range(2):
        mask = (torch.arange(2) == place).expand(4, 1, 2)
        logits = model(ids, codes, mask).logits
        assert torch.equal(redrawn[:, 0, place, 0], logits[:, 0, place, 0].argmax(-1))
    model = make_transformer("class", contextual=True, code_shape=(3, 3, 2))
    codes = make_codes(4, (3, 3, 2))
    redrawn = model.redraw_codes(codes, RQGenerationConfig(), seeded(0), input_ids=ids)
    assert redrawn.shape == codes.shape and (redrawn != codes).any()  # of an odd number, too


def test_codes_of_depth_one_need_no_depth_transformer(make_transformer):
    model = make_transformer("class", contextual=True, code_shape=(2, 3, 1), num_depth_layers=0)
    codes = model.generate(torch.tensor([[1], [2]]), num_draft_steps=3, generator=seeded(0))
    assert codes.shape == (2, 2, 3, 1)


def test_bad_settings_are_refused(make_transformer):
    model = make_transformer("class", contextual=True)
    for arguments, message in (
        ({"num_draft_steps": 0}, "`num_draft_steps` must be an integer of at least 1, got 0"),
        ({"num_revise_rounds": -1}, "`num_revise_rounds` must be an integer of at least 0, got -1"),
        ({"num_revise_steps": 2.5}, "`num_revise_steps` must be an integer of at least 1, got 2.5"),
        ({"order": "raster"}, "There is no setting `order`"),
        ({"revise_temperature": 0}, "`revise_temperature` must be greater than 0"),
        ({"revise_temperature": [1.0, 1.0]}, r"`revise_temperature` must be a number or a list of one per depth"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(torch.tensor([[1]]), **arguments)


@pytest.mark.slow
def test_compiled_passes_draw_what_eager_ones_draw(make_transformer):
    model = make_transformer("class", contextual=True, initializer_range=0.2)
    ids, settings = torch.tensor([[0], [1]]), {"num_draft_steps": 3}
    eager = model.generate(ids, generator=seeded(0), **settings)
    config = CompileConfig(fullgraph=True, mode="default")
    assert torch.equal(model.generate(ids, generator=seeded(0), compile_config=config, **settings), eager)
