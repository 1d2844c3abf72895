# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The command line of `scripts/evaluate.py`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..command_line import RANKER, add_device_argument, add_sampling_arguments, add_selection_arguments, one_or_more
from ..metrics import FEATURE_EXTRACTORS
from ..training.transforms import TRANSFORMS
from .models import INT8
from .protocols import PROTOCOLS

DTYPES = ["float32", "bfloat16", "float16"]
FILTER = "keep only rows with COLUMN=VALUE, several separated by commas; "
EXTRACTOR = (
    f"{', '.join(FEATURE_EXTRACTORS)}, a TorchScript file, or Hub id or folder of a vision model of transformers"
)


def parse_arguments(argv: Sequence[str], description: str) -> argparse.Namespace:
    """The arguments of a command, checked.

    Raises:
        `ValueError`: numbers out of range, or arguments that do not belong together.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_rqvae(commands)
    _add_prompts(commands)
    _add_likelihood(commands)
    _add_reconstructions(commands)
    _add_statistics(commands)
    _add_samples(commands)
    _add_sweep(commands)
    arguments = parser.parse_args(argv)
    _check(arguments)
    return arguments


def _model(quantized: bool = False, several: bool = False) -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("model", metavar="MODEL", help="Hub id or folder")
    parent.add_argument("--revision", help="the model's revision on the Hub")
    dtype = {"choices": DTYPES, "default": "float32"}
    if quantized:
        about = f"{INT8}: the transformer in 8 bits by torchao, the rest in float32"
        dtype.update(choices=[*DTYPES, INT8], help=about)
    if several:
        about = "of the transformer, one or several; the first is what the others are compared with"
        dtype.update(nargs="+", default=["float32"], help=f"{about}; {INT8}: 8 bits, by torchao")
    parent.add_argument("--dtype", **dtype)
    return parent


def _data(required: bool = True, filter_default: str = "") -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--dataset_name", required=required, help="Hub id or folder of a data set")
    parent.add_argument("--dataset_config_name", help="its configuration")
    parent.add_argument("--split", required=required, help="split to measure")
    if required:
        parent.add_argument("--image_column", default="image")
    default = f"{filter_default} by default, '' for all" if filter_default else "all by default"
    parent.add_argument("--filter", default=filter_default, help=FILTER + default)
    transform = "center_crop" if required else None
    parent.add_argument("--transform", choices=sorted(TRANSFORMS), default=transform, help="its evaluation part")
    return parent


def _common(output: str = "FILE.json", required: bool = False) -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--batch_size", type=int, default=32)
    add_device_argument(parent)
    parent.add_argument("--output", type=Path, metavar=output, required=required, help="where to write the results")
    return parent


def _shared() -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--feature_extractor", default="inception", help=f"{EXTRACTOR}; %(default)s by default")
    parent.add_argument("--inception_weights", type=Path, metavar="FILE", help="instead of a download")
    parent.add_argument(
        "--work_dir", type=Path, metavar="DIR",
        help="folder for the parts that are done, with which a killed run goes on; by default beside the output",
    )  # fmt: skip
    return parent


def _add_rqvae(commands) -> None:
    rqvae = commands.add_parser("rqvae", parents=[_model(), _data(), _common()], help="measure an RQ-VAE")
    rqvae.add_argument(
        "--feature_extractor", nargs="+", default=["efficientnet_lite0"],
        help=f"features of the Frechet distance, one or several, or none: {EXTRACTOR}. inception gives rFID; "
        "efficientnet_lite0, the default, a distance of its own scale, which flatters models trained with that net as "
        "`perceptual_backbone`",
    )  # fmt: skip
    rqvae.add_argument("--inception_weights", type=Path, metavar="FILE", help="instead of a download")
    rqvae.add_argument("--lpips", action="store_true", help="measure LPIPS (VGG16) as well")
    rqvae.add_argument("--lpips_weights", type=Path, metavar="FILE", help="of VGG16, instead of a download")
    rqvae.add_argument("--num_pictures", type=int, default=6, help="rows of the sheet of pictures")
    rqvae.add_argument("--seed", type=int, default=0, help="of the pictures on the sheet and of the distance's floor")


def _add_prompts(commands) -> None:
    parents = [_model(quantized=True), _data(filter_default="tone=default"), _common()]
    prompts = commands.add_parser("prompts", parents=parents, help="measure a pipeline's prompt accuracy")
    prompts.add_argument("--caption_column", default="text", help="strings, or lists of which the first is taken")
    prompts.add_argument("--concept_column", default="concept")
    prompts.add_argument("--style_column", default="style")
    prompts.add_argument(
        "--style_group", nargs="+", action="append", metavar="STYLE",
        help="styles that count as one; may be repeated; by default: 3d fluent flat",
    )  # fmt: skip
    prompts.add_argument("--gallery_filter", help="of the real pictures to compare with; by default that of --filter")
    prompts.add_argument(
        "--feature_extractor", nargs="+", default=["none"],
        help=f"features to judge prompts by besides pixels, one or several, none by default: {EXTRACTOR}",
    )  # fmt: skip
    prompts.add_argument("--inception_weights", type=Path, metavar="FILE", help="instead of a download")
    prompts.add_argument(
        "--copies_of", metavar="SPLIT", help="how many pictures are copies of one of this split (App. B.2), filtered"
    )
    prompts.add_argument("--num_prompts", type=int, help="a random sample of the rows; all by default")
    prompts.add_argument("--seed", type=int, default=0, help="of the sample of rows, the pictures and the floors")
    add_sampling_arguments(prompts)
    add_selection_arguments(prompts)
    prompts.add_argument(
        "--save_pictures", type=Path, metavar="DIR",
        help="new folder for the pictures, their scores and a sheet of the first ones beside the nearest real ones",
    )  # fmt: skip


def _add_likelihood(commands) -> None:
    parents = [_model(quantized=True, several=True), _data(), _common()]
    likelihood = commands.add_parser("likelihood", parents=parents, help="how well a transformer predicts codes")
    likelihood.add_argument("--caption_column", default="text", help="strings, or lists of which the first is taken")
    likelihood.add_argument("--label_column", help="class labels or names, of a model of classes")
    likelihood.add_argument("--num_pictures", type=int, help="a random sample of the rows; all by default")
    likelihood.add_argument("--seed", type=int, default=0, help="of the sample of rows")


def _add_reconstructions(commands) -> None:
    parents = [_model(), _data(), _common(required=True), _shared()]
    commands.add_parser("reconstructions", parents=parents, help="rFID of an RQ-VAE, in any number of processes")


def _add_statistics(commands) -> None:
    parents = [_data(), _common("FILE.safetensors", required=True), _shared()]
    statistics = commands.add_parser("statistics", parents=parents, help="of real pictures, to compare with")
    statistics.add_argument("--image_size", type=int, required=True, help="that of the model's pictures")
    statistics.add_argument(
        "--num_channels", type=int, choices=[1, 3], default=3, help="those of the model's pictures"
    )
    statistics.add_argument(
        "--keep_features", action="store_true", help="for precision, recall and nearest neighbours as well"
    )


def _add_drawing(parser: argparse.ArgumentParser) -> None:
    about = "; ".join(f"{name}: {protocol.description}" for name, protocol in PROTOCOLS.items())
    parser.add_argument("--protocol", choices=sorted(PROTOCOLS), default="labels", help=about)
    parser.add_argument("--num_pictures", type=int, help="pictures to draw; by default the protocol's")
    parser.add_argument(
        "--reference", type=Path, metavar="FILE",
        help="what `statistics` wrote, or an .npz file, also of an archive: fid_stats.tar.gz:imagenet_256_train.npz",
    )  # fmt: skip
    parser.add_argument("--caption_column", default="text", help="strings or lists")
    parser.add_argument("--clip_model", help="Hub id or folder of a CLIP-like model, for the CLIP score")
    parser.add_argument(
        "--judge", help="Hub id or folder of an image classifier, for accuracy; not the one that selects"
    )
    parser.add_argument("--precision_recall", action="store_true")
    parser.add_argument("--neighbours", type=int, help="nearest real pictures of each on a sheet (App. B.2)")
    parser.add_argument("--seed", type=int, default=0, help="of the pictures, and of the sample of captions")


def _add_samples(commands) -> None:
    parents = [_model(quantized=True), _data(required=False), _common(required=True), _shared()]
    samples = commands.add_parser("samples", parents=parents, help="measure a pipeline's pictures")
    _add_drawing(samples)
    add_sampling_arguments(samples)
    add_selection_arguments(samples)


def _add_sweep(commands) -> None:
    parents = [_model(quantized=True), _data(required=False), _common(required=True), _shared()]
    sweep = commands.add_parser("sweep", parents=parents, help="measure a pipeline's pictures over sampling settings")
    _add_drawing(sweep)
    several = {"temperature": one_or_more(float), "top_k": one_or_more(int), "top_p": one_or_more(float)}
    several.update(guidance_scale=float, acceptance_rate=float, num_candidates=int, likelihood_weight=float)
    for name, kind in several.items():
        sweep.add_argument(
            f"--{name}", type=kind, nargs="+", help="one or several values, all combinations are measured"
        )
    sweep.add_argument("--ranker", help=RANKER)
    sweep.add_argument("--classifier", help="Hub id or folder of an image classifier; needs --acceptance_rate")


def _check(arguments: argparse.Namespace) -> None:
    for name in ("batch_size", "num_prompts", "num_pictures", "neighbours", "image_size"):
        number = getattr(arguments, name, None)
        if number is not None and number < 1:
            raise ValueError(f"`--{name}` must be at least 1, got {number}.")
    if arguments.command in ("rqvae", "prompts"):
        extractors = arguments.feature_extractor
        if "none" in extractors and len(extractors) > 1:
            raise ValueError(f"`--feature_extractor` must be none or the names of nets, got {extractors}.")
        if arguments.inception_weights is not None and "inception" not in extractors:
            raise ValueError(f"`--inception_weights` needs `--feature_extractor inception`, got {extractors}.")
    if arguments.command == "rqvae":
        if arguments.lpips_weights is not None and not arguments.lpips:
            raise ValueError("`--lpips_weights` needs `--lpips`, which was not given.")
    elif (folder := getattr(arguments, "save_pictures", None)) is not None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"`--save_pictures` must be a new or empty folder, got {str(folder)!r}.")
    if arguments.output is not None:
        suffix = ".safetensors" if arguments.command == "statistics" else ".json"
        if arguments.output.suffix != suffix:
            raise ValueError(f"`--output` must end in {suffix}, got {str(arguments.output)!r}.")
    if hasattr(arguments, "work_dir"):
        if arguments.inception_weights is not None and arguments.feature_extractor != "inception":
            raise ValueError(
                f"`--inception_weights` needs `--feature_extractor inception`, got {arguments.feature_extractor}."
            )
        if arguments.work_dir is None:
            arguments.work_dir = arguments.output.with_name(f"{arguments.output.stem}-parts")
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
