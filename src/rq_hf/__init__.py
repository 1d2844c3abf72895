# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""RQ-VAE and RQ-Transformer for transformers and diffusers."""

__version__ = "0.1.0"

import diffusers
from diffusers.pipelines import pipeline_loading_utils
from transformers import AutoConfig, AutoModel, PreTrainedModel

from .caption_tokenizer import convert_char_bpe_tokenizer, train_caption_tokenizer
from .configuration_rq_transformer import RQTransformerConfig
from .configuration_rqvae import RQVAEConfig
from .modeling_rq_transformer import RQTransformerForImageGeneration, RQTransformerOutput
from .modeling_rqvae import RQVAEModel, RQVAEOutput
from .pipeline_rq_image_generation import RQImageGenerationPipeline
from .residual_quantizer import ResidualQuantizer, soft_code_probabilities
from .selection import CLIPRanker, ImageClassifier, RQImagePipelineOutput

AutoConfig.register("rqvae", RQVAEConfig, exist_ok=True)
AutoConfig.register("rq_transformer", RQTransformerConfig, exist_ok=True)
AutoModel.register(RQVAEConfig, RQVAEModel, exist_ok=True)
AutoModel.register(RQTransformerConfig, RQTransformerForImageGeneration, exist_ok=True)

# diffusers loads a pipeline's components by library name, from the names that such a library exports, with
# `PreTrainedModel` among them; and its base class looks a pipeline's class up among its own.
pipeline_loading_utils.LOADABLE_CLASSES.setdefault(
    "rq_hf", {"PreTrainedModel": ["save_pretrained", "from_pretrained"]}
)
diffusers.RQImageGenerationPipeline = RQImageGenerationPipeline
