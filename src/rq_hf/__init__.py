# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""RQ-VAE and RQ-Transformer for transformers and diffusers."""

import diffusers
from diffusers.pipelines import pipeline_loading_utils
from diffusers.pipelines.auto_pipeline import AUTO_INPAINT_PIPELINES_MAPPING, AUTO_TEXT2IMAGE_PIPELINES_MAPPING
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PreTrainedModel

from .caption_tokenizer import convert_char_bpe_tokenizer, train_caption_tokenizer
from .language import ImageTokens, ImageTokensLogitsProcessor
from .models import (
    ContextualRQTransformerConfig,
    ContextualRQTransformerForImageGeneration,
    DepthDecoder,
    ResidualQuantizer,
    RQGenerationConfig,
    RQTransformerConfig,
    RQTransformerForImageGeneration,
    RQTransformerOutput,
    RQVAEConfig,
    RQVAEImageProcessor,
    RQVAEImageProcessorPil,
    RQVAEModel,
    RQVAEOutput,
    soft_code_probabilities,
)
from .pipelines import CLIPRanker, ImageClassifier, RQImageGenerationPipeline, RQImagePipelineOutput, RQInpaintPipeline
from .version import __version__

AutoConfig.register("rqvae", RQVAEConfig, exist_ok=True)
AutoConfig.register("rq_transformer", RQTransformerConfig, exist_ok=True)
AutoConfig.register("contextual_rq_transformer", ContextualRQTransformerConfig, exist_ok=True)
AutoModel.register(RQVAEConfig, RQVAEModel, exist_ok=True)
AutoImageProcessor.register(RQVAEConfig, RQVAEImageProcessorPil, RQVAEImageProcessor, exist_ok=True)
AutoModel.register(RQTransformerConfig, RQTransformerForImageGeneration, exist_ok=True)
AutoModel.register(ContextualRQTransformerConfig, ContextualRQTransformerForImageGeneration, exist_ok=True)

# diffusers loads a pipeline's components by library name and must know how the classes of a library load
# (huggingface/diffusers#7264). It looks the class of a pipeline up in its own module.
pipeline_loading_utils.LOADABLE_CLASSES.setdefault(
    "rq_hf", {"PreTrainedModel": ["save_pretrained", "from_pretrained"]}
)
diffusers.RQImageGenerationPipeline = RQImageGenerationPipeline
diffusers.RQInpaintPipeline = RQInpaintPipeline
AUTO_TEXT2IMAGE_PIPELINES_MAPPING["rq-transformer"] = RQImageGenerationPipeline  # for AutoPipelineForText2Image
AUTO_INPAINT_PIPELINES_MAPPING["rq-transformer"] = RQInpaintPipeline
