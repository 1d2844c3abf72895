# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Captions and labels as they come: missing, empty, too long, no text, of no class; and latents of another RQ-VAE."""

import copy
import logging

import datasets
import pytest
import torch
from picture_files import emoji_rows, jpeg
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from rq_hf import RQTransformerConfig
from rq_hf.training import (
    CodeDataArguments,
    PictureDataset,
    RQTransformerTrainingArguments,
    ScriptArguments,
    cache_latents,
    code_datasets,
    load_dataset_splits,
)
from rq_hf.training.condition_reader import ConditionReader
from rq_hf.training.data import sorted_names

CLASSES = ["goose", "volcano", "tabby"]
NULL = 3


def make_rows(column: str, values: list, feature=None, stream: bool = False):
    pictures = [{"bytes": jpeg(row), "path": None} for row in emoji_rows()[: len(values)]]
    features = {"image": datasets.Image(decode=False)}
    if feature is None:
        feature = datasets.Dataset.from_dict({column: values}).features[column]
    rows = datasets.Dataset.from_dict(
        {"image": pictures, column: values}, features=datasets.Features(features | {column: feature})
    )
    return rows.to_iterable_dataset() if stream else rows


@pytest.fixture(params=[False, True], ids=["rows", "stream"])
def read(request, tiny_rqvae, tiny_tokenizer, tmp_path):
    """Gives the condition ids of a training split, of rows in their order or of a stream in its own."""

    def read_ids(values: list, feature=None, kind: str = "caption", null: bool = True, **model) -> list[list[int]]:
        stream, column = request.param, "words"
        rows = make_rows(column, values, feature, stream)
        is_caption = kind == "caption"
        data = CodeDataArguments(**{f"{kind}_column": column, "streaming": stream, "shuffle_buffer_size": 1})
        training = RQTransformerTrainingArguments(str(tmp_path), use_cpu=True, max_steps=1, bpe_dropout=0.0)
        length = tiny_tokenizer.model_max_length if is_caption else 1
        null_condition_ids = [tiny_tokenizer.pad_token_id] * length if is_caption else [NULL]
        fields = {"vocab_size": 80, "id2label": None if is_caption else dict(enumerate(CLASSES)), **model}
        config = RQTransformerConfig.from_rqvae_config(
            tiny_rqvae.config, condition_length=length, null_condition_ids=null_condition_ids if null else None,
            hidden_size=16, num_attention_heads=2, **fields,
        )  # fmt: skip
        arguments = ScriptArguments(training=training, data=data, model=model)
        tokenizer = tiny_tokenizer if is_caption else None
        samples = iter(code_datasets(arguments, {"train": rows}, tiny_rqvae, config, tokenizer)["train"])
        return [next(samples)["input_ids"].tolist() for _ in values]

    read_ids.is_stream = request.param
    return read_ids


@pytest.mark.parametrize("value", [None, "", " \n ", "\u200b\x07"])
def test_a_missing_caption_is_the_null_condition_and_is_logged(read, tiny_tokenizer, caplog, value):
    with caplog.at_level(logging.WARNING):
        ids = read(["a red heart", value])
    assert sorted(ids) == sorted([tiny_tokenizer("a red heart", padding="max_length").input_ids, [0] * 6])
    assert ("train the null condition" if read.is_stream else "1 of 2 rows have no condition") in caplog.text


@pytest.mark.parametrize("value", [None, "", " "])
def test_a_missing_caption_without_a_null_condition_is_an_error(read, value):
    with pytest.raises(
        ValueError, match=rf"`caption_column` must hold a condition .*`--condition_dropout`.*{value!r} in row"
    ):
        read(["a red heart", value], null=False)


def test_missing_variants_are_left_out(read, tiny_tokenizer):
    ids = read([["", "a red heart", None], ["a red heart"], [], [None, ""]])
    heart = tiny_tokenizer("a red heart", padding="max_length").input_ids
    assert sorted(ids) == [[0] * 6, [0] * 6, heart, heart]


def test_a_caption_of_5000_characters_is_cut_and_logged(read, tiny_tokenizer, caplog):
    long = ("a red heart " * 417)[:5000]
    with caplog.at_level(logging.WARNING):
        ids = read([long, "a"])
    expected = tiny_tokenizer([long, "a"], padding="max_length", truncation=True).input_ids
    assert sorted(ids) == sorted(expected) and all(len(each) == 6 for each in ids)
    assert ("tokens: all are cut to 6" if read.is_stream else "1 of the first 2 captions have more than 6 tokens") in (
        caplog.text
    )


@pytest.mark.parametrize("values", [[3, 4], [2.5, 1.0], [True, False], [[["a"]], [["b"]]], [[1], [2]], [{"a": 1}] * 2])
def test_captions_that_are_no_text_are_an_error_that_names_the_row(read, values):
    with pytest.raises(ValueError, match="`caption_column` must hold texts or lists of texts, got .* in row 0"):
        read(values)


def test_labels_are_the_classes_of_the_model_by_name(read):
    assert sorted(read(["tabby", "goose", "tabby"], kind="label")) == [[0], [2], [2]]
    other_order = datasets.ClassLabel(names=["tabby", "goose"])
    assert sorted(read([0, 1, 0], other_order, kind="label")) == [[0], [2], [2]]


def test_given_names_are_for_the_ids_of_the_data(read):
    feature = datasets.ClassLabel(names=["n01", "n02", "n03"])
    assert sorted(read([2, 0], feature, kind="label", id2label=dict(enumerate(CLASSES)))) == [[0], [2]]
    assert sorted(read([2, 0], kind="label", id2label=None, vocab_size=4)) == [[0], [2]]
    assert sorted(read([2, 0], kind="label", id2label=dict(enumerate(CLASSES)))) == [[0], [2]]  # integers alone
    with_gaps = [2.0, float("nan"), 0.0]  # as a table gives integers of which one is missing
    assert sorted(read(with_gaps, kind="label", id2label=dict(enumerate(CLASSES)))) == [[0], [2], [NULL]]
    by_name = {0: "7", 1: "5", 2: "goose"}  # which these integers may be
    assert sorted(read([5, 7], kind="label", id2label=by_name)) == [[0], [1]]


@pytest.mark.parametrize(
    "feature", [datasets.Value("string"), datasets.ClassLabel(names=CLASSES)], ids=["text", "class"]
)
def test_a_missing_label_is_the_null_condition_or_an_error(read, feature, caplog):
    values = [None, "goose"] if feature == datasets.Value("string") else [-1, 0]
    if feature == datasets.Value("string"):
        assert sorted(read([" ", "goose"], feature, kind="label")) == [[0], [NULL]]
    with caplog.at_level(logging.WARNING):
        assert sorted(read(values, feature, kind="label")) == [[0], [NULL]]
    assert "the null condition" in caplog.text
    with pytest.raises(ValueError, match="`label_column` must hold a condition"):
        read(values, feature, kind="label", null=False)


@pytest.mark.parametrize(
    "values, feature, model",
    [
        (["volcanoo", "volcanoo"], None, {}),
        ([7, 7], None, {}),
        ([0.5, 0.5], None, {"id2label": None, "vocab_size": 4}),
        ([4, 4], None, {"id2label": None, "vocab_size": 4}),
        ([NULL, NULL], None, {"id2label": None, "vocab_size": 4}),
        ([-2, -2], None, {"id2label": None, "vocab_size": 4}),
        ([1, 1], datasets.ClassLabel(names=["goose", "swan"]), {}),
        ([3, 3], datasets.ClassLabel(num_classes=9), {"id2label": dict(enumerate(CLASSES))}),
    ],
    ids=["name", "number", "float", "above", "null", "below", "class name", "class id"],
)
def test_a_label_outside_the_classes_is_an_error_that_names_the_row(read, values, feature, model):
    with pytest.raises(ValueError, match="`label_column` must hold one of the 3 classes of the model, .* in row 0"):
        read(values, feature, kind="label", **model)


@pytest.mark.parametrize("value", [" \n ", "\t", "\u00a0"])
def test_blanks_are_missing_whatever_a_tokenizer_makes_of_them(read, tiny_tokenizer, value):
    tiny_tokenizer = copy.deepcopy(tiny_tokenizer)
    backend = Tokenizer.from_str(tiny_tokenizer.backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing(single="[UNK] $A", special_tokens=[("[UNK]", 1)])  # a start token
    started = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", model_max_length=6)
    assert len(started(value).input_ids) >= 1
    reader = ConditionReader(
        CodeDataArguments(caption_column="words"),
        RQTransformerConfig(vocab_size=80, condition_length=6, null_condition_ids=[0] * 6),
        started,
    )
    assert reader({"words": value}) == "" and reader({"words": "a red heart"}) == "a red heart"
    assert reader.num_missing == 1


def test_labels_that_are_neither_numbers_nor_texts_are_refused(read):
    with pytest.raises(ValueError, match=r"`label_column` must hold numbers or texts, got \['goose'\]"):
        read([["goose"], ["tabby"]], kind="label")


def test_names_are_made_of_integers_with_gaps_and_of_no_blanks():
    assert sorted_names([10.0, None, 2.0, float("nan")]) == ["2", "10"]
    assert sorted_names(["goose", " ", "", None, "Tabby"]) == ["Tabby", "goose"]
    with pytest.raises(ValueError, match="`label_column` must hold numbers or texts"):
        sorted_names([["goose"]])


def test_a_folder_with_a_missing_caption_names_its_row(tiny_rqvae, tiny_tokenizer, tmp_path):
    make_rows("text", ["a", None, "b"]).to_parquet(tmp_path / "train.parquet")
    data = CodeDataArguments(str(tmp_path), caption_column="text")
    splits = load_dataset_splits(data)
    training = RQTransformerTrainingArguments(str(tmp_path / "out"), use_cpu=True)
    config = RQTransformerConfig.from_rqvae_config(tiny_rqvae.config, vocab_size=80, condition_length=6)
    with pytest.raises(ValueError, match="got None in row 1 of 'text'"):
        code_datasets(ScriptArguments(training, data), splits, tiny_rqvae, config, tiny_tokenizer)


def test_cached_latents_belong_to_the_weights_that_made_them(tiny_rqvae, make_rqvae):
    pictures = PictureDataset(make_rows("words", list("abcd")), tiny_rqvae.config.image_size)
    first = cache_latents(pictures, tiny_rqvae)
    again = cache_latents(pictures, tiny_rqvae)
    assert again._fingerprint == first._fingerprint
    with torch.no_grad():
        next(tiny_rqvae.encoder.parameters()).view(-1)[0] += 0.5
    other = cache_latents(pictures, tiny_rqvae)
    assert other._fingerprint != first._fingerprint
    pixels = torch.stack([pictures.prepare(row["image"]) for row in pictures.rows])
    expected = tiny_rqvae.encode_latents(pixels).detach()
    torch.testing.assert_close(other["latents"][:], expected)
    codes = [cache_latents(pictures, rqvae, codes_only=True) for rqvae in (tiny_rqvae, make_rqvae(code_depth=2))]
    assert codes[0]._fingerprint != codes[1]._fingerprint and codes[1]["codes"][:].shape == (4, 4, 4, 2)
