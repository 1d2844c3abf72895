# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Model cards: metadata that the Hub knows, no empty section, and snippets that run."""

import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from rq_hf.hub import render_card, write_card

KINDS = ("pipeline", "rqvae", "rq_transformer", "adapter", "tokenizer")
FACTS = {
    "license": "cc-by-4.0", "language": "en", "model_name": "emoji-64", "datasets": ["me/emoji9"], "tags": ["emoji"],
    "base_model": "me/emoji-64-rqvae", "repo_id": "me/emoji-64", "based_on": "me/older",
    "summary": "Trained on nine styles of {{ emoji }}.", "training_data": "10,431 drawings of 1,634 concepts.",
    "attribution": "Noto Emoji, Google, Apache-2.0.", "intended_use": "To try the library.",
    "limitations": "- It knows no flags.", "num_parameters": {"rqvae": 1234567, "transformer": 7654321},
    "examples": ['a "red" heart'], "sample_images": {"samples.png": "16 samples"},
    "sampling": {"temperature": 1.0, "top_k": [64, 16], "top_p": None},
    "training_arguments": {"learning_rate": 0.0006, "seed": 0, "max_steps": None, "bf16": True},
    "training_commands": ["rq-hf train-rqvae a", "rq-hf train-rqt b"],
    "metrics": {"psnr": 26.125, "pictures": 469, "code_usage": [0.75, 0.5]}, "metrics_split": "test_combos",
}  # fmt: skip


@pytest.fixture
def configs(tiny_pipeline) -> dict:
    return {"rqvae": tiny_pipeline.rqvae.config, "transformer": tiny_pipeline.transformer.config.to_dict()}


def headings(text: str) -> list[str]:
    """Headings outside of code; a heading that nothing follows is an error."""
    text = re.sub(r"^```.*?^```", "code", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in text.splitlines() if line.strip()]
    for line, following in zip(lines, [*lines[1:], "#"], strict=True):
        levels = [len(re.match("#*", each)[0]) for each in (line, following)]
        assert not levels[0] or not 0 < levels[1] <= levels[0], f"{line} is empty"
    return [line for line in lines if line.startswith("#")]


def read_back(card: ModelCard) -> dict:
    """The metadata, as the client reads them from the file."""
    metadata = ModelCard(str(card)).data.to_dict()
    assert metadata == card.data.to_dict()
    return metadata


@pytest.mark.parametrize("kind", KINDS)
def test_a_card_has_a_section_for_all_that_it_is_given_and_for_nothing_else(kind, configs, tmp_path):
    write_card(tmp_path, kind, {**FACTS, "configs": configs})
    card = ModelCard.load(tmp_path / "README.md")
    metadata = read_back(card)
    assert (metadata["license"], metadata["language"], metadata["datasets"]) == ("cc-by-4.0", "en", ["me/emoji9"])
    assert {"emoji", "rq_hf"} <= set(metadata["tags"])
    for text in (
        *("# emoji-64\n", "nine styles of {{ emoji }}.", "1,234,567", "7,654,321", "![16 samples](samples.png)"),
        *("4 x 4 x 3", "captions of up to 6 tokens", "| top_k | 64, 16 |", "10,431 drawings", "Google, Apache-2.0."),
        *("| learning_rate | 0.0006 |", "| seed | 0 |", "| bf16 | True |", "train-rqvae a\nrq-hf train-rqt b\n"),
        *("| PSNR (dB) | 26.12 | me/emoji9, test_combos |", "| pictures | 469 |", "To try the library."),
        *("is based on [me/older](https://huggingface.co/me/older) and", "- It knows no flags.", "@inproceedings{lee"),
    ):
        assert text in card.text, text
    assert "max_steps" not in card.text and "None" not in card.text and "path/to/this" not in card.text
    (result,) = metadata["model-index"][0]["results"]
    assert result["dataset"] == {"name": "me/emoji9", "type": "me/emoji9", "split": "test_combos"}
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {"psnr": 26.125, "pictures": 469}

    card = render_card(kind, {})
    read_back(card)
    assert headings(card.text)[1:] == ["## How to use", "## Intended use and limits", "## Citation"]
    assert "None" not in card.text and "Undefined" not in card.text
    for facts in ({name: value} for name, value in [*FACTS.items(), ("configs", configs)]):
        text = render_card(kind, facts).text
        assert len(headings(text)) >= 4 and "\n\n\n" not in text and text.endswith("```\n")


def test_task_and_example_follow_the_condition(make_transformer):
    class_task = "unconditional-image-generation"
    for condition, task in (("text", "text-to-image"), ("class", class_task), ("none", class_task)):
        configs = {"transformer": make_transformer(condition).config}
        assert render_card("pipeline", {"configs": configs}).data.pipeline_tag == task
    configs["transformer"] = make_transformer("class", null_condition_ids=(0,), id2label=None).config
    assert "class_labels=1," in render_card("pipeline", {"configs": configs}).text  # 0 is no class
    with pytest.raises(ValueError, match="`kind` must be one of .*'rqvae'.*, got 'vqgan'"):
        render_card("vqgan", {})


@pytest.mark.parametrize("condition, example", [("text", '"a red heart"'), ("class", "class_labels=0"), ("none", "")])
def test_the_snippets_of_all_cards_run(make_pipeline, condition, example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipe = make_pipeline(condition)
    pipe.save_pretrained("pipeline")
    Image.new("RGB", (20, 30), "red").save("picture.png")
    configs = {"rqvae": pipe.rqvae.config, "transformer": pipe.transformer.config}
    kinds = {"rqvae": "rqvae", "transformer": "rq_transformer", "": "pipeline", "tokenizer": "tokenizer"}
    for folder, kind in kinds.items():
        place = f"pipeline/{folder}".strip("/")
        if Path(place).exists():
            card = render_card(kind, {"repo_id": place, "configs": configs, "base_model": "pipeline/rqvae"})
            (snippet,) = re.findall(r"^```python\n(.*?)^```", card.text, flags=re.MULTILINE | re.DOTALL)
            assert example in snippet or kind != "pipeline"
            exec(snippet.replace("path/to/its/tokenizer", "pipeline/tokenizer"), {})
            assert Image.open("picture.png").size == ((20, 30) if kind == "rqvae" else (16, 16))
    assert Image.open("reconstruction.png").size == Image.open("coarse.png").size == (16, 16)
