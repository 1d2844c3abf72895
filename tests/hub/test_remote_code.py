# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Repositories that bring the code to be loaded without this library."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PROMPT, assert_draws_alike, draw, seeded
from diffusers import DiffusionPipeline
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

from rq_hf import RQImageGenerationPipeline, RQVAEModel
from rq_hf.hub import push_folder

CODED = "me/coded"
WITHOUT_THE_LIBRARY = """
import importlib.util, sys
sys.modules["rq_hf"] = None
assert importlib.util.find_spec("rq_hf") is None
"""


@pytest.fixture
def coded(hub, saved) -> dict[str, Path]:
    """The files of a pushed pipeline with code."""
    push_folder(saved, CODED, with_code=True)
    return hub.files(CODED)


def run(program: str, folder: Path) -> subprocess.CompletedProcess:
    """Runs a program in a process with an empty cache, which cannot import this library."""
    from hub_server import HUB

    shutil.rmtree(HUB.cache, ignore_errors=True)
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_LIBRARY + program], cwd=folder, text=True, capture_output=True,
        env=os.environ | {"HF_MODULES_CACHE": str(folder / "modules")}, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_the_code_is_one_file_per_component_in_which_no_name_has_two_meanings(coded):
    paths = [path for path in coded if path.endswith(".py")]
    assert paths == [
        *("modeling_rq_transformer.py", "modeling_rqvae.py", "pipeline.py"),
        *("rqvae/modeling_rqvae.py", "transformer/modeling_rq_transformer.py"),
    ]
    index = json.loads(coded["model_index.json"].read_text())
    assert index["_class_name"] == ["pipeline", "RQImageGenerationPipeline"]
    assert index["rqvae"] == ["modeling_rqvae", "RQVAEModel"]
    for path in paths:
        text, meanings = coded[path].read_text(), {}
        assert text == coded[Path(path).name].read_text()  # that of a component stands at the top, too
        assert not re.search(r"^\s*(from \.|import rq_hf)", text, re.MULTILINE) and "push_folder" not in text
        for statement in ast.parse(text).body:
            meaning, names = ast.unparse(statement), []
            if isinstance(statement, ast.Import | ast.ImportFrom):
                names, meaning = [alias.asname or alias.name for alias in statement.names], meaning.split(" import")[0]
            elif isinstance(statement, ast.ClassDef | ast.FunctionDef):
                names = [statement.name]
            elif isinstance(statement, ast.Assign):
                names = [target.id for target in statement.targets]
            for name in names:
                assert meanings.setdefault(name, meaning) == meaning, f"{path}: {name}"


def test_where_the_library_is_installed_it_takes_the_place_of_the_code(hub, coded, tiny_pipeline):
    """A test of `_dict_from_json_file`, a private method of diffusers."""
    for path, file in coded.items():
        if path.endswith(".py"):
            file.write_text("raise RuntimeError('this code must not run')")
    loaded = RQImageGenerationPipeline.from_pretrained(CODED)
    assert type(loaded) is RQImageGenerationPipeline and type(loaded.rqvae) is RQVAEModel
    assert_draws_alike(loaded, tiny_pipeline)
    assert type(AutoModel.from_pretrained(CODED, subfolder="rqvae", trust_remote_code=False)) is RQVAEModel
    loaded.push_to_hub("me/plain")
    plain = hub.files("me/plain")
    for path, file in plain.items():  # which names no code that it does not have
        assert not path.endswith(".py") and "auto_map" not in (file.read_text() if path.endswith(".json") else "")
    index = json.loads(plain["model_index.json"].read_text())
    assert index["_class_name"] == "RQImageGenerationPipeline" and index["rqvae"] == ["rq_hf", "RQVAEModel"]


def test_the_code_computes_what_the_library_computes(coded, tiny_pipeline):
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(CODED)
    for options in ({}, {"custom_pipeline": CODED}):
        loaded = DiffusionPipeline.from_pretrained(CODED, trust_remote_code=True, **options)
        assert type(loaded) is not RQImageGenerationPipeline and "diffusers_modules" in type(loaded.rqvae).__module__
        assert_draws_alike(loaded, tiny_pipeline)
    photograph = Image.effect_noise((300, 200), 90).convert("RGB")
    edited = [pipe.vary(photograph, PROMPT, generator=seeded(0)).images[0] for pipe in (loaded, tiny_pipeline)]
    assert edited[0] == edited[1]


@pytest.mark.slow
def test_a_process_without_the_library_loads_draws_saves_and_loads_again(coded, saved, tiny_pipeline, tmp_path):
    program = f"""
import numpy, torch
from diffusers import DiffusionPipeline
from transformers import AutoImageProcessor, AutoModel

grid = numpy.arange(24 * 40 * 3, dtype=numpy.uint8).reshape(24, 40, 3)
for repo_id in ("{CODED}", "again", "and_again"):
    pipe = DiffusionPipeline.from_pretrained(repo_id, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe).__module__.startswith("diffusers_modules"), type(pipe)
    picture = pipe("{PROMPT}", generator=torch.Generator().manual_seed(0), output_type="np").images
    numpy.save(f"{{repo_id.replace('/', '_')}}.npy", picture)
    for name in ("rqvae", "transformer"):
        options = dict(subfolder=name) if repo_id == "{CODED}" else dict()
        place = repo_id if options else f"{{repo_id}}/{{name}}"
        model = AutoModel.from_pretrained(place, trust_remote_code=True, **options)
        own = getattr(pipe, name).state_dict()
        assert all(torch.equal(value, own[key]) for key, value in model.state_dict().items()), name
        if name == "rqvae":
            processor = AutoImageProcessor.from_pretrained(place, trust_remote_code=True, **options)
            numpy.save("pixels.npy", processor(grid, return_tensors="np").pixel_values)
    pipe.save_pretrained("and_again" if repo_id == "again" else "again")
"""
    finished = run(program, tmp_path)
    assert finished.returncode == 0, finished.stderr[-4000:]
    grid = np.arange(24 * 40 * 3, dtype=np.uint8).reshape(24, 40, 3)
    pixels = AutoImageProcessor.from_pretrained(saved / "rqvae")(grid, return_tensors="np").pixel_values
    assert pixels.shape == (1, 3, 16, 16) and np.array_equal(np.load(tmp_path / "pixels.npy"), pixels)
    for name in ("me_coded", "again", "and_again"):
        assert np.array_equal(np.load(tmp_path / f"{name}.npy"), draw(tiny_pipeline, output_type="np"))
    assert_draws_alike(RQImageGenerationPipeline.from_pretrained(tmp_path / "again"), tiny_pipeline)


@pytest.mark.slow
def test_a_process_without_the_library_runs_no_code_that_it_does_not_trust(coded, tmp_path):
    for loader, options in (
        ("diffusers import DiffusionPipeline", ""),
        ("transformers import AutoModel", ", subfolder='rqvae', trust_remote_code=False"),
    ):
        finished = run(f"from {loader} as Loader\nLoader.from_pretrained('{CODED}'{options})", tmp_path)
        assert finished.returncode != 0 and "trust_remote_code" in finished.stderr, finished.stderr[-2000:]
    assert not any((tmp_path / "modules").rglob("*modeling*.py"))
