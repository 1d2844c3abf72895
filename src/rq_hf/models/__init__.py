# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""The two models of the paper and the quantizer between them."""

from .configuration_contextual_rq_transformer import ContextualRQTransformerConfig
from .configuration_rq_transformer import RQTransformerConfig
from .configuration_rqvae import RQVAEConfig
from .depth_decoder import DepthDecoder
from .image_processing_rqvae import RQVAEImageProcessor, RQVAEImageProcessorPil
from .modeling_contextual_rq_transformer import ContextualRQTransformerForImageGeneration
from .modeling_rq_transformer import RQTransformerForImageGeneration, RQTransformerOutput
from .modeling_rqvae import RQVAEModel, RQVAEOutput
from .residual_quantizer import ResidualQuantizer, one_per_depth, soft_code_probabilities
from .sampling import RQGenerationConfig
