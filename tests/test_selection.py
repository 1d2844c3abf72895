# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Rejection sampling and re-ranking: the best are kept, with bounded memory, reproducibly; pixels keep their range."""

import weakref

import numpy as np
import PIL.Image
import pytest
import torch
from scorers import CLASSES, tiny_classifier, tiny_clip

from rq_hf import CLIPRanker, ImageClassifier
from rq_hf.class_names import are_same_classes
from rq_hf.selection import BestCandidates, candidates_per_prompt, to_levels


def seeded(*seeds: int):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators if len(seeds) > 1 else generators[0]


@pytest.fixture
def classifier() -> ImageClassifier:
    return ImageClassifier(*tiny_classifier())


@pytest.fixture
def ranker(tiny_tokenizer) -> CLIPRanker:
    return CLIPRanker(*tiny_clip(tiny_tokenizer))


@pytest.fixture
def class_pipeline(make_pipeline):
    return make_pipeline("class")


def test_rejection_sampling_returns_the_likeliest_of_all_candidates(class_pipeline, classifier):
    options = dict(class_labels=["goose", "volcano"], output_type="latent")
    chosen = class_pipeline(
        **options, num_images_per_prompt=2, classifier=classifier, acceptance_rate=0.2, generator=seeded(0)
    )
    everything = class_pipeline(**options, num_images_per_prompt=10, generator=seeded(0)).images
    pixels = class_pipeline.rqvae.decode(everything)
    scores = classifier.score(pixels, [1] * 10 + [3] * 10).view(2, 10)
    best = scores.topk(2)
    torch.testing.assert_close(chosen.scores.view(2, 2), best.values, rtol=0, atol=1e-6)
    places = best.indices + torch.tensor([[0], [10]])
    assert torch.equal(chosen.images, everything[places.flatten()])
    assert (best.values.min(1).values > scores.mean(1)).all()


def test_re_ranking_returns_the_pictures_most_like_the_prompt(tiny_pipeline, ranker):
    prompts = ["a red heart", "green apple"]
    chosen = tiny_pipeline(prompts, num_candidates=7, ranker=ranker, output_type="latent", generator=seeded(0))
    everything = tiny_pipeline(prompts, num_images_per_prompt=7, output_type="latent", generator=seeded(0)).images
    scores = ranker.score(tiny_pipeline.rqvae.decode(everything), [text for text in prompts for _ in range(7)])
    best = scores.view(2, 7).max(1)
    torch.testing.assert_close(chosen.scores, best.values, rtol=0, atol=1e-6)
    assert torch.equal(chosen.images, everything[best.indices + torch.tensor([0, 7])])
    assert len(scores.unique()) > 7


@pytest.mark.parametrize("weight", [0, 0.02, 1e6])
def test_a_ranker_and_the_likelihood_choose_together(tiny_pipeline, ranker, weight):
    prompts = ["a red heart", "green apple"]
    options = dict(output_type="latent", generator=seeded(0))
    chosen = tiny_pipeline(
        prompts, num_candidates=7, ranker=ranker, likelihood_weight=weight, candidate_batch_size=4, **options
    )
    everything = tiny_pipeline(prompts, num_images_per_prompt=7, **options | {"generator": seeded(0)}).images
    cosines = ranker.score(tiny_pipeline.rqvae.decode(everything), [text for text in prompts for _ in range(7)])
    input_ids = tiny_pipeline.encode_prompt(prompts).repeat_interleave(7, 0)
    likelihoods = tiny_pipeline.transformer.log_likelihood(input_ids, everything)
    best = (cosines + weight * likelihoods).view(2, 7).max(1)
    torch.testing.assert_close(chosen.scores, best.values, rtol=1e-5, atol=1e-5)
    assert torch.equal(chosen.images, everything[best.indices + torch.tensor([0, 7])])
    alone = {0: cosines, 1e6: likelihoods}.get(weight)
    if alone is not None:
        assert torch.equal(best.indices, alone.view(2, 7).argmax(1))
        assert not torch.equal(cosines.view(2, 7).argmax(1), likelihoods.view(2, 7).argmax(1))


@pytest.mark.parametrize("generators", [(3,), (3, 4)], ids=["one-generator", "one-per-picture"])
def test_the_size_of_the_batches_decides_nothing(tiny_pipeline, ranker, generators):
    drawn = [
        tiny_pipeline(
            "a red heart", num_images_per_prompt=2, num_candidates=5, ranker=ranker, candidate_batch_size=size,
            output_type="latent", generator=seeded(*generators),
        )
        for size in (1, 2, 5, 16)
    ]  # fmt: skip
    for other in drawn[1:]:
        assert torch.equal(other.images, drawn[0].images)
        torch.testing.assert_close(other.scores, drawn[0].scores, rtol=0, atol=1e-5)


def test_with_one_generator_per_picture_a_batch_of_prompts_equals_its_singles(tiny_pipeline, ranker):
    options = dict(num_candidates=4, ranker=ranker, output_type="np")
    together = tiny_pipeline(["a red heart", "rocket"], generator=seeded(1, 2), **options)
    for index, (prompt, seed) in enumerate([("a red heart", 1), ("rocket", 2)]):
        alone = tiny_pipeline(prompt, generator=seeded(seed), **options)
        np.testing.assert_allclose(alone.images[0], together.images[index], rtol=0, atol=1e-5)


def test_the_output_has_the_scores_in_every_form(tiny_pipeline, ranker):
    options = dict(num_images_per_prompt=2, num_candidates=4, ranker=ranker)
    output = tiny_pipeline("rocket", generator=seeded(0), **options)
    assert len(output.images) == 2 and output.scores.shape == (2,) and output.scores[0] >= output.scores[1]
    images, scores = tiny_pipeline("rocket", generator=seeded(0), return_dict=False, **options)
    assert torch.equal(scores, output.scores) and np.array_equal(images[0], output.images[0])
    assert tiny_pipeline("rocket").scores is None


def test_pictures_of_rejected_candidates_are_not_kept(class_pipeline, classifier):
    alive, most = [], []

    def watch(module, arguments):
        most.append(sum(reference() is not None for reference in alive))
        alive.append(weakref.ref(arguments[0]))

    classifier.model.register_forward_pre_hook(watch)
    output = class_pipeline(
        class_labels=1, classifier=classifier, acceptance_rate=0.05, candidate_batch_size=2, generator=seeded(0)
    )
    assert len(alive) == 10 and len(output.images) == 1
    assert most == [0] * 10  # no picture of an earlier batch lives while the next is scored


def test_the_running_list_is_the_sorted_head_of_everything_and_keeps_no_batch():
    scores = torch.tensor([0.2, 0.9, 0.9, 0.1, 0.5, 0.9, 0.3])
    codes = torch.arange(7)[:, None, None, None]
    best = BestCandidates(1, 3)
    for part in (slice(0, 2), slice(2, 6), slice(6, 7)):
        best.update([0] * len(scores[part]), codes[part], scores[part])
    kept, values = best.result()
    assert kept.flatten().tolist() == [1, 2, 5] and values.tolist() == pytest.approx([0.9] * 3)  # ties: the earlier
    assert all(each.untyped_storage().nbytes() == 8 for each in best._codes[0])
    with pytest.raises(ValueError, match="scores of the pictures must be finite"):
        best.update([0], codes[:1], torch.tensor([float("nan")]))


@pytest.mark.parametrize(
    "rate, wanted, candidates", [(1, 3, 3), (0.05, 1, 20), (0.1, 3, 30), (0.125, 5, 40), (0.3, 1, 4)]
)
def test_the_rate_gives_the_number_of_candidates(rate, wanted, candidates):
    assert candidates_per_prompt(wanted, None, None, "classifier", rate) == candidates


def test_pixels_reach_the_model_in_its_range_and_none_wraps_round(ranker):
    shades = torch.linspace(-1.2, 1.2, 49)
    pictures = shades.view(-1, 1, 1, 1).expand(-1, 3, 16, 16)
    levels = to_levels(pictures)
    expected = ((shades.clamp(-1, 1) + 1) * 127.5).round()
    assert levels.dtype == torch.uint8 and torch.equal(levels[:, 0, 0, 0].float(), expected)
    assert (levels.int().flatten(1)[:, 0].diff() >= 0).all()

    seen = []
    ranker.model.vision_model.register_forward_pre_hook(
        lambda module, arguments, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    ranker.score(pictures, ["rocket"] * len(pictures))
    processor = ranker.processor.image_processor
    mean, std = (torch.tensor(values).view(1, 3) for values in (processor.image_mean, processor.image_std))
    # What an honest conversion to 8 bits gives; a cast of [-1, 1] * 255 sends -0.5 to 129 of 255, near white's half.
    torch.testing.assert_close(seen[0][:, :, 0, 0], (expected[:, None] / 255 - mean) / std, rtol=0, atol=1e-5)
    darkest_half = seen[0][: len(pictures) // 2, 0, 0, 0]
    assert (darkest_half.diff() >= 0).all() and darkest_half.max() < seen[0][-1, 0, 0, 0]


def test_scores_are_those_of_the_librarys_own_path(ranker, pictures):
    texts = [["a red heart", "rocket"][index % 2] for index in range(len(pictures))]
    inputs = ranker.processor(
        text=texts,
        images=list(to_levels(pictures)),
        return_tensors="pt",
        padding=True,
        truncation=True,
        input_data_format="channels_first",
    )
    outputs = ranker.model(**inputs)
    expected = outputs.logits_per_image.diagonal() / ranker.model.logit_scale.exp()
    torch.testing.assert_close(ranker.score(pictures, texts), expected, rtol=1e-4, atol=1e-6)


def test_a_text_tower_without_a_mask_is_given_full_rows(ranker, tiny_tokenizer, tmp_path):
    tiny_tokenizer.save_pretrained(tmp_path)
    tokenizer = type(tiny_tokenizer).from_pretrained(tmp_path)
    tokenizer.model_input_names = ["input_ids"]  # as SigLIP's
    without_mask = CLIPRanker(ranker.model, type(ranker.processor)(ranker.processor.image_processor, tokenizer))
    seen = []
    ranker.model.text_model.register_forward_pre_hook(
        lambda module, arguments, kwargs: seen.append(kwargs), with_kwargs=True
    )
    assert without_mask.embed_texts(["rocket", "a red heart"]).shape == (2, 8)
    assert seen[0]["input_ids"].shape == (2, 6) and seen[0].get("attention_mask") is None
    ranker.embed_texts(["rocket"])
    assert seen[1]["attention_mask"].shape == seen[1]["input_ids"].shape and seen[1]["input_ids"].shape[1] < 6


def test_the_script_selects_and_prints_the_scores(
    tiny_pipeline, class_pipeline, load_script, ranker, classifier, tmp_path, capsys
):
    for name, item in {"text": tiny_pipeline, "class": class_pipeline, "clip": ranker, "net": classifier}.items():
        (item if name in ("text", "class") else item.model).save_pretrained(tmp_path / name)
    ranker.processor.save_pretrained(tmp_path / "clip")
    classifier.image_processor.save_pretrained(tmp_path / "net")
    common = ["--num_images", "2", "--device", "cpu", "--output", str(tmp_path / "pictures.png")]
    chosen = {
        "text": [
            "a red heart", "--num_candidates", "5", "--ranker", str(tmp_path / "clip"), "--likelihood_weight", "0.1",
        ],
        "class": ["--class_labels", "goose", "--acceptance_rate", "0.5", "--classifier", str(tmp_path / "net")],
    }  # fmt: skip
    expected = {
        "text": dict(prompt="a red heart", num_candidates=5, ranker=ranker, likelihood_weight=0.1),
        "class": dict(class_labels="goose", acceptance_rate=0.5, classifier=classifier),
    }
    for name, pipe in {"text": tiny_pipeline, "class": class_pipeline}.items():
        load_script("generate").main([str(tmp_path / name), *chosen[name], *common])
        line, path = capsys.readouterr().out.splitlines()[-2:]
        drawn = pipe(**expected[name], num_images_per_prompt=2, generator=seeded(0, 1))
        caption = "a red heart" if name == "text" else "goose"
        assert line == f"{caption}: {drawn.scores[0]:.3f}, {drawn.scores[1]:.3f}" and path == common[-1]


def test_classifier_and_ranker_load_from_folders(class_pipeline, tiny_pipeline, ranker, classifier, tmp_path):
    for scorer, processor in ((classifier, classifier.image_processor), (ranker, ranker.processor)):
        folder = tmp_path / type(scorer).__name__
        scorer.model.save_pretrained(folder)
        processor.save_pretrained(folder)
    options = dict(class_labels=2, acceptance_rate=0.5, output_type="np")
    by_path, by_object = (
        class_pipeline(classifier=each, generator=seeded(0), **options)
        for each in (str(tmp_path / "ImageClassifier"), classifier)
    )
    assert np.array_equal(by_path.images, by_object.images) and torch.equal(by_path.scores, by_object.scores)
    loaded = CLIPRanker(tmp_path / "CLIPRanker")
    first, second = (
        tiny_pipeline("rocket", num_candidates=3, ranker=each, generator=seeded(0)).scores for each in (loaded, ranker)
    )
    torch.testing.assert_close(first, second, rtol=0, atol=1e-6)
    model = type(classifier.model).from_pretrained(tmp_path / "ImageClassifier")
    assert ImageClassifier(model).image_processor is not None  # its processor is found where the model is from


def test_classes_are_matched_by_name_whatever_their_order(class_pipeline):
    order = [3, 1, 0, 2]
    shuffled = {place: CLASSES[index].upper() for place, index in enumerate(order)}
    classifier = ImageClassifier(*tiny_classifier(shuffled))
    config, alike = class_pipeline.transformer.config, {index: index for index in range(4)}
    assert classifier.class_ids(config.id2label, config.class_ids) == {index: order.index(index) for index in range(4)}
    nameless = ImageClassifier(*tiny_classifier({index: f"LABEL_{index}" for index in range(4)}))
    assert nameless.class_ids(CLASSES, range(4)) == alike
    assert nameless.class_ids(None, range(1, 5)) == {1: 0, 2: 1, 3: 2, 4: 3}  # id 0 is the null condition
    synonyms = {index: f"{name}, Latinum {name}" for index, name in CLASSES.items()}
    assert ImageClassifier(*tiny_classifier(synonyms)).class_ids(CLASSES, range(4)) == alike
    many = [f"name {index}, synonym {index}" for index in range(199)]
    others = [f"Name {index}" for index in range(199)]
    assert are_same_classes([*many, "crane bird"], [*others, "crane"])
    for change in (["dragon"], ["b"], []):  # another class in its place, or none
        assert not are_same_classes([*many, "crane bird"], [*others, *change])
    assert not are_same_classes(many[:9] + ["crane bird"], others[:9] + ["crane"])  # too few to tell
    assert not are_same_classes(many, others[::-1])
    double = {0: "crane", 1: "goose", 2: "crane"}
    of_double = ImageClassifier(*tiny_classifier(double)).class_ids(double, range(3))  # ImageNet has such names
    assert of_double == {0: 0, 1: 1, 2: 2}
    with pytest.raises(ValueError, match="one class of each name, got several called 'crane'"):
        ImageClassifier(*tiny_classifier(double)).class_ids({0: "goose", 1: "crane"}, range(2))


def test_grey_pictures_reach_a_classifier_of_one_or_three_channels():
    grey = torch.rand(2, 1, 16, 16) * 2 - 1
    for channels in (1, 3):
        model, processor = tiny_classifier(channels=channels)
        assert ImageClassifier(model, processor).probabilities(grey).sum(1).tolist() == pytest.approx([1, 1])


def test_a_classifier_of_grey_sees_the_luminance_of_colours():
    red = torch.zeros(2, 3, 16, 16)
    red[1, 1:] = 0.8
    classifier = ImageClassifier(*tiny_classifier(channels=1))
    first, second = classifier.probabilities(red)
    assert not torch.allclose(first, second)
    grey = (red[1, 0] * 0.299 + red[1, 1] * 0.587 + red[1, 2] * 0.114).expand(1, 1, 16, 16)
    torch.testing.assert_close(classifier.probabilities(grey)[0], second, rtol=1e-2, atol=1e-3)


def test_guidance_and_selection_work_together_and_a_callback_sees_every_batch(tiny_pipeline, ranker):
    steps = []
    output = tiny_pipeline(
        "rocket", negative_prompt="green apple", guidance_scale=2.0, num_candidates=3, ranker=ranker,
        candidate_batch_size=2, callback_on_step_end=lambda pipe, step, position, _: steps.append((step, position)),
    )  # fmt: skip
    assert output.scores.shape == (1,)
    assert steps == [(step, step % 16) for step in range(32)]


def test_a_folder_is_as_good_as_a_ranker(tiny_pipeline, ranker, tmp_path):
    ranker.model.save_pretrained(tmp_path)
    ranker.processor.save_pretrained(tmp_path)
    options = dict(candidate_batch_size=np.int64(2), num_images_per_prompt=np.int64(1))
    first, second = (
        tiny_pipeline("rocket", num_candidates=np.int64(3), ranker=each, generator=seeded(0), **options)
        for each in (ranker, tmp_path)
    )
    assert np.array_equal(np.array(first.images[0]), np.array(second.images[0]))
    torch.testing.assert_close(first.scores, second.scores, rtol=0, atol=1e-6)


def test_image_processors_need_take_nothing_but_pictures(classifier):
    """As that of timm's models, which wants pictures of PIL."""
    pixels = torch.rand(3, 3, 20, 20, generator=seeded(0)) * 2 - 1
    expected, inner = classifier.probabilities(pixels), classifier.image_processor

    def process(images, return_tensors):
        assert all(isinstance(image, PIL.Image.Image) for image in images)
        return inner(images, return_tensors=return_tensors)

    classifier.image_processor = process
    torch.testing.assert_close(classifier.probabilities(pixels), expected, rtol=0, atol=0)


def test_chosen_pictures_are_decoded_as_many_at_once_as_candidates_are_drawn(tiny_pipeline, ranker, monkeypatch):
    sizes, decode = [], tiny_pipeline.rqvae.decode
    monkeypatch.setattr(tiny_pipeline.rqvae, "decode", lambda codes: sizes.append(len(codes)) or decode(codes))
    options = dict(num_candidates=3, num_images_per_prompt=3, ranker=ranker, candidate_batch_size=2)
    images = tiny_pipeline("rocket", **options).images
    assert len(images) == 3 and max(sizes) == 2


def test_an_interrupted_selection_returns_the_best_so_far(tiny_pipeline, ranker):
    def stop(pipe, step, position, tensors):
        pipe._interrupt = step == 17  # in the second batch
        return {}

    output = tiny_pipeline(
        "rocket", num_images_per_prompt=3, num_candidates=8, ranker=ranker, candidate_batch_size=1,
        callback_on_step_end=stop,
    )  # fmt: skip
    assert len(output.images) == len(output.scores) == 1  # the whole one
    output = tiny_pipeline(
        "rocket", num_candidates=2, ranker=ranker, candidate_batch_size=2, output_type="latent",
        callback_on_step_end=lambda pipe, step, position, tensors: setattr(pipe, "_interrupt", step == 5),
    )  # fmt: skip
    assert len(output.images) == 1 and not output.images.flatten(1, 2)[:, 6:].any()  # there is nothing else


@pytest.mark.parametrize(
    "rate, pictures, candidates",
    [(0.1, 3, 30), (0.3, 3, 10), (1 / 3, 1, 3), (1 / 3, 10, 30), (2 / 3, 2, 3), (1 / 7, 5, 35), (0.9, 1, 2),
     (np.float32(0.7), 7, 10), (1, 4, 4), (1e-4, 1, 10_000), (0.3001, 3, 10), (0.2999, 3, 11)],
)  # fmt: skip
def test_as_many_candidates_are_drawn_as_the_rate_asks_for(rate, pictures, candidates, classifier):
    assert candidates_per_prompt(pictures, None, None, classifier, rate) == candidates


def test_models_whose_files_lack_weights_are_refused(classifier, ranker, tmp_path):
    classifier.image_processor.save_pretrained(tmp_path / "headless")
    whole = classifier.model.state_dict()
    headless = {name: weight for name, weight in whole.items() if not name.startswith("classifier.")}
    classifier.model.save_pretrained(tmp_path / "headless", state_dict=headless)
    with pytest.raises(
        ValueError, match="must hold a whole ResNetForImage.*lacks weights such as `classifier.1.bias`"
    ):
        ImageClassifier(tmp_path / "headless")
    ranker.processor.save_pretrained(tmp_path / "clip")
    whole = ranker.model.state_dict()
    ranker.model.save_pretrained(
        tmp_path / "clip", state_dict={name: weight for name, weight in whole.items() if "projection" not in name}
    )
    with pytest.raises(ValueError, match=r"must hold a whole CLIPModel.*`text_projection.weight` \(2 are missing\)"):
        CLIPRanker(tmp_path / "clip")


@pytest.mark.parametrize(
    "arguments, match",
    [
        (dict(acceptance_rate=0.5), "`classifier` and `acceptance_rate` need each other"),
        (
            dict(acceptance_rate=5e-324, classifier="here"),
            "`acceptance_rate` must leave a finite number of candidates",
        ),
        (dict(acceptance_rate=0.0, classifier="here"), r"`acceptance_rate` must be a number in \(0, 1\], got 0.0"),
        (dict(acceptance_rate=-0.1, classifier="here"), r"`acceptance_rate` must be a number in \(0, 1\], got -0.1"),
        (dict(acceptance_rate=1.5, classifier="here"), r"`acceptance_rate` must be a number in \(0, 1\], got 1.5"),
        (dict(acceptance_rate=float("nan"), classifier="here"), r"`acceptance_rate` must be .* got nan"),
        (dict(acceptance_rate=True, classifier="here"), "`acceptance_rate` must be .* got True"),
        (dict(num_candidates=4), "`ranker` and `num_candidates` need each other"),
        (
            dict(num_candidates=4, ranker=3),
            "`ranker` must be a CLIPRanker, a model, a Hub id, a folder or 'likelihood', got 3",
        ),
        (
            dict(num_candidates=4, ranker=np.zeros(2)),
            "`ranker` must be a CLIPRanker, a model, a Hub id, a folder or 'likelihood', got array",
        ),
        (dict(num_candidates=4, ranker="a", acceptance_rate=0.5, classifier="b"), "exclude each other"),
        (dict(likelihood_weight=0.5), "`likelihood_weight` needs a `ranker` that compares captions, got None"),
        (
            dict(num_candidates=4, ranker="likelihood", likelihood_weight=0.5),
            "`likelihood_weight` needs a `ranker` that compares captions, got 'likelihood'",
        ),
        (
            dict(num_candidates=4, ranker="a", likelihood_weight=-1),
            "`likelihood_weight` must be .* at least 0, got -1",
        ),
        (dict(num_candidates=4, ranker="a", likelihood_weight=float("nan")), "`likelihood_weight` .* got nan"),
        (dict(num_candidates=4, ranker="a", likelihood_weight="1"), "`likelihood_weight` .* got '1'"),
    ],
)
def test_bad_arguments_are_named(class_pipeline, arguments, match):
    with pytest.raises(ValueError, match=match):
        class_pipeline(class_labels=0, **arguments)


def test_what_does_not_belong_together_is_refused(class_pipeline, tiny_pipeline, classifier, ranker):
    with pytest.raises(ValueError, match="`num_candidates` must be an integer of at least .*3.*, got 2"):
        tiny_pipeline("rocket", num_images_per_prompt=3, num_candidates=2, ranker=ranker)
    with pytest.raises(ValueError, match="`ranker` needs a `prompt`"):
        class_pipeline(class_labels=0, num_candidates=2, ranker=ranker)
    with pytest.raises(ValueError, match="`classifier` needs `class_labels`"):
        tiny_pipeline("rocket", classifier=classifier, acceptance_rate=0.5)
    with pytest.raises(ValueError, match="`candidate_batch_size` must be at least 1, got 0"):
        tiny_pipeline("rocket", num_candidates=2, ranker=ranker, candidate_batch_size=0)
    with pytest.raises(
        ValueError, match=r"`generator` must be one or a list of one per returned picture \(1\), got 2"
    ):
        tiny_pipeline("rocket", num_candidates=2, ranker=ranker, generator=seeded(0, 1))
    others = ImageClassifier(*tiny_classifier({0: "shirt", 1: "goose", 2: "coat", 3: "bag"}))
    with pytest.raises(ValueError, match=r"`classifier` must know the model's classes, such as \['tabby, tabby cat'"):
        class_pipeline(class_labels=0, classifier=others, acceptance_rate=0.5)
    fewer = ImageClassifier(*tiny_classifier({0: "LABEL_0", 1: "LABEL_1"}))
    with pytest.raises(ValueError, match="`classifier` must have the model's 4 classes, got one of 2"):
        class_pipeline(class_labels=0, classifier=fewer, acceptance_rate=0.5)


def test_models_that_cannot_score_are_refused(classifier, ranker, tiny_tokenizer, tmp_path):
    with pytest.raises(ValueError, match="`ranker` must be of a model with a text tower.*got CLIPVisionModel"):
        ranker.model.vision_model.save_pretrained(tmp_path / "vision")
        CLIPRanker(tmp_path / "vision")
    with pytest.raises(ValueError, match="`ranker` must be of a model with a text tower.*got ResNet"):
        CLIPRanker(classifier.model, ranker.processor)
    with pytest.raises(ValueError, match=r"`ranker` must come with its processor.*`CLIPRanker\(model, processor\)`"):
        CLIPRanker(tiny_clip(tiny_tokenizer)[0])
    with pytest.raises(ValueError, match="`processor` must have a tokenizer and an image processor"):
        CLIPRanker(ranker.model, ranker.processor.image_processor)
    with pytest.raises(ValueError, match="`classifier` must come with its processor"):
        ImageClassifier(tiny_classifier()[0])
    with pytest.raises(ValueError, match="`classifier` must be a Hub id, a folder or an image classifier"):
        ImageClassifier(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="pictures to score must be finite"):
        classifier.score(torch.full((1, 3, 16, 16), float("nan")), [0])
