# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Which of several drawn pictures to keep: rejection sampling by a classifier, re-ranking by CLIP (App. B.4, B.5).

Symbols: B pictures, N prompts or labels, n pictures kept and M candidates drawn of each. C classes.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers import ImagePipelineOutput
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoProcessor,
    PreTrainedModel,
)

from .class_names import are_same_classes
from .hub_cache import download_options, load_whole
from .likelihood_ranking import is_likelihood

# Options of a model's download that hold for its processor as well.
PROCESSOR_OPTIONS = ("subfolder", "trust_remote_code")

# Weights of red, green and blue in the grey of a picture (ITU-R BT.601).
LUMINANCE = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float32, device="cpu")


@dataclass
class RQImagePipelineOutput(ImagePipelineOutput):
    """
    Pictures of the pipeline.

    Args:
        images (`list[PIL.Image.Image]`, `np.ndarray` or `torch.Tensor`): the pictures, or codes.
        scores (`torch.FloatTensor` of shape `(B,)`, *optional*):
            Where pictures were chosen among candidates: what the classifier or ranker gave each, with a
            `likelihood_weight` and so many times its likelihood, the best of a prompt first.
    """

    images: list[PIL.Image.Image] | np.ndarray | torch.Tensor
    scores: torch.Tensor | None = None


def to_levels(pixel_values: torch.Tensor) -> torch.Tensor:
    """Pictures as image processors expect them: `(B, 3, height, width)` integers from 0 to 255.

    Values outside [-1, 1] are clamped before they become integers, so none wraps round; grey is repeated.

    Args:
        pixel_values (`torch.Tensor` of shape `(B, 1 or 3, height, width)`): pixels, about in [-1, 1].

    Raises:
        `ValueError`: pixels that are not finite.
    """
    if not pixel_values.isfinite().all():
        raise ValueError("The pictures to score must be finite, got NaN or infinite pixels.")
    levels = ((pixel_values.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.expand(-1, 3, -1, -1)


class ImageClassifier:
    r"""
    Scores pictures by the probability of their class, for rejection sampling (section 4.2, App. B.4).

    Args:
        model (`str`, `Path` or `PreTrainedModel`):
            Hub id, folder or object of an `AutoModelForImageClassification`; the paper takes ResNet-101.
        image_processor (*optional*):
            Resizes and normalises the pictures; by default the one saved beside the model.
        kwargs: of `from_pretrained`.

    Raises:
        `ValueError`: no classifier, one whose files lack weights, or one in memory without an image processor.

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

    def __init__(self, model: str | Path | PreTrainedModel, image_processor: Any = None, **kwargs: Any):
        if isinstance(model, (str, Path)):
            options = download_options(kwargs, *PROCESSOR_OPTIONS)
            image_processor = image_processor or AutoImageProcessor.from_pretrained(model, **options)
            model = load_whole(AutoModelForImageClassification, model, **kwargs)
        if not isinstance(model, PreTrainedModel) or not hasattr(model.config, "num_labels"):
            raise ValueError(
                f"`classifier` must be a Hub id, a folder or an image classifier of transformers, got {model!r:.200}."
            )
        if image_processor is None:
            image_processor = _processor_beside(model, "classifier", "ImageClassifier", AutoImageProcessor)
        self.model, self.image_processor = model.eval(), image_processor

    def to(self, device: torch.device | str) -> "ImageClassifier":
        """Moves the model."""
        self.model.to(device)
        return self

    def class_ids(self, id2label: Mapping[int, str] | None, ids: Sequence[int]) -> dict[int, int]:
        """The classifier's class for each class of a generator.

        Classes of the same names belong together, whatever their order; where either side has no names, the two must
        have equally many classes. Lists that name nearly all classes alike in the same order, by one of the names
        between commas, are of the same classes, such as torchvision's and transformers' of ImageNet.

        Args:
            id2label (`Mapping[int, str]`, *optional*): names of the generator's classes.
            ids (`Sequence[int]`): theirs; without names the first is the classifier's class 0, and so on.

        Raises:
            `ValueError`: a classifier of other classes.
        """
        own = {index: str(name).strip().lower() for index, name in self.model.config.id2label.items()}
        nameless = all(name == f"label_{index}" for index, name in own.items())
        if id2label is None or nameless:
            if len(own) != len(ids):
                raise ValueError(
                    f"`classifier` must have the model's {len(ids)} classes, got one of {len(own)} classes."
                )
            return {index: place for place, index in enumerate(ids)}
        wanted = [id2label[index].strip().lower() for index in ids]
        if are_same_classes(wanted, [own.get(index, "") for index in range(len(own))]):  # even if a name is double
            return {index: place for place, index in enumerate(ids)}
        places: dict[str, list[int]] = {}
        for index, name in own.items():
            places.setdefault(name, []).append(index)
        missing = [name for name in wanted if name not in places]
        if missing:
            raise ValueError(
                f"`classifier` must know the model's classes, such as {missing[:3]}, got one of "
                f"{list(places)[:3]} and others ({len(missing)} of {len(ids)} are missing)."
            )
        double = [name for name in wanted if len(places[name]) > 1]
        if double:
            raise ValueError(f"`classifier` must have one class of each name, got several called {double[0]!r}.")
        return {index: places[name][0] for index, name in zip(ids, wanted, strict=True)}

    @torch.no_grad()
    def probabilities(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Probabilities `(B, C)` of the classes, for pixels `(B, 1 or 3, height, width)` in [-1, 1]."""
        levels = to_levels(pixel_values)
        is_grey = getattr(self.model.config, "num_channels", 3) == 1
        if is_grey:
            luminance = torch.einsum("bchw,c->bhw", levels.float(), LUMINANCE.to(levels.device))
            levels = luminance.round().to(torch.uint8)[:, None].expand_as(levels)
        inputs = processed(self.image_processor, levels)
        inputs = inputs[:, :1] if is_grey else inputs
        logits = self.model(inputs.to(self.model.device, self.model.dtype)).logits
        return logits.float().softmax(-1)

    def score(self, pixel_values: torch.Tensor, targets: Sequence[int]) -> torch.Tensor:
        """Probability of each picture's class.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, 1 or 3, height, width)`): pixels in [-1, 1].
            targets (`Sequence[int]`): the class of each, an id of the classifier.

        Returns:
            `torch.FloatTensor` of shape `(B,)`, in [0, 1], on the CPU.
        """
        probabilities = self.probabilities(pixel_values).cpu()
        return probabilities.gather(1, torch.tensor(targets, device="cpu")[:, None])[:, 0]


class CLIPRanker:
    r"""
    Scores pictures by their likeness to a caption, for re-ranking (App. B.5) and as the CLIP score of Table 3.

    Args:
        model (`str`, `Path` or `PreTrainedModel`):
            Hub id, folder or object of a CLIP-like model of transformers, with an image and a text tower.
        processor (*optional*): its processor of pictures and texts; by default the one saved beside the model.
        kwargs: of `from_pretrained`.

    Raises:
        `ValueError`: a model without an image or a text tower, one whose files lack weights, or one in memory without
            a processor.

    Example:

    ```python
    >>> from rq_hf import CLIPRanker
    >>> ranker = CLIPRanker("openai/clip-vit-base-patch32")  # doctest: +SKIP
    >>> pipe("a red heart", num_candidates=16, ranker=ranker).scores  # doctest: +SKIP
    tensor([0.3127])
    ```
    """

    def __init__(self, model: str | Path | PreTrainedModel, processor: Any = None, **kwargs: Any):
        name = model if isinstance(model, (str, Path)) else None
        if name is not None:
            model = load_whole(AutoModel, name, **kwargs)
        check_towers(model)
        if processor is None and name is not None:
            processor = AutoProcessor.from_pretrained(name, **download_options(kwargs, *PROCESSOR_OPTIONS))
        if processor is None:
            processor = _processor_beside(model, "ranker", "CLIPRanker", AutoProcessor)
        if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
            raise ValueError(
                f"`processor` must have a tokenizer and an image processor, got {type(processor).__name__}."
            )
        self.model, self.processor = model.eval(), processor

    def to(self, device: torch.device | str) -> "CLIPRanker":
        """Moves the model."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def embed_pictures(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Vectors of length 1 of pictures, pixels `(B, 1 or 3, height, width)` in [-1, 1]."""
        inputs = processed(self.processor.image_processor, to_levels(pixel_values))
        return _unit(self.model.get_image_features(inputs.to(self.model.device, self.model.dtype)))

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Vectors of length 1 of texts; what is longer than the text tower takes is cut."""
        length = self.model.config.get_text_config().max_position_embeddings
        masked = "attention_mask" in self.processor.tokenizer.model_input_names  # SigLIP was trained on full rows
        inputs = self.processor.tokenizer(
            list(texts), padding=masked or "max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        inputs = {name: inputs[name].to(self.model.device) for name in ("input_ids", "attention_mask")[: 1 + masked]}
        return _unit(self.model.get_text_features(**inputs))

    def score(self, pixel_values: torch.Tensor, targets: Sequence[str]) -> torch.Tensor:
        """Cosine of each picture's vector and its caption's.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, 1 or 3, height, width)`): pixels in [-1, 1].
            targets (`Sequence[str]`): the caption of each.

        Returns:
            `torch.FloatTensor` of shape `(B,)`, in [-1, 1], on the CPU.
        """
        texts = list(dict.fromkeys(targets))
        of_text = dict(zip(texts, self.embed_texts(texts), strict=True))
        captions = torch.stack([of_text[target] for target in targets])
        return (self.embed_pictures(pixel_values) * captions).sum(-1).cpu()


def check_towers(model: Any) -> None:
    """Raises a `ValueError` where a model of transformers has no image or no text tower."""
    for method, tower in (("get_text_features", "a text"), ("get_image_features", "an image")):
        if not isinstance(model, PreTrainedModel) or not hasattr(model, method):
            raise ValueError(
                f"`ranker` must be of a model with {tower} tower, such as CLIP, got {type(model).__name__}, which has "
                f"no `{method}`."
            )


def _processor_beside(model: PreTrainedModel, argument: str, wrapper: str, auto_class: type) -> Any:
    if not model.name_or_path:
        raise ValueError(
            f"`{argument}` must come with its processor where it was not loaded by name: "
            f"`{wrapper}(model, processor)`, got {type(model).__name__} alone."
        )
    return auto_class.from_pretrained(model.name_or_path)


def processed(image_processor: Any, levels: torch.Tensor) -> torch.Tensor:
    """What an image processor makes of uint8 pictures `(B, 3, height, width)`."""
    parameters = inspect.signature(getattr(image_processor, "preprocess", image_processor)).parameters
    if "input_data_format" in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        options = {"return_tensors": "pt", "input_data_format": "channels_first"}
        return image_processor(list(levels), **options).pixel_values
    pictures = [PIL.Image.fromarray(each) for each in levels.permute(0, 2, 3, 1).cpu().numpy()]  # as timm's want them
    return image_processor(pictures, return_tensors="pt").pixel_values


def _unit(features: Any) -> torch.Tensor:
    """Vectors `(B, F)` of length 1, of a tensor or a library's output that has it."""
    features = features if isinstance(features, torch.Tensor) else features.pooler_output
    return torch.nn.functional.normalize(features.float(), dim=-1)


def candidates_per_prompt(
    num_images: int,
    num_candidates: int | None,
    ranker: CLIPRanker | str | Path | PreTrainedModel | None,
    classifier: Any,
    acceptance_rate: float | None,
    likelihood_weight: float | None = None,
) -> int | None:
    """How many candidates to draw of each prompt or label, M, or `None` where nothing is selected.

    The two ways exclude each other, and each needs both of its arguments; `likelihood_weight` needs a ranker that
    is a model.

    Raises:
        `ValueError`: bad arguments, each named.
    """
    by_rank = num_candidates is not None or ranker is not None
    by_class = classifier is not None or acceptance_rate is not None
    if likelihood_weight is not None and (ranker is None or is_likelihood(ranker)):
        raise ValueError(f"`likelihood_weight` needs a `ranker` that compares captions, got {ranker!r:.80}.")
    if not by_rank and not by_class:
        return None
    if by_rank and by_class:
        raise ValueError("`ranker` with `num_candidates` and `classifier` with `acceptance_rate` exclude each other.")
    if by_class:
        return _candidates_at_rate(num_images, classifier, acceptance_rate)
    if ranker is None or num_candidates is None:
        raise ValueError(f"`ranker` and `num_candidates` need each other, got {ranker!r:.80} and {num_candidates!r}.")
    if not isinstance(ranker, (CLIPRanker, str, Path, PreTrainedModel)):
        raise ValueError(
            f"`ranker` must be a CLIPRanker, a model, a Hub id, a folder or 'likelihood', got {ranker!r:.80}."
        )
    if isinstance(num_candidates, bool) or not isinstance(num_candidates, Integral) or num_candidates < num_images:
        raise ValueError(
            f"`num_candidates` must be an integer of at least `num_images_per_prompt` ({num_images}), got "
            f"{num_candidates!r}."
        )
    is_number = isinstance(likelihood_weight, Real) and not isinstance(likelihood_weight, bool)
    if likelihood_weight is not None and not (is_number and 0 <= likelihood_weight < math.inf):
        raise ValueError(f"`likelihood_weight` must be a number of at least 0, got {likelihood_weight!r}.")
    return num_candidates


def _candidates_at_rate(num_images: int, classifier: Any, acceptance_rate: float | None) -> int:
    if classifier is None or acceptance_rate is None:
        raise ValueError(
            f"`classifier` and `acceptance_rate` need each other, got {classifier!r:.80} and {acceptance_rate!r}."
        )
    is_number = isinstance(acceptance_rate, Real) and not isinstance(acceptance_rate, bool)
    if not is_number or not 0 < acceptance_rate <= 1:
        raise ValueError(f"`acceptance_rate` must be a number in (0, 1], got {acceptance_rate!r}.")
    candidates = num_images / float(acceptance_rate)
    if math.isinf(candidates):
        raise ValueError(f"`acceptance_rate` must leave a finite number of candidates, got {acceptance_rate!r}.")
    whole = round(candidates)  # 3 of 0.1 are 30 and of 1 / 3 are 9, whatever binary numbers make of them
    return whole if math.isclose(candidates, whole, rel_tol=1e-6) else math.ceil(candidates)


class BestCandidates:
    """The n best candidates of each prompt so far; of the others nothing is kept.

    Args:
        num_prompts (`int`): N.
        num_kept (`int`): n.
    """

    def __init__(self, num_prompts: int, num_kept: int):
        self.num_kept = num_kept
        self._scores: list[list[float]] = [[] for _ in range(num_prompts)]
        self._codes: list[list[torch.Tensor]] = [[] for _ in range(num_prompts)]

    def update(self, prompts: Sequence[int], codes: torch.LongTensor, scores: torch.Tensor) -> None:
        """Adds candidates.

        Args:
            prompts (`Sequence[int]`): which prompt each is of.
            codes (`torch.LongTensor` of shape `(B, H, W, D)`): their codes.
            scores (`torch.Tensor` of shape `(B,)`): the larger, the better; of equal ones the earlier counts.

        Raises:
            `ValueError`: scores that are not finite.
        """
        if not scores.isfinite().all():
            raise ValueError("The scores of the pictures must be finite, got NaN or infinite ones.")
        for prompt, own_codes, score in zip(prompts, codes, scores.tolist(), strict=True):
            kept = self._scores[prompt]
            place = next((index for index, other in enumerate(kept) if score > other), len(kept))
            if place < self.num_kept:
                kept.insert(place, score)
                self._codes[prompt].insert(place, own_codes.clone())  # a copy: not a part of the batch's memory
                del kept[self.num_kept :], self._codes[prompt][self.num_kept :]

    def has_any(self, prompt: int) -> bool:
        """Whether there is a candidate of this prompt."""
        return len(self._scores[prompt]) > 0

    def result(self) -> tuple[torch.LongTensor, torch.Tensor]:
        """Codes `(B, H, W, D)` and scores `(B,)`, prompt after prompt, the best first."""
        codes = [each for of_prompt in self._codes for each in of_prompt]
        scores = [each for of_prompt in self._scores for each in of_prompt]
        return torch.stack(codes), torch.tensor(scores, dtype=torch.float32, device="cpu")


def select_codes(
    draw: Callable[[list[int], Any], tuple[torch.LongTensor, bool]],
    score: Callable[[torch.LongTensor, list[int]], torch.Tensor],
    num_prompts: int,
    num_kept: int,
    num_candidates: int,
    batch_size: int,
    generator: torch.Generator | list[torch.Generator] | None,
    interrupted: Callable[[], bool],
) -> tuple[torch.LongTensor, torch.Tensor]:
    """Draws candidates batch by batch, all of a prompt and then those of the next, and keeps the best.

    The seeds alone decide the pictures, not the size of the batches: candidates draw from their generators in order.

    Args:
        draw: `draw(prompts, generator)` gives codes `(B, H, W, D)`, one candidate for each entry of `prompts`, and
            whether they are whole: after an interruption they may not be, and then count where a prompt has no others.
        score: `score(codes, prompts)` gives their scores `(B,)`.
        num_prompts, num_kept, num_candidates (`int`): N, n and M.
        batch_size (`int`): candidates drawn at once.
        generator: one, or a list of N * n, which draw a prompt's candidates in turn.
        interrupted: whether to draw no more.

    Returns:
        Codes `(N * n, H, W, D)` and scores `(N * n,)`, as [`BestCandidates.result`]; fewer after an interruption.

    Raises:
        `ValueError`: generators of another number.
    """
    if isinstance(generator, (list, tuple)) and len(generator) != num_prompts * num_kept:
        raise ValueError(
            f"`generator` must be one or a list of one per returned picture ({num_prompts * num_kept}), got "
            f"{len(generator)}."
        )
    best = BestCandidates(num_prompts, num_kept)
    total = num_prompts * num_candidates
    for start in range(0, total, batch_size):
        places = [divmod(index, num_candidates) for index in range(start, min(start + batch_size, total))]
        prompts = [prompt for prompt, _ in places]
        generators = generator
        if isinstance(generator, (list, tuple)):
            generators = [generator[prompt * num_kept + index % num_kept] for prompt, index in places]
        codes, is_whole = draw(prompts, generators)
        if not is_whole:  # counts where there is nothing else
            rows = [row for row, prompt in enumerate(prompts) if not best.has_any(prompt)]
            prompts, codes = [prompts[row] for row in rows], codes[rows]
        if prompts:
            best.update(prompts, codes, score(codes, prompts))
        if interrupted():
            break
    return best.result()
