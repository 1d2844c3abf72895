# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Train an RQ-VAE (stage 1).

    rq-hf train-rqvae RECIPE [--flag value ...]
    accelerate launch -m rq_hf.cli train-rqvae RECIPE [--flag value ...]     on several devices

RECIPE is a JSON file, or the name of a recipe that comes with rq_hf. Its fields are flags, and flags win; those of a
model take JSON values. --model_name_or_path fine-tunes an RQ-VAE.
"""

import shlex
from collections.abc import Sequence

from ..models import RQVAEConfig
from ..training import DataArguments, Recipe, RQVAETrainingArguments, train_rqvae
from ..training.arguments import read_recipe, recipe_names
from ..training.data import read_dataset
from .parsing import parse_recipe, start_logging


def main(argv: Sequence[str] | None = None) -> None:
    """Runs `rq-hf train-rqvae`."""
    classes = (RQVAEConfig, RQVAETrainingArguments, DataArguments)
    recipe = parse_recipe("rq-hf train-rqvae", *classes, __doc__, argv)
    start_logging(recipe.training)
    trainer = train_rqvae(recipe)
    if trainer.is_world_process_zero():
        print(f"{recipe.training.output_dir} holds the RQ-VAE. Next:", *next_commands(recipe), sep="\n")


def next_commands(recipe: Recipe) -> list[str]:
    """The commands of stage 2: for captions also that of their tokenizer, else for labels, else for no condition.
    With a new decoder alone, a look at its pictures."""
    if recipe.training.train_decoder_only:  # the transformer of these codes is there
        return [shlex.join(["rq-hf", "reconstruct", recipe.training.output_dir, "YOUR_PICTURE"])]
    data, folder, second = recipe.data, recipe.training.output_dir, recipe.name.replace("-rqvae-", "-rqt-")
    second = second if second in recipe_names() else "small-rqt-64"
    section = read_recipe(second)["data"]
    rows = read_dataset(data.dataset_name, data.dataset_config_name, streaming=data.streaming)[data.train_split]
    captions = [data.caption_column, section.get("caption_column")]
    captions += ["text", "caption", "captions"] if section.get("label_column") not in rows.features else []
    caption = next((name for name in captions if name in rows.features), None)
    label = next((name for name in (data.label_column, "label") if caption is None and name in rows.features), None)
    defaults = section.get("rqvae_name_or_path"), section.get("tokenizer_name_or_path")
    tokenizer = defaults[1] if folder == defaults[0] and defaults[1] else f"{folder}-tokenizer"
    source = ["--dataset_name", data.dataset_name]
    words = ["rq-hf", "train-rqt", second, *source, "--rqvae_name_or_path", folder]
    for name in ("dataset_config_name", "train_split", "image_column", "filter"):
        if getattr(data, name) != section.get(name, getattr(DataArguments, name)):
            words += [f"--{name}", getattr(data, name) or ""]
    if caption is None:
        none = ["--caption_column", "", "--condition_dropout", "0"]
        return [shlex.join([*words, *(["--label_column", label] if label else none)])]
    column = ["--caption_column", caption]
    first = ["rq-hf", "train-tokenizer", *source, "--split", data.train_split, *column, "--output_dir", tokenizer]
    return [shlex.join(first), shlex.join([*words, *column, "--tokenizer_name_or_path", tokenizer])]
