# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What may import what, and how files are to be: no cycles, no catch-all module, none too long, licence first."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "rq_hf"
SOURCES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))
HEADER = "# Copyright 2026 The rq_hf authors.\n# Licensed under the Apache License, Version 2.0; see LICENSE.\n"
# What needs more than the core's packages, or is no part of a model or pipeline.
OUTSIDE_THE_CORE = {
    "training",
    "metrics",
    "features",
    "evaluation",
    "picture_grid",
    "data_sources",
    "conversion",
    "conversion_config",
    "conversion_source",
}
# What the core imports only when something is shared.
NOT_AT_IMPORT = OUTSIDE_THE_CORE | {"card_folders", "card_metadata", "card_tables", "cards", "remote_code", "sharing"}
EXTRAS = {
    "datasets",
    "torchvision",
    "torchmetrics",
    "torch_fidelity",
    "lpips",
    "gradio",
    "peft",
    "torchao",
    "resvg_py",
    "matplotlib",
}
MODELS = {"modeling_rqvae", "modeling_rq_transformer"}


def name_of(path: Path) -> str:
    """Module name inside the package: `modeling_rqvae`, `training.data`, and `__init__` for the package itself."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imported_names(path: Path) -> set[str]:
    """Absolute dotted names of everything that a file imports, in functions too."""
    package = ["rq_hf", *path.relative_to(PACKAGE).parent.parts] if path.is_relative_to(PACKAGE) else []
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def graph() -> dict[str, set[str]]:
    """Modules of the package that each module imports."""
    modules = {name_of(path): path for path in SOURCES}
    edges = {}
    for module, path in modules.items():
        inside = {
            name.removeprefix("rq_hf").lstrip(".") for name in imported_names(path) if name.split(".")[0] == "rq_hf"
        }
        found = {
            max((other for other in modules if f"{name}.".startswith(f"{other}.")), key=len, default="__init__")
            for name in inside
        }
        edges[module] = found - {module}
    return edges


def reachable(edges: dict[str, set[str]], start: str) -> set[str]:
    found, waiting = set(), [start]
    while waiting:
        for module in edges[waiting.pop()] - found:
            found.add(module)
            waiting.append(module)
    return found


EDGES = graph()
CORE = {module for module in EDGES if module.split(".")[0] not in OUTSIDE_THE_CORE}


def test_imports_are_seen():
    assert EDGES["modeling_rqvae"] == {"configuration_rqvae", "modeling_hub", "residual_quantizer"}
    assert MODELS | {"pipeline_rq_image_generation"} <= EDGES["__init__"]
    assert "modeling_rqvae" in reachable(EDGES, "training")


def test_no_module_imports_itself_by_way_of_others():
    assert [module for module in EDGES if module in reachable(EDGES, module)] == []


@pytest.mark.parametrize("module", sorted(MODELS))
def test_a_model_imports_neither_the_other_nor_the_pipeline(module):
    forbidden = (MODELS - {module}) | {"pipeline_rq_image_generation", "__init__"}
    assert reachable(EDGES, module) & forbidden == set()


@pytest.mark.parametrize("module", sorted(CORE))
def test_the_core_imports_no_training_metrics_or_optional_package(module):
    assert {other.split(".")[0] for other in reachable(EDGES, module)} & OUTSIDE_THE_CORE == set()
    path = PACKAGE / f"{module.replace('.', '/')}.py"
    assert {name.split(".")[0] for name in imported_names(path)} & EXTRAS == set()


def test_importing_the_package_imports_no_training_and_no_datasets():
    run = [sys.executable, "-c", "import sys, rq_hf; print(*sys.modules)"]
    modules = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    # transformers and diffusers import these themselves where they are installed.
    assert not (EXTRAS - {"torchvision", "peft", "torchao"}) & set(modules)
    assert {name.split(".")[1] for name in modules if name.startswith("rq_hf.")} & NOT_AT_IMPORT == set()
    assert "rq_hf.modeling_rqvae" in modules


# What README.md runs after an installation without extras, the page with "demo"; a Space has no datasets either.
USED_WITHOUT_EXTRAS = ("generate.py", "reconstruct.py", "push_to_hub.py", "app.py")


def test_scripts_for_users_need_no_packages_of_training():
    program = f"""
import runpy, sys
sys.modules |= dict.fromkeys({sorted(EXTRAS - {"gradio"} | {"accelerate"})})
for name in {USED_WITHOUT_EXTRAS}:
    runpy.run_path("scripts/" + name, run_name="imported")
print(*(name for name in sys.modules if name.startswith("rq_hf.training")))
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []


@pytest.mark.parametrize("path", SOURCES + SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_of_bounded_length_and_has_a_licence_and_a_telling_name(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 450
    assert text.startswith(HEADER)
    assert path.stem not in {"utils", "util", "helpers", "misc", "common"}
