# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Loading of pipelines and single models. A model of which a weight is missing is refused."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from ..models.base import check_whole


@contextmanager
def pipeline_of(name: str) -> Iterator[None]:
    """Raises an `OSError` where a name is neither the folder of a pipeline nor a repository that the Hub gives."""
    is_folder = os.path.isdir(name)  # a name may be too long for a `Path`
    if is_folder and not Path(name, "model_index.json").is_file():
        kind = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
        found = f"a single model of type {kind!r}, which `AutoModel.from_pretrained` loads" if kind else "none"
        raise OSError(f"{name!r} must hold a pipeline with its model_index.json, got {found}.")
    if not is_folder and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise OSError(f"{name!r:.200} is no folder here, and no repository of the Hub, which is called OWNER/NAME.")
    try:
        yield
    except OSError as error:
        if is_folder or error.__cause__ is None:
            raise
        raise OSError(f"{name!r} is no folder here, and the Hub does not give it: {error.__cause__}") from error


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
    """Loads a model from its own repository or folder, or from that of a pipeline, where it is called `component`."""
    with suppress(OSError):  # no pipeline; `from_pretrained` reports what else is missing
        cached_file(name_or_path, "model_index.json", revision=kwargs.get("revision"), token=kwargs.get("token"))
        kwargs["subfolder"] = component
    return component_class.from_pretrained(name_or_path, **kwargs)
