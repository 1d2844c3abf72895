# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Batches of plain data sets of pictures, for trainings in Python."""

from typing import Any

import datasets
import torch
from torch.utils.data import default_collate
from transformers import PreTrainedTokenizerBase

from ..models import RQTransformerConfig, RQVAEConfig
from .arguments import CodeDataArguments
from .conditions import ConditionReader
from .data import SampleReader


class PictureCollator:
    """
    Makes batches of the rows of a plain `datasets.Dataset`, as `data_collator` of both trainers.

    Nothing is random: each picture is resized and cropped at its centre, and a list of captions gives its first. The
    data sets of a recipe also crop at random and apply `bpe_dropout` and `condition_dropout`.

    Args:
        rqvae_config ([`RQVAEConfig`]): Gives size and channels of the pictures.
        transformer_config ([`RQTransformerConfig`], *optional*): Adds `input_ids` for this transformer, in stage 2.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): The tokenizer of the captions.
        data ([`CodeDataArguments`], *optional*): Names the columns. By default these are "image" and, with a
            tokenizer, "text".
        features (`datasets.Features`, *optional*): Those of the data set, which name the classes of a `ClassLabel`.

    Example:

    ```python
    >>> from PIL import Image
    >>> from rq_hf import RQVAEConfig
    >>> from rq_hf.training import PictureCollator
    >>> collator = PictureCollator(RQVAEConfig(image_size=64))
    >>> collator([{"image": Image.new("RGB", (80, 60))}])["pixel_values"].shape
    torch.Size([1, 3, 64, 64])
    ```
    """

    def __init__(
        self,
        rqvae_config: RQVAEConfig,
        transformer_config: RQTransformerConfig | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        data: CodeDataArguments | None = None,
        features: datasets.Features | None = None,
    ):
        from .transforms import PictureTransform  # torchvision

        data = data or CodeDataArguments(caption_column="text" if tokenizer is not None else None)
        size, num_channels = rqvae_config.image_size, rqvae_config.num_channels
        transform = PictureTransform(size, num_channels, data.transform, training=False)
        has_conditions = transformer_config is not None
        conditions = ConditionReader(data, transformer_config, tokenizer, features) if has_conditions else None
        self.reader = SampleReader(transform, conditions, data.image_column)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns `pixel_values` `(B, C, height, width)` in [-1, 1], and in stage 2 `input_ids` `(B, S)`."""
        return default_collate([self.reader(row, 0, 0) for row in rows])
