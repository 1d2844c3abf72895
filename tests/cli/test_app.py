# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
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

from rq_hf import RQImageGenerationPipeline
from rq_hf.cli import app

SAMPLING = (2, 5, 1, 1.0, 32)  # pictures, seed, candidates, temperature, top-k


def drawn(pipe: RQImageGenerationPipeline, **asked) -> torch.Tensor:
    """Codes of two pictures with the seeds of `SAMPLING`."""
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    return pipe(**asked, num_images_per_prompt=2, generator=generators, output_type="latent").images


@pytest.mark.parametrize(("kind", "condition"), [("text", "a red heart"), ("class", 1), ("none", None)])
def test_the_page_draws_what_the_pipeline_draws(make_pipeline, kind, condition):
    pipe = make_pipeline(kind)
    assert isinstance(app.build_page(pipe, "tiny"), gr.Blocks)
    studio = app.Studio(pipe)
    codes, pictures = studio.draw(condition, 3, *SAMPLING)
    asked = {"text": {"prompt": condition}, "class": {"class_labels": condition}, "none": {}}[kind]
    assert torch.equal(codes, drawn(pipe, **asked, top_k=32))
    assert len(pictures) == 2
    (coarse, _), expected = studio.decode(codes, 1), pipe.rqvae.decode(codes[..., :1])
    scaled = Image.fromarray(((expected[0] + 1) * 127.5).clamp(0, 255).round().byte().permute(1, 2, 0).numpy())
    assert np.abs(np.asarray(coarse, int) - np.asarray(scaled.resize((256, 256), Image.Resampling.BICUBIC))).max() <= 1


def test_an_empty_field_is_the_checkpoints_own_setting(tiny_pipeline):
    tiny_pipeline.transformer.generation_config.update(temperature=0.2, top_k=[64, 8, 4])
    codes, _ = app.Studio(tiny_pipeline).draw("a heart", 3, 2, 5, 1, None, None)
    assert torch.equal(codes, drawn(tiny_pipeline, prompt="a heart"))


def test_a_picture_is_reconstructed_and_a_completion_keeps_the_codes_of_its_first_rows(tiny_pipeline, tmp_path):
    picture, path = Image.effect_noise((40, 30), 90).convert("RGB"), tmp_path / "picture.png"
    picture.save(path)
    studio = app.Studio(tiny_pipeline)
    square = ImageOps.fit(picture, (16, 16), Image.Resampling.LANCZOS)  # its middle, not squeezed
    known, pictures = studio.reconstruct(str(path), 2)
    assert torch.equal(known, tiny_pipeline.reconstruct(square, output_type="latent").images)
    assert len(pictures) == 1 and studio.decode(None, 2) == []
    codes, _ = studio.draw("a red heart", 3, *SAMPLING, str(path), rows=2)
    assert torch.equal(codes[:, :2], known[:, :2].expand_as(codes[:, :2]))
    assert not torch.equal(codes[:, 2:], known[:, 2:].expand_as(codes[:, 2:]))


def test_emoji_in_a_prompt_become_their_names(tiny_pipeline):
    assert app.spoken("a \N{ROCKET} and \N{HEAVY BLACK HEART}\N{VARIATION SELECTOR-16}, please") == (
        "a rocket and red heart , please"
    )
    studio = app.Studio(tiny_pipeline)
    drawn, expected = (studio.draw(text, 3, *SAMPLING)[0] for text in ("a \N{ROCKET}", "a rocket"))
    assert torch.equal(drawn, expected)


@pytest.fixture
def client(tiny_pipeline, monkeypatch) -> Iterator[Client]:
    """A visitor of the served page, whose queue is short."""
    monkeypatch.setattr(app, "MAX_WAITING", 3)
    page = app.build_page(tiny_pipeline, "tiny")
    app.serve(page, prevent_thread_lock=True, quiet=True)
    yield Client(page.local_url, verbose=False)
    page.close()


def test_the_parameters_of_the_api_have_names_and_enter_works_as_a_click(client, tiny_pipeline):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    sampling = ["count", "seed", "candidates", "temperature", "top_k"]
    assert {name: [each["parameter_name"] for each in about["parameters"]] for name, about in endpoints.items()} == {
        "/draw": ["condition", "depth", *sampling],
        "/complete": ["condition", "depth", *sampling, "image", "rows"],
        "/reconstruct": ["image", "depth"],
        "/decode": ["depth"],
    }
    options = {"depth": 3, "count": 2, "seed": 5, "candidates": 1, "temperature": 1, "top_k": 32}
    shown = client.predict(condition="a red heart", **options, api_name="/draw")
    _, expected = app.Studio(tiny_pipeline).draw("a red heart", 3, *SAMPLING)
    assert [np.array_equal(Image.open(each["image"]), picture) for each, picture in zip(shown, expected, strict=True)]

    events = {event["api_name"]: [kind for _, kind in event["targets"]] for event in client.config["dependencies"]}
    assert events["draw"] == events["complete"] == ["click", "submit"]


def test_a_visitor_cannot_ask_for_too_much(client, tmp_path):
    def refused(message: str, *arguments, api_name: str) -> None:
        with pytest.raises(AppError, match=message):
            client.predict(*arguments, api_name=api_name)

    refused("at most 1000 characters", "x" * 1001, 3, *SAMPLING, api_name="/draw")
    refused("count|9", "a heart", 3, 10, *SAMPLING[1:], api_name="/draw")
    refused("Upload a picture first", None, 3, api_name="/reconstruct")
    large, postscript = tmp_path / "large.png", tmp_path / "postscript.png"
    Image.new("I;16", (13300, 13300)).save(large)
    Image.new("L", (8, 8)).save(postscript, "EPS")
    refused("13300 x 13300 are more than", handle_file(large), 3, api_name="/reconstruct")
    refused("cannot be decoded", handle_file(postscript), 3, api_name="/reconstruct")
    upload = httpx.post(f"{client.src}gradio_api/upload", files={"files": ("huge.png", bytes(21 * 2**20))})
    assert upload.status_code == 413


def test_the_queue_has_an_end(client, tiny_pipeline):
    waiting = [client.submit("a heart", 3, 9, *SAMPLING[1:], api_name="/draw") for _ in range(12)]
    outcomes = [job.exception() for job in waiting]
    assert any("Queue is full" in str(error) for error in outcomes) and None in outcomes
