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
processes by `accelerate launch scripts/evaluate.py`. All need `pip install ".[eval]"` in a clone.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import options

if TYPE_CHECKING:
    from ..training.data import PictureDataset


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `rq-hf evaluate`."""
    parser = options.CommandParser(prog="rq-hf evaluate", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="WHAT")
    count = partial(options.integer, low=1)
    beside = {"metavar": "FILE.json", "help": "tables, sheets and the folder of drawn pictures are written beside it"}
    for run in (rqvae, samples, prompts, likelihood):
        what = commands.add_parser(run.__name__, usage="%(prog)s MODEL [options]", description=run.__doc__)
        options.add_model_arguments(what)
        what.set_defaults(run=run)
        what.add_argument("--dataset_name", required=run is not samples, help="Hub id or folder")
        what.add_argument("--split", required=run in (rqvae, likelihood))
        text = "as trainings without a validation split: --split validation is what they held out, train the rest"
        what.add_argument("--hold_out", action="store_true", help=text)
        what.add_argument("--filter", help="keep the rows with COLUMN=VALUE, several separated by commas")
        what.add_argument("--transform", default="center_crop", help="that of the training (default: %(default)s)")
        what.add_argument("--image_column", default="image", help="column of pictures (default: %(default)s)")
        what.add_argument("--batch_size", type=count, default=32, help="(default: %(default)s)")
        what.add_argument("--output", type=options.path_with(".json"), required=run in (samples, prompts), **beside)
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

    from ..evaluation.generation import process_state
    from ..evaluation.report import markdown_report

    arguments.device = arguments.device or str(process_state().device)
    data, output = Path(arguments.dataset_name or ""), arguments.output
    if arguments.dataset_name and output and output.with_suffix("").resolve().is_relative_to(data.resolve()):
        raise ValueError(f"`--output` must be outside of the folder of the data set, got {str(output)!r}.")
    if results := arguments.run(arguments):  # the main process has them
        print(markdown_report(results))


def rqvae(arguments: Namespace) -> dict[str, Any]:
    """Measure an RQ-VAE, alone or of a pipeline, on the pictures of a split."""
    import torch

    from ..evaluation.reconstruction import evaluate_rqvae
    from ..models import RQVAEModel
    from ..pipelines import load_component

    dtype = getattr(torch, arguments.dtype)
    model = load_component(RQVAEModel, arguments.model, "rqvae", revision=arguments.revision, dtype=dtype)
    samples = read_samples(arguments, [arguments.split], model.config)[arguments.split]
    return evaluate_rqvae(
        model.to(arguments.device), samples, extractor=arguments.feature_extractor,
        **given(arguments, "lpips", "batch_size", "output"),
    )  # fmt: skip


def samples(arguments: Namespace) -> dict[str, Any]:
    """Draw pictures and compare them with real ones, those of a folder or of a split."""
    from ..evaluation.generation import evaluate_samples
    from ..pipelines import CLIPRanker

    pipe = options.load_pipeline(arguments)
    config, count, split, real = pipe.transformer.config, arguments.num_pictures, arguments.split, None
    is_text = config.condition_name == "prompt"
    needed = ("dataset_name", "split", "caption_column") if is_text else ("split",) if arguments.dataset_name else ()
    for name in needed:
        if getattr(arguments, name) is None:
            raise ValueError(f"`--{name}` must be given for this model and these data, got None.")
    if arguments.dataset_name is not None:
        configs = [pipe.rqvae.config, *([config, pipe.tokenizer] if is_text else [])]
        real = read_samples(arguments, [split], *configs)[split]
    if is_text:
        texts = captions(real)
        conditions = [texts[index] for index in random_rows(real, count, arguments.seed)]
    elif config.condition_name is not None:  # every class equally often
        conditions = [config.class_ids[index % config.num_classes] for index in range(count)]
    else:
        conditions = count
    clip = None
    if arguments.clip_model is not None:
        clip = CLIPRanker(arguments.clip_model)
        clip.model.to(arguments.device)
    return evaluate_samples(
        pipe, conditions, arguments.output.with_suffix(""), reference=arguments.reference or real, clip=clip,
        extractor=arguments.feature_extractor, **given(arguments, "reference_features", "precision_recall"),
        **given(arguments, "batch_size", "seed", "output"), **options.drawing_options(arguments),
    )  # fmt: skip


def prompts(arguments: Namespace) -> dict[str, Any]:
    """Draw prompts and judge the pictures by the nearest real ones, those of all splits."""
    from torch.utils.data import ConcatDataset

    from ..evaluation.prompt_accuracy import evaluate_prompts
    from ..training.data import read_dataset

    if arguments.prompts is None and arguments.split is None:
        raise ValueError("`--split` must be given without `--prompts`, got None.")
    splits = ["train", "validation"] if arguments.hold_out else list(read_dataset(arguments.dataset_name))
    for flag in ("split", "copies_of"):
        if getattr(arguments, flag) not in (None, *splits):
            raise ValueError(f"`--{flag}` must be one of {splits}, got {getattr(arguments, flag)!r}.")
    pipe, asked, numbers, configs = options.load_pipeline(arguments), arguments.prompts, None, []
    if asked is None:
        configs = [pipe.transformer.config, pipe.tokenizer]
    else:
        arguments.caption_column = None
    real = read_samples(arguments, splits, pipe.rqvae.config, *configs, columns=("concept", "style"))
    if asked is None:
        own = real[arguments.split]
        numbers = random_rows(own, arguments.num_prompts or len(own), arguments.seed)
        columns = {"prompt": captions(own), "concept": own.rows["concept"], "style": own.rows["style"]}
        asked = [{name: values[number] for name, values in columns.items()} for number in numbers]
    return evaluate_prompts(
        pipe, asked, ConcatDataset(real.values()), arguments.output.with_suffix(""), numbers=numbers,
        extractor=arguments.feature_extractor, style_groups=arguments.style_group,
        originals=real.get(arguments.copies_of),
        **given(arguments, "batch_size", "seed", "output"), **options.drawing_options(arguments),
    )  # fmt: skip


def likelihood(arguments: Namespace) -> dict[str, Any]:
    """Measure what a code of real pictures costs the transformer."""
    from ..evaluation.generation import evaluate_likelihood

    pipe = options.load_pipeline(arguments)
    configs = (pipe.rqvae.config, pipe.transformer.config)
    samples = read_samples(arguments, [arguments.split], *configs, pipe.tokenizer)[arguments.split]
    return evaluate_likelihood(pipe, samples, **given(arguments, "batch_size", "output"))


def read_samples(arguments: Namespace, splits: Sequence[str], *configs: Any, **columns) -> dict[str, PictureDataset]:
    """The samples of splits, see [`evaluation_samples`]."""
    from ..training.arguments import CodeDataArguments
    from ..training.conditions import evaluation_samples

    names = {each.name for each in fields(CodeDataArguments)} & vars(arguments).keys()
    return evaluation_samples(CodeDataArguments(**given(arguments, *names)), splits, *configs, **columns)


def captions(samples: PictureDataset) -> list[str]:
    """The caption of each sample; of several the first."""
    reader = samples.reader.read_condition
    return [reader.parse(value)[0] for value in samples.rows[reader.column]]


def random_rows(samples: PictureDataset, size: int, seed: int) -> list[int]:
    """Indexes of `size` random samples, sorted."""
    import torch

    from ..models.sampling import seeded_generator

    if size > len(samples):
        raise ValueError(f"`--split` must have {size} captions or more, got {len(samples)}.")
    return torch.randperm(len(samples), generator=seeded_generator(seed))[:size].sort().values.tolist()


def given(arguments: Namespace, *names: str) -> dict[str, Any]:
    """Some of the arguments as keyword arguments."""
    return {name: getattr(arguments, name) for name in names}
