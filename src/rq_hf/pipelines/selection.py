# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Selection among drawn pictures: rejection sampling by a classifier (App. B.4), re-ranking by CLIP (App. B.5) or by
the transformer's own likelihood.

Symbols: B pictures, N prompts or labels, H x W positions, D code depth.
"""

import difflib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers import ImagePipelineOutput
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, AutoProcessor, PreTrainedModel

from ..images import to_pil, to_rgb
from .loading import load_whole


@dataclass
class RQImagePipelineOutput(ImagePipelineOutput):
    """
    Pictures of the pipeline.

    Args:
        images (`list[PIL.Image.Image]`, `np.ndarray` or `torch.Tensor`): The pictures, or their codes.
        scores (`torch.FloatTensor` of shape `(B,)`, *optional*):
            Scores of pictures that were selected among candidates, the best of a prompt first.
    """

    images: list[PIL.Image.Image] | np.ndarray | torch.Tensor
    scores: torch.Tensor | None = None


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
        """Probability `(B,)` of each picture's class, on the CPU.

        Args:
            pixel_values: `(B, 1 or 3, height, width)` in [-1, 1].
            targets: one class id of the classifier per picture.
        """
        inputs = self.image_processor(to_pil(to_rgb(pixel_values)), return_tensors="pt").pixel_values
        logits = self.model(inputs.to(self.model.device, self.model.dtype)).logits  # (B, classes)
        return logits.float().softmax(-1).cpu()[torch.arange(len(targets)), list(targets)]


class CLIPRanker:
    r"""
    Scores pictures by their likeness to a caption, for re-ranking (App. B.5) and as the CLIP score of Table 3.

    Args:
        model (`str`, `Path` or `PreTrainedModel`):
            Hub id or folder of a CLIP-like model of transformers, or the model.
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
        return (self.embed_pictures(pixel_values) * self.embed_texts(targets)).sum(-1).cpu()


def select_best(
    batches: Iterable[tuple[Sequence[int], torch.LongTensor]],
    score: Callable[[torch.LongTensor, Sequence[int]], torch.Tensor],
    num_kept: int,
) -> tuple[torch.LongTensor, torch.Tensor]:
    """Keeps the `num_kept` best candidates of each prompt, while batches `(rows, codes)` of them are drawn.

    `rows` has the prompt of each candidate. `score(codes, rows)` returns `(B,)`, the larger the better.

    Returns:
        Codes `(N * num_kept, H, W, D)` and scores `(N * num_kept,)`, prompt by prompt, the best first. Of equal
        scores the earlier candidate comes first.
    """
    best: dict[int, list[tuple[float, torch.Tensor]]] = defaultdict(list)
    for rows, codes in batches:
        scores = score(codes, rows)
        if not scores.isfinite().all():
            raise ValueError("The scores of candidates must be finite, got NaN or infinity. Check the scoring model.")
        for row, value, candidate in zip(rows, scores.tolist(), codes, strict=True):
            best[row].append((value, candidate))
        for row in set(rows):
            best[row] = sorted(best[row], key=itemgetter(0), reverse=True)[:num_kept]
    scores, codes = zip(*(candidate for row in sorted(best) for candidate in best[row]), strict=True)
    return torch.stack(codes), torch.tensor(scores, dtype=torch.float32)


def first_drawn_depth(known_mask: torch.BoolTensor | None) -> int:
    """The first depth, from 1, at which codes are drawn. The mask `(N, H, W, D)` is `True` where codes are given."""
    if known_mask is None:
        return 1
    num_given = int(known_mask.all(2).all(1).all(0).long().cumprod(0).sum())
    return min(num_given + 1, known_mask.shape[-1])


def candidates_per_prompt(num_images: int, num_candidates, ranker, classifier, acceptance_rate) -> int:
    """How many pictures to draw per prompt so that `num_images` remain; arguments as those of the pipeline."""
    if (ranker is None) != (num_candidates is None):
        raise ValueError(f"`ranker` and `num_candidates` go together, got {ranker!r} and {num_candidates}.")
    if (classifier is None) != (acceptance_rate is None):
        raise ValueError(f"`classifier` and `acceptance_rate` go together, got {classifier!r} and {acceptance_rate}.")
    if ranker is not None and classifier is not None:
        raise ValueError("`ranker` and `classifier` exclude each other, got both.")
    for name, value in (("num_images_per_prompt", num_images), ("num_candidates", num_candidates or 1)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"`{name}` must be an integer of at least 1, got {value!r:.80}.")
    if ranker is None and classifier is None:
        return num_images
    if classifier is not None:
        if not 0 < acceptance_rate <= 1:
            raise ValueError(f"`acceptance_rate` must be in (0, 1], got {acceptance_rate}.")
        return math.ceil(round(num_images / acceptance_rate, 6))  # rounded: 7 / 0.7 is 10.000000000000002
    if num_candidates < num_images:
        raise ValueError(f"`num_candidates` must be at least `num_images_per_prompt`, got {num_candidates}.")
    return num_candidates


def ids_by_name(id2label: Mapping[int, str]) -> dict[str, list[int]]:
    """Class ids of each label, such as "tench, Tinca tinca", and of its parts between commas, all in lower case."""
    labels, parts = defaultdict(list), defaultdict(list)
    for index, label in id2label.items():
        labels[label.strip().lower()].append(index)
        for part in {part.strip().lower() for part in label.split(",")}:
            parts[part].append(index)
    return {**parts, **labels}  # a label goes before an equal part of another label


def ids_of_labels(labels: Any, id2label: Mapping[int, str] | None, class_ids: Sequence[int]) -> list[int]:
    """Class ids of one or several labels, each a name or one of `class_ids`."""
    labels = labels if isinstance(labels, (list, tuple)) else [labels]
    if not labels:
        raise ValueError("`class_labels` must hold at least one label, got an empty list.")
    names, ids = ids_by_name(id2label or {}), []
    for label in labels:
        found = names.get(label.strip().lower(), []) if isinstance(label, str) else [label]
        if len(found) > 1:
            raise ValueError(f"`class_labels` must name one class each, got {label!r}, a name of {found}.")
        if not found or found[0] not in class_ids:
            raise ValueError(
                f"`class_labels` must be names or ids of the model's {len(class_ids)} classes, {class_ids[0]} to "
                f"{class_ids[-1]}, got {label!r:.80}. Similar: {difflib.get_close_matches(str(label).lower(), names)}."
            )
        ids.append(int(found[0]))
    return ids


def match_classes(
    id2label: Mapping[int, str] | None, class_ids: Sequence[int], classifier_id2label: Mapping[int, str]
) -> dict[int, int]:
    """The classifier's class for each of the model's `class_ids`.

    They are matched by name if the classifier has exactly one class of each name, and else by position.
    """
    names, ours = ids_by_name(classifier_id2label), id2label or {}
    found = {index: names.get(ours.get(index, "").strip().lower(), []) for index in class_ids}
    if all(len(ids) == 1 for ids in found.values()):
        return {index: ids[0] for index, ids in found.items()}
    if len(classifier_id2label) != len(class_ids):
        raise ValueError(
            f"`classifier` must have the model's {len(class_ids)} classes, got {len(classifier_id2label)}."
        )
    return dict(zip(class_ids, sorted(classifier_id2label), strict=True))
