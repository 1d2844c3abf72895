# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Tiny untrained classifiers and image-text models of transformers."""

import copy

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessor,
)

CLASSES = {0: "tabby, tabby cat", 1: "goose", 2: "goldfish, Carassius auratus", 3: "volcano"}
TOWER = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
SIZE = {"height": 16, "width": 16}


def tiny_classifier() -> tuple[ResNetForImageClassification, ViTImageProcessor]:
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label=CLASSES,
        label2id={name: index for index, name in CLASSES.items()},
    )  # fmt: skip
    processor = ViTImageProcessor(size=SIZE, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return ResNetForImageClassification(config).eval(), processor


def tiny_clip(tokenizer: PreTrainedTokenizerFast) -> tuple[CLIPModel, CLIPProcessor]:
    """A CLIP model and its processor, whose tokenizer gives a mask, as CLIP's does."""
    torch.manual_seed(0)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    text = {**TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
    config = CLIPConfig(
        text_config={**text, "eos_token_id": len(tokenizer) - 1, "pad_token_id": 0, "bos_token_id": 0},
        vision_config={**TOWER, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    return CLIPModel(config).eval(), CLIPProcessor(CLIPImageProcessor(size=SIZE, do_center_crop=False), tokenizer)
