# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The files of research/ compile, and its benchmarks run on tiny models."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from conftest import seeded
from picture_files import FIXTURE
from PIL import Image

from rq_hf import RQImageGenerationPipeline
from rq_hf.training.transforms import TRANSFORMS, PictureTransform

RESEARCH = Path(__file__).parents[2] / "research"
COMMON = {"device": "cpu", "official": None}
SMALL = {"model": "tiny", "batch_size": 2}
TINY = {
    "quantizer": [
        {"call": call, "num_vectors": 8, "codebook_size": 16, "codebook_dim": 4, "code_depth": 2}
        for call in ("bare products", "evaluation", "training per_step", "training per_depth")
    ],
    "generate": [{"variant": dtype, **SMALL, "top_k": 8, "top_p": 0.9} for dtype in ("fp32", "bf16")],
    "train": [{**SMALL, "bf16": is_on, "checkpointing": is_on} for is_on in (False, True)],
}


def test_every_file_compiles():
    paths = list(RESEARCH.rglob("*.py"))
    assert paths
    for path in paths:
        compile(path.read_text(encoding="utf-8"), str(path), "exec")


@pytest.mark.parametrize("script", TINY)
def test_benchmarks_run_on_tiny_models(script, monkeypatch):
    monkeypatch.syspath_prepend(RESEARCH / "benchmarks")
    module = importlib.import_module(script)
    for settings in TINY[script]:
        module.prepare(COMMON | settings)()


def test_a_warm_start_keeps_known_words_in_the_same_pieces_and_their_vectors(tiny_pipeline, monkeypatch):
    monkeypatch.syspath_prepend(RESEARCH / "emoji")
    warm_start = importlib.import_module("warm_start")
    before, known = tiny_pipeline.tokenizer, ["a pizza of cheese"]
    length, size = before.model_max_length + 2, len(before) + 20
    captions = ["das große herz"] * 3 + ["zehn pizzas"]
    tokenizer = warm_start.grow_tokenizer(before, known, captions, size, length)
    assert len(tokenizer) == size and tokenizer.tokenize(known[0]) == before.tokenize(known[0])
    assert tokenizer.unk_token not in tokenizer.tokenize("große") and before.unk_token in before.tokenize("große")

    pipe = warm_start.widen(tiny_pipeline, tokenizer)
    old = tiny_pipeline.transformer.state_dict()
    new = {name: weight.clone() for name, weight in pipe.transformer.state_dict().items()}
    for name in new.keys() - {"condition_positions.weight"}:
        assert torch.equal(new[name][: len(old[name])], old[name])
    positions = old["condition_positions.weight"]
    expected = torch.cat([positions[:-1], positions[-2:-1], positions[-2:-1], positions[-1:]])
    assert torch.equal(new["condition_positions.weight"], expected)
    rows = datasets.Dataset.from_dict({"text": captions, "image": pipe(captions).images})
    monkeypatch.setattr(warm_start, "STEPS", 2)
    monkeypatch.setattr(warm_start, "BATCH_SIZE", 2)
    warm_start.fit_positions(pipe, rows)
    changed = {name for name, weight in pipe.transformer.state_dict().items() if not torch.equal(weight, new[name])}
    assert changed == {"condition_positions.weight"}


@pytest.mark.parametrize("mode, channels", [("RGB", 3), ("L", 1)])
def test_altered_emoji_are_mirrored_moved_made_smaller_and_recoloured_on_white(mode, channels, monkeypatch):
    monkeypatch.syspath_prepend(RESEARCH / "emoji")
    altered = importlib.import_module("train_rqvae").altered_emoji
    monkeypatch.setitem(TRANSFORMS, "altered_emoji", (altered, TRANSFORMS["center_crop"][1]))
    colour, mark = ((200, 100, 40), (10, 20, 30)) if mode == "RGB" else (100, 20)
    picture = Image.new(mode, (64, 64), "white")
    picture.paste(colour, (16, 16, 48, 48))
    picture.paste(mark, (16, 16, 20, 48))
    transform = PictureTransform(64, channels, "altered_emoji")
    sides, tops, colours, mirrored = set(), set(), set(), set()
    for seed in range(100):
        levels = ((transform(picture, seeded(seed)) + 1) * 127.5).round().int()
        rows, columns = torch.nonzero((levels < 250).any(0), as_tuple=True)
        sides.add(int(columns.max() + 1 - columns.min()))
        tops.add(int(rows.min()))
        middle = levels[:, (rows.min() + rows.max()) // 2]
        colours.add(tuple(middle[:, (columns.min() + columns.max()) // 2].tolist()))
        mirrored.add(bool(middle[:, columns.min() + 1].sum() > middle[:, columns.max() - 1].sum()))
        assert (levels == 255).all(0).float().mean() > 0.7  # the ground has no colour
    assert 25 <= min(sides) <= 27 and max(sides) <= 34 and min(tops) < 12 and max(tops) > 20
    assert len(colours) > 20 and mirrored == {True, False}
    if mode == "RGB":
        assert len({each for each in colours if sorted(each) == sorted(colour)}) > 1  # permuted channels


@pytest.mark.slow
def test_the_recipes_of_the_demo_train_two_steps_each(tmp_path):
    def run(*words: object, **flags: object) -> None:
        flags |= {"dataset_name": FIXTURE, "filter": "tone=default", "use_cpu": True, "max_steps": 2}
        flags |= {"max_eval_samples": 4, "eval_steps": 2, "per_device_train_batch_size": 2, "bf16": False}
        words += tuple(word for name, value in flags.items() for word in (f"--{name}", value))
        done = subprocess.run([sys.executable, *map(str, words)], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]

    emoji = RESEARCH / "emoji"
    run(emoji / "train_rqvae.py", emoji / "recipes" / "emoji-rqvae-8x8x3-4M.json")
    flags = {"tokenizer_name_or_path": RESEARCH.parent / "checkpoints" / "emoji-64"}
    run("-m", "rq_hf.cli", "train-rqt", emoji / "recipes" / "emoji-rqt-8x8x3-15M.json", **flags)
    RQImageGenerationPipeline.from_pretrained(tmp_path / "runs" / "emoji-rqt-8x8x3-15M")


@pytest.mark.slow
def test_hostile_inputs_are_refused_clearly():
    done = subprocess.run([sys.executable, str(RESEARCH / "hostile_inputs.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) inputs", done.stdout)[1]) >= 200
