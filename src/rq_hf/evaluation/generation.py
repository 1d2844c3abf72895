# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Pictures that a pipeline draws: FID, Inception score, precision, recall, CLIP score. Likelihood of real pictures.

Symbols: B pictures of a batch, N drawn pictures, R real ones, C channels, h x w pixels, F features, D code depth.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers.utils import logging

from ..files import write_whole
from ..models.sampling import generators_of_pictures, seeded_generator
from ..pipelines import CLIPRanker, RQImageGenerationPipeline
from ..pipelines.text_encoding import embed_ids
from .features import (
    ImageFiles,
    build_extractor,
    check_features,
    distance_name,
    extract_features,
    frechet_distance,
    sample_batches,
)
from .report import write_report

logger = logging.get_logger(__name__)

DRAWN = "drawn.json"  # says of what the pictures of a folder were drawn


def process_state() -> PartialState:
    """The processes of this launch. On a CPU accelerate sees only one without `cpu=True`."""
    return PartialState(cpu=not torch.accelerator.is_available())


def generate_images(
    pipe: RQImageGenerationPipeline,
    conditions: Sequence[str] | Sequence[int] | int,
    folder: str | Path,
    *,
    numbers: Sequence[int] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    **options: Any,
) -> list[Path]:
    """
    Draws a picture for each condition into `folder/000000.png`, `folder/000001.png`, ..., and returns their paths.

    Pictures whose files exist are not drawn again, so a stopped run can be continued. `folder/drawn.json` says of what
    they were drawn; a run with other weights, settings, seeds or conditions is a `ValueError`. Processes of
    `accelerate launch` share the work.

    Args:
        pipe ([`RQImageGenerationPipeline`]): Draws the pictures.
        conditions (`Sequence[str]`, `Sequence[int]` or `int`): Captions, class labels, or the number of pictures of
            an unconditional model.
        folder (`str` or `Path`): Where these files are written; it may hold nothing else.
        numbers (`Sequence[int]`, *optional*): A different number for each picture instead of 0, 1, 2, ...
        batch_size (`int`, *optional*, defaults to 32): Pictures that are drawn at once.
        options: Arguments of the pipeline's call, such as `temperature`, or `num_candidates` and `ranker`.
    """
    folder = Path(folder)
    count = conditions if isinstance(conditions, int) else len(conditions)
    numbers = list(range(count) if numbers is None else numbers)
    if len(numbers) != count or len(set(numbers)) != count:
        raise ValueError(f"`numbers` must be a different one for each of {count} pictures, got {numbers!s:.100}.")
    others = [path.name for path in folder.glob("[!.]*") if not re.fullmatch(rf"\d{{6,}}\.png|{DRAWN}", path.name)]
    if others:
        raise ValueError(f"`folder` must hold drawn pictures only, got {str(folder)!r} with {min(others)!r}.")
    paths = [folder / f"{number:06d}.png" for number in numbers]
    state = process_state()
    by_name = {}
    if not isinstance(conditions, int):
        by_name = {path.name: condition for path, condition in zip(paths, conditions, strict=True)}
    keep_record(folder, {"weights": weight_sum(pipe), "seed": seed, "settings": used_sampling(pipe, options)}, by_name)
    own = range(count)[state.process_index :: state.num_processes]
    missing = [index for index in own if not paths[index].exists()]
    if len(missing) < len(own):
        logger.warning(f"{str(folder)!r} holds {len(own) - len(missing)} of {len(own)} pictures; they are kept.")
    starts = range(0, len(missing), batch_size)
    for start in tqdm(starts, desc="Drawing", unit="batch", disable=not state.is_main_process):
        part = missing[start : start + batch_size]
        if isinstance(conditions, int):
            asked = {"num_images_per_prompt": len(part)}
        else:
            name = "class_labels" if pipe.tokenizer is None else "prompt"
            asked = {name: [conditions[index] for index in part]}
        generators = [seeded_generator(seed, numbers[index]) for index in part]
        images = pipe(**asked, generator=generators, **options).images
        for index, image in zip(part, images, strict=True):
            with write_whole(paths[index]) as unfinished:  # a killed run leaves no half-written picture
                image.save(unfinished)
    state.wait_for_everyone()
    return paths


def weight_sum(pipe: RQImageGenerationPipeline) -> str:
    """A number that tells the weights of two pipelines apart."""
    weights = [each for model in (pipe.rqvae, pipe.transformer) for each in model.state_dict().values()]
    weights = [each.double().flatten() for each in weights if not each.is_meta]
    total = sum((each * torch.linspace(1, 2, len(each)).to(each)).sum().item() for each in weights)  # order counts
    return f"{total:.9e}"


def keep_record(folder: Path, record: dict[str, Any], conditions: dict[str, str | int]) -> None:
    """Writes what pictures are drawn of into a folder, or checks it against what is written there."""
    path, state = folder / DRAWN, process_state()
    record = json.loads(json.dumps(record))
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    old_conditions = earlier.pop("conditions", {})
    drawn = [each.name for each in folder.glob("*.png")]
    changed = [name for name, value in record.items() if drawn and earlier.get(name) != value]
    changed += [name for name in drawn if name in conditions and old_conditions.get(name) != conditions[name]]
    if changed:
        raise ValueError(f"`folder` must be a new one: pictures in {str(folder)!r} have other {changed[:3]}.")
    state.wait_for_everyone()
    if state.is_main_process:
        with write_whole(path) as unfinished:
            text = json.dumps({**record, "conditions": old_conditions | conditions}, indent=2, ensure_ascii=False)
            unfinished.write_text(text + "\n", encoding="utf-8")
    state.wait_for_everyone()


def generation_metrics(
    features: torch.Tensor, real_features: torch.Tensor | None, extractor: nn.Module, precision_recall: bool = False
) -> dict[str, float]:
    """
    Compares drawn pictures with real ones by their features `(N, F)` and `(R, F)`; all figures depend on N and R.

    These are `fid` and `kid` (`frechet_distance_NAME` and `kernel_distance_NAME` in the features of another
    `extractor`) and, if asked for, improved `precision` and `recall` with three neighbours. The kernel distance is
    unbiased, so it suits sets of a few hundred pictures. Inception adds `inception_score` and `inception_score_std`,
    its deviation over ten parts of the set.
    """
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    metrics = {}
    if real_features is not None:
        if min(len(features), len(real_features)) <= features.shape[1]:
            logger.warning(f"A Fréchet distance of fewer than {features.shape[1] + 1} pictures is far too large.")
        distance = frechet_distance(features.shape[1])
        distance.update(real_features, real=True)
        distance.update(features, real=False)
        metrics[distance_name(extractor)] = distance.compute().item()
        subset = min(1000, len(features), len(real_features))
        subsets = 1 if len(features) == len(real_features) == subset else 100  # or the same pictures a hundred times
        found = kid_features_to_metric(
            features, real_features, kid_subsets=subsets, kid_subset_size=subset, verbose=False
        )
        metrics[distance_name(extractor, "kid", "kernel_distance")] = found["kernel_inception_distance_mean"]
        if precision_recall:
            found = prc_features_to_metric(features, real_features, save_cpu_ram=True, verbose=False)
            metrics |= {name: found[name] for name in ("precision", "recall")}
    if hasattr(extractor, "logits"):
        metrics |= isc_features_to_metric(extractor.logits(features))
    return {name.removesuffix("_mean"): value for name, value in metrics.items()}


@torch.no_grad()
def clip_score(samples: Dataset, captions: Sequence[str], clip: CLIPRanker, batch_size: int = 32) -> float:
    """Mean cosine similarity of the pictures of samples and their captions, by a CLIP model."""
    starts, batches = range(0, len(captions), batch_size), sample_batches(samples, batch_size)
    scores = [
        clip.score(batch["pixel_values"], captions[start : start + batch_size])
        for start, batch in zip(starts, batches, strict=True)
    ]
    return torch.cat(scores).double().mean().item()


def used_sampling(pipe: RQImageGenerationPipeline, options: dict[str, Any]) -> dict[str, Any]:
    """The settings of a call with `options`; those not given are the checkpoint's own."""
    names = pipe.transformer.generation_config.defaults
    config = pipe.transformer.settings_of_call(
        options.get("generation_config"), **{name: value for name, value in options.items() if name in names}
    )
    others = {name: value for name, value in options.items() if name != "generation_config"}
    plain = (int, float, str, list)
    others = {name: value if isinstance(value, plain) else type(value).__name__ for name, value in others.items()}
    return config.to_settings() | others


def digest_of(samples: Dataset) -> str:
    """A digest of the number of samples and of the pixels of sixteen of them."""
    digest = hashlib.sha256(str(len(samples)).encode())
    for index in range(0, len(samples), -(-len(samples) // 16)):
        digest.update(samples[index]["pixel_values"].float().numpy().tobytes())
    return digest.hexdigest()


def evaluate_samples(
    pipe: RQImageGenerationPipeline,
    conditions: Sequence[str] | Sequence[int] | int,
    folder: str | Path,
    *,
    reference: Dataset | str | Path | None = None,
    reference_features: str | Path | None = None,
    extractor: str | nn.Module = "inception",
    precision_recall: bool = False,
    clip: CLIPRanker | None = None,
    batch_size: int = 32,
    seed: int = 0,
    output: str | Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """
    Draws pictures into a folder and compares them with real ones (Tables 1 to 3).

    Args:
        pipe, conditions, folder, batch_size, seed, options: See [`generate_images`].
        reference (`Dataset`, `str` or `Path`, *optional*): Real pictures: a folder of PNG or JPEG files of one size,
            or samples `{"pixel_values": (C, h, w)}` in [-1, 1]. Only the Inception and CLIP scores need none.
        reference_features (`str` or `Path`, *optional*): A `.safetensors` file of the features of `reference` by this
            extractor, which is read if it exists and written otherwise.
        extractor (`str` or `nn.Module`, *optional*, defaults to `"inception"`): See [`build_extractor`].
        precision_recall (`bool`, *optional*, defaults to `False`): Adds improved precision and recall.
        clip ([`CLIPRanker`], *optional*): Adds the CLIP score of pictures and captions.
        output (`str` or `Path`, *optional*): See [`write_report`].

    Returns:
        `dict` with `num_pictures`, `metrics` (see [`generation_metrics`]) and `sampling`; empty on all processes but
        the main one.
    """
    if clip is not None and pipe.tokenizer is None:
        raise ValueError("`clip` needs a pipeline of captions; this one has no tokenizer.")
    if isinstance(reference, (str, Path)) and Path(reference).resolve() == Path(folder).resolve():
        raise ValueError(f"`folder` must be another one than `reference`, got {str(folder)!r}.")
    net, is_main, real_features = build_extractor(extractor), process_state().is_main_process, None
    if isinstance(reference, (str, Path)):
        reference = ImageFiles(reference)
    if reference_features is not None and Path(reference_features).exists():
        with safe_open(reference_features, "pt") as stored:
            real_features = stored.get_tensor("features") if "features" in stored.keys() else torch.empty(0)
            digest = (stored.metadata() or {}).get("reference")
        check_features("reference_features", real_features, net.num_features)
        if reference is not None and digest != digest_of(reference):
            raise ValueError(f"`reference_features` must be those of `reference`, got others in {reference_features}.")
    real = reference if real_features is None else real_features
    if real is None and (precision_recall or not (clip or hasattr(net, "logits"))):
        raise ValueError("`reference` must be given to compare the pictures with, got None.")
    count = conditions if isinstance(conditions, int) else len(conditions)
    num_real = None if real is None else len(real)
    least_real = 4 if precision_recall else 1 if real is None else 2  # for three neighbours, or a variance
    least = max(least_real, 10 if hasattr(net, "logits") else 1)  # the Inception score is of ten parts
    if count < least or (real is not None and num_real < least_real):
        needed = f"{least} `conditions` and, if any, {least_real} pictures of `reference`"
        raise ValueError(f"These metrics need at least {needed}, got {count} and {num_real}.")
    if is_main and real_features is None and reference is not None:  # before the long part, as pictures may be broken
        real_features = extract_features(net, reference, batch_size, pipe.device)["features"]
        if reference_features is not None:
            with write_whole(reference_features) as unfinished:
                save_file({"features": real_features}, unfinished, {"reference": digest_of(reference)})
    paths = generate_images(pipe, conditions, folder, batch_size=batch_size, seed=seed, **options)
    if not is_main:
        return {}
    features = extract_features(net, ImageFiles(paths), batch_size, pipe.device)["features"]
    metrics = generation_metrics(features, real_features, net, precision_recall)
    if clip is not None:
        metrics["clip_score"] = clip_score(ImageFiles(paths), conditions, clip, batch_size)
    results = {"num_pictures": count, "metrics": metrics, "sampling": used_sampling(pipe, options)}
    if output is not None:
        write_report(results, output)
    return results


@torch.no_grad()
def evaluate_likelihood(
    pipe: RQImageGenerationPipeline, samples: Dataset, *, batch_size: int = 32, output: str | Path | None = None
) -> dict[str, Any]:
    """
    Measures the loss of real codes, each predicted from the real codes before it (Eq. 14).

    Args:
        pipe ([`RQImageGenerationPipeline`]): The pipeline.
        samples (`Dataset`): As in training: `pixel_values` `(C, h, w)` in [-1, 1] and the condition `input_ids`
            `(S,)`, which an unconditional model does without. [`evaluation_samples`] makes them of a data set.
        output (`str` or `Path`, *optional*): See [`write_report`].

    Returns:
        `dict` with `num_pictures` and `metrics`: `loss` in nats per code, and `loss_depth_d` of each depth d.
    """
    total = count = 0
    for batch in sample_batches(samples, batch_size):
        pixel_values, input_ids = batch["pixel_values"], batch.get("input_ids")
        if input_ids is None:
            if pipe.transformer.config.condition_name is not None:
                raise ValueError("`samples` must hold the `input_ids` of a caption or class for each picture.")
            input_ids = torch.zeros(len(pixel_values), 1, dtype=torch.long)
        codes = pipe.rqvae.encode(pixel_values.to(pipe.rqvae.device))  # (B, H, W, D)
        condition = {"input_ids": input_ids.to(codes.device)}
        if pipe.text_encoder is not None:
            condition = {"prompt_embeds": embed_ids(condition["input_ids"], pipe.text_encoder)}
        further = pipe.transformer.training_inputs(codes, generators_of_pictures(0, codes))
        predicted = pipe.transformer(codes=codes, labels=codes, output_logits=False, **condition, **further)
        num_positions = further.get("mask", torch.ones(codes.shape[:3])).sum().item()  # those with a loss
        total += predicted.depth_losses.double().cpu() * num_positions  # (D,)
        count += num_positions
    by_depth = (total / count).tolist()
    losses = {f"loss_depth_{depth}": loss for depth, loss in enumerate(by_depth, start=1)}
    results = {"num_pictures": len(samples), "metrics": {"loss": sum(by_depth) / len(by_depth), **losses}}
    if output is not None:
        write_report(results, output)
    return results
