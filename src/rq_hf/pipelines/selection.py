# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Selection among drawn pictures: rejection sampling by a classifier (App. B.4), re-ranking by CLIP (App. B.5) or by
the transformer's own likelihood.

Symbols: B pictures, N prompts or labels, H x W positions, D code depth.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, AutoProcessor, PreTrainedModel

from ..images import to_pil, to_rgb
from ..models.validation import check_integer
from .loading import load_whole

MAX_PER_CALL = 100_000  # a mistyped number should not fill the memory


class ImageClassifier:
    r"""
    Scores pictures by the probability of their class, for rejection sampling (section 4.2, App. B.4).

    Args:
        model (`str`, `Path` or `PreTrainedModel`):
            Hub id or folder of an `AutoModelForImageClassification`, or the model; the paper takes ResNet-101.
        image_processor (*optional*): Its image processor; by default the one saved beside the model.

    Example:

    ```python
    >>> import torch
    >>> from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor
    >>> from rq_hf import ImageClassifier
    >>> config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=3)
    >>> model = ResNetForImageClassification(config)
    >>> classifier = ImageClassifier(model, ViTImageProcessor(size={"height": 32, "width": 32}))
    >>> classifier.score(torch.rand(2, 3, 16, 16) * 2 - 1, [0, 2]).shape
    torch.Size([2])
    ```
    """

    def __init__(self, model: str | Path | PreTrainedModel, image_processor: Any = None):
        if isinstance(model, (str, Path)):
            image_processor = image_processor or AutoImageProcessor.from_pretrained(model)
            model = load_whole(AutoModelForImageClassification, model)
        if image_processor is None:
            raise ValueError("`image_processor` must be given with a `model` that is in memory, got None.")
        self.model, self.image_processor = model.eval(), image_processor

    @torch.no_grad()
    def score(self, pixel_values: torch.Tensor, targets: Sequence[int]) -> torch.Tensor:
        """Probability `(B,)` of each picture's class, on the CPU. Pictures `(B, 1 or 3, height, width)` are in
        [-1, 1]; `targets` has one class id of the classifier per picture."""
        check_one_per_picture(pixel_values, targets)
        inputs = self.image_processor(to_pil(to_rgb(pixel_values)), return_tensors="pt").pixel_values
        logits = self.model(inputs.to(self.model.device, self.model.dtype)).logits  # (B, classes)
        return logits.float().softmax(-1).cpu()[torch.arange(len(targets)), list(targets)]


class CLIPRanker:
    r"""
    Scores pictures by their likeness to a caption, for re-ranking (App. B.5) and as the CLIP score of Table 3.

    Args:
        model (`str`, `Path` or `PreTrainedModel`): Hub id or folder of a CLIP-like model, or the model.
        processor (*optional*): Its processor of pictures and texts; by default the one saved beside the model.

    Example:

    ```python
    >>> from rq_hf import CLIPRanker
    >>> ranker = CLIPRanker("openai/clip-vit-base-patch32")  # doctest: +SKIP
    >>> pipe("a red heart", num_candidates=16, ranker=ranker).scores  # doctest: +SKIP
    tensor([0.3127])
    ```
    """

    def __init__(self, model: str | Path | PreTrainedModel, processor: Any = None):
        if isinstance(model, (str, Path)):
            processor = processor or AutoProcessor.from_pretrained(model)
            model = load_whole(AutoModel, model)
        if not hasattr(model, "get_text_features") or not hasattr(model, "get_image_features"):
            raise ValueError(f"`model` must have an image and a text tower, as CLIP has, got {type(model).__name__}.")
        if processor is None:
            raise ValueError("`processor` must be given with a `model` that is in memory, got None.")
        self.model, self.processor = model.eval(), processor

    @torch.no_grad()
    def embed_pictures(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Unit vectors `(B, F)` of pixels `(B, 1 or 3, height, width)` in [-1, 1]."""
        inputs = self.processor.image_processor(to_pil(to_rgb(pixel_values)), return_tensors="pt").pixel_values
        features = self.model.get_image_features(inputs.to(self.model.device, self.model.dtype)).pooler_output
        return torch.nn.functional.normalize(features.float(), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors `(B, F)` of texts; longer texts than the text tower takes are cut."""
        inputs = self.processor.tokenizer(
            list(texts),
            padding="max_length",  # SigLIP was trained on full rows
            truncation=True,
            max_length=self.model.config.get_text_config().max_position_embeddings,
            return_token_type_ids=False,
            return_tensors="pt",
        )
        features = self.model.get_text_features(**inputs.to(self.model.device)).pooler_output
        return torch.nn.functional.normalize(features.float(), dim=-1)

    def score(self, pixel_values: torch.Tensor, targets: Sequence[str]) -> torch.Tensor:
        """Cosine `(B,)` of pictures `(B, 1 or 3, height, width)` and their captions, on the CPU."""
        check_one_per_picture(pixel_values, targets)
        return (self.embed_pictures(pixel_values) * self.embed_texts(targets)).sum(-1).cpu()


def check_one_per_picture(pixel_values: torch.Tensor, targets: Sequence) -> None:
    if len(targets) != len(pixel_values):
        raise ValueError(f"`targets` must be one per picture ({len(pixel_values)}), got {len(targets)}.")


class BestCandidates:
    """The `num_kept` best candidates of each prompt among all that were added."""

    def __init__(self, num_kept: int):
        self.num_kept = num_kept
        self.by_prompt: dict[int, list[tuple[float, torch.Tensor]]] = defaultdict(list)

    def add(self, rows: Sequence[int], codes: torch.LongTensor, scores: torch.Tensor) -> None:
        """Adds codes `(B, H, W, D)` with scores `(B,)`, the larger the better; `rows` has the prompt of each."""
        if not scores.isfinite().all():
            raise ValueError("The scores of candidates must be finite, got NaN or infinity. Check the scoring model.")
        for row, score, candidate in zip(rows, scores.tolist(), codes, strict=True):
            self.by_prompt[row].append((score, candidate))
        for row in set(rows):
            self.by_prompt[row] = sorted(self.by_prompt[row], key=lambda pair: pair[0], reverse=True)[: self.num_kept]

    def result(self) -> tuple[torch.LongTensor, torch.Tensor]:
        """Codes `(N * num_kept, H, W, D)` and scores `(N * num_kept,)`, prompt by prompt, the best first. Of equal
        scores the earlier candidate comes first."""
        scores, codes = zip(*(best for row in sorted(self.by_prompt) for best in self.by_prompt[row]), strict=True)
        return torch.stack(codes), torch.tensor(scores, dtype=torch.float32)


def first_drawn_depth(known_mask: torch.BoolTensor | None) -> int:
    """The first depth, from 1, at which codes are drawn. The mask `(N, H, W, D)` is `True` where codes are given."""
    if known_mask is None:
        return 1
    num_given = int(known_mask.all(2).all(1).all(0).long().cumprod(0).sum())
    return min(num_given + 1, known_mask.shape[-1])


def candidates_per_prompt(num_images: int, num_candidates, ranker, classifier, acceptance_rate) -> int:
    """How many pictures to draw per prompt so that `num_images` remain; arguments as those of the pipeline."""
    if ranker is not None and num_candidates is None:
        raise ValueError(f"`ranker` needs `num_candidates`, got {ranker!r} alone.")
    if (classifier is None) != (acceptance_rate is None):
        raise ValueError(f"`classifier` and `acceptance_rate` go together, got {classifier!r} and {acceptance_rate}.")
    if ranker is not None and classifier is not None:
        raise ValueError("`ranker` and `classifier` exclude each other, got both.")
    check_integer("num_images_per_prompt", num_images, 1, MAX_PER_CALL)
    check_integer("num_candidates", num_candidates or 1, 1, MAX_PER_CALL)
    if ranker is None and classifier is None:
        return num_images
    if classifier is not None:
        if not 0 < acceptance_rate <= 1:
            raise ValueError(f"`acceptance_rate` must be in (0, 1], got {acceptance_rate}.")
        return math.ceil(round(num_images / acceptance_rate, 6))  # rounded: 7 / 0.7 is 10.000000000000002
    if num_candidates < num_images:
        raise ValueError(f"`num_candidates` must be at least `num_images_per_prompt`, got {num_candidates}.")
    return num_candidates
