# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""What the pages and the docstrings show runs as it stands."""

import doctest
import importlib
import pkgutil
import re
import runpy
from pathlib import Path

import pytest

import rq_hf
from rq_hf.cli import COMMANDS, main
from rq_hf.training.arguments import read_recipe, recipe_names

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
PAGES += [*(ROOT / "checkpoints").glob("*/README.md"), ROOT / "research" / "emoji" / "README.md"]
SHELLS = {  # scripts of three lines that have other names than the command that they run
    "train_rqvae": "train-rqvae",
    "research/emoji/train_rqvae": "train-rqvae",
    "train_rqt": "train-rqt",
}
FENCE = re.compile(r"^([ \t]*)```(\w+)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def documented_python(text: str) -> list[str]:
    return [body for _, language, body in FENCE.findall(text) if language == "python"]


def public_docstrings() -> dict[str, str]:
    """Docstrings of the package's classes and functions that hold an example."""
    found = {}
    for module_info in pkgutil.walk_packages(rq_hf.__path__, "rq_hf."):
        if module_info.name.startswith("rq_hf.cli."):
            continue
        module = importlib.import_module(module_info.name)
        for name, item in vars(module).items():
            own = getattr(item, "__module__", None) == module.__name__
            if own and ">>>" in (getattr(item, "__doc__", None) or ""):
                found[f"{module.__name__}.{name}"] = item.__doc__
    return found


def test_readme_python_runs(hub, tiny_pipeline, monkeypatch):
    monkeypatch.chdir(ROOT)
    namespace = {}
    for block in documented_python((ROOT / "README.md").read_text(encoding="utf-8")):
        if "push_to_hub" in block:  # the weights of the demo take ten seconds
            namespace["pipe"] = tiny_pipeline
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["image"].size == (64, 64)


@pytest.mark.parametrize(
    ("page", "limit"), [("README.md", 900), ("docs/own_pictures.md", 700), ("docs/evaluation.md", 700)]
)
def test_pages_are_short(page, limit):
    assert len((ROOT / page).read_text(encoding="utf-8").split()) <= limit


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them: lower case, without punctuation, hyphens for spaces."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_of_a_page_lead_to_files_and_headings(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", FENCE.sub("", text)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link
    for path in re.findall(r"(?<![\w/.-])(?:scripts|docs|research|src|tests|checkpoints)/[\w./-]*\w", text):
        assert (ROOT / path).exists(), path


def documented_commands() -> dict[tuple[str, ...], set[str]]:
    """Flags that pages and recipes give to `rq-hf COMMAND` or to a script."""
    lines = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for _, language, body in FENCE.findall(text):
            lines += body.splitlines() if language in ("bash", "text") else []
        lines += re.findall(r"`([^`]+)`", FENCE.sub("", text).replace("\n", " "))
    for name in recipe_names():
        lines += read_recipe(name)["card"].get("training_commands", [])
    commands = {}
    for line in lines:
        for program, rest in re.findall(r"(rq-hf [\w-]+|(?:scripts|research/emoji)/\w+\.py)([^;|&#]*)", line):
            name = program.removeprefix("rq-hf ").removeprefix("scripts/").removesuffix(".py")
            name = SHELLS.get(name, name)
            words = rest.split()
            command = (name, words[0]) if name == "evaluate" and words and words[0].isalpha() else (name,)
            commands.setdefault(command, set()).update(re.findall(r"(?<!\S)--\w+", rest))
    return commands


def test_documented_commands_have_flags_that_exist(capsys, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "research" / "emoji")
    commands = documented_commands()
    assert len(commands) >= 8
    for (name, *words), flags in commands.items():
        with pytest.raises(SystemExit) as ended:
            if name in COMMANDS:
                main([name, *words, "--help"])
            else:
                monkeypatch.setattr("sys.argv", [f"{name}.py", "--help"])
                folder = ROOT if "/" in name else ROOT / "scripts"
                runpy.run_path(str(folder / f"{name}.py"), run_name="__main__")
        assert ended.value.code == 0, name
        known = set(re.findall(r"^ +(?:-\w, )?(--\w+)", capsys.readouterr().out, re.MULTILINE))
        assert flags <= known, (name, *words, flags - known)


@pytest.mark.parametrize("name", public_docstrings())
def test_docstring_examples_run(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    examples = documented_python(public_docstrings()[name])
    assert examples
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for example in examples:
        test = doctest.DocTestParser().get_doctest(example, {}, name, None, 0)
        assert runner.run(test).failed == 0
