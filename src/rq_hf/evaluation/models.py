# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The pipeline that is measured, and how it draws."""

import argparse
from typing import Any

import torch
from accelerate import PartialState

from ..configuration_rq_transformer import RQTransformerConfig
from ..pipeline_rq_image_generation import RQImageGenerationPipeline, component_subfolder

SELECTION = ("num_candidates", "ranker", "acceptance_rate", "classifier")


def load_pipeline(arguments: argparse.Namespace) -> RQImageGenerationPipeline:
    """The pipeline to measure, on its device."""
    if not component_subfolder(arguments.model, "transformer"):
        raise ValueError(f"`MODEL` must be a pipeline (with a model_index.json), got {arguments.model!r}.")
    pipe = RQImageGenerationPipeline.from_pretrained(
        arguments.model, revision=arguments.revision, dtype=getattr(torch, arguments.dtype)
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(arguments.device)


def device_of(arguments: argparse.Namespace, state: PartialState) -> torch.device:
    """The device of this process: `--device`, or where there are several processes the one that each was given."""
    return torch.device(arguments.device) if state.num_processes == 1 else state.device


def num_classes(config: RQTransformerConfig) -> int:
    """Classes of a class-conditional model; the id for "no condition" is none."""
    has_null = config.null_condition_ids is not None
    return config.vocab_size - has_null if config.id2label is None else len(config.id2label)


def used_sampling(
    pipe: RQImageGenerationPipeline, sampling: dict[str, Any], arguments: argparse.Namespace
) -> dict[str, Any]:
    """The sampling settings, the checkpoint's own where none were given, and how pictures were selected."""
    defaults = pipe.transformer.generation_config
    used = {name: getattr(defaults, name, None) if given is None else given for name, given in sampling.items()}
    selection = {name: getattr(arguments, name) for name in SELECTION}
    return {**used, **{name: given for name, given in selection.items() if given is not None}}
