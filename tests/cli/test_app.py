# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""What the buttons of the page do."""

import gradio as gr
import httpx
import numpy as np
import pytest
import torch
from app import Studio, build_page, read_card, serve
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image, ImageOps

from rq_hf import RQImageGenerationPipeline

SETTINGS = (2, 5, True)  # pictures, seed, freer
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
    assert [picture.size for picture in pictures] == [(256, 256)] * 2
    codes, _, about = studio.draw(condition, 3, 2, 5, False)
    assert torch.equal(codes, drawn(pipe, **asked, num_candidates=8, ranker="likelihood"))
    assert studio.draw(condition, 3, 1, 0, True)[2] != studio.draw(condition, 3, 1, 0, True)[2]


def test_a_picture_is_reconstructed_a_chosen_one_varied_and_a_painted_part_drawn_anew(tiny_pipeline, tmp_path):
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

    layer = Image.new("RGBA", picture.size)
    canvas = {"background": picture.convert("RGBA"), "layers": [layer]}
    with pytest.raises(ValueError, match="Paint over the part"):
        studio.paint(canvas, "a red heart", *SETTINGS)
    layer.paste((255, 0, 0, 255), (10, 8, 25, 20))
    codes, painted, _ = studio.paint(canvas, "a red heart", *SETTINGS)
    assert codes is None and len(painted) == 2
    is_changed = (np.asarray(painted[0]) != np.asarray(picture)).any(-1)
    assert is_changed[8:20, 10:25].any()
    is_changed[8:20, 10:25] = False
    assert not is_changed.any()


def test_a_card_says_what_the_page_draws_and_has_examples(tiny_pipeline, tmp_path):
    assert read_card(str(tmp_path)) == ("", [])
    (tmp_path / "README.md").write_text(CARD)
    about, prompts = read_card(str(tmp_path))
    assert (about, prompts) == ("A model of emoji.", ["a rocket", "a red heart"])
    blocks = build_page(tiny_pipeline, "tiny", about, prompts).blocks.values()
    assert [block.samples for block in blocks if isinstance(block, gr.Dataset)] == [[["a rocket"], ["a red heart"]]]


def test_a_visitor_of_the_served_page_draws_and_cannot_ask_for_too_much(tiny_pipeline, tmp_path):
    page = build_page(tiny_pipeline, "tiny")
    serve(page)
    client = Client(page.local_url, verbose=False)
    shown, about = client.predict("a red heart", 3, *SETTINGS, api_name="/draw")
    _, expected, _ = Studio(tiny_pipeline).draw("a red heart", 3, *SETTINGS)
    assert all(np.array_equal(Image.open(a["image"]), b) for a, b in zip(shown, expected, strict=True))
    assert about == "Seed 5"

    def refused(message: str, *arguments, api_name: str) -> None:
        with pytest.raises(AppError, match=message):
            client.predict(*arguments, api_name=api_name)

    refused("at most 1000 characters", "x" * 1001, 3, *SETTINGS, api_name="/draw")
    refused("count|9", "a heart", 3, 10, *SETTINGS[1:], api_name="/draw")
    refused("Upload or draw a picture first", None, 3, api_name="/reconstruct")
    large = tmp_path / "large.png"
    Image.new("I;16", (13300, 13300)).save(large)
    refused("13300 x 13300 are more than", handle_file(large), 3, api_name="/reconstruct")
    upload = httpx.post(f"{client.src}gradio_api/upload", files={"files": ("huge.png", bytes(21 * 2**20))})
    assert upload.status_code == 413
    page.close()
