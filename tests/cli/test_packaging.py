# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""What an installed rq_hf brings."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rq_hf.training.arguments import recipe_names

ROOT = Path(__file__).parents[2]


def test_a_folder_of_the_same_name_beside_a_script_does_not_hide_the_library(tmp_path):
    (tmp_path / "rq_hf").mkdir()  # such as a clone
    program = "from importlib.util import find_spec; assert find_spec('rq_hf').origin"  # a bare folder has none
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


@pytest.mark.slow
def test_the_wheel_brings_command_recipes_card_templates_and_types(tmp_path):
    source, site = tmp_path / "source", tmp_path / "site"
    for name in ("src", "model_cards"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path]
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", *options, source], check=True, cwd=tmp_path)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    assert {path.stem for path in (site / "rq_hf" / "recipes").glob("*.json")} == set(recipe_names())
    templates = {path.name for path in (ROOT / "model_cards").glob("*.md")}
    assert templates and {path.name for path in (site / "rq_hf" / "model_cards").glob("*.md")} == templates
    assert (site / "rq_hf" / "py.typed").exists()
    names = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"rq_hf"}
    (metadata,) = site.glob("*.dist-info/METADATA")
    assert "## Draw" in metadata.read_text() and not re.search(r"\]\((?!https?:|#)", metadata.read_text())
    (entry_points,) = site.glob("*.dist-info/entry_points.txt")
    assert "rq-hf = rq_hf.cli:main" in entry_points.read_text()
