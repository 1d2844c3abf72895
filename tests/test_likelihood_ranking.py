# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Re-ranking by the transformer's own likelihood: of captions, classes and nothing, of new and of edited pictures."""

import pytest
import torch

from rq_hf import RQImageGenerationPipeline
from rq_hf import generation_rq_transformer as generation
from rq_hf.likelihood_ranking import first_drawn_depth

PROMPTS = ["a red heart", "green apple"]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_hand(pipe: RQImageGenerationPipeline, input_ids, codes, depth: int = 1) -> torch.Tensor:
    """Means of log p `(B,)`, picture by picture, code by code."""
    means = []
    for ids, own in zip(input_ids, codes, strict=True):
        with torch.no_grad():
            log_p = pipe.transformer(ids[None], own[None]).logits[0, :, :, depth - 1].log_softmax(-1)
        chosen = own[..., depth - 1].flatten().tolist()
        means.append(sum(row[code] for row, code in zip(log_p.flatten(0, 1), chosen, strict=True)) / len(chosen))
    return torch.stack(means)


def test_likelihood_is_the_mean_log_probability_of_the_codes_of_a_depth(tiny_pipeline):
    codes = tiny_pipeline(PROMPTS, output_type="latent", generator=seeded(0)).images
    input_ids = tiny_pipeline.encode_prompt(PROMPTS)
    for depth in range(1, codes.shape[-1] + 1):
        found = tiny_pipeline.transformer.log_likelihood(input_ids, codes, depth)
        torch.testing.assert_close(found, by_hand(tiny_pipeline, input_ids, codes, depth), rtol=1e-5, atol=1e-5)
        assert (found < 0).all()


def test_likelihood_is_the_same_in_small_blocks_and_with_dropout_off(tiny_pipeline, monkeypatch):
    transformer = tiny_pipeline.transformer
    codes = tiny_pipeline(PROMPTS, output_type="latent", generator=seeded(0)).images
    input_ids = tiny_pipeline.encode_prompt(PROMPTS)
    whole = transformer.log_likelihood(input_ids, codes)
    calls = []
    transformer.code_head.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    monkeypatch.setattr(generation, "MAX_LOGIT_ELEMENTS", 5 * transformer.config.codebook_size)
    transformer.train()
    torch.testing.assert_close(transformer.log_likelihood(input_ids.int(), codes.int()), whole, rtol=1e-5, atol=1e-5)
    assert calls == [5] * 6 + [2] and transformer.training


def test_it_returns_the_likeliest_of_all_candidates(tiny_pipeline):
    options = dict(output_type="latent")
    chosen = tiny_pipeline(
        PROMPTS, num_images_per_prompt=2, num_candidates=6, ranker="likelihood", candidate_batch_size=4,
        generator=seeded(0), **options,
    )  # fmt: skip
    everything = tiny_pipeline(PROMPTS, num_images_per_prompt=6, generator=seeded(0), **options).images
    input_ids = tiny_pipeline.encode_prompt(PROMPTS).repeat_interleave(6, 0)
    best = by_hand(tiny_pipeline, input_ids, everything).view(2, 6).topk(2)
    torch.testing.assert_close(chosen.scores.view(2, 2), best.values, rtol=1e-5, atol=1e-5)
    assert torch.equal(chosen.images, everything[(best.indices + torch.tensor([[0], [6]])).flatten()])


@pytest.mark.parametrize("kind", ["class", "none"])
def test_it_needs_no_captions(make_pipeline, kind):
    pipe = make_pipeline(kind)
    options = {"class_labels": ["goose", "volcano"]} if kind == "class" else {}
    drawn = pipe(num_candidates=5, ranker="likelihood", generator=seeded(0), **options)
    assert len(drawn.images) == len(drawn.scores) == (2 if options else 1)
    pipe.rqvae = None  # it sees codes alone
    latent = pipe(num_candidates=5, ranker="likelihood", generator=seeded(0), output_type="latent", **options)
    assert torch.equal(latent.scores, drawn.scores)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_scores_are_the_same_under_another_default_dtype(tiny_pipeline, dtype):
    def scores():
        return tiny_pipeline(PROMPTS[0], num_candidates=4, ranker="likelihood", generator=seeded(0)).scores

    plain = scores()
    torch.set_default_dtype(dtype)
    try:
        assert torch.equal(scores(), plain)
    finally:
        torch.set_default_dtype(torch.float32)


def test_given_first_codes_leave_the_choice_to_the_next(tiny_pipeline):
    picture = tiny_pipeline("rocket", generator=seeded(1)).images[0]
    options = dict(keep_depths=1, output_type="latent")
    chosen = tiny_pipeline.vary(
        picture, "rocket", num_candidates=6, ranker="likelihood", generator=seeded(0), **options
    )
    everything = tiny_pipeline.vary(picture, "rocket", num_images_per_prompt=6, generator=seeded(0), **options).images
    input_ids = tiny_pipeline.encode_prompt("rocket").expand(6, -1)
    scores = by_hand(tiny_pipeline, input_ids, everything, depth=2)
    assert len(scores.unique()) > 1
    assert torch.equal(chosen.images[0], everything[scores.argmax()])


def test_prompts_with_masks_of_their_own_are_judged_as_alone(tiny_pipeline):
    """Of the first prompt all first codes are given, of the second nothing."""
    codes = tiny_pipeline(PROMPTS, output_type="latent", generator=seeded(1)).images
    mask = torch.zeros(codes.shape, dtype=torch.bool)
    mask[0, ..., 0] = True
    options = dict(num_candidates=6, ranker="likelihood", output_type="latent", candidate_batch_size=4)
    together = tiny_pipeline(PROMPTS, known_codes=codes, known_mask=mask, generator=[seeded(2), seeded(3)], **options)
    for row, prompt in enumerate(PROMPTS):
        given = dict(known_codes=codes[row : row + 1], known_mask=mask[row : row + 1])
        alone = tiny_pipeline(prompt, generator=seeded(2 + row), **given, **options)
        assert torch.equal(alone.images[0], together.images[row])
        torch.testing.assert_close(alone.scores[0], together.scores[row], rtol=1e-5, atol=1e-5)
    ids = tiny_pipeline.encode_prompt(PROMPTS)
    wanted = [
        by_hand(tiny_pipeline, ids[:1], together.images[:1], 2),
        by_hand(tiny_pipeline, ids[1:], together.images[1:]),
    ]
    torch.testing.assert_close(together.scores, torch.cat(wanted), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "fields"), [(torch.bfloat16, {}), (torch.float32, {"shared_codebook": False})], ids=["bf16", "separate"]
)
def test_other_dtypes_and_codebooks(make_rqvae, make_transformer, dtype, fields):
    rqvae = make_rqvae(**fields)
    transformer = make_transformer("class", rqvae, **fields).to(dtype)
    input_ids, (height, width, depths) = torch.tensor([[1], [3]]), transformer.config.code_shape
    codes = transformer.generate(input_ids, generator=seeded(0))
    for depth in range(1, depths + 1):
        found = transformer.log_likelihood(input_ids, codes, depth)
        logits = transformer(input_ids, codes).logits[..., depth - 1, :].double().log_softmax(-1)
        expected = logits.gather(-1, codes[..., depth - 1, None]).sum((1, 2, 3)) / (height * width)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.02)


@pytest.mark.parametrize(
    ("known", "depth"),
    [
        (None, 1),
        (torch.ones(2, 2, dtype=torch.bool), 1),  # of whole positions, where some are drawn
        (torch.tensor([True, False, False]).expand(2, 2, 3), 2),
        (torch.tensor([False, True, False]).expand(2, 2, 3), 1),
        (torch.tensor([True, True, False]).expand(2, 2, 3), 3),
        (torch.ones(2, 2, 3, dtype=torch.bool), 3),
    ],
)
def test_first_depth_that_is_drawn(known, depth):
    assert first_drawn_depth(known, 3) == depth


def test_bad_input_is_named(tiny_pipeline):
    transformer = tiny_pipeline.transformer
    depths = transformer.config.code_shape[2]
    codes = tiny_pipeline("rocket", output_type="latent").images
    input_ids = tiny_pipeline.encode_prompt("rocket")
    for depth in (0, depths + 1, 1.0, True):
        with pytest.raises(ValueError, match=f"`depth` must be an integer from 1 to {depths}, got {depth}"):
            transformer.log_likelihood(input_ids, codes, depth)
    with pytest.raises(ValueError, match="`codes` must have shape"):
        transformer.log_likelihood(input_ids, codes[:, :1])
    with pytest.raises(ValueError, match="`ranker` and `num_candidates` need each other"):
        tiny_pipeline("rocket", ranker="likelihood")
    with pytest.raises(ValueError, match="`known_mask` must be bool"):  # by the sampling, which comes first
        tiny_pipeline(
            "rocket", num_candidates=2, ranker="likelihood", known_codes=codes, known_mask=torch.ones(codes.shape[1:])
        )
