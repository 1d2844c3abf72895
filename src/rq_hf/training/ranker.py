# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Small image-text models, trained by contrast as CLIP is, which re-rank pictures of one's own data.

Symbols: B pictures with a caption each, S tokens.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers.processors import TemplateProcessing
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast

from .field_types import check_field_types
from .trainer import RQTrainer, refuse_label_smoothing

EOS_TOKEN = "[EOS]"


@dataclass
class RankerArguments:
    """The size of the two towers and of the vocabulary."""

    image_size: int = field(default=64, metadata={"help": "Height and width of the pictures."})
    patch_size: int = field(default=8, metadata={"help": "Height and width of the patches of the image tower."})
    hidden_size: int = field(default=192, metadata={"help": "Width of both towers."})
    num_layers: int = field(
        default=4, metadata={"help": "Layers of the image tower; the text tower has half of them."}
    )
    num_attention_heads: int = field(default=4, metadata={"help": "Heads of both towers."})
    projection_dim: int = field(default=128, metadata={"help": "Width of the vectors that are compared."})
    dropout: float = field(default=0.1, metadata={"help": "Dropout of the attention weights."})
    vocab_size: int = field(default=2048, metadata={"help": "Entries of the caption tokenizer that is trained first."})
    max_length: int = field(default=20, metadata={"help": "Tokens of a caption, the last one included."})
    num_caption_variants: int | None = field(
        default=None, metadata={"help": "Draw among the first so many of a list of captions; all by default."}
    )

    def __post_init__(self):
        check_field_types(self)
        for name in ("hidden_size", "num_layers", "num_attention_heads", "projection_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if not 1 <= self.patch_size <= self.image_size:
            raise ValueError(
                f"`patch_size` must be from 1 to `image_size` = {self.image_size}, got {self.patch_size}."
            )
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"`dropout` must be in [0, 1], got {self.dropout}.")
        if self.num_caption_variants is not None and self.num_caption_variants < 1:
            raise ValueError(f"`num_caption_variants` must be at least 1, got {self.num_caption_variants}.")


def caption_variants(values: Iterable[Any], count: int | None, split: str) -> list[list[str]]:
    """The first `count` captions of each row; missing ones of a list are passed over.

    Args:
        values (`Iterable`): of a column of captions or of lists of them.
        count (`int`, *optional*): all by default.
        split (`str`): whose rows they are, for the error.

    Raises:
        `ValueError`: a row without a caption.
    """
    variants = []
    for row, value in enumerate(values):
        captions = [text for text in (value if isinstance(value, list) else [value]) if text is not None]
        if not captions or not all(isinstance(text, str) for text in captions[:count]):
            raise ValueError(f"`caption_column` must hold text in every row, got {value!r} in row {row} of {split!r}.")
        variants.append(captions[:count])
    return variants


def add_end_token(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Lets a caption tokenizer end each caption with a token, whose state is what CLIP's text tower gives, and make
    the mask that this tower reads.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): of [`train_caption_tokenizer`]; it is changed.
    """
    tokenizer.add_special_tokens({"eos_token": EOS_TOKEN})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {EOS_TOKEN}", special_tokens=[(EOS_TOKEN, tokenizer.eos_token_id)]
    )
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer


def small_ranker(arguments: RankerArguments, tokenizer: PreTrainedTokenizerFast) -> tuple[CLIPModel, CLIPProcessor]:
    """An untrained CLIP model and its processor, which makes of pictures pixels in [-1, 1].

    Args:
        arguments ([`RankerArguments`]): the size.
        tokenizer (`PreTrainedTokenizerFast`): with an end token, see [`add_end_token`].
    """
    tower = {
        "hidden_size": arguments.hidden_size,
        "intermediate_size": 4 * arguments.hidden_size,
        "num_attention_heads": arguments.num_attention_heads,
        "attention_dropout": arguments.dropout,
        "hidden_act": "gelu",
    }
    config = CLIPConfig(
        text_config={
            **tower,
            "num_hidden_layers": max(1, arguments.num_layers // 2),
            "vocab_size": len(tokenizer),
            "max_position_embeddings": tokenizer.model_max_length,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            **tower,
            "num_hidden_layers": arguments.num_layers,
            "image_size": arguments.image_size,
            "patch_size": arguments.patch_size,
        },
        projection_dim=arguments.projection_dim,
    )
    image_processor = CLIPImageProcessor(
        size={"height": arguments.image_size, "width": arguments.image_size},
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return CLIPModel(config), CLIPProcessor(image_processor, tokenizer)


class CaptionEncoder:
    """Turns a caption into the ids of a row, for [`CodeDataset`].

    Args:
        tokenizer (`PreTrainedTokenizerFast`): with an end token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer

    def __call__(self, caption: str, dropout: float, generator: torch.Generator) -> list[int]:
        return self.tokenizer(caption, padding="max_length", truncation=True).input_ids


class RankerTrainer(RQTrainer):
    """[`RQTrainer`] of CLIP's symmetric contrastive loss; logs how often a caption finds its picture in a batch."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        refuse_label_smoothing(self.args, "captions are the labels of a contrastive loss.")

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **kwargs: Any
    ):
        input_ids = inputs["input_ids"]
        unwrapped = self.accelerator.unwrap_model(model)
        outputs = model(
            input_ids=input_ids,
            attention_mask=input_ids != unwrapped.config.text_config.pad_token_id,
            pixel_values=inputs["pixel_values"],
        )
        # Captions that are equal have equally right pictures.
        same = (input_ids[:, None] == input_ids[None]).all(-1).float()
        targets = same / same.sum(1, keepdim=True)  # (B, B)
        logits = outputs.logits_per_text
        loss = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
        found = same.gather(1, logits.argmax(1, keepdim=True)).mean()
        self.record(model, retrieval=found)
        return (loss, {"logits": logits}) if return_outputs else loss
