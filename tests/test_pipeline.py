# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The pipeline: pictures from captions, labels or nothing, randomness, callbacks, offloading, bad input."""

import copy
import logging
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import ImagePipelineOutput
from tokenizers.processors import TemplateProcessing

from rq_hf import RQImageGenerationPipeline, RQVAEConfig, RQVAEModel, train_caption_tokenizer

PROMPT = "a red heart"
# How each kind of pipeline is asked for two pictures.
TWO = {"text": dict(prompt=["a red heart", "green apple"]), "class": dict(class_labels=[1, "volcano"])}
TWO["none"] = dict(num_images_per_prompt=2)


def seeded(*seeds: int):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators if len(seeds) > 1 else generators[0]


def draw(pipe, *args, seed: int = 0, output_type: str = "np", **kwargs):
    kwargs.setdefault("generator", seeded(seed))
    return pipe(*args, output_type=output_type, **kwargs).images


@pytest.fixture(params=TWO)
def kind(request) -> str:
    return request.param


@pytest.fixture
def pipe(make_pipeline, kind) -> RQImageGenerationPipeline:
    return make_pipeline(kind)


def test_equal_seeds_give_equal_pictures_and_others_differ(pipe, kind):
    first, second, other = (draw(pipe, **TWO[kind], seed=seed) for seed in (1, 1, 2))
    assert first.shape == (2, 16, 16, 3) and first.std() > 0.01
    assert np.array_equal(first, second) and not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


def test_with_one_generator_per_picture_a_batch_equals_its_singles(pipe, kind):
    together = draw(pipe, **TWO[kind], generator=seeded(3, 4))
    for index, seed in enumerate((3, 4)):
        one = {name: value[index] if isinstance(value, list) else 1 for name, value in TWO[kind].items()}
        np.testing.assert_allclose(draw(pipe, **one, seed=seed)[0], together[index], rtol=0, atol=1e-5)


def test_the_pictures_are_the_decoded_codes_of_the_condition(tiny_pipeline, tiny_tokenizer):
    settings = dict(temperature=0.8, top_k=[20, 10, 5], top_p=0.95)
    codes = draw(tiny_pipeline, PROMPT, output_type="latent", **settings)
    condition = tiny_tokenizer([PROMPT], padding="max_length", return_tensors="pt")  # all that the model takes
    assert torch.equal(codes, tiny_pipeline.transformer.generate(**condition, generator=seeded(0), **settings))
    expected = (tiny_pipeline.rqvae.decode(codes) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(draw(tiny_pipeline, PROMPT, output_type="pt", **settings), expected)


def test_all_output_types_are_one_picture(tiny_pipeline):
    images = {kind: draw(tiny_pipeline, PROMPT, output_type=kind) for kind in ("pil", "np", "pt", "latent")}
    assert images["latent"].shape == (1, 4, 4, 3) and images["latent"].dtype == torch.long
    assert isinstance(images["pil"][0], PIL.Image.Image) and images["pil"][0].size == (16, 16)
    assert images["pil"][0].mode == "RGB"
    assert np.array_equal(images["pt"].permute(0, 2, 3, 1).numpy(), images["np"])
    assert 0 <= images["np"].min() and images["np"].max() <= 1
    assert np.array_equal(np.asarray(images["pil"][0]), (images["np"][0] * 255).round().astype(np.uint8))


def test_the_output_is_the_librarys_or_a_tuple(tiny_pipeline):
    assert isinstance(tiny_pipeline(PROMPT), ImagePipelineOutput)
    as_tuple = tiny_pipeline(PROMPT, generator=seeded(0), output_type="np", return_dict=False)
    assert isinstance(as_tuple, tuple) and np.array_equal(as_tuple[0], draw(tiny_pipeline, PROMPT))


def test_the_pictures_of_one_prompt_follow_each_other(tiny_pipeline):
    prompts = ["a red heart", "green apple"]
    generators = seeded(1, 2, 3, 4)
    images = draw(tiny_pipeline, prompts, num_images_per_prompt=2, generator=generators)
    for index in range(4):
        single = draw(tiny_pipeline, prompts[index // 2], seed=index + 1)
        np.testing.assert_allclose(images[index], single[0], rtol=0, atol=1e-5)


def test_prompts_decide_the_pictures(tiny_pipeline):
    first, second = (draw(tiny_pipeline, prompt, output_type="latent") for prompt in ("a red heart", "green apple"))
    assert not torch.equal(first, second)


def test_label_names_stand_for_their_ids(make_pipeline):
    pipe = make_pipeline("class")
    for name in ("tabby, tabby cat", "tabby", "TABBY CAT", " tabby "):
        assert pipe.get_label_ids(name) == [0]
    assert pipe.get_label_ids(["volcano", 2, "Carassius auratus"]) == [3, 2, 2]
    assert np.array_equal(draw(pipe, class_labels=["tabby", "goose"]), draw(pipe, class_labels=[0, 1]))
    for labels in (np.array([3, 1]), torch.tensor([3, 1]), [np.int64(3), 1], (3, 1)):
        assert pipe.get_label_ids(labels) == [3, 1]
    assert pipe.get_label_ids(np.int64(2)) == pipe.get_label_ids(torch.tensor(2)) == [2]


@pytest.mark.parametrize(("null", "classes"), [(0, [1, 2, 3, 4]), (4, [0, 1, 2, 3])])
def test_the_null_condition_is_no_class(make_pipeline, null, classes):
    pipe = make_pipeline("class", id2label=None, vocab_size=5, null_condition_ids=[null])
    assert pipe.transformer.config.class_ids == pipe.get_label_ids(classes) == classes
    among = r"\[0, 4\)" if null == 4 else r"\[1, 2, 3, 4\]"
    for label in (null, 5):
        with pytest.raises(ValueError, match=f"`class_labels` must be ids in {among} or names, got {label}"):
            pipe(class_labels=label)


def test_a_whole_label_goes_before_an_alternative_and_two_of_one_name_are_refused(make_pipeline):
    names = {0: "ear, corn", 1: "corn", 2: "crane", 3: "Crane", 4: "heron, ear, Heron"}
    pipe = make_pipeline("class", id2label=names, vocab_size=6, null_condition_ids=[5])
    assert pipe.get_label_ids(["corn", "heron", "ear, corn"]) == [1, 4, 0]
    for name, ids in {"crane": r"\[2, 3\]", "ear": r"\[0, 4\]"}.items():
        with pytest.raises(ValueError, match=f"`class_labels` must be .*'{name}'.*{ids}"):
            pipe.get_label_ids(name)


def test_guidance_takes_negative_prompts_or_the_null_condition(tiny_pipeline):
    prompts, negatives = ["a red heart", "rocket"], ["green apple", "a pizza"]
    plain = draw(tiny_pipeline, prompts, output_type="latent")
    guided = draw(tiny_pipeline, prompts, output_type="latent", guidance_scale=3.0)
    assert not torch.equal(guided, plain)
    assert torch.equal(draw(tiny_pipeline, prompts, output_type="latent", guidance_scale=1.0), plain)
    for negative, same in ((negatives, negatives), ("a pizza", ["a pizza"] * 2)):
        for count in (1, 2):
            options = dict(num_images_per_prompt=count, output_type="latent")
            away = draw(tiny_pipeline, prompts, negative_prompt=negative, guidance_scale=0.0, **options)
            assert torch.equal(away, draw(tiny_pipeline, same, **options))


def test_the_callback_sees_each_position_and_may_replace_codes(tiny_pipeline):
    steps = []

    def replace(pipe, step, position, tensors, in_place=False):
        assert pipe is tiny_pipeline and set(tensors) == {"codes"} and step == position
        steps.append(position)
        codes = tensors["codes"] if in_place else tensors["codes"].clone()
        if position == 2:
            codes[:, 0, 2] = 7
        return {"codes": codes}

    plain = draw(tiny_pipeline, PROMPT, output_type="latent")
    new = draw(tiny_pipeline, PROMPT, output_type="latent", callback_on_step_end=replace)
    assert steps == list(range(16))
    assert torch.equal(new[:, 0, :2], plain[:, 0, :2]) and (new[:, 0, 2] == 7).all()
    assert not torch.equal(new[:, 0, 3:], plain[:, 0, 3:])

    def replace_in_place(*args):
        return replace(*args, in_place=True)

    again = draw(tiny_pipeline, PROMPT, output_type="latent", callback_on_step_end=replace_in_place)
    assert torch.equal(again, new)


@pytest.mark.parametrize("answer", [None, {}], ids=str)
def test_a_callback_that_only_looks_changes_nothing(tiny_pipeline, answer):
    plain = draw(tiny_pipeline, PROMPT)
    assert np.array_equal(draw(tiny_pipeline, PROMPT, callback_on_step_end=lambda *_: answer), plain)
    seen = []
    draw(
        tiny_pipeline,
        PROMPT,
        callback_on_step_end=lambda *arguments: seen.append(arguments[3]),
        callback_on_step_end_tensor_inputs=[],
    )
    assert seen == [{}] * 16


@pytest.mark.parametrize("answer", [True, False])
def test_a_callback_that_gives_no_codes_is_refused(tiny_pipeline, answer):
    with pytest.raises(ValueError, match=f"the callback's codes must be a tensor or None, got {answer}"):
        draw(tiny_pipeline, PROMPT, callback_on_step_end=lambda *_: {"codes": answer})


def test_a_callback_may_interrupt(tiny_pipeline):
    steps = []

    def stop(pipe, step, position, tensors):
        steps.append(position)
        pipe._interrupt = position == 4
        return {"codes": tensors["codes"].clone().clamp(min=9)} if position == 4 else tensors

    plain = draw(tiny_pipeline, PROMPT, output_type="latent").flatten(1, 2)
    codes = draw(tiny_pipeline, PROMPT, output_type="latent", callback_on_step_end=stop).flatten(1, 2)
    assert steps == list(range(5)) and tiny_pipeline.interrupt
    assert torch.equal(codes[:, :5], plain[:, :5].clamp(min=9))  # what it returned last is not lost
    assert torch.equal(
        draw(tiny_pipeline, PROMPT, output_type="latent").flatten(1, 2), plain
    )  # and the next run is whole


def test_codes_returned_with_an_interrupt_are_checked(tiny_pipeline):
    def stop(pipe, step, position, tensors):
        pipe._interrupt = True
        return {"codes": tensors["codes"] - 10**6}

    with pytest.raises(ValueError, match="the callback's codes must be integers in"):
        draw(tiny_pipeline, PROMPT, callback_on_step_end=stop)


def test_progress_is_shown_per_position(tiny_pipeline, capsys):
    tiny_pipeline.set_progress_bar_config(disable=False)
    tiny_pipeline(PROMPT)
    assert "16/16" in capsys.readouterr().err


def test_reconstruct_decodes_the_first_depths(tiny_pipeline, pictures):
    images = pictures / 2 + 0.5
    codes = tiny_pipeline.rqvae.encode(pictures)
    whole = tiny_pipeline.reconstruct(images, output_type="pt").images
    torch.testing.assert_close(whole, (tiny_pipeline.rqvae.decode(codes) / 2 + 0.5).clamp(0, 1))
    for depth in (1, 2, 3):
        found = tiny_pipeline.reconstruct(images, depth, output_type="latent", return_dict=False)[0]
        assert torch.equal(found, codes[..., :depth])
        expected = tiny_pipeline.rqvae.decode(codes[..., :depth]) / 2 + 0.5
        torch.testing.assert_close(tiny_pipeline.reconstruct(images, depth, "pt").images, expected.clamp(0, 1))


def test_tensors_of_four_channels_are_pictures_and_no_latents():
    fields = dict(
        num_channels=4, image_size=8, base_channels=8, channel_multiplier=[1, 2], num_res_blocks=1, norm_num_groups=4,
        attention_levels=[], latent_channels=8, codebook_dim=8, codebook_size=16, code_depth=2,
    )  # fmt: skip
    pipe = RQImageGenerationPipeline(rqvae=RQVAEModel(RQVAEConfig(**fields)).eval(), transformer=None)
    values = np.random.default_rng(0).random((2, 8, 8, 4), dtype=np.float32)
    expected = pipe.reconstruct(values, output_type="latent").images
    tensors = torch.tensor(values).permute(0, 3, 1, 2)
    assert torch.equal(pipe.reconstruct(tensors, output_type="latent").images, expected)
    assert pipe._pixel_values(tensors).min() < -0.5  # brought to [-1, 1]


def test_reconstruct_takes_pictures_of_any_kind(tiny_pipeline):
    values = np.random.default_rng(0).integers(256, size=(2, 16, 24, 3), dtype=np.uint8)
    pil, floats = [PIL.Image.fromarray(each) for each in values], values.astype(np.float32) / 255
    expected = tiny_pipeline.reconstruct(pil, output_type="latent").images
    assert expected.shape == (2, 4, 6, 3)
    for images in (floats, list(floats), torch.tensor(floats).permute(0, 3, 1, 2)):
        assert torch.equal(tiny_pipeline.reconstruct(images, output_type="latent").images, expected)
    assert torch.equal(tiny_pipeline.reconstruct(pil[0], output_type="latent").images, expected[:1])
    mirrored = tiny_pipeline.reconstruct(floats[:, :, ::-1], output_type="latent").images  # a view, steps backwards
    assert torch.equal(mirrored, tiny_pipeline.reconstruct(floats[:, :, ::-1].copy(), output_type="latent").images)
    grey = tiny_pipeline.reconstruct(pil[0].convert("L")).images[0]
    assert grey.mode == "RGB" and grey.size == (24, 16)


def test_offloading_hooks_see_each_call_and_are_freed_after_it(tiny_pipeline, pictures):
    expected = draw(tiny_pipeline, PROMPT), tiny_pipeline.reconstruct(pictures / 2 + 0.5, output_type="np").images
    tiny_pipeline.enable_model_cpu_offload(device="cpu")
    calls = []

    def watch(name):
        hook = getattr(tiny_pipeline, name)._hf_hook
        before = hook.pre_forward
        hook.pre_forward = lambda *args, **kwargs: calls.append(name) or before(*args, **kwargs)
        return hook

    hooks = [watch("transformer"), watch("rqvae")]
    assert np.array_equal(draw(tiny_pipeline, PROMPT), expected[0])
    assert calls[0] == "transformer" and calls[-1] == "rqvae"
    assert tiny_pipeline.transformer._hf_hook is not hooks[0]  # the library frees hooks by making new ones
    calls.clear()
    watch("transformer")
    input_ids, codes = tiny_pipeline.encode_prompt(PROMPT), torch.zeros(1, 4, 4, 3, dtype=torch.long)
    tiny_pipeline.transformer.log_likelihood(input_ids, codes)
    assert calls == ["transformer"]
    tiny_pipeline.maybe_free_model_hooks()
    hooks = [watch("transformer"), watch("rqvae")]
    calls.clear()
    assert np.array_equal(tiny_pipeline.reconstruct(pictures / 2 + 0.5, output_type="np").images, expected[1])
    assert set(calls) == {"rqvae"} and tiny_pipeline.rqvae._hf_hook is not hooks[1]


@pytest.mark.parametrize("with_null", [True, False])
def test_text_of_which_the_tokenizer_knows_no_letter_is_no_condition(make_pipeline, caplog, with_null):
    pipe = make_pipeline("text")
    null, length = [3, 0, 0, 0, 0, 0], pipe.transformer.config.condition_length
    pipe.transformer.config.null_condition_ids = null if with_null else None
    known, strange = pipe.encode_prompt(["rocket", "\u732b\u72ac"]).tolist()
    assert "knows no letter of the prompt '\u732b\u72ac'" in caplog.text and "'rocket'" not in caplog.text
    assert strange == (null if with_null else [1, 1, 0, 0, 0, 0]) and len(strange) == length
    assert pipe.encode_prompt(["rocket"]).tolist() == [known] and 1 not in known
    caplog.clear()
    mixed, long = pipe.encode_prompt(["rocket \u732b", "\u732b " * 20]).tolist()
    assert mixed[: known.index(0)] == known[: known.index(0)] and 1 in mixed
    assert long == (null if with_null else [1] * length)
    assert caplog.text.count("knows no letter") == 1 and "not used" not in caplog.text


def test_the_demo_draws_whatever_it_is_asked_for():
    known = ["Two people walk along the beach at sunset, and their dog runs after them.", "reed hart, twemojy stile"]
    known += ["ein roter Apfel", "phlogiston", "x" * 500]
    unknown = ["\u7ea2\u8272\u7684\u5fc3", "\u0644\u0628", "\u2764\ufe0f", "\u043a\u043e\u0442 1", " ", "\0", ""]
    pipe = RQImageGenerationPipeline.from_pretrained(Path(__file__).parents[1] / "checkpoints" / "emoji-64")
    pictures = draw(pipe, known + unknown, generator=seeded(*[0] * len(known + unknown)))
    assert pictures.shape[1:] == (64, 64, 3)
    unconditional = pictures[-1]
    assert all(np.array_equal(picture, unconditional) for picture in pictures[len(known) :])
    assert len({picture.tobytes() for picture in pictures}) == len(known) + 1


@pytest.mark.parametrize(
    "kind, arguments, message",
    [
        ("text", dict(), "`prompt` must be given"),
        ("text", dict(class_labels=1), "`prompt` must be given"),
        ("text", dict(prompt=[]), "`prompt` must hold at least one caption, got an empty list"),
        ("text", dict(prompt=5), "`prompt` must be a string or a list of strings, got 5"),
        ("text", dict(prompt=["rocket", None]), "`prompt` must be a string or a list of strings"),
        ("text", dict(prompt=PROMPT, class_labels=1), "`prompt` and `class_labels` exclude each other"),
        ("text", dict(prompt=PROMPT, negative_prompt="pizza"), "needs? a `guidance_scale`"),
        (
            "text",
            dict(prompt=PROMPT, negative_prompt=["pizza"] * 2, guidance_scale=2.0),
            "`negative_prompt`.* one or 1",
        ),
        ("text", dict(prompt=PROMPT, num_images_per_prompt=0), "`num_images_per_prompt` must be at least 1, got 0"),
        (
            "text",
            dict(prompt=PROMPT, num_images_per_prompt=1.5),
            "`num_images_per_prompt` must be an integer, got 1.5",
        ),
        ("text", dict(prompt=PROMPT, num_images_per_prompt=True), "`num_images_per_prompt` must be an integer"),
        ("text", dict(prompt=PROMPT, output_type="jpeg"), "`output_type` must be one of .*got 'jpeg'"),
        ("text", dict(prompt=PROMPT, top_k=0), "`top_k` must be an integer of at least 1, got 0"),
        ("text", dict(prompt=PROMPT, top_p=1.5), r"`top_p` must be in \(0, 1\], got 1.5"),
        ("text", dict(prompt=PROMPT, temperature=-1), "`temperature` must be greater than 0, got -1"),
        ("text", dict(prompt=PROMPT, guidance_scale=-1), "`guidance_scale` must be .*at least 0, got -1"),
        ("text", dict(prompt=PROMPT, generator=[torch.Generator()] * 2), r"`generator` must be .*\(1\), got 2"),
        (
            "text",
            dict(prompt=PROMPT, callback_on_step_end_tensor_inputs=["latents"]),
            r"`callback_on_step_end_tensor_inputs` must be in \['codes'\], got \['latents'\]",
        ),
        (
            "text",
            dict(prompt=PROMPT, callback_on_step_end=lambda *_: {"codes": torch.zeros(1, 4, 4, dtype=torch.long)}),
            r"codes must have shape \(1, 4, 4, 3\), got \(1, 4, 4\)",
        ),
        (
            "text",
            dict(prompt=PROMPT, callback_on_step_end=lambda *_: torch.zeros(1)),
            "a dictionary or None, got Tensor",
        ),
        ("text", dict(prompt=PROMPT, callback_on_step_end=lambda *_: {"codes": [1]}), "must be a tensor, got list"),
        ("text", dict(prompt=PROMPT, guidance_scale=float("inf")), "`guidance_scale` must be .*at least 0, got inf"),
        ("text", dict(prompt=PROMPT, negative_prompt=5, guidance_scale=2.0), "`negative_prompt` must be a string"),
        ("class", dict(), "`class_labels` must be given: this model has 4 classes"),
        ("class", dict(prompt="goose"), "`prompt` must be None"),
        ("class", dict(class_labels=[]), "`class_labels` must hold at least one label, got an empty list"),
        ("class", dict(class_labels="goos"), "`class_labels` must be labels of this model, .*'goose'.*got 'goos'"),
        ("class", dict(class_labels=4), r"`class_labels` must be ids in \[0, 4\) or names, got 4"),
        ("class", dict(class_labels=-1), r"`class_labels` must be ids in \[0, 4\) or names, got -1"),
        ("class", dict(class_labels=True), "`class_labels` must be ids .*got True"),
        ("class", dict(class_labels=1.5), "`class_labels` must be ids .*got 1.5"),
        ("class", dict(class_labels=[1, None]), "`class_labels` must be ids .*got None"),
        (
            "class",
            dict(class_labels=1, negative_prompt="a", guidance_scale=2.0),
            "`negative_prompt` needs .*`tokenizer`",
        ),
        ("none", dict(prompt="goose"), "`prompt` must be None"),
        ("none", dict(class_labels=0), "`class_labels` must be None: this model is unconditional, got 0"),
    ],
)
def test_bad_calls_are_refused(make_pipeline, kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_pipeline(kind)(**arguments)


def test_what_does_not_fit_the_condition_is_cut_with_a_warning_that_shows_it(tiny_pipeline, caplog):
    with caplog.at_level(logging.WARNING):
        tiny_pipeline(PROMPT)
        assert caplog.text == ""
        long = "a red heart, twemoji style of cheese"
        input_ids = tiny_pipeline.encode_prompt(long)
    assert input_ids.tolist() == [tiny_pipeline.tokenizer(long, truncation=False, padding=False).input_ids[:6]]
    assert re.search("cut to 6 tokens; .*'.*style of cheese'", caplog.text)


def test_special_tokens_take_a_part_of_the_condition(tiny_pipeline, caplog):
    tokenizer = tiny_pipeline.tokenizer = copy.deepcopy(tiny_pipeline.tokenizer)  # which other tests have, too
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[UNK] $A [UNK]", special_tokens=[("[UNK]", tokenizer.unk_token_id)]
    )
    with caplog.at_level(logging.WARNING):
        ids = tokenizer("red red red", add_special_tokens=False).input_ids
        tiny_pipeline.encode_prompt(tokenizer.decode(ids[:4]))
        assert caplog.text == ""
        long = "a red heart, twemoji style of cheese"
        (row,) = tiny_pipeline.encode_prompt(long).tolist()
        whole = tokenizer(long, add_special_tokens=False, truncation=False, padding=False).input_ids
    assert row[1:-1] == whole[:4]
    assert f"cut to 4 tokens; this part is not used: {tokenizer.decode(whole[4:])!r}" in caplog.text


def test_threads_may_encode_prompts_at_the_same_time(tiny_pipeline, monkeypatch):
    tokenizer = tiny_pipeline.tokenizer
    prompts = [PROMPT, "a red heart, twemoji style of cheese", "a"] * 5
    expected = [tiny_pipeline.encode_prompt(prompt) for prompt in prompts]
    set_state = tokenizer.set_truncation_and_padding

    def set_slowly(**options):
        set_state(**options)
        time.sleep(0.002)  # others may run before the state is used

    monkeypatch.setattr(tokenizer, "set_truncation_and_padding", set_slowly)
    with ThreadPoolExecutor(3) as threads:
        encoded = list(threads.map(tiny_pipeline.encode_prompt, prompts))
    assert all(torch.equal(first, second) for first, second in zip(encoded, expected, strict=True))


def test_a_model_that_gives_nan_is_an_error(tiny_pipeline):
    with torch.no_grad():
        tiny_pipeline.transformer.depth_projection.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="logits must be finite"):
        tiny_pipeline(PROMPT)


@pytest.mark.parametrize(
    "image, depth, message",
    [
        (PIL.Image.new("RGB", (16, 18)), None, r"must have shape .*multiples of 4, got \(1, 3, 18, 16\)"),
        (
            [PIL.Image.new("RGB", (16, 16)), PIL.Image.new("RGB", (8, 8))],
            None,
            "`image` must be .*pictures of one size",
        ),
        ([], None, "`image` must be one or more pictures"),
        ("picture.png", None, "incorrect format"),
        (torch.full((1, 3, 16, 16), 255.0), None, r"`image` must .*\[0, 1\].*255"),
        (torch.full((1, 3, 16, 16), -0.5), None, r"`image` must .*\[0, 1\].*-0.5"),
        (torch.full((1, 3, 16, 16), float("nan")), None, r"`image` must .*\[0, 1\].*nan"),
        (np.ones((1, 16, 16, 3), dtype=np.uint8), None, r"`image` must .*floats.*uint8"),
        (np.ones((1, 16, 16, 3), dtype=np.uint16), None, r"`image` must .*floats.*uint16"),
        (torch.zeros(0, 3, 16, 16), None, r"`image` must .*floats.*\(0, 3, 16, 16\)"),
        ([torch.zeros(3, 16, 16), torch.zeros(3, 8, 8)], None, "`image` must be .*pictures of one size"),
        (torch.zeros(1, 1, 16, 16), None, r"must have shape .*got \(1, 1, 16, 16\)"),
        (PIL.Image.new("RGB", (16, 16)), 0, "`depth` must be an integer from 1 to 3, got 0"),
        (PIL.Image.new("RGB", (16, 16)), 4, "`depth` must be an integer from 1 to 3, got 4"),
        (PIL.Image.new("RGB", (16, 16)), 1.0, "`depth` must be an integer from 1 to 3, got 1.0"),
        (PIL.Image.new("RGB", (16, 16)), True, "`depth` must be an integer from 1 to 3, got True"),
    ],
)
def test_reconstruct_refuses_what_it_cannot_take(tiny_pipeline, image, depth, message):
    with pytest.raises(ValueError, match=message):
        tiny_pipeline.reconstruct(image, depth)


def test_parts_that_do_not_belong_together_are_refused(tiny_pipeline, make_rqvae, make_transformer, tiny_tokenizer):
    rqvae, transformer = tiny_pipeline.rqvae, tiny_pipeline.transformer
    for other, name in [
        (make_transformer("text", codebook_size=16), "code_shape"),
        (make_transformer("text", code_shape=(4, 4, 3), codebook_size=16), "codebook_size"),
        (make_transformer("text", code_shape=(4, 4, 3), shared_codebook=False), "shared_codebook"),
    ]:
        with pytest.raises(ValueError, match=f"`transformer` and `rqvae` must have one `{name}`.*belong together"):
            RQImageGenerationPipeline(rqvae, other, tiny_tokenizer)
    trained_on = make_rqvae()
    for codebook in (torch.randn_like(rqvae.codebook), rqvae.codebook * 1.02):
        trained_on.codebook.copy_(codebook)
        with pytest.raises(ValueError, match="`transformer` and `rqvae` must have one codebook"):
            RQImageGenerationPipeline(trained_on, transformer, tiny_tokenizer)
    for tokenizer in (
        train_caption_tokenizer(["abcdefghijklmnopqrstuvwxyz" * 2], vocab_size=90, max_length=6),
        train_caption_tokenizer([PROMPT], vocab_size=40, max_length=7),
    ):
        with pytest.raises(ValueError, match="`tokenizer` must have at most 80 ids and `model_max_length` 6"):
            RQImageGenerationPipeline(rqvae, transformer, tokenizer)


def test_inputs_of_the_wrong_kind_are_named_as_they_came(tiny_pipeline, caplog):
    with pytest.raises(ValueError, match=r"`image` must have height, width and channels, got shape \(16, 16\)"):
        tiny_pipeline.reconstruct(torch.zeros(16, 16))
    codes = torch.zeros(2, *tiny_pipeline.transformer.config.code_shape, dtype=torch.long)
    for wrong in (codes[0], codes[0, 0, 0, 0], codes[:0]):
        with pytest.raises(ValueError, match=r"`known_codes` must have shape \(batch_size, 4, 4, 3\), got"):
            tiny_pipeline(PROMPT, known_codes=wrong)
    with pytest.raises(ValueError, match="`prompt` must be text, got a half of a surrogate pair"):
        tiny_pipeline("a red \ud800 heart")
    unknown = "\u2603 " * tiny_pipeline.tokenizer.model_max_length
    with caplog.at_level(logging.WARNING):
        tiny_pipeline.encode_prompt(f"{unknown} a red heart")  # what the model knows comes too late
    assert "says nothing to the model" in caplog.text


def test_codes_without_pictures_are_refused(tiny_rqvae):
    for shape in ((0, 4, 4, 3), (1, 0, 4, 3)):
        with pytest.raises(ValueError, match=r"`codes` must have shape .*, got " + re.escape(str(shape))):
            tiny_rqvae.decode(torch.zeros(shape, dtype=torch.long))
        with pytest.raises(ValueError, match="`quantized` must have shape"):
            tiny_rqvae.decode_quantized(torch.zeros(*shape[:3], tiny_rqvae.config.codebook_dim))
