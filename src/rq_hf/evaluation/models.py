# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The pipeline that is measured, and how it draws."""

import argparse
from typing import Any

import torch
from accelerate import PartialState
from transformers import TorchAoConfig

from ..modeling_rq_transformer import RQTransformerForImageGeneration
from ..pipeline_rq_image_generation import RQImageGenerationPipeline, component_subfolder, load_component

INT8 = "int8"
SELECTION = ("num_candidates", "ranker", "likelihood_weight", "acceptance_rate", "classifier")


def load_pipeline(arguments: argparse.Namespace, dtype: str | None = None) -> RQImageGenerationPipeline:
    """The pipeline to measure, on its device, in `--dtype` if no other one is given."""
    dtype = arguments.dtype if dtype is None else dtype
    if not component_subfolder(arguments.model, "transformer", revision=arguments.revision):
        raise ValueError(f"`MODEL` must be a pipeline (with a model_index.json), got {arguments.model!r}.")
    components = {} if dtype != INT8 else {"transformer": load_transformer(arguments, INT8)}
    pipe = RQImageGenerationPipeline.from_pretrained(
        arguments.model, revision=arguments.revision, dtype=torch_dtype(dtype), **components
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(arguments.device)


def load_transformer(arguments: argparse.Namespace, dtype: str) -> RQTransformerForImageGeneration:
    """The pipeline's transformer in a dtype of torch, or in `int8`: weights of 8 bits, activations rounded to as many
    row by row, by torchao."""
    options: dict[str, Any] = {"dtype": torch_dtype(dtype)}
    if dtype == INT8:
        options["quantization_config"] = TorchAoConfig(int8_config())
    transformer = load_component(
        RQTransformerForImageGeneration, arguments.model, "transformer", revision=arguments.revision, **options
    )
    return transformer.to(arguments.device).eval()


def int8_config() -> Any:
    """torchao's configuration of weights in 8 bits and activations rounded to as many, row by row.

    Raises:
        `ImportError`: torchao is not installed.
    """
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig
    except ImportError as error:
        raise ImportError('int8 needs `pip install "rq_hf[quantization]"`.') from error
    return Int8DynamicActivationInt8WeightConfig()


def torch_dtype(dtype: str) -> torch.dtype:
    """That of what is not quantized."""
    return torch.float32 if dtype == INT8 else getattr(torch, dtype)


def device_of(arguments: argparse.Namespace, state: PartialState) -> torch.device:
    """The device of this process: `--device`, or where there are several processes the one that each was given."""
    return torch.device(arguments.device) if state.num_processes == 1 else state.device


def used_sampling(
    pipe: RQImageGenerationPipeline, sampling: dict[str, Any], arguments: argparse.Namespace
) -> dict[str, Any]:
    """The sampling settings, the checkpoint's own where none were given, and how pictures were selected.

    Raises:
        `ValueError`: settings of draws, for a checkpoint whose own setting is to take the likeliest codes.
    """
    defaults = pipe.transformer.generation_config
    if defaults.do_sample is False:
        useless = [name for name, given in sampling.items() if given is not None and name != "guidance_scale"]
        if useless:
            raise ValueError(
                f"{', '.join(f'`--{name}`' for name in useless)} must not be given: the checkpoint has `do_sample` "
                "False, which takes the likeliest codes."
            )
        sampling = {"do_sample": False, "guidance_scale": sampling.get("guidance_scale")}
    used = {name: getattr(defaults, name, None) if given is None else given for name, given in sampling.items()}
    selection = {name: getattr(arguments, name) for name in SELECTION}
    return {**used, **{name: given for name, given in selection.items() if given is not None}}
