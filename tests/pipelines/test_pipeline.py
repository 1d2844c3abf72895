# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Pictures from captions, labels or nothing: randomness, conditions, callbacks, offloading, bad input."""

import copy
import inspect
import re

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import PROMPT, draw, seeded
from tokenizers.processors import TemplateProcessing

from rq_hf import RQGenerationConfig, RQImageGenerationPipeline, RQInpaintPipeline

TWO = {"text": {"prompt": ["a red heart", "green apple"]}, "class": {"class_labels": [1, "volcano"]}}
TWO["none"] = {"num_images_per_prompt": 2}


@pytest.mark.parametrize("kind, two", TWO.items(), ids=TWO)
def test_equal_seeds_give_equal_pictures_and_others_differ(make_pipeline, kind, two):
    pipe = make_pipeline(kind)
    first, second, other = (pipe(**two, generator=seeded(seed), output_type="np").images for seed in (1, 1, 2))
    assert first.shape == (2, 16, 16, 3) and first.std() > 0.01
    assert np.array_equal(first, second) and not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


def test_all_output_types_show_the_decoded_codes_of_the_condition(tiny_pipeline, tiny_tokenizer):
    settings = dict(temperature=0.8, top_k=[20, 10, 5], top_p=0.95)
    images = {kind: draw(tiny_pipeline, output_type=kind, **settings) for kind in ("pil", "np", "pt", "latent")}
    input_ids = tiny_tokenizer([PROMPT], padding="max_length", return_tensors="pt").input_ids
    codes = tiny_pipeline.transformer.generate(input_ids, generator=seeded(0), **settings)
    assert codes.shape == (1, 4, 4, 3) and torch.equal(images["latent"], codes)
    as_tuple = tiny_pipeline(PROMPT, generator=seeded(0), output_type="latent", return_dict=False, **settings)
    assert isinstance(as_tuple, tuple) and len(as_tuple) == 1 and torch.equal(as_tuple[0], codes)
    torch.testing.assert_close(images["pt"], (tiny_pipeline.rqvae.decode(codes) / 2 + 0.5).clamp(0, 1))
    assert np.array_equal(images["pt"].permute(0, 2, 3, 1).numpy(), images["np"])
    assert images["pil"][0].mode == "RGB"
    assert np.array_equal(np.asarray(images["pil"][0]), (images["np"][0] * 255).round().astype(np.uint8))


def test_the_pictures_of_one_prompt_follow_each_other(tiny_pipeline):
    prompts, generators = ["a red heart", "green apple"], seeded(1, 2, 3, 4)
    codes = draw(tiny_pipeline, prompts, num_images_per_prompt=2, generator=generators)
    for index in range(4):
        alone = draw(tiny_pipeline, prompts[index // 2], generator=seeded(index + 1))
        assert torch.equal(codes[index], alone[0])
    assert not torch.equal(draw(tiny_pipeline, prompts[0]), draw(tiny_pipeline, prompts[1]))


def test_label_names_stand_for_their_ids(make_pipeline):
    pipe = make_pipeline("class")
    for name in ("tabby, tabby cat", "tabby", "TABBY CAT", " tabby "):
        assert pipe.get_label_ids(name) == [0]
    assert pipe.get_label_ids(["volcano", 2, "Carassius auratus"]) == [3, 2, 2]
    for labels in ((np.int64(3), 1), torch.tensor([3, 1]), np.array([3, 1]), list(torch.tensor([3, 1]))):
        assert pipe.get_label_ids(labels) == [3, 1]
    assert torch.equal(*(draw(pipe, None, class_labels=labels) for labels in (torch.tensor([1, 2]), ["goose", 2])))


@pytest.mark.parametrize(("null", "classes"), [(0, [1, 2, 3, 4]), (4, [0, 1, 2, 3])])
def test_the_null_condition_is_no_class(make_pipeline, null, classes):
    pipe = make_pipeline("class", id2label=None, null_condition_ids=[null])
    assert pipe.get_label_ids(classes) == classes
    for label in (null, 5):
        with pytest.raises(ValueError, match=f"the model's 4 classes, {classes[0]} to {classes[-1]}, got {label}"):
            pipe(class_labels=label)


def test_a_label_goes_before_a_part_and_a_name_of_two_classes_is_refused(make_pipeline):
    names = {0: "ear, corn", 1: "corn", 2: "crane", 3: "Crane", 4: "heron, ear, Heron"}
    pipe = make_pipeline("class", id2label=names, vocab_size=6, null_condition_ids=[5])
    assert pipe.get_label_ids(["corn", "heron", "ear, corn"]) == [1, 4, 0]
    for name, ids in {"crane": r"\[2, 3\]", "ear": r"\[0, 4\]"}.items():
        with pytest.raises(ValueError, match=f"`class_labels` must name one class each, got '{name}'.*{ids}"):
            pipe.get_label_ids(name)


def test_guidance_leads_away_from_negative_prompts_or_the_null_condition(tiny_pipeline):
    prompts, negatives = ["a red heart", "rocket"], ["green apple", "a pizza"]
    plain = draw(tiny_pipeline, prompts)
    assert not torch.equal(draw(tiny_pipeline, prompts, guidance_scale=3.0), plain)
    assert torch.equal(draw(tiny_pipeline, prompts, guidance_scale=1.0), plain)
    assert torch.equal(draw(tiny_pipeline, prompts, negative_prompt="a pizza", height=16, width=16), plain)
    for negative, same in ((negatives, negatives), ("a pizza", ["a pizza"] * 2)):
        for count in (1, 2):  # at scale 0 only the negative prompt counts
            options = dict(negative_prompt=negative, guidance_scale=0.0, num_images_per_prompt=count)
            away = draw(tiny_pipeline, prompts, **options)
            assert torch.equal(away, draw(tiny_pipeline, same, num_images_per_prompt=count))


def test_sampling_defaults_are_those_of_the_generation_config(tiny_pipeline):
    settings = dict(top_k=[1, 2, 3], temperature=0.5)
    given, plain = draw(tiny_pipeline, **settings), draw(tiny_pipeline)
    tiny_pipeline.transformer.generation_config = RQGenerationConfig(**settings)
    assert torch.equal(draw(tiny_pipeline), given) and not torch.equal(given, plain)
    assert torch.equal(draw(tiny_pipeline, top_k=0, temperature=1.0), plain)
    assert torch.equal(draw(tiny_pipeline, generation_config=RQGenerationConfig()), plain)


@pytest.mark.parametrize("pipeline_class", [RQImageGenerationPipeline, RQInpaintPipeline])
def test_a_call_names_all_its_arguments(pipeline_class, tiny_pipeline):
    parameters = inspect.signature(pipeline_class.__call__).parameters
    assert all(each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for each in parameters.values())
    with pytest.raises(TypeError, match="num_beams"):
        pipeline_class(**tiny_pipeline.components)(PROMPT, num_beams=2)


def test_the_callback_sees_each_position_may_replace_codes_and_may_interrupt(tiny_pipeline):
    positions, last = [], None

    def replace(pipe, step, position, tensors):
        assert pipe is tiny_pipeline and set(tensors) == {"codes"} and step == position
        positions.append(position)
        if position == 2:
            tensors["codes"][:, 0, 2] = 7
        pipe._interrupt = position == last
        assert pipe.interrupt == (position == last)
        return tensors

    plain, changed = draw(tiny_pipeline), draw(tiny_pipeline, callback_on_step_end=replace)
    assert positions == list(range(16))
    assert torch.equal(changed[:, 0, :2], plain[:, 0, :2]) and (changed[:, 0, 2] == 7).all()
    assert not torch.equal(changed[:, 0, 3:], plain[:, 0, 3:])
    last = 4
    stopped = draw(tiny_pipeline, callback_on_step_end=replace).flatten(1, 2)
    assert positions == [*range(16), *range(5)]
    assert torch.equal(stopped[:, :5], changed.flatten(1, 2)[:, :5]) and not stopped[:, 5:].any()
    assert torch.equal(draw(tiny_pipeline), plain)  # the next call is whole


def test_pictures_are_decoded_in_batches(tiny_pipeline):
    sizes, count, picture = [], 5, PIL.Image.new("RGB", (16, 16))
    whole = draw(tiny_pipeline, num_images_per_prompt=count, output_type="pt")
    tiny_pipeline.rqvae.decoder.register_forward_pre_hook(lambda decoder, inputs: sizes.append(len(inputs[0])))
    tiny_pipeline.candidate_batch_size = 2
    torch.testing.assert_close(draw(tiny_pipeline, num_images_per_prompt=count, output_type="pt"), whole)
    tiny_pipeline.reconstruct([picture] * count)
    assert sizes == [2, 2, 1] * 2


def test_text_of_which_the_tokenizer_knows_nothing_is_no_condition(tiny_pipeline, caplog):
    null = [3, 0, 0, 0, 0, 0]
    tiny_pipeline.transformer.config.null_condition_ids = null
    embed_ids = tiny_pipeline.transformer.embed_ids
    texts = ["rocket", "猫犬", "rocket 猫", "猫 " * 6 + "rocket"]
    known, strange, mixed, late = tiny_pipeline.encode_prompt(texts)[0]
    assert torch.equal(strange, embed_ids(torch.tensor([null]))[0]) and torch.equal(late, strange)
    assert caplog.text.count("knows nothing of the prompt '猫") == 2 and "not used" not in caplog.text
    assert torch.equal(mixed[0], known[0]) and not torch.equal(mixed, strange)
    tiny_pipeline.transformer.config.null_condition_ids = None
    ids = tiny_pipeline.tokenizer(["猫犬"], padding="max_length", return_tensors="pt").input_ids
    assert set(ids.flatten().tolist()) == {0, 1}  # padding and unknown tokens
    assert torch.equal(tiny_pipeline.encode_prompt("猫犬")[0], embed_ids(ids))


def test_what_does_not_fit_the_condition_is_cut_with_a_warning_that_shows_it(tiny_pipeline, caplog):
    tiny_pipeline(PROMPT)
    assert caplog.text == ""
    long, tokenizer = "a red heart, twemoji style of cheese", copy.deepcopy(tiny_pipeline.tokenizer)
    whole = tokenizer(long, truncation=False, padding=False).input_ids
    embed_ids = tiny_pipeline.transformer.embed_ids
    assert torch.equal(tiny_pipeline.encode_prompt(long)[0], embed_ids(torch.tensor([whole[:6]])))
    assert re.search("cut to 6 tokens; .*'.*style of cheese'", caplog.text)
    tiny_pipeline.tokenizer = tokenizer
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[UNK] $A [UNK]", special_tokens=[("[UNK]", tokenizer.unk_token_id)]
    )
    assert torch.equal(tiny_pipeline.encode_prompt(long)[0][0, 1:-1], embed_ids(torch.tensor([whole[:4]]))[0])
    assert f"cut to 4 tokens; this part is not used: {tokenizer.decode(whole[4:])!r}" in caplog.text


CODES = torch.zeros(1, 4, 4, 3, dtype=torch.long)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(prompt=None), "`prompt` must be given: this model draws from it, got None"),
        (dict(prompt=None, class_labels=3), "`class_labels` must be None: this model takes `prompt`, got 3"),
        (dict(prompt=[]), r"`prompt` must be a caption or a list of at least one, got \[\]"),
        (dict(prompt="\udcff"), "`prompt` must be a caption"),
        (dict(prompt_embeds=torch.zeros(1, 6, 8)), "`prompt` and `prompt_embeds` exclude each other"),
        (dict(height=32), "`height`"),
        (dict(width=8), "`width`"),
        (dict(negative_prompt=["a"] * 2, guidance_scale=2.0), "`negative_prompt` must be one or 1, got 2"),
        (dict(num_images_per_prompt=0), "`num_images_per_prompt` must be an integer from 1 to 100000, got 0"),
        (dict(num_candidates=10**9, ranker="likelihood"), "`num_candidates` must be an integer from 1 to 100000"),
        (dict(output_type="jpg"), "`output_type` must be .*got 'jpg'"),
        (dict(top_k=-1), "`top_k` must be an integer of at least 0; 0 keeps all codes, got -1"),
        (dict(generator=[torch.Generator()] * 2), r"`generator` must be .*\(1\), got 2"),
        (dict(known_codes=CODES[0]), r"`known_codes` must have shape \(batch_size, 4, 4, 3\)"),
        (dict(known_mask=CODES.bool()), "`known_mask` needs `known_codes`, got None"),
        (dict(known_codes=CODES, known_mask=CODES), "`known_mask` must be.* bool"),
        (dict(known_codes=CODES, known_mask=[[True]]), "`known_mask` must have shape"),
        (
            dict(callback_on_step_end_tensor_inputs=["latents"]),
            r"tensor_inputs` must be in \['codes'\], got \['latents'\]",
        ),
    ],
)
def test_bad_calls_of_a_text_model_are_refused(tiny_pipeline, arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_pipeline(**{"prompt": PROMPT} | arguments)


@pytest.mark.parametrize(
    "kind, arguments, message",
    [
        ("class", dict(prompt="goose"), "`prompt` must be None: this model takes `class_labels`, got 'goose'"),
        ("class", dict(class_labels=[]), "`class_labels` must hold at least one label, got an empty list"),
        ("class", dict(class_labels="goos"), "`class_labels` must be .* 4 classes, 0 to 3, got 'goos'.*'goose'"),
        ("class", dict(class_labels=-1), "`class_labels` must be .* 4 classes, 0 to 3, got -1"),
        ("class", dict(class_labels=True), "`class_labels` must be names or ids .*got True"),
        ("class", dict(class_labels=torch.tensor([1.0])), "`class_labels` must be names or ids .*got 1.0"),
        ("class", dict(prompt_embeds=[]), "`prompt_embeds` must be None: this model takes `class_labels`"),
        ("none", dict(class_labels=0), "`class_labels` must be None: this model takes no condition, got 0"),
    ],
)
def test_bad_calls_of_other_models_are_refused(make_pipeline, kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_pipeline(kind)(**arguments)


@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
@pytest.mark.parametrize("component", ["rqvae", "transformer"])
def test_weights_that_give_nan_are_an_error_and_no_black_picture(tiny_pipeline, component, output_type):
    parameter = {"rqvae": "decoder.conv_out.bias", "transformer": "depth_decoder.projection.weight"}[component]
    with torch.no_grad():
        getattr(tiny_pipeline, component).get_parameter(parameter).fill_(float("nan"))
    with pytest.raises(ValueError, match="must be finite, got NaN or infinity"):
        tiny_pipeline(PROMPT, output_type=output_type)
    if component == "rqvae":
        with pytest.raises(ValueError, match="must be finite, got NaN or infinity"):
            tiny_pipeline.reconstruct(torch.rand(1, 3, 16, 16), output_type=output_type)


def test_parts_that_do_not_belong_together_are_refused(tiny_pipeline, make_rqvae, make_transformer):
    rqvae, transformer = tiny_pipeline.rqvae, tiny_pipeline.transformer
    trained_on = make_rqvae()
    trained_on.codebook.mul_(1.02)
    for parts, message in (
        ((rqvae, make_transformer(code_shape=(2, 2, 3))), "`transformer` must have the `code_shape` of `rqvae`"),
        ((trained_on, transformer), "`transformer` must have the codebook of `rqvae`"),
    ):
        with pytest.raises(ValueError, match=message):
            RQImageGenerationPipeline(*parts)
