# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the training of an RQ-Transformer shows beside the losses: pictures a second, pictures of fixed conditions.

Symbols: N pictures, S condition tokens, H x W positions, D code depth.
"""

import math
import time

import torch
from PIL import Image
from transformers import TrainerCallback

from ..configuration_rq_transformer import RQTransformerConfig
from ..metrics import stored_pictures, to_rgb
from ..metrics.sheets import TILE_SIZES
from ..modeling_rqvae import RQVAEModel
from ..picture_grid import picture_grid
from .data import CodeDataset

SHEET_COLUMNS = 4


class PictureRate(TrainerCallback):
    """Pictures a second that this process trains on; evaluations and checkpoints take none of the time."""

    def __init__(self):
        self._pictures, self._seconds = 0, 0.0
        self._last: float | None = None  # end of the time that is counted already

    def on_train_begin(self, args, state, control, **kwargs):
        self.__init__()

    def on_step_begin(self, args, state, control, **kwargs):
        if self._last is None:  # to skip the batches that a resumed run has seen is no training either
            self._last = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self._count_time()

    def on_evaluate(self, args, state, control, **kwargs):
        self._last = time.perf_counter()

    def on_save(self, args, state, control, **kwargs):
        self._last = time.perf_counter()

    def add(self, pictures: int) -> None:
        """Counts pictures of a batch."""
        self._pictures += pictures

    def take(self) -> float:
        """The rate since the last call, to be asked for where the device has done what it was given."""
        self._count_time()
        rate = self._pictures / self._seconds
        self._pictures, self._seconds = 0, 0.0
        return rate

    def _count_time(self) -> None:
        now = time.perf_counter()
        self._seconds += now - self._last
        self._last = now


def first_conditions(
    data: CodeDataset, count: int, config: RQTransformerConfig
) -> tuple[torch.LongTensor, list[str] | None]:
    """The first different conditions of a data set, without looking at its pictures.

    Args:
        data ([`CodeDataset`]): the data; of a list of caption variants the first counts.
        count (`int`): conditions wanted; there may be fewer.
        config ([`RQTransformerConfig`]): has the names of classes.

    Returns:
        Ids `(N, S)`, and a text for each: the caption or the name of the class. Without conditions `count` start ids
        and `None`.
    """
    if data.conditions is None:
        return torch.zeros(count, 1, dtype=torch.long), None
    found: dict[str | int, None] = {}
    for condition in data.conditions:
        found.setdefault(condition if isinstance(condition, (str, int)) else condition[0])
        if len(found) == count:
            break
    generator = torch.Generator().manual_seed(0)  # evaluation data draw nothing, training data would
    input_ids = torch.stack([data.input_ids(condition, generator) for condition in found])
    names = config.id2label or {}
    return input_ids, [names.get(condition, str(condition)) for condition in found]


@torch.no_grad()
def sheet_of_codes(rqvae: RQVAEModel, codes: torch.LongTensor, captions: list[str] | None) -> Image.Image:
    """What codes decode to, in rows of four.

    Args:
        rqvae ([`RQVAEModel`]): decodes, in evaluation mode.
        codes (`torch.LongTensor` of shape `(N, H, W, D)`): the codes.
        captions (`list[str]`, *optional*): a text beneath each picture.

    Returns:
        `PIL.Image.Image`.

    Raises:
        `ValueError`: pixels that are not finite.
    """
    pictures = to_rgb(stored_pictures(rqvae.decode(codes))).permute(0, 2, 3, 1).cpu().numpy()
    side = max(pictures.shape[1:3])
    least, most = TILE_SIZES
    factor = math.ceil(least / side)  # pixels of small pictures stay visible
    size = (factor * pictures.shape[2], factor * pictures.shape[1])
    tiles = [Image.fromarray(picture).resize(size, Image.Resampling.NEAREST) for picture in pictures]
    parts = [slice(start, start + SHEET_COLUMNS) for start in range(0, len(tiles), SHEET_COLUMNS)]
    texts = [captions[part] for part in parts] if captions is not None else None
    return picture_grid([tiles[part] for part in parts], texts, tile_size=min(most, factor * side))
