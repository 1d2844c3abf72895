# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Whether generated pictures show what the prompt asked for, judged by the nearest real pictures.

Symbols: B pictures, N real pictures, F features of each.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class PromptScores:
    """
    What [`PromptAccuracy`] says of each of B pictures.

    Args:
        concept_rank (`torch.LongTensor` of shape `(B,)`):
            How many real pictures of the prompted style are nearer than the nearest that shows the prompted concept;
            0 is a hit of the first.
        style_hit (`torch.BoolTensor` of shape `(B,)`):
            Whether the nearest real picture of the prompted concept has the prompted style.
        nearest (`torch.LongTensor` of shape `(B,)`):
            Which real picture of the prompted style is nearest.
    """

    concept_rank: torch.LongTensor
    style_hit: torch.BoolTensor
    nearest: torch.LongTensor

    def __len__(self) -> int:
        return len(self.concept_rank)

    def summary(self) -> dict[str, float]:
        """Parts of the pictures in [0, 1]: `concept_top1`, `concept_top5` and `style_accuracy`."""
        return {
            "concept_top1": (self.concept_rank < 1).double().mean().item(),
            "concept_top5": (self.concept_rank < 5).double().mean().item(),
            "style_accuracy": self.style_hit.double().mean().item(),
        }


class PromptAccuracy:
    r"""
    Whether pictures show the prompted concept in the prompted style, judged by the nearest real pictures.

    *Concept*: among the real pictures of the prompted style, one of the prompted concept is the nearest (top-1), or
    one of the five nearest (top-5). *Style*: among the real pictures of the prompted concept, the nearest has the
    prompted style, or one of its group. Distances are Euclidean; of pictures that are equally near, the one that
    makes a hit counts.

    Args:
        features (`torch.Tensor` of shape `(N, F)`):
            Features of the real pictures, such as [`pooled_pixels`]; held-out pictures belong among them.
        concepts (`Sequence[str]`): what each real picture shows.
        styles (`Sequence[str]`): the style of each.
        style_groups (`Iterable[Sequence[str]]`, defaults to none):
            Styles that count as one for the style's accuracy; in the concept's accuracy every style stands alone.

    Raises:
        `ValueError`: numbers of pictures, concepts and styles that differ, or no pictures.

    Example:

    ```python
    >>> import torch
    >>> from rq_hf.metrics import PromptAccuracy, pooled_pixels
    >>> pictures = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    >>> concepts, styles = ["cat", "cat", "dog", "dog"], ["noto", "blob", "noto", "blob"]
    >>> accuracy = PromptAccuracy(pooled_pixels(pictures), concepts, styles)
    >>> accuracy.score(pooled_pixels(pictures), concepts, styles).summary()
    {'concept_top1': 1.0, 'concept_top5': 1.0, 'style_accuracy': 1.0}
    ```
    """

    def __init__(
        self,
        features: torch.Tensor,
        concepts: Sequence[str],
        styles: Sequence[str],
        style_groups: Iterable[Sequence[str]] = (),
    ):
        if not len(features) == len(concepts) == len(styles) or len(features) == 0:
            raise ValueError(
                "`features`, `concepts` and `styles` must be of one length above 0, got "
                f"{len(features)}, {len(concepts)} and {len(styles)}."
            )
        self.features = features.cpu()
        self._group_of = {style: group[0] for group in style_groups for style in group}
        self._concepts = _Labels("concepts", concepts)
        self._styles = _Labels("styles", styles)
        self._groups = _Labels("styles", [self._group(style) for style in styles])

    def score(self, features: torch.Tensor, concepts: Sequence[str], styles: Sequence[str]) -> PromptScores:
        """Scores of generated pictures.

        Args:
            features (`torch.Tensor` of shape `(B, F)`): their features, made as those of the real pictures.
            concepts, styles (`Sequence[str]`): what each prompt asked for.

        Returns:
            [`PromptScores`].

        Raises:
            `ValueError`: features that are not finite, or a concept and style of which there is no real picture.
        """
        if not features.isfinite().all():
            raise ValueError("`features` must be finite, got NaN or infinite ones.")
        ranks, hits, nearest = [], [], []
        for feature, concept, style in zip(features.cpu(), concepts, styles, strict=True):
            of_style, shows_concept, of_concept, has_style = self._candidates(concept, style)
            distances = self._distances(feature, of_style)
            ranks.append((distances < distances[shows_concept].min()).sum())
            nearest.append(of_style[distances.argmin()])
            distances = self._distances(feature, of_concept)
            hits.append(distances[has_style].min() <= distances.min())
        return PromptScores(torch.stack(ranks), torch.stack(hits), torch.stack(nearest))

    def floors(self, concepts: Sequence[str], styles: Sequence[str], seed: int = 0) -> dict[str, PromptScores]:
        """Scores of what needs no model, to compare with: anything useful must be above them.

        Args:
            concepts, styles (`Sequence[str]`): what each prompt asked for.
            seed (`int`, defaults to 0): of the choice of copies.

        Returns:
            `dict` with `other_style_copy`: a real picture of the prompted concept in another style, drawn at random;
            and `other_styles_mean`: the mean of all those. Prompts whose concept exists in no other style are left
            out; if that is all of them, the dictionary is empty.
        """
        generator = torch.Generator().manual_seed(seed)
        kept, copies, means = [], [], []
        for index, (concept, style) in enumerate(zip(concepts, styles, strict=True)):
            of_concept = self._concepts.where(concept)
            others = of_concept[self._styles.ids[of_concept] != self._styles.id_of(style)]
            if len(others) == 0:
                continue
            drawn = torch.randint(len(others), (), generator=generator)
            kept.append(index)
            copies.append(self.features[others[drawn]])
            means.append(self.features[others].mean(0))
        if not kept:
            return {}
        prompts = [concepts[index] for index in kept], [styles[index] for index in kept]
        return {
            "other_style_copy": self.score(torch.stack(copies), *prompts),
            "other_styles_mean": self.score(torch.stack(means), *prompts),
        }

    def chance(self, concepts: Sequence[str], styles: Sequence[str]) -> dict[str, float]:
        """What pictures in random order would score on average, as [`PromptScores.summary`]."""
        totals = dict.fromkeys(("concept_top1", "concept_top5", "style_accuracy"), 0.0)
        for concept, style in zip(concepts, styles, strict=True):
            _, shows_concept, _, has_style = self._candidates(concept, style)
            size, hits = len(shows_concept), int(shows_concept.sum())
            for name, drawn in (("concept_top1", 1), ("concept_top5", min(5, size))):
                totals[name] += 1 - math.comb(size - hits, drawn) / math.comb(size, drawn)
            totals["style_accuracy"] += has_style.double().mean().item()
        return {name: total / len(concepts) for name, total in totals.items()}

    def _group(self, style: str) -> str:
        return self._group_of.get(style, style)

    def _candidates(self, concept: str, style: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Real pictures of the style, which of them show the concept, those of the concept, which have the style."""
        of_style, of_concept = self._styles.where(style), self._concepts.where(concept)
        shows_concept = self._concepts.ids[of_style] == self._concepts.id_of(concept)
        has_style = self._groups.ids[of_concept] == self._groups.id_of(self._group(style))
        if not shows_concept.any():
            raise ValueError(f"`concepts` and `styles` must be pairs with a real picture, got {concept!r}, {style!r}.")
        return of_style, shows_concept, of_concept, has_style

    def _distances(self, feature: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Squared distances, by differences: equal pictures are exactly equally near."""
        return (self.features[indices] - feature).square().sum(-1)


class _Labels:
    """Labels of the real pictures as integers, and the pictures of each label."""

    def __init__(self, name: str, labels: Sequence[Any]):
        self.name = name
        self._id_of = {label: index for index, label in enumerate(dict.fromkeys(labels))}
        self.ids = torch.tensor([self._id_of[label] for label in labels])  # (N,)
        self._where = [(self.ids == index).nonzero()[:, 0] for index in range(len(self._id_of))]

    def id_of(self, label: str) -> int:
        if label not in self._id_of:
            raise ValueError(f"`{self.name}` must be among those of the real pictures, got {label!r}.")
        return self._id_of[label]

    def where(self, label: str) -> torch.LongTensor:
        return self._where[self.id_of(label)]
