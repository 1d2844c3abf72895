# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Draws with several pipelines and settings, and measures Fréchet distance, recall, what is shown right, and seconds.

    python research/contextual/drawing.py runs/fashion runs/fashion-c --dataset_name data/fashion --column label \
        --split validation --output fashion.json
    python research/contextual/drawing.py runs/emoji-c --dataset_name data/emoji-64 --column concept --split train \
        --caption_column text --filter tone=default,alteration=none --draft_steps 4 8 16 32 64 --rounds 0 1 2 3 4 \
        --output passes.json

Each picture is asked for by the caption, or else by the class, of a random row of the split. What it shows is the
`column` of the training picture nearest to it in EfficientNet-Lite0 features, or with labels what a linear classifier
of these features says. Seconds are those of a picture in a batch of `--batch_size`, codes only.
"""

import argparse
import itertools
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from tqdm.auto import tqdm

from rq_hf import RQImageGenerationPipeline
from rq_hf.evaluation.features import EfficientNetLite0, extract_features
from rq_hf.evaluation.generation import generation_metrics
from rq_hf.images import image_grid, to_pil, to_rgb, to_uint8
from rq_hf.models.sampling import seeded_generator
from rq_hf.training import CodeDataArguments
from rq_hf.training.conditions import evaluation_samples

SHEET = 24  # pictures


class Judge:
    """Says what pictures show, from the features of the training pictures and what these show."""

    def __init__(self, features: torch.Tensor, shown: list[Any], is_linear: bool):
        self.features, self.names, self.classifier = features, sorted(set(shown)), None
        self.shown = torch.tensor([self.names.index(name) for name in shown])
        if is_linear:
            torch.manual_seed(0)
            self.classifier = torch.nn.Sequential(
                torch.nn.BatchNorm1d(features.shape[1]), torch.nn.Linear(features.shape[1], len(self.names))
            )
            optimizer = torch.optim.AdamW(self.classifier.parameters(), lr=1e-3, weight_decay=0.1)
            for _ in range(20):
                for rows in torch.randperm(len(features)).split(128):
                    loss = torch.nn.functional.cross_entropy(self.classifier(features[rows]), self.shown[rows])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            self.classifier.eval()

    @torch.no_grad()
    def __call__(self, features: torch.Tensor) -> list[Any]:
        if self.classifier is not None:
            indexes = self.classifier(features).argmax(-1)
        else:
            indexes = self.shown[
                torch.cat([torch.cdist(part, self.features).argmin(-1) for part in features.split(64)])
            ]
        return [self.names[index] for index in indexes.tolist()]


def settings_of(options: argparse.Namespace, pipe: RQImageGenerationPipeline) -> list[dict[str, Any]]:
    """The calls to compare: the guidance of a draft for an autoregressive model, the product of the lists for a
    contextual one."""
    if pipe.transformer.is_causal:
        return [{"guidance_scale": float(pair.split(",")[0])} for pair in options.guidance or []] or [{}]
    lists = {"num_draft_steps": options.draft_steps, "num_revise_rounds": options.rounds}
    calls = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    guidance = [tuple(map(float, pair.split(","))) for pair in options.guidance or ["1,1"]]
    names = ("guidance_scale", "revise_guidance_scale")
    return [call | dict(zip(names, pair, strict=True)) for call in calls for pair in guidance]


def draw(pipe: RQImageGenerationPipeline, asked: list[Any], options: argparse.Namespace, call: dict) -> tuple:
    """Features `(N, F)` of drawn pictures, the first of them, and seconds a picture."""
    name, extractor = "prompt" if pipe.tokenizer is not None else "class_labels", EfficientNetLite0()
    features, first, seconds = [], None, 0.0
    for start in tqdm(range(0, len(asked), options.batch_size), desc=str(call)):
        part = asked[start : start + options.batch_size]
        generators = [seeded_generator(0, start + index) for index in range(len(part))]
        begin = time.perf_counter()
        codes = pipe(**{name: part}, generator=generators, output_type="latent", **call).images
        seconds += time.perf_counter() - begin
        pixel_values = pipe.rqvae.decode(codes)
        first = pixel_values[:SHEET] if first is None else first
        features.append(extractor(to_rgb(to_uint8(pixel_values))))
    return torch.cat(features), first, seconds / len(asked)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Fréchet distance over seconds, a line for each number of revisions."""
    distance = next(name for name in rows[0] if name.startswith("frechet"))
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for model, rounds in sorted({(row["model"], row.get("num_revise_rounds", -1)) for row in rows}):
        line = [row for row in rows if row["model"] == model and row.get("num_revise_rounds", -1) == rounds]
        label = f"{model}, raster" if rounds < 0 else f"{model}, {rounds} revisions"
        axes.plot([row["seconds"] for row in line], [row[distance] for row in line], "o-", label=label)
        for row in line if rounds >= 0 else []:
            axes.annotate(row["num_draft_steps"], (row["seconds"], row[distance]), fontsize=7)
    axes.set(xlabel="seconds a picture", ylabel="Fréchet distance (EfficientNet-Lite0)", xscale="log")
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=110, bbox_inches="tight")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="folders of pipelines with one RQ-VAE")
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument(
        "--split", default="validation", help="the real pictures of the distance, and what is asked for"
    )
    parser.add_argument("--filter")
    parser.add_argument("--caption_column")
    parser.add_argument("--column", required=True, help="what a picture shows: a class or a concept")
    parser.add_argument("--largest", type=int, help="ask for this many of the most frequent classes alone")
    parser.add_argument("--num_pictures", type=int, default=2000)
    parser.add_argument("--batch_size", type=int, default=50)
    parser.add_argument("--draft_steps", type=int, nargs="+", default=[16])
    parser.add_argument("--rounds", type=int, nargs="+", default=[2])
    parser.add_argument("--guidance", nargs="+", help="pairs DRAFT,REVISION such as 1.8,1")
    parser.add_argument("--output", type=Path, required=True, help="JSON; sheets and a plot are written beside it")
    options = parser.parse_args()
    torch.manual_seed(0)
    pipes = {Path(model).name: RQImageGenerationPipeline.from_pretrained(model) for model in options.models}
    config = next(iter(pipes.values())).rqvae.config
    data = CodeDataArguments(options.dataset_name, filter=options.filter)
    columns = [name for name in dict.fromkeys((options.column, options.caption_column)) if name is not None]
    sets = evaluation_samples(data, list(dict.fromkeys(["train", options.split])), config, columns=columns)
    extractor = EfficientNetLite0()
    known, real = (extract_features(extractor, sets[split]) for split in ("train", options.split))
    is_linear = options.caption_column is None
    with torch.enable_grad():
        judge = Judge(known["features"], known[options.column], is_linear)
    common = {name for name, _ in Counter(known[options.column]).most_common(options.largest)}
    candidates = [index for index, name in enumerate(real[options.column]) if name in common]
    drawn = torch.randint(len(candidates), (options.num_pictures,), generator=seeded_generator(1))
    chosen = [candidates[index] for index in drawn.tolist()]
    expected = [real[options.column][index] for index in chosen]
    asked = [real[options.caption_column or options.column][index] for index in chosen]
    if is_linear:
        seen = judge(real["features"])
        right = sum(map(str.__eq__, map(str, seen), map(str, real[options.column]))) / len(seen)
        print(f"of the real pictures of {options.split}, {right:.3f} are right")
        label = sets[options.split].rows.features[options.column]
        asked = [label.int2str(index) if hasattr(label, "int2str") else index for index in asked]
    rows = []
    for name, pipe in pipes.items():
        for number, call in enumerate(settings_of(options, pipe)):
            features, first, seconds = draw(pipe, asked, options, call)
            row = {"model": name, **call, "seconds": seconds, "pictures": len(features)}
            row |= generation_metrics(features, real["features"][candidates], extractor, precision_recall=True)
            row["right"] = sum(map(lambda a, b: a == b, judge(features), expected)) / len(expected)
            rows.append(row)
            print(json.dumps(row), flush=True)
            options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
            sheet = image_grid(to_pil(first), [str(each) for each in asked[:SHEET]], columns=8)
            sheet.save(options.output.with_name(f"{options.output.stem}-{name}-{number}.png"))
    plot(rows, options.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
