# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Loading of single models. A model of which a weight is missing is refused."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import cached_file

# Options of `from_pretrained` that say where files come from.
DOWNLOAD_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")


def load_whole(model_class: Any, name_or_path: str | Path, **kwargs: Any) -> PreTrainedModel:
    """Loads a model from safetensors; `from_pretrained` alone gives missing weights random values."""
    model, info = model_class.from_pretrained(name_or_path, use_safetensors=True, output_loading_info=True, **kwargs)
    missing = sorted(name for name in info["missing_keys"] if not name.endswith(".num_batches_tracked"))
    if missing:
        raise ValueError(
            f"{str(name_or_path)!r} must hold all weights of {type(model).__name__}, but {len(missing)} are missing, "
            f"such as `{missing[0]}`."
        )
    return model


def load_component(
    component_class: type[PreTrainedModel], name_or_path: str | Path, component: str, **kwargs: Any
) -> PreTrainedModel:
    """Loads a model from its own repository or folder, or from that of a pipeline.

    Args:
        component_class: [`RQVAEModel`] or [`RQTransformerForImageGeneration`].
        name_or_path: Hub id or folder, of the model or of a pipeline.
        component (`str`): the model's name in a pipeline, `"rqvae"` or `"transformer"`.
        kwargs: options of `from_pretrained`.

    Raises:
        `OSError`: no such model.
        `ValueError`: weights are missing.
    """
    options = {name: kwargs[name] for name in DOWNLOAD_OPTIONS if name in kwargs}
    try:
        cached_file(name_or_path, "model_index.json", **options)
    except OSError:  # no pipeline; `from_pretrained` reports what else is missing
        return load_whole(component_class, name_or_path, **kwargs)
    return load_whole(component_class, name_or_path, subfolder=component, **kwargs)
