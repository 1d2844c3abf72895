# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Bundles the library into files of code for a repository, which then loads with `trust_remote_code=True`.

diffusers downloads one file of code per component. Each file is made of a module and all modules of this package that
it imports.
"""

import ast
import itertools
import json
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
# Pushing needs the library, so another mixin takes the place of the one that pushes.
REPLACED = {"pipelines/sharing.py": "hub/bundled_sharing.py"}
# Statements at the top of a module: its docstring and its imports.
HEAD = (ast.Expr, ast.Import, ast.ImportFrom)


def code_files(folder: str | Path) -> dict[str, str]:
    """Returns the files that make a repository load without this library.

    Args:
        folder (`str` or `Path`): a saved pipeline, RQ-VAE or RQ-Transformer.

    Returns:
        `dict[str, str]`: texts by their path in the repository: the code, and the configurations that name it.

    Raises:
        `ValueError`: `folder` holds neither a pipeline nor a model of this library.
    """
    folder = Path(folder)
    if not (folder / "model_index.json").is_file():
        return _model_files(folder)
    index = read_json(folder, "model_index.json")
    name = index["_class_name"]
    modules = [path for path in sorted(PACKAGE.glob("pipelines/pipeline_*.py")) if name in classes(path)]
    if not modules:
        raise ValueError(f"`folder` must hold a pipeline of this library to get code, got {name!r:.80}.")
    files = {"pipeline.py": bundle(f"pipelines/{modules[0].name}")}  # diffusers looks for this name
    index["_class_name"] = ["pipeline", name]
    for name in ("rqvae", "transformer"):
        if index.get(name, [None])[0] is not None:
            model_files = _model_files(folder / name)
            code = next(path for path in model_files if path.endswith(".py"))
            files |= {f"{name}/{path}": text for path, text in model_files.items()}
            files[code] = model_files[code]  # transformers looks here when it loads a subfolder
            index[name][0] = code.removesuffix(".py")
    return files | {"model_index.json": to_json(index)}


def bundle(module: str) -> str:
    """Joins a module of this package and all modules of the package that it imports to one file.

    Modules import at their top, and no two of them give one name different meanings.

    Args:
        module (`str`): path within the package, such as `"models/modeling_rqvae.py"`.
    """
    imports, bodies = set(), []
    for path in _in_order_of_imports(module):
        source, start = _source(path), 0
        for statement in _head(source):
            start = statement.end_lineno
            if not isinstance(statement, ast.Expr) and not getattr(statement, "level", 0):
                imports.add(ast.unparse(statement))
        bodies.append("\n".join(source.splitlines()[start:]).strip("\n"))
    header = f'''# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0, http://www.apache.org/licenses/LICENSE-2.0.
"""The module {module} of the library rq_hf, with the modules that it imports."""
'''
    return "\n".join([header, *sorted(imports), "", *(f"\n{body}\n" for body in bodies)])


def _model_files(folder: Path) -> dict[str, str]:
    config = read_json(folder, "config.json") if (folder / "config.json").is_file() else {}
    kinds = [path.stem.removeprefix("modeling_") for path in sorted(PACKAGE.glob("models/modeling_*.py"))]
    model_type = config.get("model_type")
    if model_type not in kinds:
        raise ValueError(
            f"`folder` must hold a pipeline or a config.json of `model_type` {' or '.join(kinds)} to get code, "
            f"got `model_type` {model_type}."
        )
    module, (model_class,) = f"models/modeling_{model_type}.py", config["architectures"]
    (config_class,) = classes(PACKAGE / f"models/configuration_{model_type}.py")
    name, path = Path(module).stem, "preprocessor_config.json"
    config["auto_map"] = {"AutoConfig": f"{name}.{config_class}", "AutoModel": f"{name}.{model_class}"}
    files = {f"{name}.py": bundle(module), "config.json": to_json(config)}
    settings = read_json(folder, path) if (folder / path).is_file() else {}
    if (class_name := settings.get("image_processor_type", "")).startswith("RQVAE"):
        settings["auto_map"] = {"AutoImageProcessor": f"{name}.{class_name}"}
        files[path] = to_json(settings)
    return files


def classes(path: Path) -> list[str]:
    """Names of the classes of a module."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return [statement.name for statement in body if isinstance(statement, ast.ClassDef)]


def _source(module: str) -> str:
    return (PACKAGE / REPLACED.get(module, module)).read_text(encoding="utf-8")


def _head(source: str) -> list[ast.stmt]:
    """The docstring and the imports at the top of a module."""
    return list(itertools.takewhile(lambda each: isinstance(each, HEAD), ast.parse(source).body))


def _in_order_of_imports(module: str) -> list[str]:
    """The module, after all modules of the package that it imports."""
    order: list[str] = []
    for statement in _head(_source(module)):
        if isinstance(statement, ast.ImportFrom) and statement.level:
            folder = Path(*Path(module).parts[: -statement.level])
            imported = _in_order_of_imports(folder.joinpath(*statement.module.split(".")).as_posix() + ".py")
            order += [name for name in imported if name not in order]
    return [*order, module]


def read_json(folder: Path, name: str | Path) -> dict[str, Any]:
    """Reads a JSON object from a file in a folder."""
    try:
        return dict(json.loads((folder / name).read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"`folder` must hold a JSON object in {name}: {error}") from error


def to_json(value: dict[str, Any]) -> str:
    """Writes JSON as it is stored in repositories."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
