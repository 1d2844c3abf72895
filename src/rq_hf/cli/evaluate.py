# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Measure an RQ-VAE or a pipeline; print a table, and write it as JSON and Markdown.

    rq-hf evaluate rqvae MODEL --dataset_name data/emoji-64 --split test_combos --output rqvae.json
    rq-hf evaluate samples MODEL --reference PICTURES --num_pictures 50000 --output samples.json
    rq-hf evaluate prompts MODEL --dataset_name data/emoji-64 --split train --output prompts.json
    rq-hf evaluate likelihood MODEL --dataset_name data/emoji-64 --split train --caption_column text --output nats.json

rqvae       PSNR, SSIM, rFID, LPIPS and the use of the codes, of all depths and depth by depth (Table 6, Figure 6)
samples     FID, Inception score, precision, recall and CLIP score of drawn pictures (Tables 1 to 3)
prompts     how many pictures show what their prompts ask for, by the columns `concept` and `style`
likelihood  what a code of real pictures costs the transformer (Eq. 14)

`samples` and `prompts` draw into a folder; a picture that is there is not drawn again. They run in any number of
processes by `accelerate launch scripts/evaluate.py`. All need `pip install "rq_hf[eval]"`.
"""

from argparse import Namespace
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch

from ..evaluation.generation import evaluate_likelihood, evaluate_samples, process_state
from ..evaluation.prompt_accuracy import evaluate_prompts
from ..evaluation.reconstruction import evaluate_rqvae
from ..evaluation.report import markdown_report
from ..models import RQVAEConfig, RQVAEModel
from ..models.generation import seeded_generator
from ..pipelines import CLIPRanker, load_component
from ..training.arguments import DataArguments
from ..training.data import PictureDataset, SampleReader, load_splits, read_dataset
from ..training.transforms import TRANSFORMS, PictureTransform
from . import options


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `rq-hf evaluate`."""
    parser = options.CommandParser(prog="rq-hf evaluate", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="WHAT")
    count = partial(options.integer, low=1)
    beside = "tables, sheets and the folder of drawn pictures are written beside it"
    for run in (rqvae, samples, prompts, likelihood):
        what = commands.add_parser(run.__name__, usage="%(prog)s MODEL [options]", description=run.__doc__)
        options.add_model_arguments(what)
        what.set_defaults(run=run, device=str(process_state().device))
        what.add_argument("--dataset_name", required=run is not samples, help="Hub id or folder")
        what.add_argument("--split", required=run in (rqvae, likelihood))
        what.add_argument("--filter", help="keep the rows with COLUMN=VALUE, several separated by commas")
        what.add_argument("--transform", choices=sorted(TRANSFORMS), default="center_crop", help="its evaluation part")
        what.add_argument("--image_column", default="image", help="column of pictures (default: %(default)s)")
        what.add_argument("--batch_size", type=count, default=32, help="(default: %(default)s)")
        what.add_argument("--output", type=Path, metavar="FILE.json", required=run in (samples, prompts), help=beside)
        if run is not rqvae:
            what.add_argument("--caption_column", help="column of captions, for a text model")
        if run is not likelihood:
            what.add_argument("--feature_extractor", help="inception, a file of its weights, lite0 or pixels")
        if run in (samples, prompts):
            options.add_drawing_arguments(what)
            what.add_argument("--seed", type=options.integer, default=0, help="of the pictures and of random samples")

    rqvae_parser, samples_parser, prompts_parser, likelihood_parser = commands.choices.values()
    rqvae_parser.add_argument("--lpips", action="store_true", help="add LPIPS, whose weights are downloaded")
    samples_parser.set_defaults(feature_extractor="inception")
    samples_parser.add_argument("--num_pictures", type=count, required=True, help="pictures to draw")
    samples_parser.add_argument("--reference", type=Path, help="folder of real pictures, instead of the data set's")
    samples_parser.add_argument("--reference_features", type=Path, help="a .safetensors file, written once, then read")
    samples_parser.add_argument("--precision_recall", action="store_true", help="add improved precision and recall")
    samples_parser.add_argument("--clip_model", help="Hub id or folder of a CLIP model, for the CLIP score")
    prompts_parser.set_defaults(feature_extractor="lite0", caption_column="text")
    prompts_parser.add_argument("--prompts", type=Path, metavar="FILE.jsonl", help="instead of those of the split")
    prompts_parser.add_argument("--num_prompts", type=count, help="a random sample of the rows; all by default")
    prompts_parser.add_argument("--style_group", nargs="+", action="append", default=[], help="styles that are one")
    prompts_parser.add_argument("--copies_of", metavar="SPLIT", help="add how many are copies of this split's")
    likelihood_parser.add_argument("--label_column", help="column of labels, for a class-conditional model")
    arguments = parser.parse_args(argv)
    if results := arguments.run(arguments):  # the main process has them
        print(markdown_report(results))


def rqvae(arguments: Namespace) -> dict[str, Any]:
    """Measure an RQ-VAE, alone or of a pipeline, on the pictures of a split."""
    dtype = getattr(torch, arguments.dtype)
    model = load_component(RQVAEModel, arguments.model, "rqvae", revision=arguments.revision, dtype=dtype)
    _, pictures = real_pictures(arguments, model.config, [arguments.split])
    return evaluate_rqvae(
        model.to(arguments.device), pictures, extractor=arguments.feature_extractor,
        **given(arguments, "lpips", "batch_size", "output"),
    )  # fmt: skip


def samples(arguments: Namespace) -> dict[str, Any]:
    """Draw pictures and compare them with real ones, those of a folder or of a split."""
    pipe = options.load_pipeline(arguments)
    config, count = pipe.transformer.config, arguments.num_pictures
    if arguments.dataset_name is not None:
        if arguments.split is None:
            raise ValueError("`--split` must be given with `--dataset_name`.")
        rows, pictures = real_pictures(arguments, pipe.rqvae.config, [arguments.split], "caption_column")
        arguments.reference = arguments.reference or pictures
    if config.condition_length > 1:
        if arguments.dataset_name is None or arguments.caption_column is None:
            raise ValueError("`--dataset_name`, `--split` and `--caption_column` must be given for a text model.")
        chosen = random_rows(rows, count, arguments.seed)
        conditions = [first_value(rows[index], arguments.caption_column) for index in chosen]
    elif config.vocab_size > 1:  # every class equally often
        conditions = [config.class_ids[index % config.num_classes] for index in range(count)]
    else:
        conditions = count
    clip = None
    if arguments.clip_model is not None:
        clip = CLIPRanker(arguments.clip_model)
        clip.model.to(arguments.device)
    return evaluate_samples(
        pipe, conditions, arguments.output.with_suffix(""), extractor=arguments.feature_extractor, clip=clip,
        **given(arguments, "reference", "reference_features", "precision_recall"),
        **given(arguments, "batch_size", "seed", "output"), **options.drawing_options(arguments),
    )  # fmt: skip


def prompts(arguments: Namespace) -> dict[str, Any]:
    """Draw prompts and judge the pictures by the nearest real ones, those of all splits."""
    asked = arguments.prompts
    if asked is None and arguments.split is None:
        raise ValueError("`--split` must be given without `--prompts`, got None.")
    pipe, numbers = options.load_pipeline(arguments), None
    real, pictures = real_pictures(arguments, pipe.rqvae.config, read_dataset(arguments.dataset_name))
    if not {"concept", "style"} <= set(real.column_names):
        raise ValueError(f"`--dataset_name` must have columns `concept` and `style`, got {real.column_names}.")
    if asked is None:
        rows, _ = real_pictures(arguments, pipe.rqvae.config, [arguments.split], "caption_column")
        numbers = random_rows(rows, arguments.num_prompts or len(rows), arguments.seed)
        asked = [
            {"prompt": first_value(row, arguments.caption_column), "concept": row["concept"], "style": row["style"]}
            for row in (rows[index] for index in numbers)
        ]
    originals = None
    if arguments.copies_of is not None:
        _, originals = real_pictures(arguments, pipe.rqvae.config, [arguments.copies_of])
    return evaluate_prompts(
        pipe, asked, pictures, real["concept"], real["style"], arguments.output.with_suffix(""), numbers=numbers,
        extractor=arguments.feature_extractor, style_groups=arguments.style_group, originals=originals,
        **given(arguments, "batch_size", "seed", "output"), **options.drawing_options(arguments),
    )  # fmt: skip


def likelihood(arguments: Namespace) -> dict[str, Any]:
    """Measure what a code of real pictures costs the transformer."""
    pipe, conditions = options.load_pipeline(arguments), None
    columns = ("caption_column", "label_column")
    rows, pictures = real_pictures(arguments, pipe.rqvae.config, [arguments.split], *columns)
    if column := arguments.caption_column or arguments.label_column:
        conditions = [first_value(row, column) for row in rows]
    return evaluate_likelihood(pipe, pictures, conditions, **given(arguments, "batch_size", "output"))


def real_pictures(
    arguments: Namespace, config: RQVAEConfig, splits: Iterable[str], *columns: str
) -> tuple[datasets.Dataset, PictureDataset]:
    """Rows of splits with undecoded pictures, and their pixels for an RQ-VAE. Other `columns` must be there too."""
    names = given(arguments, "dataset_name", "image_column", "filter", *columns)
    rows = datasets.concatenate_datasets(
        [load_splits(DataArguments(train_split=split, **names))["train"] for split in splits]
    )
    transform = PictureTransform(config.image_size, config.num_channels, arguments.transform, training=False)
    reader = SampleReader(transform, image_column=arguments.image_column)
    return rows, PictureDataset(rows.select_columns([arguments.image_column]), reader)


def first_value(row: dict[str, Any], column: str) -> str | int | None:
    """The caption or label of a row; of several captions the first."""
    return next(iter(row[column]), None) if isinstance(row[column], list) else row[column]


def random_rows(rows: datasets.Dataset, size: int, seed: int) -> list[int]:
    """Indexes of `size` random rows, sorted."""
    return torch.randperm(len(rows), generator=seeded_generator(seed))[:size].sort().values.tolist()


def given(arguments: Namespace, *names: str) -> dict[str, Any]:
    """Some of the arguments as keyword arguments."""
    return {name: getattr(arguments, name) for name in names}
