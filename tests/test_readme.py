# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the README and the docstrings show runs as it stands."""

import doctest
import importlib
import json
import pkgutil
import re
from pathlib import Path

import pytest
import yaml

import rq_hf
from rq_hf.cards import CITATION

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^([ \t]*)```(\w+)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def public_docstrings() -> dict[str, str]:
    """Docstrings of the package's classes and functions that hold an example."""
    found = {}
    for module_info in pkgutil.walk_packages(rq_hf.__path__, "rq_hf."):
        module = importlib.import_module(module_info.name)
        for name, item in vars(module).items():
            own = getattr(item, "__module__", None) == module.__name__
            if own and ">>>" in (getattr(item, "__doc__", None) or ""):
                found[f"{module.__name__}.{name}"] = item.__doc__
    return found


def test_readme_python_runs(hub, monkeypatch):
    monkeypatch.chdir(ROOT)
    blocks = [text for _, language, text in FENCE.findall(README) if language == "python"]
    assert len(blocks) >= 3
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["image"].size == (64, 64)
    assert namespace["codes"].ndim == 4
    assert "model_index.json" in hub.files("you/your-model")


def test_readme_commands_name_real_targets_scripts_and_configurations():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    shell = "\n".join(text for _, language, text in FENCE.findall(README) if language == "bash")
    for target in re.findall(r"^make ([\w-]+)", shell, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    mentioned = re.findall(r"(?:scripts|docs|checkpoints)/[\w./-]*\w", README)
    assert mentioned
    for path in mentioned:
        assert (ROOT / path).exists(), path
    for path in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", public_docstrings())
def test_docstring_examples_run(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    examples = [text for _, language, text in FENCE.findall(public_docstrings()[name]) if language == "python"]
    assert examples
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for example in examples:
        test = doctest.DocTestParser().get_doctest(example, {}, name, None, 0)
        assert runner.run(test).failed == 0


def test_citation_and_version_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == rq_hf.__version__
    assert citation["license"] in (ROOT / "setup.py").read_text(encoding="utf-8")
    assert citation["preferred-citation"]["title"] in CITATION
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## (\[Unreleased\]: )?{re.escape(rq_hf.__version__)}$", changelog, re.MULTILINE)


def test_shipped_checkpoints_are_small_and_hold_no_pickle():
    files = [path for path in (ROOT / "checkpoints").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40 * 2**20
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".png", ".csv"}
    index = json.loads((ROOT / "checkpoints" / "emoji-64" / "model_index.json").read_text())
    assert index["transformer"] == ["rq_hf", "RQTransformerForImageGeneration"]
