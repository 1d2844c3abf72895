# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What docs/hub.md shows runs as it stands, against the Hub of the tests."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from test_readme import FENCE
from transformers import AutoModel

from rq_hf import RQImageGenerationPipeline, RQTransformerConfig, RQVAEConfig, RQVAEModel
from rq_hf.training import (
    CodeDataArguments,
    DataArguments,
    RQTransformerTrainingArguments,
    RQVAETrainingArguments,
    parse_arguments,
)

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "hub.md").read_text(encoding="utf-8")
PARSERS = {
    "train_rqvae.py": (RQVAEConfig, RQVAETrainingArguments, DataArguments, "emoji-rqvae-fixture.json"),
    "train_rqt.py": (RQTransformerConfig, RQTransformerTrainingArguments, CodeDataArguments, "emoji-rqt-fixture.json"),
}


def commands(launcher: str) -> list[list[str]]:
    """Words of the guide's commands that begin so, without that beginning."""
    shell = "\n".join(text for _, language, text in FENCE.findall(GUIDE) if language == "bash").replace("\\\n", " ")
    lines = [line.removeprefix(launcher) for line in shell.splitlines() if line.startswith(launcher)]
    return [shlex.split(line) for line in lines]


def python_blocks() -> list[str]:
    return [text for _, language, text in FENCE.findall(GUIDE) if language == "python"]


@pytest.fixture
def followed(hub, load_script, monkeypatch, tmp_path) -> dict:
    """The names that the guide's Python gives, all of it and the pushes of folders having been run in its order."""
    monkeypatch.chdir(ROOT)
    first, *others = python_blocks()
    names = {}
    exec(compile(first, "hub.md", "exec"), names)
    for words in commands("python scripts/push_to_hub.py"):
        load_script("push_to_hub").main(words)
    for block in others:
        exec(compile(block, "hub.md", "exec"), names)
    return names


def test_what_the_guide_shows_runs(followed, hub):
    assert len(python_blocks()) >= 5 and len(commands("python scripts/push_to_hub.py")) >= 4
    assert hub.repository("you/emoji-64").private and not hub.repository("you/emoji-64-rqvae").private
    assert (
        "trial" in hub.repository("you/emoji-64").branches and "trial" in hub.repository("you/emoji-64-rqvae").branches
    )
    assert any("-of-" in path for path in hub.files("you/emoji-64-split"))
    assert "transformer/model.bf16.safetensors" in hub.files("you/emoji-64-code")
    assert followed["half"].transformer.dtype == torch.float16
    # The last pipeline that the guide loads is that of someone without this library.
    assert type(followed["pipe"]).__module__.startswith("diffusers_modules")
    assert followed["image"].size == (64, 64)
    own = RQImageGenerationPipeline.from_pretrained(ROOT / "checkpoints" / "emoji-64")
    expected = own("a castle", generator=torch.Generator().manual_seed(0)).images[0]
    assert followed["image"] == expected
    for name in ("cached", "trial"):
        assert type(followed[name]) is RQImageGenerationPipeline
    for name in ("rqvae", "transformer"):
        assert followed[name].state_dict().keys() == getattr(own, name).state_dict().keys()
    same = DiffusionPipeline.from_pretrained(
        "you/emoji-64-code", custom_pipeline="you/emoji-64-code", trust_remote_code=True
    )
    assert type(same).__name__ == "RQImageGenerationPipeline"
    assert type(AutoModel.from_pretrained("you/emoji-64-rqvae", revision="trial")) is RQVAEModel


def test_the_commands_of_trainings_have_flags_that_exist(monkeypatch):
    monkeypatch.chdir(ROOT)
    launched = commands("accelerate launch scripts/")
    assert {script for script, *_ in launched} == set(PARSERS)
    for script, *flags in launched:
        *classes, config = PARSERS[script]
        training = parse_arguments(
            *classes, ROOT / "scripts" / "configs" / config, "", [*flags, "--use_cpu", "true"]
        ).training
        assert training.push_to_hub and training.hub_model_id.startswith("you/")
        if "--hub_strategy" in flags:
            assert (training.hub_strategy, training.hub_revision) == ("all_checkpoints", "trial")
            assert training.hub_private_repo is True


def test_links_of_the_guide_lead_somewhere():
    for path in re.findall(r"\]\(([\w./-]+)\)", GUIDE):
        assert (ROOT / "docs" / path).exists(), path
    for place in re.findall(r"\]\(#([\w-]+)\)", GUIDE):
        assert re.search(rf"^#+ {place.replace('-', '[ -]')}$", GUIDE, re.MULTILINE | re.IGNORECASE), place
