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
PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "checkpoints").glob("*/README.md")]
# Scripts whose first word is a command, and those that hand flags on to another.
WITH_COMMANDS = ("rate_distortion", "stage2_ablation", "selection_study", "evaluate", "benchmark", "memory_estimate")
HANDED_ON = {
    "rate_distortion": ("train_rqvae",), "stage2_ablation": ("train_rqt",), "selection_study": ("evaluate", "samples"),
    "killed_evaluation": ("evaluate", "samples"),
}  # fmt: skip
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


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them: lower case, without punctuation, hyphens for spaces."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_to_files_and_headings(page):
    links = re.findall(r"\]\((?!https?://)([^)\s]+)\)", FENCE.sub("", page.read_text(encoding="utf-8")))
    for link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


def documented_commands() -> dict[tuple[str, ...], set[str]]:
    """Flags that pages and cards give to a script, or to a command of it."""
    commands = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        fenced = [body for _, language, body in FENCE.findall(text) if language in ("bash", "text")]
        spans = re.findall(r"`([^`]+)`", FENCE.sub("", text).replace("\n", " "))
        for line in "\n".join(fenced + spans).splitlines():
            for name, rest in re.findall(r"scripts/(\w+)\.py([^;|&#]*)", line):
                first = rest.split()[:1] if name in WITH_COMMANDS else []
                commands.setdefault((name, *first), set()).update(re.findall(r"(?<!\S)--\w+", rest))
    return commands


def test_commands_of_all_pages_have_flags_that_their_scripts_know(load_script, capsys):
    commands = documented_commands()
    assert len(commands) > 30 and sum(map(len, commands.values())) > 150
    for (name, *command), flags in commands.items():
        if name in WITH_COMMANDS and not command:
            continue  # the script alone is named
        known = set()
        for script, *words in ((name, *command), HANDED_ON.get(name, (name, *command))):
            with pytest.raises(SystemExit) as ended:
                load_script(script).main([*words, "--help"])
            assert ended.value.code == 0
            known |= set(re.findall(r"^ +(?:-\w, )?(--\w+)", capsys.readouterr().out, re.MULTILINE))
        assert flags <= known, (name, *command, flags - known)


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
