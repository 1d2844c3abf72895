# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Loading of single models. A model of which a weight is missing is refused."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import cached_file

from ..models.base import check_whole, named_errors

# Options of `from_pretrained` that say where files come from.
DOWNLOAD_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")


def load_whole(model_class: Any, name_or_path: str | Path, **kwargs: Any) -> PreTrainedModel:
    """Loads a model of any class from safetensors, of which no weight may be missing."""
    options = {"use_safetensors": True, "output_loading_info": True, **kwargs}
    with named_errors(name_or_path):
        model, info = model_class.from_pretrained(name_or_path, **options)
    check_whole(name_or_path, model, info)
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
