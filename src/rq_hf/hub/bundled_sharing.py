# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Replaces `pipelines/sharing.py` in bundled code. The pipeline saves its code and has no push of its own."""

import inspect
import json
from pathlib import Path


class SharingMixin:
    """Saves a pipeline with the code that it was loaded from."""

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Saves the pipeline; see [`DiffusionPipeline.save_pretrained`]."""
        super().save_pretrained(save_directory, *args, **kwargs)
        folder, modules = Path(save_directory), {}
        for name in ("rqvae", "transformer"):
            code = Path(inspect.getfile(type(getattr(self, name))))
            write_model_code(folder / name, code.stem, code.read_text(encoding="utf-8"))
            modules[name] = code.stem
        write_pipeline_code(folder, modules, Path(inspect.getfile(type(self))).read_text(encoding="utf-8"))


def write_pipeline_code(folder: Path, modules: dict[str, str], text: str) -> None:
    """Adds code to a saved pipeline and enters it, with the `modules` of the components, in model_index.json."""
    path = folder / "model_index.json"
    index = json.loads(path.read_text(encoding="utf-8"))
    index["_class_name"] = ["pipeline", index["_class_name"]]
    for name, module in modules.items():
        index[name][0] = module
    write_json(path, index)
    (folder / "pipeline.py").write_text(text, encoding="utf-8")  # diffusers looks for this name


def write_model_code(folder: Path, module: str, text: str) -> None:
    """Adds code to a saved model and enters it in the configuration of the image processor."""
    (folder / f"{module}.py").write_text(text, encoding="utf-8")
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if (class_name := settings.get("image_processor_type", "")).startswith("RQVAE"):
        write_json(path, settings | {"auto_map": {"AutoImageProcessor": f"{module}.{class_name}"}})


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
