# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Rejection sampling and re-ranking keep the best candidates, reproducibly and in bounded memory."""

import pytest
import torch
from conftest import draw, seeded
from scorers import CLASSES, tiny_classifier, tiny_clip

from rq_hf import CLIPRanker, ImageClassifier
from rq_hf.images import to_pil
from rq_hf.pipelines.labels import match_classes
from rq_hf.pipelines.selection import candidates_per_prompt, first_drawn_depth

PROMPTS = ["a red heart", "green apple"]


def likelihoods_by_hand(pipe, prompts, codes, depth: int = 1) -> torch.Tensor:
    """Mean log-probabilities `(B,)` of the codes of a depth, picture by picture."""
    means = []
    for embeds, own in zip(pipe.encode_prompt(prompts)[0], codes, strict=True):
        with torch.no_grad():
            logits = pipe.transformer(prompt_embeds=embeds[None], codes=own[None]).logits
        log_p = logits[0, :, :, depth - 1].log_softmax(-1)
        means.append(log_p.gather(-1, own[..., depth - 1, None]).mean())
    return torch.stack(means)


@pytest.fixture
def classifier() -> ImageClassifier:
    return ImageClassifier(*tiny_classifier())


@pytest.fixture
def ranker(tiny_tokenizer) -> CLIPRanker:
    return CLIPRanker(*tiny_clip(tiny_tokenizer))


def test_rejection_sampling_returns_the_likeliest_of_all_candidates(make_pipeline, classifier):
    pipe, options = make_pipeline("class"), dict(class_labels=["goose", "volcano"], output_type="latent")
    selection = dict(num_images_per_prompt=2, classifier=classifier, acceptance_rate=0.2)
    chosen = pipe(**options, **selection, generator=seeded(0))
    everything = pipe(**options, num_images_per_prompt=10, generator=seeded(0)).images
    scores = classifier.score(pipe.rqvae.decode(everything), [1] * 10 + [3] * 10).view(2, 10)
    best = scores.topk(2)
    torch.testing.assert_close(chosen.scores.view(2, 2), best.values, rtol=0, atol=1e-6)
    assert torch.equal(chosen.images, everything[(best.indices + torch.tensor([[0], [10]])).flatten()])
    assert (best.values.min(1).values > scores.mean(1)).all()


@pytest.mark.parametrize("by", ["clip", "likelihood"])
def test_re_ranking_returns_the_best_of_all_candidates(tiny_pipeline, ranker, by):
    selection = dict(num_images_per_prompt=2, num_candidates=7, ranker=ranker if by == "clip" else "likelihood")
    chosen = tiny_pipeline(PROMPTS, **selection, generator=seeded(0), output_type="latent")
    everything = draw(tiny_pipeline, PROMPTS, num_images_per_prompt=7)
    prompts = [prompt for prompt in PROMPTS for _ in range(7)]
    if by == "clip":
        scores = ranker.score(tiny_pipeline.rqvae.decode(everything), prompts)
    else:
        scores = likelihoods_by_hand(tiny_pipeline, prompts, everything)
    best = scores.view(2, 7).topk(2)  # the best first
    torch.testing.assert_close(chosen.scores.view(2, 2), best.values, rtol=1e-5, atol=1e-5)
    assert torch.equal(chosen.images, everything[(best.indices + torch.tensor([[0], [7]])).flatten()])


@pytest.mark.parametrize("seeds", [(3,), (1, 2, 3, 4)], ids=["one-generator", "one-per-picture"])
def test_the_size_of_the_batches_decides_nothing_and_a_batch_of_prompts_equals_its_singles(
    tiny_pipeline, ranker, seeds
):
    options, drawn = dict(num_images_per_prompt=2, num_candidates=5, ranker=ranker, output_type="latent"), []
    for size in (1, 2, 16):
        tiny_pipeline.candidate_batch_size = size
        drawn.append(tiny_pipeline(PROMPTS, generator=seeded(*seeds), **options))
        assert torch.equal(drawn[-1].images, drawn[0].images)
        torch.testing.assert_close(drawn[-1].scores, drawn[0].scores, rtol=0, atol=1e-5)
    for index, prompt in enumerate(PROMPTS if len(seeds) > 1 else []):
        rows = slice(2 * index, 2 * index + 2)
        alone = tiny_pipeline(prompt, generator=seeded(*seeds[rows]), **options)
        assert torch.equal(alone.images, drawn[0].images[rows])


@pytest.mark.parametrize(
    "rate, pictures, candidates",
    [(0.1, 3, 30), (1 / 3, 10, 30), (0.9, 1, 2), (0.7, 7, 10), (1, 4, 4), (1e-4, 1, 10_000), (0.2999, 3, 11)],
)
def test_as_many_candidates_are_drawn_as_the_rate_asks_for(rate, pictures, candidates):
    assert candidates_per_prompt(pictures, None, None, "classifier", rate) == candidates


def test_guidance_and_selection_work_together_and_a_callback_sees_every_batch(tiny_pipeline, ranker):
    steps = []
    tiny_pipeline.candidate_batch_size = 2
    options = dict(negative_prompt="green apple", guidance_scale=2.0, num_candidates=3, ranker=ranker)
    tiny_pipeline("rocket", **options, callback_on_step_end=lambda pipe, *where: steps.append(where[:2]))
    assert steps == [(step, step % 16) for step in range(32)]


def test_an_interrupted_selection_returns_the_best_of_the_finished_batches(tiny_pipeline, ranker):
    def stop_at(last: int):
        return lambda pipe, step, position, tensors: setattr(pipe, "_interrupt", step == last)

    options = dict(num_candidates=8, num_images_per_prompt=3, ranker=ranker, output_type="latent")
    tiny_pipeline.candidate_batch_size = 1
    output = tiny_pipeline("rocket", callback_on_step_end=stop_at(37), **options)  # in the third batch
    assert len(output.images) == len(output.scores) == 2
    tiny_pipeline.candidate_batch_size = 4
    output = tiny_pipeline("rocket", callback_on_step_end=stop_at(5), **options)  # there is no other batch
    assert len(output.images) == 3 and not output.images.flatten(1, 2)[:, 6:].any()


@pytest.mark.parametrize("kind", ["class", "none"])
def test_likelihood_ranking_needs_neither_captions_nor_a_decoder_and_a_ranker_needs_captions(
    make_pipeline, ranker, kind
):
    pipe = make_pipeline(kind)
    options = {"class_labels": ["goose", "volcano"]} if kind == "class" else {}
    drawn = pipe(num_candidates=5, ranker="likelihood", generator=seeded(0), **options)
    assert len(drawn.images) == len(drawn.scores) == (2 if options else 1)
    pipe.rqvae = None
    codes = pipe(num_candidates=5, ranker="likelihood", generator=seeded(0), output_type="latent", **options)
    assert torch.equal(codes.scores, drawn.scores)
    with pytest.raises(ValueError, match="`ranker` needs a `prompt`"):
        pipe(ranker=ranker, num_candidates=2, **options)


def test_given_first_codes_leave_the_likelihood_to_the_next(tiny_pipeline):
    picture = tiny_pipeline("rocket", generator=seeded(1)).images[0]
    chosen, everything = (
        tiny_pipeline.vary(picture, "rocket", keep_depths=1, output_type="latent", generator=seeded(0), **each).images
        for each in (dict(num_candidates=6, ranker="likelihood"), dict(num_images_per_prompt=6))
    )
    scores = likelihoods_by_hand(tiny_pipeline, ["rocket"] * 6, everything, depth=2)
    assert len(scores.unique()) > 1
    assert torch.equal(chosen[0], everything[scores.argmax()])
    assert first_drawn_depth(torch.tensor([False, True, False]).expand(2, 4, 4, 3)) == 1


def test_ranker_scores_are_those_of_the_librarys_own_path(ranker, pictures):
    texts = [["a red heart", "rocket"][index % 2] for index in range(len(pictures))]
    inputs = ranker.processor(text=texts, images=to_pil(pictures), return_tensors="pt", padding=True, truncation=True)
    outputs = ranker.model(**inputs)
    expected = outputs.logits_per_image.diagonal() / ranker.model.logit_scale.exp()
    torch.testing.assert_close(ranker.score(pictures, texts), expected, rtol=1e-4, atol=1e-6)


def test_scores_are_one_per_picture(classifier, ranker, pictures):
    for scorer, target in ((classifier, 1), (ranker, "rocket")):
        assert scorer.score(pictures[:2], [target] * 2).shape == (2,)
        for count, given in ((2, 1), (1, 2)):
            with pytest.raises(ValueError, match=rf"`targets` must be one per picture \({count}\), got {given}"):
                scorer.score(pictures[:count], [target] * given)


def test_classifier_and_ranker_load_from_folders_that_lack_no_weights(classifier, ranker, pictures, tmp_path):
    for judge, processor, target in (
        (classifier, classifier.image_processor, 1),
        (ranker, ranker.processor, "rocket"),
    ):
        folder, targets = tmp_path / type(judge).__name__, [target] * len(pictures)
        judge.model.save_pretrained(folder)
        processor.save_pretrained(folder)
        for name in (folder, str(folder)):
            torch.testing.assert_close(type(judge)(name).score(pictures, targets), judge.score(pictures, targets))
    whole = classifier.model.state_dict()
    headless = {name: weight for name, weight in whole.items() if not name.startswith("classifier.")}
    classifier.model.save_pretrained(tmp_path / "ImageClassifier", state_dict=headless)
    with pytest.raises(ValueError, match="must hold all weights of ResNetForImage.*such as `classifier.1.bias`"):
        ImageClassifier(tmp_path / "ImageClassifier")


def test_classes_are_matched_by_name_whatever_their_order():
    order = [3, 1, 0, 2]
    shuffled = {place: CLASSES[index].upper() for place, index in enumerate(order)}
    assert match_classes(CLASSES, range(4), shuffled) == {index: order.index(index) for index in range(4)}
    more = {0: "shirt", **{index + 1: f"{name}, Latinum" for index, name in CLASSES.items() if "," not in name}}
    assert match_classes({1: "goose", 3: "volcano"}, [1, 3], more) == {1: 2, 3: 4}


def test_classes_are_matched_by_position_where_names_do_not_tell_them_apart():
    alike = {index: index for index in range(4)}
    nameless = {index: f"LABEL_{index}" for index in range(4)}
    assert match_classes(CLASSES, range(4), nameless) == alike
    assert match_classes(None, range(1, 5), nameless) == {1: 0, 2: 1, 3: 2, 4: 3}  # id 0 is the null condition
    twice = {0: "crane", 1: "goose", 2: "crane"}  # ImageNet has such names
    assert match_classes(twice, range(3), twice) == {0: 0, 1: 1, 2: 2}
    with pytest.raises(ValueError, match="`classifier` must have the model's 4 classes, got 3"):
        match_classes(CLASSES, range(4), twice)


@pytest.mark.parametrize(
    "arguments, match",
    [
        (dict(acceptance_rate=0.5), "`classifier` and `acceptance_rate` go together, got None and 0.5"),
        (dict(acceptance_rate=1.5, classifier="here"), r"`acceptance_rate` must be in \(0, 1\], got 1.5"),
        (dict(ranker="likelihood"), "`ranker` needs `num_candidates`, got 'likelihood' alone"),
        (dict(num_candidates=4, ranker="openai/clip"), "`ranker` must be a CLIPRanker or 'likelihood', got 'openai"),
        (dict(classifier="a/resnet", acceptance_rate=0.5), "`classifier` must be an ImageClassifier, got 'a/resnet'"),
        (
            dict(classifier=ImageClassifier(*tiny_classifier()), acceptance_rate=0.5),
            "`classifier` needs `class_labels`",
        ),
        (dict(num_candidates=4, ranker="a", acceptance_rate=0.5, classifier="b"), "exclude each other"),
        (dict(num_candidates=2, ranker="likelihood", num_images_per_prompt=3), "`num_candidates` must be at least"),
        (dict(num_candidates=2, ranker="likelihood", generator=seeded(0, 1)), r"`generator` must be .*\(1\), got 2"),
    ],
)
def test_bad_arguments_are_named(tiny_pipeline, arguments, match):
    with pytest.raises(ValueError, match=match):
        tiny_pipeline("rocket", **arguments)
