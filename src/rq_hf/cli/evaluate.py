# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Measure an RQ-VAE or a pipeline; print a table, and write it as JSON and Markdown.

    rq-hf evaluate rqvae MODEL --dataset_name data/emoji-64 --split test_combos --output rqvae.json
    rq-hf evaluate samples MODEL --reference PICTURES --num_pictures 50000 --output samples.json
    rq-hf evaluate likelihood MODEL --dataset_name data/emoji-64 --split train --caption_column text --output nats.json

rqvae       PSNR, SSIM, rFID, LPIPS and the use of the codes, of all depths and depth by depth (Table 6, Figure 6)
samples     FID, KID, Inception score, precision, recall and CLIP score of drawn pictures (Tables 1 to 3)
likelihood  what a code of real pictures costs the transformer (Eq. 14)

`samples` draws into a folder; a picture that is there is not drawn again. It runs in any number of processes by
`accelerate launch -m rq_hf.cli evaluate samples`. All need `pip install ".[eval]"` in a clone.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from . import options

EXTRACTORS = "inception, a file of its weights, lite0 or pixels"
COUNT = partial(options.integer, low=1)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `rq-hf evaluate`."""
    parser = options.CommandParser(prog="rq-hf evaluate", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="WHAT")
    for run in (rqvae, samples, likelihood):
        what = commands.add_parser(run.__name__, usage="%(prog)s MODEL [options]", description=run.__doc__)
        what.set_defaults(run=run)
        add_arguments(what, draws=run is samples)
        if run is not rqvae:
            what.add_argument("--caption_column", help="column of captions, for a text model")
        if run is not likelihood:
            what.add_argument("--feature_extractor", help=EXTRACTORS)
    rqvae_parser, samples_parser, likelihood_parser = commands.choices.values()
    rqvae_parser.add_argument("--lpips", action="store_true", help="add LPIPS, whose weights are downloaded")
    samples_parser.set_defaults(feature_extractor="inception")
    samples_parser.add_argument("--num_pictures", type=COUNT, required=True, help="pictures to draw")
    samples_parser.add_argument("--reference", type=Path, help="folder of real pictures, instead of the data set's")
    samples_parser.add_argument("--reference_features", type=Path, help="a .safetensors file, written once, then read")
    samples_parser.add_argument("--precision_recall", action="store_true", help="add improved precision and recall")
    samples_parser.add_argument("--clip_model", help="Hub id or folder of a CLIP model, for the CLIP score")
    likelihood_parser.add_argument("--label_column", help="column of labels, for a class-conditional model")
    arguments = parser.parse_args(argv)
    evaluate(arguments.run, arguments)


def add_arguments(parser: ArgumentParser, draws: bool) -> None:
    """Adds the model, the data and the output, and to an evaluation that `draws` the settings of its pictures."""
    options.add_model_arguments(parser)
    parser.add_argument("--dataset_name", required=not draws, help="Hub id or folder")
    parser.add_argument("--split", required=not draws)
    text = "as trainings without a validation split: --split validation is what they held out, train the rest"
    parser.add_argument("--hold_out", action="store_true", help=text)
    parser.add_argument("--filter", help="keep the rows with COLUMN=VALUE, several separated by commas")
    parser.add_argument("--transform", default="center_crop", help="that of the training (default: %(default)s)")
    parser.add_argument("--image_column", default="image", help="column of pictures (default: %(default)s)")
    parser.add_argument("--batch_size", type=COUNT, default=32, help="(default: %(default)s)")
    text = "tables, sheets and the folder of drawn pictures are written beside it"
    parser.add_argument("--output", type=options.path_with(".json"), required=draws, metavar="FILE.json", help=text)
    if draws:
        options.add_drawing_arguments(parser)
        parser.add_argument("--seed", type=options.integer, default=0, help="of the pictures and of random samples")


def evaluate(run: Callable[[Namespace], dict[str, Any]], arguments: Namespace) -> None:
    """Runs an evaluation and prints its tables."""
    from ..evaluation.generation import process_state
    from ..evaluation.report import markdown_report

    arguments.device = arguments.device or str(process_state().device)
    data, output = Path(arguments.dataset_name or ""), arguments.output
    if arguments.dataset_name and output and output.with_suffix("").resolve().is_relative_to(data.resolve()):
        raise ValueError(f"`--output` must be outside of the folder of the data set, got {str(output)!r}.")
    if results := run(arguments):  # the main process has them
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
        **given(arguments, "batch_size", "seed", "output"), **options.drawing_options(arguments, pipe),
    )  # fmt: skip


def likelihood(arguments: Namespace) -> dict[str, Any]:
    """Measure what a code of real pictures costs the transformer."""
    from ..evaluation.generation import evaluate_likelihood

    pipe = options.load_pipeline(arguments)
    configs = (pipe.rqvae.config, pipe.transformer.config)
    samples = read_samples(arguments, [arguments.split], *configs, pipe.tokenizer)[arguments.split]
    return evaluate_likelihood(pipe, samples, **given(arguments, "batch_size", "output"))


def read_samples(arguments: Namespace, splits: Sequence[str], *configs: Any, **columns) -> dict[str, Any]:
    """The samples of splits, see [`evaluation_samples`]."""
    from ..training.arguments import CodeDataArguments
    from ..training.conditions import evaluation_samples

    names = {each.name for each in fields(CodeDataArguments)} & vars(arguments).keys()
    return evaluation_samples(CodeDataArguments(**given(arguments, *names)), splits, *configs, **columns)


def captions(samples: Any) -> list[str]:
    """The caption of each sample; of several the first."""
    reader = samples.reader.read_condition
    return [reader.parse(value)[0] for value in samples.rows[reader.column]]


def random_rows(samples: Any, size: int, seed: int) -> list[int]:
    """Indexes of `size` random samples, sorted."""
    import torch

    from ..models.sampling import seeded_generator

    if size > len(samples):
        raise ValueError(f"`--split` must have {size} captions or more, got {len(samples)}.")
    return torch.randperm(len(samples), generator=seeded_generator(seed))[:size].sort().values.tolist()


def given(arguments: Namespace, *names: str) -> dict[str, Any]:
    """Some of the arguments as keyword arguments."""
    return {name: getattr(arguments, name) for name in names}
