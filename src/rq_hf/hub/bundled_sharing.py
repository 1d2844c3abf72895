# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Takes the place of `pipelines/sharing.py` in bundled code: the pipeline saves its code and does not push itself."""

import inspect
import json
import shutil
from pathlib import Path


class SharingMixin:
    """Saves a pipeline with the code that it was loaded from."""

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Saves the pipeline; see [`DiffusionPipeline.save_pretrained`]."""
        super().save_pretrained(save_directory, *args, **kwargs)
        path = Path(save_directory, "model_index.json")
        index = json.loads(path.read_text(encoding="utf-8"))
        shutil.copy(inspect.getfile(type(self)), path.with_name("pipeline.py"))
        index["_class_name"] = ["pipeline", type(self).__name__]
        for name in ("rqvae", "transformer"):
            if index.get(name, [None])[0] is not None:
                code = Path(inspect.getfile(type(getattr(self, name))))
                shutil.copy(code, path.parent / name)
                index[name][0] = code.stem
                processor = path.parent / name / "preprocessor_config.json"
                settings = json.loads(processor.read_text(encoding="utf-8")) if processor.is_file() else {}
                if (class_name := settings.get("image_processor_type", "")).startswith("RQVAE"):
                    settings["auto_map"] = {"AutoImageProcessor": f"{code.stem}.{class_name}"}
                    processor.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
