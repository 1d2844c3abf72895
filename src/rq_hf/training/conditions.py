# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Conditions of stage 2: captions, class labels or none, from the rows of a data set to ids of the transformer."""

from collections.abc import Sequence
from typing import Any

import datasets
import torch
from torch.utils.data import default_collate
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments
from transformers.utils import logging

from ..caption_tokenizer import BPEDropoutEncoder
from ..models import RQTransformerConfig, RQVAEConfig, RQVAEModel
from ..pipelines.text_encoding import NO_TOKEN, embed_ids, tokenize_texts
from .arguments import CodeDataArguments, Recipe, load_made
from .data import (
    PictureDataset,
    PictureStream,
    Rows,
    SampleReader,
    cache_latents,
    each_row,
    hold_out,
    make_reader,
    open_picture,
    picture_datasets,
    read_dataset,
    read_split,
)

logger = logging.get_logger(__name__)


def load_tokenizer(
    data: CodeDataArguments, pipeline: str | None = None, has_encoder: bool = False
) -> PreTrainedTokenizerBase | None:
    """Loads the tokenizer of a column of captions: the one that is named, or else that of a pipeline."""
    if data.caption_column is None:
        return None
    if data.text_encoder is not None:
        return AutoTokenizer.from_pretrained(data.text_encoder)
    command = ["rq-hf", "train-tokenizer", "--dataset_name", str(data.dataset_name)]
    command += ["--caption_column", data.caption_column]
    tokenizer = load_made(_read_tokenizer, "tokenizer_name_or_path", data.tokenizer_name_or_path, pipeline, *command)
    if not has_encoder and tokenizer.model_max_length > 10**6:  # transformers writes "no limit" as 1e30
        raise ValueError(f"The tokenizer {tokenizer.name_or_path!r} must have a `model_max_length`.")
    return tokenizer


def _read_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a pipeline, or one of its own."""
    for options in ({"subfolder": "tokenizer"}, {}):
        try:
            return AutoTokenizer.from_pretrained(name, **options)
        except (OSError, ValueError) as error:
            cause = error
    raise OSError(f"{name!r} has no tokenizer, which `caption_column` needs") from cause


def condition_config(
    data: CodeDataArguments,
    training: TrainingArguments,
    tokenizer: PreTrainedTokenizerBase | None,
    splits: dict[str, Rows],
    id2label: dict[Any, str] | None = None,
    text_encoder: PreTrainedModel | None = None,
) -> dict[str, Any]:
    """
    The fields of a new `RQTransformerConfig` that depend on the data.

    With captions they come from the text encoder, or else from the tokenizer, and the null condition is an empty
    caption. With labels the classes are those of `id2label` or of all splits, and the null condition is one more id.
    Without either there is one start id. Without a text encoder only `condition_dropout` adds a null condition.
    """
    has_null = training.condition_dropout > 0
    if text_encoder is not None:
        return {"condition_dim": text_encoder.config.get_text_config().hidden_size}
    if tokenizer is not None:
        return {
            "vocab_size": len(tokenizer),
            "condition_length": tokenizer.model_max_length,
            "pad_token_id": tokenizer.pad_token_id,
            "null_condition_ids": tokenizer("", padding="max_length").input_ids if has_null else None,
        }
    if data.label_column is not None:
        names = id2label or dict(enumerate(_class_names(splits, data.label_column)))
        if not names:
            raise ValueError(f"`label_column` must hold labels, got {data.label_column!r} without any.")
        names = {int(index): name for index, name in names.items()}
        num_classes = max(names) + 1
        return {
            "vocab_size": num_classes + has_null,
            "condition_length": 1,
            "id2label": names,
            "null_condition_ids": [num_classes] if has_null else None,
        }
    return {"vocab_size": 1, "condition_length": 1}


def _class_names(splits: dict[str, Rows], column: str) -> list[str]:
    """Names of the classes in the order of their ids: as declared, or sorted. All pictures of one may be held out."""
    feature = splits["train"].features[column]
    if isinstance(feature, datasets.ClassLabel):
        return feature.names
    if not isinstance(feature, datasets.Value):
        raise ValueError(f"`label_column` must hold class names or whole numbers, got a column of {feature!s:.80}.")
    if isinstance(splits["train"], datasets.IterableDataset):
        raise ValueError(f"`label_column` must be a `ClassLabel` while streaming, got {feature}; or give `id2label`.")
    labels = {label for rows in splits.values() for label in rows.unique(column)}
    return [str(label) for label in sorted(labels - {None, -1})]


class ConditionReader:
    """
    Reads the condition of a row: ids `(condition_length,)`, or the vectors of a caption. A missing condition, and a
    share `dropout` of the others, is the null condition. This class gives the start id; subclasses read a column.
    """

    column: str | None = None
    null: torch.Tensor | None = None
    dropout: float = 0.0

    def __call__(self, row: dict[str, Any], generator: torch.Generator) -> torch.Tensor:
        """Returns the condition of a row, with random choices by the generator."""
        if self.column is None:
            return torch.tensor([0])
        condition = self.read(row[self.column])
        is_dropped = self.dropout > 0 and torch.rand((), generator=generator) < self.dropout
        return self.null if condition is None or is_dropped else self.encode(condition, generator)

    def read(self, value: Any) -> Any:
        """The condition of an entry. Refuses a missing one if the model has no null condition."""
        condition = self.parse(value)
        if condition is None and self.null is None:
            raise ValueError(
                f"Column {self.column!r} must hold a condition for every picture, got {value!r:.100}. With "
                "`condition_dropout` such pictures train the null condition."
            )
        return condition

    def check(self, rows: datasets.Dataset) -> None:
        """Reads the conditions of all rows. Its errors name the row."""
        num_missing = 0
        for index, value in enumerate([] if self.column is None else rows[self.column]):
            try:
                num_missing += self.read(value) is None
            except ValueError as error:
                raise ValueError(f"Row {index}: {error}") from error
        if num_missing > 0:
            logger.warning(f"{num_missing} of {len(rows)} rows lack {self.column} and train the null condition.")


class LabelReader(ConditionReader):
    """Reads a class label: a name of `id2label`, or a class id if the model has none. `None` and -1 are missing."""

    def __init__(self, column: str, config: RQTransformerConfig, feature: Any = None):
        is_named = isinstance(feature, datasets.ClassLabel) and config.id2label is not None
        self.column, self.class_names = column, feature.names if is_named else None
        names = config.id2label or {index: str(index) for index in config.class_ids}
        self.label2id = {names[index]: index for index in config.class_ids}

    def parse(self, value: Any) -> int | None:
        if value is None or value == -1:
            return None
        name = str(value) if self.class_names is None else self.class_names[value]
        if name not in self.label2id:
            known = list(self.label2id)
            raise ValueError(f"`label_column` must hold the classes of the model, {known!s:.100}, got {name!r:.100}.")
        return self.label2id[name]

    def encode(self, label: int, generator: torch.Generator) -> torch.Tensor:
        return torch.tensor([label])


class CaptionReader(ConditionReader):
    """Reads a caption, or a list of which training draws one. Blank texts are missing, and a long text is cut."""

    def __init__(
        self,
        data: CodeDataArguments,
        config: RQTransformerConfig,
        tokenizer: PreTrainedTokenizerBase,
        training: TrainingArguments | None,
    ):
        self.column, self.num_variants = data.caption_column, data.num_caption_variants
        self.tokenizer, self.length = tokenizer, config.condition_length
        self.has_encoder, self.is_training = config.condition_dim is not None, training is not None
        self.embeds: CaptionEmbeds | None = None
        self.bpe_dropout = 0.0 if training is None or self.has_encoder else training.bpe_dropout
        self.bpe_encoder = BPEDropoutEncoder(tokenizer) if self.bpe_dropout > 0 else None

    def parse(self, value: Any) -> list[str] | None:
        captions = value if isinstance(value, list) else [value]
        if not all(caption is None or isinstance(caption, str) for caption in captions):
            raise ValueError(f"`caption_column` must hold texts or lists of texts, got {value!r:.100}.")
        return [caption for caption in captions[: self.num_variants] if caption and caption.strip()] or None

    def encode(self, captions: list[str], generator: torch.Generator) -> torch.Tensor:
        number = int(torch.randint(len(captions), (), generator=generator)) if self.is_training else 0
        if self.embeds is not None:
            return self.embeds[captions[number]]
        if self.has_encoder:
            return tokenize_texts([captions[number]], self.tokenizer, self.length)[0]
        if self.bpe_encoder is not None:
            return torch.tensor(self.bpe_encoder(captions[number], self.bpe_dropout, generator))
        return torch.tensor(self.tokenizer(captions[number], padding="max_length", truncation=True).input_ids)

    def embed(self, rows: datasets.Dataset, text_encoder: PreTrainedModel) -> None:
        """Encodes the captions of all rows, so that they give vectors."""
        texts = list(dict.fromkeys(text for value in rows[self.column] for text in self.parse(value) or ()))
        self.embeds = CaptionEmbeds(texts, self.tokenizer, text_encoder, self.length)
        self.null = self.embeds.null


def condition_reader(
    data: CodeDataArguments,
    config: RQTransformerConfig,
    tokenizer: PreTrainedTokenizerBase | None = None,
    features: datasets.Features | None = None,
    training: TrainingArguments | None = None,
) -> ConditionReader:
    """Makes the reader of a data set with column types `features`. A model that does not fit the data is a
    `ValueError`. Without `training`, and its rates of dropout, nothing is random: the first caption is taken."""
    if (data.caption_column or data.label_column) is None and config.condition_name is not None:
        raise ValueError("`caption_column` or `label_column` must name the condition of this model, got None.")
    has_captions, has_encoder = data.caption_column is not None, config.condition_dim is not None
    if has_captions and tokenizer is None:
        raise ValueError(f"`caption_column` must be None without a tokenizer, got {data.caption_column!r}.")
    length, size = (tokenizer.model_max_length, len(tokenizer)) if has_captions else (1, 1)
    if not has_encoder and (config.condition_length != length or config.vocab_size < size):
        raise ValueError(
            f"The transformer must have `condition_length` {length} and `vocab_size` {size} or more for these "
            f"data, got {config.condition_length} and {config.vocab_size}."
        )
    if has_captions:
        reader = CaptionReader(data, config, tokenizer, training)
    elif data.label_column is not None:
        reader = LabelReader(data.label_column, config, (features or {}).get(data.label_column))
    else:
        reader = ConditionReader()
    ids = (NO_TOKEN,) * config.condition_length if has_encoder else config.null_condition_ids
    reader.null = None if ids is None else torch.tensor(ids)
    reader.dropout = 0.0 if training is None else training.condition_dropout
    if reader.dropout > 0 and reader.null is None:
        raise ValueError("`condition_dropout` must be 0 for a model without `null_condition_ids`.")
    return reader


class CaptionEmbeds:
    """Vectors `(S, condition_dim)` of captions, each encoded once, and zeros `null` for no caption.

    `datasets` keeps them for the same captions and encoder.
    """

    def __init__(
        self, texts: list[str], tokenizer: PreTrainedTokenizerBase, text_encoder: PreTrainedModel, length: int
    ):
        width = text_encoder.config.get_text_config().hidden_size
        self.null, self.rows = torch.zeros(length, width), {text: row for row, text in enumerate(texts)}
        features = datasets.Features({"prompt_embeds": datasets.Array2D((length, width), "float32")})
        # Unlike `from_dict` this makes a file; without one `map` keeps all vectors in memory and caches none.
        rows = datasets.Dataset.from_generator(each_row, gen_kwargs={"rows": [{"text": text} for text in texts]})
        options = {"batched": True, "batch_size": 64, "remove_columns": "text"}
        given = {"tokenizer": tokenizer, "text_encoder": text_encoder, "length": length}
        embeds = rows.map(_embed_texts, features=features, fn_kwargs=given, desc="Encoding captions", **options)
        self.embeds = embeds.with_format("torch")

    def __getitem__(self, text: str) -> torch.Tensor:
        return self.embeds[self.rows[text]]["prompt_embeds"]


def _embed_texts(batch: dict[str, list], tokenizer, text_encoder: PreTrainedModel, length: int) -> dict[str, Any]:
    ids = tokenize_texts(batch["text"], tokenizer, length).to(text_encoder.device)
    return {"prompt_embeds": embed_ids(ids, text_encoder).float().cpu().numpy()}


def code_datasets(
    recipe: Recipe,
    splits: dict[str, Rows],
    rqvae: RQVAEModel,
    config: RQTransformerConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    text_encoder: PreTrainedModel | None = None,
) -> dict[str, PictureDataset | PictureStream]:
    """
    Makes the samples of stage 2 of each split: `input_ids` with `pixel_values` or, if cached, `latents` and the
    `prompt_embeds` of a text encoder.
    """
    training, data = recipe.training, recipe.data
    if data.streaming and training.cache_latents:
        raise ValueError("`cache_latents` must be False with `streaming`.")
    samples = picture_datasets(splits, data, training, rqvae.config, is_random=not training.cache_latents)
    for name, rows in splits.items():
        rates = training if name == "train" else None
        condition = condition_reader(data, config, tokenizer, rows.features, rates)
        samples[name].reader.read_condition = condition
        if isinstance(rows, datasets.Dataset):
            condition.check(rows)
    if training.cache_latents:
        with training.main_process_first(desc="Encoding pictures"):
            for pictures in samples.values():
                pictures.rows = cache_latents(pictures, rqvae.to(training.device))
                if text_encoder is not None:
                    pictures.reader.read_condition.embed(pictures.rows, text_encoder.to(training.device))
    return samples


def evaluation_samples(
    data: CodeDataArguments,
    splits: Sequence[str],
    rqvae_config: RQVAEConfig,
    transformer_config: RQTransformerConfig | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    columns: Sequence[str] = (),
) -> dict[str, PictureDataset]:
    """
    Makes the samples of each split for an evaluation. All parts of a sample come from one row, as in training.

    Rows without a decodable picture, a condition or one of `columns` are left out, and a warning counts them. The
    pictures are decoded once to find them; `datasets` keeps the result.

    Args:
        data ([`CodeDataArguments`]): Name, columns, filter and transform of the data. With `hold_out` the splits are
            `train_split` and "validation", the parts of `train_split` as a training divides it.
        splits (`Sequence[str]`): Names of the splits.
        rqvae_config ([`RQVAEConfig`]): Size and channels of the `pixel_values`.
        transformer_config ([`RQTransformerConfig`], *optional*): Adds its `input_ids`, with captions by `tokenizer`.
        columns (`Sequence[str]`, *optional*): Further columns that the samples hold.
    """
    available, samples = read_dataset(data.dataset_name, data.dataset_config_name), {}
    if data.hold_out:
        rows = read_split(available, data.train_split, data, "train_split")
        available = dict(zip((data.train_split, "validation"), hold_out(rows, data), strict=True))
    for split in splits:
        rows = read_split(available, split, data)
        reader = make_reader(data, rqvae_config, columns=columns)
        if transformer_config is not None:
            reader.read_condition = condition_reader(data, transformer_config, tokenizer, rows.features)
        samples[split] = PictureDataset(_whole_rows(rows, reader), reader)
    return samples


def _whole_rows(rows: datasets.Dataset, reader: SampleReader) -> datasets.Dataset:
    """The rows that have all that a reader of [`evaluation_samples`] reads."""
    condition, parse = reader.read_condition, dict.fromkeys(reader.columns, lambda value: value)
    if condition is not None and condition.column is not None:
        parse[condition.column] = condition.parse
    if missing := sorted(parse.keys() - set(rows.column_names)):
        raise ValueError(f"The data set must have the columns `{'`, `'.join(missing)}`, got {rows.column_names}.")
    whole, mode = rows.select_columns([reader.image_column, *parse]), reader.transform.mode
    for name in parse:
        whole = whole.select([index for index, value in enumerate(whole[name]) if parse[name](value) is not None])
    whole = whole.filter(_can_be_decoded, input_columns=[reader.image_column], fn_kwargs={"mode": mode})
    if len(whole) < len(rows):
        parts = " or ".join(["a picture that can be decoded", *parse])
        logger.warning(f"Of {len(rows)} rows, {len(rows) - len(whole)} are left out: they lack {parts}.")
    if len(whole) == 0:
        raise ValueError(f"The data set must have whole rows, got none among the {len(rows)} that pass `filter`.")
    return whole


def _can_be_decoded(picture: dict[str, Any] | None, mode: str) -> bool:
    return open_picture(picture, mode) is not None


class PictureCollator:
    """
    Makes batches of the rows of a plain `datasets.Dataset`: the `data_collator` of both trainers.

    Nothing is random: each picture is resized as in evaluations, and a list of captions gives its first. The
    data sets of a recipe also crop at random and apply `bpe_dropout` and `condition_dropout`.

    Args:
        rqvae_config ([`RQVAEConfig`]): Size and channels of the pictures.
        transformer_config ([`RQTransformerConfig`], *optional*): In stage 2, for the `input_ids`.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): The tokenizer of the captions.
        data ([`CodeDataArguments`], *optional*): The columns and the transform; by default "image", with a
            tokenizer "text", and `"center_crop"`.

    Example:

    ```python
    >>> from PIL import Image
    >>> from rq_hf import RQVAEConfig
    >>> from rq_hf.training import PictureCollator
    >>> collator = PictureCollator(RQVAEConfig(image_size=64))
    >>> collator([{"image": Image.new("RGB", (80, 60))}])["pixel_values"].shape
    torch.Size([1, 3, 64, 64])
    ```
    """

    def __init__(
        self,
        rqvae_config: RQVAEConfig,
        transformer_config: RQTransformerConfig | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        data: CodeDataArguments | None = None,
    ):
        data = data or CodeDataArguments(caption_column="text" if tokenizer is not None else None)
        self.read = make_reader(data, rqvae_config)
        if transformer_config is not None:
            self.read.read_condition = condition_reader(data, transformer_config, tokenizer)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns `pixel_values` `(B, C, height, width)` in [-1, 1], and in stage 2 `input_ids` `(B, S)`."""
        samples, column = [self.read(row, 0, 0) for row in rows], self.read.image_column
        if None in samples:
            raise ValueError(f"Column {column!r} must hold pictures that can be decoded, got one that cannot.")
        return default_collate(samples)
