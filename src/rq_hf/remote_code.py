# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The library as files that a repository on the Hub brings along, for users without it: `trust_remote_code=True`.

diffusers fetches one file of code per component, so each is made of a module and those of this package it imports.
"""

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent
# diffusers looks a `custom_pipeline` up by this name.
PIPELINE_MODULE = "pipeline"
# By `model_type`: module, configuration and model.
COMPONENT_CODE = {
    "rqvae": ("modeling_rqvae", "RQVAEConfig", "RQVAEModel"),
    "rq_transformer": ("modeling_rq_transformer", "RQTransformerConfig", "RQTransformerForImageGeneration"),
}
MADE_OF = "# Made of the library rq_hf's "
# What a class cannot do without the library; the base class's own takes its place.
LEFT_OUT_METHODS = {"push_to_hub", "_push_saved"}


def code_files(folder: str | Path) -> dict[str, str]:
    """What is added to a repository so that it loads without this library.

    Args:
        folder: of a pipeline or of one of the models.

    Returns:
        `dict[str, str]`: texts by their path in the repository: code, and configurations that name it.

    Raises:
        `ValueError`: `folder` holds neither.
    """
    folder = Path(folder)
    index = folder / "model_index.json"
    if index.is_file():
        return _pipeline_files(folder, json.loads(index.read_text(encoding="utf-8")))
    if (folder / "config.json").is_file():
        return _component_files(folder, "")
    raise ValueError(f"`folder` must be of a pipeline or a model to get code, got {str(folder)!r}.")


def is_brought_code(text: str) -> bool:
    """Whether a file is one that [`code_files`] makes."""
    return any(line.startswith(MADE_OF) for line in text.splitlines()[:10])


def single_file(module: str) -> str:
    """A module of this package and all of the package that it imports, as one file that needs the package no more.

    Args:
        module (`str`): its name, such as `"modeling_rqvae"`.

    Raises:
        `ValueError`: two of those modules give one name to different things.
    """
    origins: dict[str, str] = {}
    imports: dict[str, set[str]] = {}
    bodies = []
    for name in _in_order_of_imports(module):
        source = (PACKAGE / f"{name}.py").read_text(encoding="utf-8")
        bodies.append(_body(name, source, origins, imports))
    lines = [f"{statement}{', '.join(sorted(names))}" for statement, names in sorted(imports.items())]
    header = [
        "# Copyright 2026 The rq_hf authors.",
        "# Licensed under the Apache License, Version 2.0, http://www.apache.org/licenses/LICENSE-2.0.",
        f"{MADE_OF}{module}.py and what that imports; where rq_hf is imported, its own",
        "# classes are taken by `AutoModel` and `RQImageGenerationPipeline`.",
    ]
    return "\n".join([*header, "", *lines, "", "", *bodies]).rstrip() + "\n"


def _pipeline_files(folder: Path, index: dict[str, Any]) -> dict[str, str]:
    files = {f"{PIPELINE_MODULE}.py": single_file("pipeline_rq_image_generation")}
    name = index["_class_name"]
    index["_class_name"] = [PIPELINE_MODULE, name if isinstance(name, str) else name[-1]]
    for component, entry in index.items():
        if component in ("rqvae", "transformer") and entry[0] is not None:
            added = _component_files(folder, f"{component}/")
            files |= added
            path = next(path for path in added if path.endswith(".py"))
            file = path.removeprefix(f"{component}/")
            files[file] = added[path]  # where transformers looks for it with `subfolder`
            entry[0] = file.removesuffix(".py")
    files["model_index.json"] = _json(index)
    return files


def _component_files(folder: Path, place: str) -> dict[str, str]:
    path = folder / f"{place}config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("model_type") not in COMPONENT_CODE:
        raise ValueError(
            f"{str(path)!r} must have a `model_type` in {list(COMPONENT_CODE)} to get code, got "
            f"{config.get('model_type')!r}."
        )
    module, config_class, model_class = COMPONENT_CODE[config["model_type"]]
    config["auto_map"] = {"AutoConfig": f"{module}.{config_class}", "AutoModel": f"{module}.{model_class}"}
    return {f"{place}{module}.py": single_file(module), f"{place}config.json": _json(config)}


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _in_order_of_imports(module: str) -> list[str]:
    """The module after all of the package that it imports."""
    order: list[str] = []
    for statement in ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.ImportFrom) and statement.level:
            order += [name for name in _in_order_of_imports(statement.module) if name not in order]
    return [*order, module]


def _body(module: str, source: str, origins: dict[str, str], imports: dict[str, set[str]]) -> str:
    """What a module defines, without its imports, which are added to `imports`; what is known is in `origins`."""
    lines, tree = source.splitlines(), ast.parse(source)
    left_out = [(1, _end_of_licence(lines))]
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            left_out.append(_lines_of(statement))
            if not getattr(statement, "level", 0):
                _add_import(module, statement, origins, imports)
        elif _is_docstring(statement):
            left_out.append(_lines_of(statement))
        else:
            text = ast.get_source_segment(source, statement)
            known = [_claim(module, name, text, origins) for name in _defined_names(statement)]
            if known and all(known):  # such as `logger = ...`
                left_out.append(_lines_of(statement))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in LEFT_OUT_METHODS:
            left_out.append(_lines_of(node))
    kept = [
        line
        for number, line in enumerate(lines, start=1)
        if not any(first <= number <= last for first, last in left_out)
    ]
    text = "\n".join(kept)
    nested = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom) and node.level]
    if nested:
        raise ValueError(f"{module}.py must import the package's modules at its top, got {ast.unparse(nested[0])!r}.")
    return text.strip("\n") + "\n\n"


def _add_import(module: str, statement: ast.Import | ast.ImportFrom, origins, imports: dict[str, set[str]]) -> None:
    for alias in statement.names:
        name = ast.unparse(alias)
        bound = alias.asname or (alias.name.split(".")[0] if isinstance(statement, ast.Import) else alias.name)
        if isinstance(statement, ast.Import):
            origin, key, names = f"import {name if alias.asname else bound}", f"import {name}", set()
        else:
            key = f"from {statement.module} import "
            origin, names = key + name, {name}
        _claim(module, bound, origin, origins)
        imports.setdefault(key, set()).update(names)


def _claim(module: str, name: str, origin: str, origins: dict[str, str]) -> bool:
    """Whether a name stands for just this already."""
    if origins.setdefault(name, origin) != origin:
        raise ValueError(f"{module}.py must not give `{name}` another meaning than a module it imports.")
    known = f"{name} of {origin}" in origins
    origins[f"{name} of {origin}"] = origin
    return known


def _defined_names(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.ClassDef | ast.FunctionDef):
        return [statement.name]
    if isinstance(statement, ast.Assign):
        return [node.id for target in statement.targets for node in ast.walk(target) if isinstance(node, ast.Name)]
    return [statement.target.id] if isinstance(statement, ast.AnnAssign) else []


def _lines_of(node: ast.stmt) -> tuple[int, int]:
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)]), node.end_lineno


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _end_of_licence(lines: list[str]) -> int:
    return next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
