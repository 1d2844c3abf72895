# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The condition of a row, caption or label, and what is done where it is missing, too long or none at all."""

import difflib
import logging
from collections.abc import Iterable
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from ..configuration_rq_transformer import RQTransformerConfig
from .data import DataArguments, plain_label

logger = logging.getLogger(__name__)

NUM_MEASURED = 10_000  # captions of which it is told how many are cut


def are_ids(feature: Any, names: Iterable[str]) -> bool:
    """Whether the labels of a column are ids that names were given for: class labels, or numbers (integers with gaps
    are read as floats) where no name is one."""
    if isinstance(feature, datasets.ClassLabel):
        return True
    is_number = isinstance(feature, datasets.Value) and feature.dtype.lstrip("u").startswith(("int", "float"))
    return is_number and not any(name.strip().isdigit() for name in names)


class ConditionReader:
    """Gives the condition of a row as [`ConditionEncoder`] takes it.

    A missing caption (none, or nothing that the tokenizer sees) and a missing label (`None`, NaN or a blank, or -1 of
    class labels) are the null condition of a model that has one; so is a list of missing captions, while from a longer
    list they are left out. A caption of more tokens than the model's `condition_length` is cut to it. Both are counted
    in the log: of a data set once, of a stream when the first one is met. All else that is neither text nor a class of
    the model is an error.

    Args:
        data (`CodeDataArguments`): the column of captions or labels.
        config ([`RQTransformerConfig`]): of the transformer.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): of the captions.
        feature (*optional*): of the column of labels.
        renamed (`bool`): whether `config.id2label` was given for the ids in the data's labels, whose own names
            then say nothing.

    Raises:
        `ValueError`: on reading, naming the row and what is in it.
    """

    def __init__(
        self,
        data: DataArguments,
        config: RQTransformerConfig,
        tokenizer: PreTrainedTokenizerBase | None = None,
        feature: Any = None,
        renamed: bool = False,
    ):
        self.caption_column, self.label_column = data.caption_column, data.label_column
        self.num_variants = data.num_caption_variants
        self.tokenizer = tokenizer
        self.null_condition_ids = config.null_condition_ids
        self.is_class_label = isinstance(feature, datasets.ClassLabel)
        by_position = config.id2label is None or (renamed and are_ids(feature, config.id2label.values()))
        self.names: list[str] | None = feature.names if self.is_class_label and not by_position else None
        if by_position:
            self.label2id = {str(index): index for index in config.class_ids}
        else:
            self.label2id = {name: index for index, name in config.id2label.items()}
        self.num_missing = self.num_measured = self.num_cut = self._num_read = 0
        self._is_stream = True

    def __call__(self, row: dict[str, Any], name: str | None = None) -> Any:
        """The condition of a row of a stream, or of the row that is called `name`."""
        self._num_read += 1
        if name is None:
            name = f"row {row['__key__']!r}" if "__key__" in row else f"row {self._num_read - 1} of this worker"
        if self.caption_column is not None:
            return self._caption(row[self.caption_column], name)
        if self.label_column is not None:
            return self._label(row[self.label_column], name)
        return None

    def read_all(self, rows: datasets.Dataset) -> list[Any] | None:
        """The conditions of all rows, `None` where there are none."""
        column = self.caption_column or self.label_column
        if column is None:
            return None
        self._is_stream = False
        conditions = [self({column: value}, f"row {index}") for index, value in enumerate(rows[column])]
        if self.num_missing > 0:
            logger.warning(
                "%d of %d rows have no condition in `%s`: they train the null condition.",
                self.num_missing, len(rows), column,
            )  # fmt: skip
        if self.num_cut > 0:
            logger.warning(
                "%d of the first %d captions have more than %d tokens and are cut.",
                self.num_cut, self.num_measured, self.tokenizer.model_max_length,
            )  # fmt: skip
        return conditions

    def _caption(self, value: Any, name: str) -> str | list[str]:
        variants = value if isinstance(value, list) else [value]
        if not all(text is None or isinstance(text, str) for text in variants):
            raise ValueError(
                f"`caption_column` must hold texts or lists of texts, got {_shown(value)} in {name} of "
                f"{self.caption_column!r}."
            )
        texts = [text for text in variants[: self.num_variants] if text and self._says_something(text)]
        if not texts:
            self._note_missing("caption_column", self.caption_column, value, name)
            return ""
        self._measure(texts, name)
        return texts if isinstance(value, list) else value

    def _says_something(self, text: str) -> bool:
        """Whether there is more than blanks and, such as characters of no width, what the tokenizer drops."""
        if not text.strip() or text.isascii() and text.isprintable():
            return bool(text.strip())
        options = {"padding": False, "truncation": True, "verbose": False, "add_special_tokens": False}
        return len(self.tokenizer(text, **options).input_ids) > 0

    def _label(self, value: Any, name: str) -> int:
        label = plain_label(value)
        if label is None or (self.is_class_label and value == -1):
            self._note_missing("label_column", self.label_column, value, name)
            return self.null_condition_ids[0]
        value = label
        if self.names is not None and isinstance(value, int) and 0 <= value < len(self.names):
            label = self.names[value]
        if not isinstance(label, (str, int)) or str(label) not in self.label2id:
            close = difflib.get_close_matches(str(label), list(self.label2id), n=3, cutoff=0.0)
            raise ValueError(
                f"`label_column` must hold one of the {len(self.label2id)} classes of the model, such as {close}, got "
                f"{_shown(label)} in {name} of {self.label_column!r}."
            )
        return self.label2id[str(label)]

    def _note_missing(self, argument: str, column: str, value: Any, name: str) -> None:
        if self.null_condition_ids is None:
            raise ValueError(
                f"`{argument}` must hold a condition for every picture where the model has no null condition, which "
                f"`--condition_dropout` gives it, got {_shown(value)} in {name} of {column!r}."
            )
        self.num_missing += 1
        if self._is_stream and self.num_missing == 1:
            logger.warning("The %s has no condition in `%s`: such rows train the null condition.", name, column)

    def _measure(self, texts: list[str], name: str) -> None:
        for text in texts:
            if self.num_measured >= NUM_MEASURED:
                return
            self.num_measured += 1
            length = len(self.tokenizer(text, padding=False, truncation=False, verbose=False).input_ids)
            if length > self.tokenizer.model_max_length:
                self.num_cut += 1
                if self._is_stream and self.num_cut == 1:
                    limit = self.tokenizer.model_max_length
                    logger.warning("The caption of %s has %d tokens: all are cut to %d.", name, length, limit)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
