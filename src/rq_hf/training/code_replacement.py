# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A pretrained transformer goes on with the codes of another RQ-VAE than its own (`--replace_codebook`)."""

import copy
import logging

import torch

from ..configuration_rq_transformer import code_fields
from ..modeling_rq_transformer import RQTransformerForImageGeneration
from ..modeling_rqvae import RQVAEModel
from ..residual_quantizer import nearest_codes
from .starting_point import with_kept_weights

logger = logging.getLogger(__name__)

REPLACE_CODEBOOK = "`--replace_codebook true` goes on with the codes of another RQ-VAE"
# Weights whose shapes depend on the size, width, depth or map of the codes.
SHAPED_BY_CODES = (
    "codebook.", "code_head.linear.", "spatial_projection.", "spatial_positions.", "depth_projection.",
    "depth_positions.",
)  # fmt: skip


@torch.no_grad()
def with_codes_of(rqvae: RQVAEModel, model: RQTransformerForImageGeneration) -> RQTransformerForImageGeneration:
    """A transformer over the codes of `rqvae` with the weights of `model` where they fit.

    Its codebook is that of the RQ-VAE. Where both have one codebook for all depths, of the same width, the code head
    treats each code as `model` does the old code that is nearest to it; otherwise a head of another size is new.
    Positions of the depths that both have are kept, maps of another width and positions of another map are new.

    Args:
        rqvae ([`RQVAEModel`]): whose codes are to be drawn.
        model ([`RQTransformerForImageGeneration`]): trained on those of another; it may be changed.

    Raises:
        `ValueError`: a weight is of another shape that no code has a part in.
    """
    fields = code_fields(rqvae.config, {})
    old = model
    if fields != code_fields(old.config, {}):
        config = copy.deepcopy(old.config)
        config.update(fields)
        model = with_kept_weights(old, config, resized_weights=SHAPED_BY_CODES)
        depths = min(len(old.depth_positions.weight), len(model.depth_positions.weight))
        model.depth_positions.weight[:depths] = old.depth_positions.weight[:depths]
        _drop_sampling_of_other_depths(model)
    before, after = old.codebook.weight.float(), rqvae.codebook.float()
    if len(before) == len(after) == 1 and before.shape[-1] == after.shape[-1] and not torch.equal(before, after):
        nearest = nearest_codes(after[0], before[0])
        weight, bias = (value[nearest] for value in (old.code_head.linear.weight, old.code_head.linear.bias))
        model.code_head.linear.weight.copy_(weight)
        model.code_head.linear.bias.copy_(bias)
    model.set_codebook(rqvae.codebook)
    return model


def _drop_sampling_of_other_depths(model: RQTransformerForImageGeneration) -> None:
    """Leaves out settings of `model.generation_config` that are lists of one value for each depth of other codes."""
    depth = model.config.code_shape[2]
    for name in ("temperature", "top_k", "top_p"):
        value = getattr(model.generation_config, name, None)
        if isinstance(value, list | tuple) and len(value) != depth:
            logger.warning(
                "`%s` of the generation configuration, %s, is left out: there are %d depths.", name, value, depth
            )
            setattr(model.generation_config, name, None)
