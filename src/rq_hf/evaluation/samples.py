# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`evaluate.py samples` and `sweep`: how real, varied and faithful pictures are, also over sampling settings."""

import argparse
import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torchvision.transforms import functional as TF
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import metrics
from ..command_line import loaded_ranker, sampling_settings
from ..configuration_common import SAMPLING
from ..metrics.statistics import ReferenceStatistics
from ..picture_grid import picture_grid
from ..selection import CLIPRanker, ImageClassifier, candidates_per_prompt
from .models import device_of, load_pipeline, used_sampling
from .protocols import PROTOCOLS
from .reference import ReferencePictures, picture_protocol
from .rows import choose_rows, filtered, load_splits
from .shards import Shards

SELECTED = ("num_candidates", "acceptance_rate", "likelihood_weight")  # settings of a selection that are numbers
SWEPT = (*SAMPLING, *SELECTED)
NEIGHBOUR_ROWS = 8


class SampleStudy:
    """
    Models, conditions and reference of the command, loaded once for any number of sampling settings.

    Args:
        arguments (`argparse.Namespace`): of the command line.
        state (`PartialState`): of the processes.

    Raises:
        `ValueError`: arguments that do not belong together.
    """

    def __init__(self, arguments: argparse.Namespace, state: PartialState):
        self.arguments, self.state = arguments, state
        self.protocol = PROTOCOLS[arguments.protocol]
        self.device = device_of(arguments, state)
        self.pipe = load_pipeline(arguments).to(self.device)
        self.conditions, self.num_pictures = self._conditions()
        self.extractor = metrics.feature_extractor(arguments.feature_extractor, arguments.inception_weights)
        self.extractor.to(self.device)
        self.clip = CLIPRanker(arguments.clip_model).to(self.device) if arguments.clip_model is not None else None
        self.judge = ImageClassifier(arguments.judge).to(self.device) if arguments.judge is not None else None
        self.judged = self._judged() if self.judge is not None else None
        self.reference = metrics.load_statistics(arguments.reference) if arguments.reference is not None else None
        self._check()
        self.ranker = loaded_ranker(arguments.ranker)
        self.classifier = ImageClassifier(arguments.classifier) if arguments.classifier is not None else None
        if self.judge is not None and self.classifier is not None and _digest(self.judge) == _digest(self.classifier):
            raise ValueError(
                f"`--judge` must not be the classifier that selects, got {arguments.judge!r} and "
                f"{arguments.classifier!r}, which are the same."
            )

    @property
    def is_inception(self) -> bool:
        return self.extractor.name == "inception"

    def measure(self, sampling: Mapping[str, Any], folder: Path) -> dict[str, Any] | None:
        """Draws and measures pictures with these settings.

        Args:
            sampling (`Mapping[str, Any]`): settings of the pipeline, selection included; `None` is not given.
            folder (`Path`): for the parts, which a killed run goes on with.

        Returns:
            `dict` of `metrics` and `sampling` on the main process, `None` on the others.
        """
        given = {name: value for name, value in sampling.items() if value is not None}
        models = {"ranker": self.ranker, "classifier": self.classifier}
        options = {**given, **{name: model for name, model in models.items() if model is not None}}
        values = argparse.Namespace(**{**vars(self.arguments), **given})
        used = used_sampling(self.pipe, {name: sampling.get(name) for name in SAMPLING}, values)
        logits = self.is_inception and self.protocol.inception_score

        def tensors(indices: range) -> dict[str, torch.Tensor]:
            pictures, scores = self._draw(indices, options)
            rgb = metrics.to_rgb(pictures).to(self.device)
            found = metrics.extract(self.extractor, rgb, logits)
            if scores is not None:
                found["selection_score"] = scores
            pixel_values = rgb.float() / 127.5 - 1
            if self.clip is not None:
                found["clip_score"] = self.clip.score(pixel_values, [self.conditions[index] for index in indices])
            if self.judge is not None:
                classes = self.judge.probabilities(pixel_values).argmax(-1).cpu()
                wanted = torch.tensor([self.judged[self.conditions[index]] for index in indices])
                found["is_hit"] = (classes == wanted).float()
            return found

        settings = self._settings(used)
        shards = Shards(folder, self.num_pictures, self.arguments.batch_size, settings, self.state)
        shards.make(tensors, "Drawing")
        if not self.state.is_main_process:
            return None
        figures = self._figures(shards, logits)
        if self.arguments.neighbours is not None:
            self._neighbour_sheet(shards, options)
        return {"metrics": figures, "sampling": used}

    def floor(self) -> dict[str, Any] | None:
        """The distance of real pictures from the others of the reference, where it keeps their features.

        They are as many as are drawn, or half of the reference if that is fewer.
        """
        if self.reference is None or self.reference.features is None:
            return None
        features = self.reference.features
        count = min(self.num_pictures, len(features) // 2)
        if count < 2:
            return None
        distance = metrics.distance_between_real_pictures(features, count, self.arguments.seed)
        return {"num_pictures": count, metrics.distance_name(self.extractor.name): distance}

    def check_selection(
        self,
        num_candidates: int | None = None,
        acceptance_rate: float | None = None,
        likelihood_weight: float | None = None,
    ) -> None:
        """Refuses settings of a selection, before anything is drawn.

        Raises:
            `ValueError`: as in the pipeline; or a rate that is not 1 / n, where each picture is the best of n.
        """
        candidates = candidates_per_prompt(
            1, num_candidates, self.ranker, self.classifier, acceptance_rate, likelihood_weight
        )
        if acceptance_rate is not None and not math.isclose(candidates * acceptance_rate, 1, rel_tol=1e-6):
            raise ValueError(
                "`--acceptance_rate` must be 1 / n, as each picture here is the best of n candidates, got "
                f"{acceptance_rate}; near it are {' and '.join(f'{1 / n:.7g}' for n in (candidates - 1, candidates))}."
            )

    def _draw(self, indices: range, options: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
        conditions = None if self.conditions is None else [self.conditions[index] for index in indices]
        return metrics.draw_pictures(self.pipe, conditions, indices, self.arguments.seed, **options)

    def _conditions(self) -> tuple[list[str] | list[int] | None, int]:
        """A caption or class for each picture, and their number."""
        config, wanted = self.pipe.transformer.config, self.arguments.num_pictures
        if self.protocol.conditions == "captions":
            if self.pipe.tokenizer is None:
                raise ValueError(f"`MODEL` must draw captions for `--protocol {self.arguments.protocol}`, got none.")
            captions = self._captions()
            wanted = self.protocol.num_pictures if wanted is None else wanted
            chosen = choose_rows(len(captions), wanted, self.arguments.seed, "--num_pictures")
            captions = [captions[index] for index in chosen]
            self.pipe.encode_prompt(captions)  # refuses here, before hours of drawing, what it cannot draw
            return captions, len(captions)
        if self.pipe.tokenizer is not None:
            raise ValueError(f"`MODEL` must draw classes, or nothing, for `--protocol {self.arguments.protocol}`.")
        for name in ("dataset_name", "dataset_config_name", "split", "filter"):
            if value := getattr(self.arguments, name):
                raise ValueError(f"`--{name}` must not be given where no captions are drawn, got {value!r}.")
        count = self.protocol.num_pictures if wanted is None else wanted
        if config.vocab_size == 1:
            return None, count
        classes = config.class_ids
        return [classes[index % len(classes)] for index in range(count)], count

    def _captions(self) -> list[str]:
        arguments = self.arguments
        if arguments.dataset_name is None or arguments.split is None:
            raise ValueError("`--dataset_name` and `--split` must be given for captions, got none.")
        rows = filtered(load_splits(arguments, "caption_column")[arguments.split], arguments)
        captions = []
        for row, value in enumerate(rows[arguments.caption_column]):
            texts = value if isinstance(value, list) else [value]
            if not all(text is None or isinstance(text, str) for text in texts):
                raise ValueError(f"`--caption_column` must hold text, got {value!r} in row {row}.")
            variants = [text for text in texts if text and text.strip()]
            captions += variants if self.protocol.every_caption else variants[:1]
        return captions

    def _judged(self) -> dict[int, int]:
        if self.conditions is None or self.pipe.tokenizer is not None:
            raise ValueError("`--judge` needs a class-conditional model: it tells whether the class is right.")
        config = self.pipe.transformer.config
        return self.judge.class_ids(config.id2label, config.class_ids)

    def _check(self) -> None:
        arguments, reference = self.arguments, self.reference
        if self.protocol.clip_score and self.clip is None:
            raise ValueError(f"`--clip_model` must be given for `--protocol {arguments.protocol}`, whose score it is.")
        if self.clip is not None and self.pipe.tokenizer is None:
            raise ValueError("`--clip_model` needs a model of captions, with which it compares pictures.")
        if arguments.precision_recall and self.num_pictures <= metrics.NEIGHBOURHOOD:
            raise ValueError(
                f"`--precision_recall` needs more than {metrics.NEIGHBOURHOOD} pictures, got {self.num_pictures}."
            )
        needs_features = arguments.precision_recall or arguments.neighbours is not None
        if needs_features and (reference is None or reference.features is None):
            raise ValueError(
                "`--precision_recall` and `--neighbours` need a `--reference` made with `--keep_features`, got "
                f"{str(arguments.reference)!r}."
            )
        if reference is None:
            scores = self.is_inception and self.protocol.inception_score
            judged = (arguments.clip_model, arguments.judge, arguments.ranker, arguments.classifier)
            if not scores and not any(judged):
                raise ValueError(
                    "Something must be measured: `--reference`, `--clip_model`, `--judge`, or the Inception score by "
                    "`--feature_extractor inception`, got none of them."
                )
            return
        config = self.pipe.rqvae.config
        transform = arguments.transform or self.protocol.transform
        reference.check(picture_protocol(self.extractor, config.image_size, config.num_channels, transform))
        size, width = config.image_size, len(reference.mean)
        blank = torch.zeros(1, 3, size, size, dtype=torch.uint8, device=self.device)
        own_width = metrics.extract(self.extractor, blank)["features"].shape[1]
        if own_width != width:
            raise ValueError(
                f"`--reference` must have the {own_width} features of {self.extractor.name!r}, got {width}."
            )
        if arguments.neighbours is not None:
            if arguments.neighbours > reference.count:
                raise ValueError(
                    f"`--neighbours` must be at most {reference.count}, the pictures of the reference, got "
                    f"{arguments.neighbours}."
                )
            self.real = ReferencePictures(reference)
        metrics.warn_of_few_pictures("reference", reference.count, width)
        metrics.warn_of_few_pictures("generated", self.num_pictures, width)

    def _settings(self, used: Mapping[str, Any]) -> dict[str, Any]:
        """What the parts depend on."""
        conditions = json.dumps(self.conditions)
        transformer, rqvae = self.pipe.transformer, self.pipe.rqvae
        scorers = {
            "clip_model": self.clip, "judge": self.judge, "ranker": self.ranker, "classifier": self.classifier
        }  # fmt: skip
        return {
            "transformer": metrics.weights_digest(transformer),
            "rqvae": metrics.weights_digest(rqvae),
            "configurations": _short_hash(_config_text(transformer), _config_text(rqvae)),
            "tokenizer": _short_hash(_tokenizer_text(self.pipe.tokenizer)),
            "conditions": _short_hash(conditions),
            "sampling": dict(used),
            "seed": self.arguments.seed,
            "dtype": self.arguments.dtype,
            "device": self.device.type,
            "feature_extractor": [self.extractor.name, self.extractor.digest, self.extractor.image_processor_digest],
            "protocol": self.arguments.protocol,
            **{name: [getattr(self.arguments, name), _digest(scorer)] for name, scorer in scorers.items()},
        }

    def _figures(self, shards: Shards, logits: bool) -> dict[str, float]:
        figures = {}
        if self.reference is not None:
            statistics = metrics.FeatureStatistics()
            for features in shards.batches("features"):
                statistics.update(features)
            name = metrics.distance_name(self.extractor.name)
            (figures[name],) = metrics.frechet_distances(self.reference, [statistics])
        if logits:
            mean, deviation = metrics.inception_score(shards.read("logits"))
            figures.update(inception_score=mean, inception_score_std=deviation)
        if self.clip is not None:
            figures["clip_score"] = shards.read("clip_score").double().mean().item()
        if self.arguments.precision_recall:
            found = metrics.precision_recall(shards.read("features"), self.reference.features)
            figures.update(precision=found[0], recall=found[1])
        if self.judge is not None:
            figures["accuracy"] = shards.read("is_hit").double().mean().item()
        if self.ranker is not None or self.classifier is not None:
            figures["selection_score"] = shards.read("selection_score").double().mean().item()
        return figures

    def _neighbour_sheet(self, shards: Shards, options: Mapping[str, Any]) -> None:
        """The first pictures, drawn once more, beside the nearest of the reference (Figure 11)."""
        features, drawn = [], []
        for part, batch in enumerate(shards.batches("features")):
            features.append(batch)
            drawn += self._draw(shards.indices(part), options)[0]
            if len(drawn) >= NEIGHBOUR_ROWS:
                break
        features = torch.cat(features)[:NEIGHBOUR_ROWS]
        distances, places = metrics.nearest_pictures(features, self.reference.features, self.arguments.neighbours)
        rows, captions = [], []
        for index, (own_places, own) in enumerate(zip(places.tolist(), distances.tolist(), strict=True)):
            picture = drawn[index]
            tiles = [metrics.to_rgb(picture[None])[0], *(self.real[place] for place in own_places)]
            rows.append([TF.to_pil_image(tile) for tile in tiles])
            name = "unconditional" if self.conditions is None else self._condition_name(index)
            captions.append([name, *(f"real, distance {distance:.3g}" for distance in own)])
        path = self.arguments.output.with_name(f"{self.arguments.output.stem}-neighbours.png")
        picture_grid(rows, captions, tile_size=192).save(path)

    def _condition_name(self, index: int) -> str:
        names = self.pipe.transformer.config.id2label or {}
        return str(names.get(self.conditions[index], self.conditions[index]))


def _digest(scorer: CLIPRanker | ImageClassifier | str | None) -> str | None:
    """Tells a scorer from others, by weights, configuration and what it makes of its inputs, or by name."""
    if scorer is None or isinstance(scorer, str):
        return scorer
    processor = scorer.processor if isinstance(scorer, CLIPRanker) else scorer
    texts = [_config_text(scorer.model), metrics.processor_digest(processor.image_processor)]
    if isinstance(scorer, CLIPRanker):
        texts.append(_tokenizer_text(processor.tokenizer))
    return f"{metrics.weights_digest(scorer.model)} {_short_hash(*texts)}"


def _short_hash(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _config_text(model: PreTrainedModel) -> str:
    fields = model.config.to_diff_dict()
    left_out = ("_name_or_path", "transformers_version", "dtype")
    return json.dumps({name: value for name, value in fields.items() if name not in left_out}, default=str)


def _tokenizer_text(tokenizer: PreTrainedTokenizerBase | None) -> str:
    """Vocabulary and rules of a tokenizer, and how long its rows are."""
    if tokenizer is None:
        return ""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    rules = {name: value for name, value in rules.items() if name not in ("padding", "truncation")}  # of the last call
    return json.dumps([rules, tokenizer.model_max_length])


def evaluate_samples(arguments: argparse.Namespace, state: PartialState) -> dict[str, Any] | None:
    """Figures of generated pictures; `None` on all processes but the main one."""
    study = SampleStudy(arguments, state)
    selection = {name: getattr(arguments, name) for name in SELECTED}
    study.check_selection(**selection)
    measured = study.measure({**sampling_settings(arguments), **selection}, arguments.work_dir)
    if measured is None:
        return None
    return {**_header(study), **measured}


def evaluate_sweep(arguments: argparse.Namespace, state: PartialState) -> dict[str, Any] | None:
    """Figures of generated pictures for each combination of settings, and a chart of them beside `--output`."""
    grid = {name: getattr(arguments, name) for name in SWEPT if getattr(arguments, name) is not None}
    if not any(len(values) > 1 for values in grid.values()):
        raise ValueError(f"One of {SWEPT} must be given several values to sweep over, got {grid}.")
    if arguments.neighbours is not None:
        raise ValueError("`--neighbours` must not be given for a sweep: its sheet is of one set of pictures.")
    study = SampleStudy(arguments, state)
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    for chosen in combinations:  # refused before the first is drawn
        study.check_selection(**{name: chosen.get(name) for name in SELECTED})
        study.pipe.transformer.check_sampling(**{name: chosen.get(name) for name in SAMPLING})
    if len(grid.get("likelihood_weight", ())) > 1 and study.reference is None and study.clip is None:
        raise ValueError(
            "`--likelihood_weight` of several values needs `--reference` or `--clip_model`, to tell the better one, "
            f"got neither with {grid['likelihood_weight']}: scores with different weights cannot be compared."
        )
    rows = []
    for chosen in combinations:
        name = ",".join(f"{key}={_text(value)}" for key, value in chosen.items())
        rows.append((chosen, study.measure({**dict.fromkeys(SWEPT), **chosen}, arguments.work_dir / name)))
    if not state.is_main_process:
        return None
    first = next(iter(rows[0][1]["metrics"]))
    better = min if metrics.lower_is_better(first) else max
    best = better(rows, key=lambda row: row[1]["metrics"][first])[1]
    settings = [name for name, values in grid.items() if len(values) > 1]
    flat = [
        {**{name: _text(value) if isinstance(value, list) else value for name, value in chosen.items()},
         **measured["metrics"]}
        for chosen, measured in rows
    ]  # fmt: skip
    shown = [name for name in best["metrics"] if not name.endswith("_std") and name != "selection_score"]
    chart = metrics.sweep_chart(flat, settings, shown or [first])
    chart.save(arguments.output.with_name(f"{arguments.output.stem}-sweep.png"))
    return {**_header(study), **best, "best_by": first, "rows": flat}


def _header(study: SampleStudy) -> dict[str, Any]:
    header = {"num_pictures": study.num_pictures, "protocol": study.arguments.protocol}
    reference: ReferenceStatistics | None = study.reference
    if reference is not None:
        header["reference"] = {
            "file": str(study.arguments.reference),
            "num_pictures": reference.count,
            "protocol": reference.protocol,
            **reference.details,
        }
        if (floor := study.floor()) is not None:
            header["floor"] = floor
    return header


def _text(value: Any) -> str:
    return ",".join(str(each) for each in value) if isinstance(value, list) else str(value)
