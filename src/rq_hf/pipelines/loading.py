# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Loads single models. A model with a missing weight is refused."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import cached_file

from ..models.base import check_whole


def load_whole(
    model_class: Any, name_or_path: str | Path, unused: tuple[str, ...] = (), **kwargs: Any
) -> PreTrainedModel:
    """Loads a model of any class from safetensors, of which no weight may be missing but in `unused` modules."""
    model, info = model_class.from_pretrained(name_or_path, use_safetensors=True, output_loading_info=True, **kwargs)
    missing = [name for name in info["missing_keys"] if name.split(".")[0] not in unused]
    check_whole(name_or_path, model, {"missing_keys": missing})
    return model


def load_component(
    component_class: type[PreTrainedModel], name_or_path: str | Path, component: str, **kwargs: Any
) -> PreTrainedModel:
    """Loads a model from its own repository or folder, or the `component` of a pipeline."""
    with suppress(OSError):  # no pipeline; `from_pretrained` reports what else is missing
        cached_file(name_or_path, "model_index.json", revision=kwargs.get("revision"), token=kwargs.get("token"))
        kwargs["subfolder"] = component
    return component_class.from_pretrained(name_or_path, **kwargs)
