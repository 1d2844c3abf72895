# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Which package may import which, what the core needs, and that argparse and private names stay where they belong."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "rq_hf"
SOURCES = sorted(PACKAGE.rglob("*.py"))
HEADER = "# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0\n"
# Importer: what of the library it may import. A dotted name allows that module alone.
ARROWS = {
    "models": set(),
    "images": set(),
    "files": set(),
    "version": set(),
    "hub": set(),
    "caption_tokenizer": set(),
    "pipelines": {"models", "images", "hub"},
    "evaluation": {"models", "pipelines", "images", "files"},
    "training": {
        "models", "pipelines", "images", "files", "caption_tokenizer", "hub", "evaluation.reconstruction",
        "evaluation.features",
    },
    "conversion": {"models", "pipelines", "files", "caption_tokenizer", "hub"},
    "language": {"models"},
    "__init__": {"models", "pipelines", "caption_tokenizer", "language", "version"},
}  # fmt: skip
# What a pipeline can do without: training, measuring and pages bring these.
EXTRAS = "datasets peft torchvision lpips torchmetrics torch_fidelity gradio torchao matplotlib".split()


def package_of(path: Path) -> str:
    """`models`, `training`, ..., or the name of a module at the library's root."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> set[str]:
    """Dotted names, absolute, that a file imports anywhere in it."""
    package = ["rq_hf", *path.relative_to(PACKAGE).parent.parts]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            names |= {".".join(filter(None, [*base, node.module, alias.name])) for alias in node.names}
    return names


def inner_imports(path: Path) -> set[str]:
    """What a file imports of the other packages of the library, without `rq_hf.`."""
    names = {name.removeprefix("rq_hf.") for name in imports(path) if name.startswith("rq_hf.")}
    return {name for name in names if name.split(".")[0] != package_of(path)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_follow_the_arrows_and_argparse_stays_in_the_command_line(path):
    package = package_of(path)
    if package == "cli":  # may import everything
        return
    for name in inner_imports(path):
        assert any(f"{name}.".startswith(f"{allowed}.") for allowed in ARROWS[package]), f"{package} imports {name}"
    assert not any(name.split(".")[0] == "argparse" for name in imports(path))


def test_stages_stay_apart_and_pipelines_import_the_hub_only_where_they_push():
    for name, other in (("rqvae", "rq_transformer"), ("rq_transformer", "rqvae")):
        assert f"modeling_{other}" not in (PACKAGE / "models" / f"modeling_{name}.py").read_text(encoding="utf-8")
    files = [path for path in SOURCES if package_of(path) == "pipelines"]
    users = [path.name for path in files if any(name.split(".")[0] == "hub" for name in inner_imports(path))]
    assert users == ["sharing.py"]


def test_there_is_no_import_cycle():
    modules = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in SOURCES}
    arrows = {}
    for name, path in modules.items():
        inner = {each.removeprefix("rq_hf.") for each in imports(path) if each.startswith("rq_hf.")}
        arrows[name] = {known for known in modules for each in inner if f"{each}.".startswith(f"{known}.")} - {name}
    TopologicalSorter(arrows).prepare()  # raises a CycleError that names the modules


def test_the_library_has_few_rooms_at_its_root():
    rooms = {path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*") if "__pycache__" not in path.parts}
    assert len(rooms) <= 16, sorted(rooms)


def test_no_private_machinery_of_torch_is_used():
    words = r"_inductor|torch\._C|CppCodeCache|TorchFunctionMode|WeakKeyDictionary|threading\.Lock|saved_tensors_hooks"
    for path in SOURCES:
        assert not re.search(words, path.read_text(encoding="utf-8")), path


def test_every_file_begins_with_the_licence_and_a_docstring():
    folders = [PACKAGE, ROOT / "scripts", ROOT / "research", ROOT / "tests"]
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert text.startswith(HEADER), path
        if path.is_relative_to(PACKAGE):
            assert ast.get_docstring(ast.parse(text)), path


def test_drawing_needs_no_extra_package_and_training_neither_peft_nor_lpips_nor_torchvision():
    block = f"import sys\nfor name in {EXTRAS}: sys.modules[name] = None\nimport rq_hf, rq_hf.hub, rq_hf.conversion\n"
    still = {"peft", "lpips", "torchvision"}
    allow = f"for name in {EXTRAS}: name in {still} or sys.modules.pop(name)\nimport rq_hf.training"
    subprocess.run([sys.executable, "-c", block + allow], check=True)
