# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Models whose weights are spread over processes (FSDP2, ZeRO-3): their precision, and the whole model at the end."""

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled


def round_weights_alone(plugin: FullyShardedDataParallelPlugin) -> None:
    """Has FSDP2 round what it gathers, weights, and neither inputs and outputs of modules nor sums of gradients.

    The policy that accelerate makes of `mixed_precision` rounds all of them, the residuals that soft labels are
    computed from and the loss too, though autocast rounds what products need. Any other policy is left alone.

    Args:
        plugin (`accelerate.FullyShardedDataParallelPlugin`): of FSDP2; is altered, before a model is sharded.
    """
    policy = plugin.mixed_precision_policy
    if policy is None:
        return
    dtype = policy.param_dtype
    if policy == MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=dtype, output_dtype=dtype):
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        )


def is_sharded(model: PreTrainedModel) -> bool:
    """Whether a process has a share of the weights alone."""
    return is_deepspeed_zero3_enabled() or any(isinstance(value, DTensor) for value in model.parameters())


def gather_model(
    model_class: type[PreTrainedModel], wrapped: torch.nn.Module, accelerator: Accelerator
) -> PreTrainedModel | None:
    """A model in one piece, made from the shards of all processes, each of which has to call this.

    Args:
        model_class: its class; FSDP2 gives a model another one.
        wrapped: the model as it was trained.
        accelerator: that wrapped it.

    Returns:
        A new model on the CPU, in fp32, on the first process; `None` on the others.
    """
    model = accelerator.unwrap_model(wrapped)
    if is_deepspeed_zero3_enabled():
        state_dict = accelerator.get_state_dict(wrapped)
    else:
        state_dict = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if not accelerator.is_main_process:
        return None
    whole = model_class.from_pretrained(None, config=model.config, state_dict=state_dict, dtype=torch.float32)
    whole.generation_config = model.generation_config
    return whole
