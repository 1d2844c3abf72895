# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Bundles the library into files of code for a repository, which then loads with `trust_remote_code=True`.

diffusers downloads one file of code per component. Each file is made of a module and all modules of this package that
it imports.
"""

import ast
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

from .bundled_sharing import write_json, write_model_code, write_pipeline_code

PACKAGE = Path(__file__).parents[1]
# Pushing needs the library, so another mixin takes the place of the one that pushes.
REPLACED = {"pipelines/sharing.py": "hub/bundled_sharing.py"}
# Statements at the top of a module: its docstring and its imports.
HEAD = (ast.Expr, ast.Import, ast.ImportFrom)


def add_code(folder: Path) -> None:
    """Adds code to a saved pipeline, RQ-VAE or RQ-Transformer, so that it loads without this library.

    Raises:
        `ValueError`: the pipeline or a model is not of this library.
    """
    if not (folder / "model_index.json").is_file():
        _add_model_code(folder)
        return
    name = read_json(folder, "model_index.json")["_class_name"]
    modules = [path.name for path in sorted(PACKAGE.glob("pipelines/pipeline_*.py")) if name in _classes(path)]
    if not modules:
        raise ValueError(f"`folder` must hold a pipeline of this library to get code, got {name!r:.80}.")
    code = {component: _add_model_code(folder / component) for component in ("rqvae", "transformer")}
    for path in code.values():
        shutil.copy(path, folder)  # transformers looks here when it loads a subfolder
    names = {component: path.stem for component, path in code.items()}
    write_pipeline_code(folder, names, _bundle(f"pipelines/{modules[0]}"))


def _add_model_code(folder: Path) -> Path:
    """Adds code to a saved model and returns its path."""
    config = read_json(folder, "config.json")
    model_type = config.get("model_type")
    module = f"modeling_{model_type}"
    if not (PACKAGE / f"models/{module}.py").is_file():
        raise ValueError(f"`folder` must hold models of this library to get code, got {model_type!r:.80}.")
    (config_class,) = _classes(PACKAGE / f"models/configuration_{model_type}.py")
    (model_class,) = config["architectures"]
    auto_map = {"AutoConfig": f"{module}.{config_class}", "AutoModel": f"{module}.{model_class}"}
    write_json(folder / "config.json", config | {"auto_map": auto_map})
    write_model_code(folder, module, _bundle(f"models/{module}.py"))
    return folder / f"{module}.py"


def _bundle(module: str) -> str:
    """Joins a module of this package and all modules of the package that it imports to one file.

    Modules import at their top, and no two of them give one name different meanings.
    """
    imports: set[str] = set()
    bodies: dict[str, str] = {}
    _collect(module, imports, bodies)
    header = f'''# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0, http://www.apache.org/licenses/LICENSE-2.0.
"""The module {module} of the library rq_hf, with the modules that it imports."""
'''
    return "\n".join([header, *sorted(imports), "", *(f"\n{body}\n" for body in bodies.values())])


def _collect(module: str, imports: set[str], bodies: dict[str, str]) -> None:
    """Adds the imports and the body of a module, after those of the modules of the package that it imports."""
    source, start = (PACKAGE / REPLACED.get(module, module)).read_text(encoding="utf-8"), 0
    for statement in itertools.takewhile(lambda each: isinstance(each, HEAD), ast.parse(source).body):
        start = statement.end_lineno
        if isinstance(statement, ast.ImportFrom) and statement.level:
            folder = Path(*Path(module).parts[: -statement.level])
            imported = folder.joinpath(*statement.module.split(".")).as_posix() + ".py"
            if imported not in bodies:
                _collect(imported, imports, bodies)
        elif not isinstance(statement, ast.Expr):
            imports.add(ast.unparse(statement))
    bodies[module] = "\n".join(source.splitlines()[start:]).strip("\n")


def _classes(path: Path) -> list[str]:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return [statement.name for statement in body if isinstance(statement, ast.ClassDef)]


def read_json(folder: Path, name: str | Path) -> dict[str, Any]:
    """Reads a JSON object from a file in a folder."""
    try:
        return dict(json.loads((folder / name).read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"`folder` must hold a JSON object in {name}: {error}") from error
