# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""What the buttons of the page do."""

from collections.abc import Iterator

import gradio as gr
import httpx
import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image, ImageOps
from transformers import BertConfig, BertForMaskedLM

from rq_hf import RQImageGenerationPipeline
from rq_hf.cli.page import Studio, build_page, read_card, serve

SETTINGS = (2, 5, True, False)  # pictures, seed, freer, whether prompts are rewritten
CARD = """---
widget:
- text: a rocket
- text: a red heart
---

# tiny

A model of emoji.

More.
"""


def drawn(pipe: RQImageGenerationPipeline, **asked) -> torch.Tensor:
    """Codes of two pictures with the seeds of `SETTINGS`."""
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    return pipe(**asked, num_images_per_prompt=2, generator=generators, output_type="latent").images


@pytest.mark.parametrize(("kind", "condition"), [("text", "a red heart"), ("class", 1), ("none", None)])
def test_the_page_draws_what_the_pipeline_draws(make_pipeline, kind, condition):
    pipe = make_pipeline(kind)
    assert isinstance(build_page(pipe, "tiny"), gr.Blocks)
    studio = Studio(pipe)
    codes, pictures, about = studio.draw(condition, 3, *SETTINGS)
    asked = {"text": {"prompt": condition}, "class": {"class_labels": condition}, "none": {}}[kind]
    assert torch.equal(codes, drawn(pipe, **asked, temperature=1.0)) and about == "Seed 5"
    assert len(pictures) == 2
    (coarse, _), expected = studio.decode(codes, 1), pipe.rqvae.decode(codes[..., :1])
    scaled = Image.fromarray(((expected[0] + 1) * 127.5).clamp(0, 255).round().byte().permute(1, 2, 0).numpy())
    assert np.abs(np.asarray(coarse, int) - np.asarray(scaled.resize((256, 256), Image.Resampling.BICUBIC))).max() <= 1


def test_likelier_pictures_are_the_best_of_four_and_seed_zero_is_a_new_one_that_draws_the_same_again(tiny_pipeline):
    pipe = tiny_pipeline
    pipe.transformer.generation_config.update(temperature=0.2, top_k=[64, 8, 4])
    studio = Studio(pipe)
    codes, _, _ = studio.draw("a heart", 3, 2, 5, False, False)
    assert torch.equal(codes, drawn(pipe, prompt="a heart", num_candidates=8, ranker="likelihood"))
    (codes, _, about), (_, _, other) = (studio.draw("a heart", 3, 1, 0, True, False) for _ in range(2))
    assert about != other
    assert torch.equal(studio.draw("a heart", 3, 1, int(about.removeprefix("Seed ")), True, False)[0], codes)


def test_a_picture_is_reconstructed_and_a_chosen_one_varied(tiny_pipeline, tmp_path):
    picture, path = Image.effect_noise((40, 30), 90).convert("RGB"), tmp_path / "picture.png"
    picture.save(path)
    studio = Studio(tiny_pipeline)
    square = ImageOps.fit(picture, (16, 16), Image.Resampling.LANCZOS)  # its middle, not squeezed
    known, pictures, _ = studio.reconstruct(str(path), 2)
    assert torch.equal(known, tiny_pipeline.reconstruct(square, output_type="latent").images)
    assert len(pictures) == 1
    shown = [("elsewhere.png", None), (str(path), None)]
    codes, _, _ = studio.vary(shown, 1, "a red heart", 3, *SETTINGS)
    assert torch.equal(codes[..., :1], known[..., :1].expand_as(codes[..., :1]))
    assert not torch.equal(codes[..., 1:], known[..., 1:].expand_as(codes[..., 1:]))
    with pytest.raises(ValueError, match="Upload or draw a picture first"):
        studio.vary([], 0, "a red heart", 3, *SETTINGS)


def test_only_the_painted_part_of_a_picture_is_drawn_anew(tiny_pipeline):
    picture = Image.effect_noise((40, 30), 90).convert("RGBA")
    layer = Image.new("RGBA", picture.size)
    canvas = {"background": picture, "layers": [layer]}
    studio = Studio(tiny_pipeline)
    with pytest.raises(ValueError, match="Upload a picture first"):
        studio.paint({"background": None, "layers": []}, "a red heart", *SETTINGS)
    with pytest.raises(ValueError, match="Paint over the part"):
        studio.paint(canvas, "a red heart", *SETTINGS)
    layer.paste((255, 0, 0, 255), (10, 8, 25, 20))
    codes, painted, _ = studio.paint(canvas, "a red heart", *SETTINGS)
    assert codes is None and len(painted) == 2
    is_changed = (np.asarray(painted[0]) != np.asarray(picture.convert("RGB"))).any(-1)
    assert is_changed[8:20, 10:25].any()
    is_changed[8:20, 10:25] = False
    assert not is_changed.any()


def test_what_the_library_warns_of_and_what_a_prompt_was_read_as_are_on_the_page(tiny_pipeline):
    studio, text = Studio(tiny_pipeline), "a heart " * 20
    with pytest.warns(UserWarning, match="The prompt was cut to 6 tokens"):  # a toast, in a visitor's request
        studio.draw(text, 3, *SETTINGS)
    size = tiny_pipeline.transformer.config.vocab_size
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    rewriter = BertForMaskedLM(BertConfig(vocab_size=size, **sizes)).eval()
    pipe = RQImageGenerationPipeline(**tiny_pipeline.components | {"prompt_rewriter": rewriter})
    _, _, about = Studio(pipe).draw("a heart", 3, 2, 5, True, True)
    assert about == f"Seed 5, read as: {pipe.rewrite('a heart') or 'nothing'}"


def test_a_card_says_what_the_page_draws_and_has_examples(tiny_pipeline, tmp_path):
    assert read_card(str(tmp_path)) == ("", [])
    (tmp_path / "README.md").write_text(CARD)
    about, prompts = read_card(str(tmp_path))
    assert (about, prompts) == ("A model of emoji.", ["a rocket", "a red heart"])
    blocks = build_page(tiny_pipeline, "tiny", about, prompts).blocks.values()
    (text,) = [block.value for block in blocks if isinstance(block, gr.Markdown)]
    assert text == "# tiny\n\nA model of emoji."
    assert [block.samples for block in blocks if isinstance(block, gr.Dataset)] == [[["a rocket"], ["a red heart"]]]


@pytest.fixture
def client(tiny_pipeline, monkeypatch) -> Iterator[Client]:
    """A visitor of the served page, whose queue is short."""
    monkeypatch.setattr("rq_hf.cli.page.MAX_WAITING", 3)
    page = build_page(tiny_pipeline, "tiny")
    serve(page)
    yield Client(page.local_url, verbose=False)
    page.close()


def test_the_parameters_of_the_api_have_names_and_enter_works_as_a_click(client, tiny_pipeline, tmp_path):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    settings = ["count", "seed", "freer", "rewrite"]
    assert {name: [each["parameter_name"] for each in about["parameters"]] for name, about in endpoints.items()} == {
        "/draw": ["condition", "depth", *settings],
        "/paint": ["canvas", "condition", *settings],
        "/vary": ["shown", "condition", "depth", *settings],
        "/reconstruct": ["image", "depth"],
        "/decode": ["depth"],
    }
    options = {"condition": "a red heart", "count": 2, "seed": 5, "freer": True, "rewrite": False}
    shown, about = client.predict(**options, depth=3, api_name="/draw")
    _, expected, _ = Studio(tiny_pipeline).draw("a red heart", 3, *SETTINGS)
    assert [np.array_equal(Image.open(each["image"]), picture) for each, picture in zip(shown, expected, strict=True)]
    assert about == "Seed 5"
    files = {"background": Image.new("RGB", (40, 30), "white"), "layer": Image.new("RGBA", (40, 30), "red")}
    for name, picture in files.items():
        picture.save(tmp_path / f"{name}.png")
    background, layer = (handle_file(tmp_path / f"{name}.png") for name in files)
    canvas = {"background": background, "layers": [layer], "composite": None}
    painted, _ = client.predict(canvas=canvas, **options, api_name="/paint")
    assert [Image.open(each["image"]).size for each in painted] == [(40, 30)] * 2

    events = {event["api_name"]: [kind for _, kind in event["targets"]] for event in client.config["dependencies"]}
    assert events["draw"] == ["click", "submit"]


def test_a_visitor_cannot_ask_for_too_much(client, tmp_path):
    def refused(message: str, *arguments, api_name: str) -> None:
        with pytest.raises(AppError, match=message):
            client.predict(*arguments, api_name=api_name)

    refused("at most 1000 characters", "x" * 1001, 3, *SETTINGS, api_name="/draw")
    refused("count|9", "a heart", 3, 10, *SETTINGS[1:], api_name="/draw")
    refused("Upload or draw a picture first", None, 3, api_name="/reconstruct")
    large, postscript = tmp_path / "large.png", tmp_path / "postscript.png"
    Image.new("I;16", (13300, 13300)).save(large)
    Image.new("L", (8, 8)).save(postscript, "EPS")
    refused("13300 x 13300 are more than", handle_file(large), 3, api_name="/reconstruct")
    refused("cannot be decoded", handle_file(postscript), 3, api_name="/reconstruct")
    upload = httpx.post(f"{client.src}gradio_api/upload", files={"files": ("huge.png", bytes(21 * 2**20))})
    assert upload.status_code == 413


def test_the_queue_has_an_end(client, tiny_pipeline):
    waiting = [client.submit("a heart", 3, 9, *SETTINGS[1:], api_name="/draw") for _ in range(12)]
    outcomes = [job.exception() for job in waiting]
    assert any("Queue is full" in str(error) for error in outcomes) and None in outcomes
