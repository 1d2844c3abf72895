# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The model that a training starts from: new, or a pretrained one with fields or weights of its own."""

import logging
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ..pipeline_rq_image_generation import component_subfolder

logger = logging.getLogger(__name__)


def initial_config(
    config_class: type[PreTrainedConfig], fields: dict[str, Any], name_or_path: str | None, component: str
) -> PreTrainedConfig:
    """The configuration that a training starts from.

    Args:
        config_class: its class.
        fields: its fields; beside a pretrained model, those that replace its own.
        name_or_path: Hub id or folder of a pretrained model, or of a pipeline that has it; `None` for a new one.
        component: its name in a pipeline, "rqvae" or "transformer".
    """
    if name_or_path is None:
        return config_class(**fields)
    subfolder = component_subfolder(name_or_path, component)
    return config_class.from_pretrained(name_or_path, subfolder=subfolder, **fields)


def initial_model(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, name_or_path: str | None
) -> PreTrainedModel:
    """The model that a training starts from, in fp32.

    Args:
        model_class: its class.
        config: its configuration, see [`initial_config`].
        name_or_path: as there.

    Raises:
        `ValueError`: the pretrained weights are not those of a model with this configuration.
    """
    if name_or_path is None:
        return model_class(config)
    subfolder = component_subfolder(name_or_path, model_class.base_model_prefix)
    try:
        model, loading = model_class.from_pretrained(
            name_or_path, subfolder=subfolder, config=config, dtype=torch.float32, output_loading_info=True
        )
    except RuntimeError as error:  # weights of other shapes
        raise ValueError(f"`model_name_or_path` must fit the model's fields, got {name_or_path!r}: {error}") from error
    wrong = {name: sorted(loading[name]) for name in ("missing_keys", "unexpected_keys") if loading[name]}
    if wrong:
        raise ValueError(f"`model_name_or_path` must fit the model's fields, got {name_or_path!r} with {wrong}.")
    return model


def with_kept_weights(
    model: PreTrainedModel,
    config: PreTrainedConfig,
    new_weights: tuple[str, ...] = (),
    resized_weights: tuple[str, ...] = (),
) -> PreTrainedModel:
    """A model of another configuration with the weights of `model`, except those that are new; they are logged.

    Args:
        model: its weights, generation configuration and name are kept.
        config: of the returned model.
        new_weights: how the names of weights begin that are new.
        resized_weights: how those begin that are new where `model` has none of their shape.

    Raises:
        `ValueError`: another weight is not in both models, or not of one shape.
    """
    renewed = type(model)(config)
    before, after = ({name: w.shape for name, w in each.state_dict().items()} for each in (model, renewed))
    differing = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    wrong = sorted(name for name in differing if not name.startswith(new_weights + resized_weights))
    if wrong:
        raise ValueError(f"`model` must have the weights of its new configuration, got others for {', '.join(wrong)}.")
    new = {name for name in after if name.startswith(new_weights)} | (differing & after.keys())
    renewed.load_state_dict(
        {name: weight for name, weight in model.state_dict().items() if name in after.keys() - new}, strict=False
    )
    if model.can_generate():
        renewed.generation_config = model.generation_config
    renewed.name_or_path = model.name_or_path
    logger.warning("Weights that are not those of %s: %s.", model.name_or_path, ", ".join(sorted(new)))
    return renewed
