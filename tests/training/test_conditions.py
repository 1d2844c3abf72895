# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Captions and labels: missing, too long, of no class; and the configuration that depends on them."""

import datasets
import pytest
from picture_files import emoji_rows, jpeg
from transformers import PreTrainedTokenizerFast

from rq_hf import RQTransformerConfig
from rq_hf.models.sampling import seeded_generator
from rq_hf.training import Recipe, RQTransformerTrainingArguments
from rq_hf.training.arguments import CodeDataArguments
from rq_hf.training.conditions import code_datasets, condition_config, condition_reader, load_tokenizer

CLASSES = ["goose", "volcano", "tabby"]
NULL = 3
CLASS_FIELDS = {"vocab_size": 4, "id2label": dict(enumerate(CLASSES)), "null_condition_ids": [NULL]}
CAPTIONS = CodeDataArguments(caption_column="words")


def make_rows(values: list, feature=None, stream: bool = False):
    """Rows of pictures with these values in the column "words"."""
    pictures = [{"bytes": jpeg(row), "path": None} for row in emoji_rows()[: len(values)]]
    feature = feature or datasets.Dataset.from_dict({"words": values}).features["words"]
    features = datasets.Features({"image": datasets.Image(decode=False), "words": feature})
    rows = datasets.Dataset.from_dict({"image": pictures, "words": values}, features=features)
    return rows.to_iterable_dataset() if stream else rows


@pytest.fixture
def training(tmp_path) -> RQTransformerTrainingArguments:
    return RQTransformerTrainingArguments(str(tmp_path), use_cpu=True, max_steps=1, bpe_dropout=0.0)


@pytest.fixture
def captions_config(make_transformer, tiny_rqvae) -> RQTransformerConfig:
    return make_transformer("text", tiny_rqvae).config


@pytest.fixture(params=[False, True], ids=["rows", "stream"])
def read(request, make_transformer, tiny_rqvae, tiny_tokenizer, training):
    """Gives the condition ids of a training split: of rows in their order, or of a stream in its own."""

    def read_ids(values: list, feature=None, kind: str = "caption", **fields) -> list[list[int]]:
        data = CodeDataArguments(**{f"{kind}_column": "words"}, streaming=request.param, shuffle_buffer_size=1)
        condition, tokenizer, defaults = "text", tiny_tokenizer, {}
        if kind == "label":
            condition, tokenizer, defaults = "class", None, CLASS_FIELDS
        config = make_transformer(condition, tiny_rqvae, **defaults | fields).config
        rows = make_rows(values, feature, stream=request.param)
        samples = iter(code_datasets(Recipe(training, data), {"train": rows}, tiny_rqvae, config, tokenizer)["train"])
        return sorted(next(samples)["input_ids"].tolist() for _ in values)

    return read_ids


@pytest.fixture
def encode(tiny_tokenizer):
    return lambda text: tiny_tokenizer(text, padding="max_length", truncation=True).input_ids


@pytest.mark.parametrize("value", [None, " \n "])
def test_a_missing_caption_is_the_null_condition(read, encode, value):
    assert read(["a red heart", value]) == [[0] * 6, encode("a red heart")]
    with pytest.raises(ValueError, match=r"must hold a condition for every picture, got .*`condition_dropout`"):
        read(["a red heart", value], null_condition_ids=None)


def test_a_long_caption_is_cut(read, encode):
    assert read(["a red heart " * 417, "a"]) == sorted([encode("a red heart a red"), encode("a")])


def test_labels_are_the_names_of_the_models_classes_or_ids_where_it_has_none(read):
    assert read(["tabby", "goose", "tabby"], kind="label") == [[0], [2], [2]]
    assert read([0, 1, 0], datasets.ClassLabel(names=["tabby", "goose"]), kind="label") == [[0], [2], [2]]
    assert read([5, 7], kind="label", id2label={0: "7", 1: "5", 2: "goose"}) == [[0], [1]]
    assert read([2, 0], kind="label", id2label=None) == [[0], [2]]
    assert read([2, 0], datasets.ClassLabel(names=["x", "y", "z"]), kind="label", id2label=None) == [[0], [2]]


@pytest.mark.parametrize(
    "values, feature", [([None, "goose"], None), ([-1, 0], datasets.ClassLabel(names=CLASSES))], ids=["none", "class"]
)
def test_a_missing_label_is_the_null_condition(read, values, feature):
    assert read(values, feature, kind="label") == [[0], [NULL]]
    with pytest.raises(ValueError, match="must hold a condition for every picture"):
        read(values, feature, kind="label", null_condition_ids=None)


@pytest.mark.parametrize(
    "kind, values, feature, fields",
    [
        ("caption", [3, 4], None, {}),
        ("caption", [[1], [2]], None, {}),
        ("label", ["volcanoo"], None, {}),
        ("label", [NULL], None, {"id2label": None}),
        ("label", [1], datasets.ClassLabel(names=["goose", "swan"]), {}),
    ],
)
def test_captions_that_are_no_text_and_labels_of_no_class_are_refused(read, kind, values, feature, fields):
    expected = {"caption": "texts or lists of texts, got ", "label": r"the classes of the model, \['.*'\], got '"}
    with pytest.raises(ValueError, match=f"`{kind}_column` must hold {expected[kind]}"):
        read(values, feature, kind, **fields)


def test_captions_are_drawn_and_dropped_in_training(tiny_tokenizer, captions_config, training, encode):
    row = {"words": ["a", "red", "heart", "pizza"]}
    data = CodeDataArguments(caption_column="words", num_caption_variants=3)
    drawn = condition_reader(data, captions_config, tiny_tokenizer, training=training)
    found = {tuple(drawn(row, seeded_generator(seed)).tolist()) for seed in range(40)}
    assert found == {tuple(encode(text)) for text in row["words"][:3]}
    first = condition_reader(data, captions_config, tiny_tokenizer)
    assert {tuple(first(row, seeded_generator(seed)).tolist()) for seed in range(20)} == {tuple(encode("a"))}
    training.condition_dropout = 0.3
    drawn = condition_reader(data, captions_config, tiny_tokenizer, training=training)
    dropped = sum(drawn(row, seeded_generator(seed)).sum() == 0 for seed in range(400))
    assert 80 < dropped < 160


def test_rates_are_for_the_training_split_only(tiny_tokenizer, tiny_rqvae, captions_config, training, encode):
    training.bpe_dropout = training.condition_dropout = 1.0
    splits = {"train": make_rows(["a red heart"]), "validation": make_rows(["a red heart"])}
    samples = code_datasets(Recipe(training, CAPTIONS), splits, tiny_rqvae, captions_config, tiny_tokenizer)
    assert samples["train"][0]["input_ids"].tolist() == [0] * 6
    assert samples["validation"][0]["input_ids"].tolist() == encode("a red heart")


def test_a_bad_row_is_named_and_missing_captions_are_counted(tiny_tokenizer, captions_config, caplog):
    rows = make_rows(["a", None, "b", ""])
    condition_reader(CAPTIONS, captions_config, tiny_tokenizer).check(rows)
    assert caplog.messages == ["2 of 4 rows lack words and train the null condition."]
    captions_config.null_condition_ids = None
    with pytest.raises(ValueError, match="Row 1: Column 'words' must hold a condition"):
        condition_reader(CAPTIONS, captions_config, tiny_tokenizer).check(rows)


def test_a_model_of_other_conditions_is_refused(make_transformer, tiny_tokenizer, captions_config, training):
    for fields in ({"condition_length": 5, "null_condition_ids": None}, {"vocab_size": 20}):
        config = make_transformer("text", **fields).config
        with pytest.raises(ValueError, match="`condition_length` 6 and `vocab_size` 80 or more for these data, got "):
            condition_reader(CAPTIONS, config, tiny_tokenizer)
    with pytest.raises(ValueError, match="must have `condition_length` 1"):
        condition_reader(CodeDataArguments(label_column="words"), captions_config)
    with pytest.raises(ValueError, match="`caption_column` or `label_column` must name the condition"):
        condition_reader(CodeDataArguments(), RQTransformerConfig(condition_length=1, **CLASS_FIELDS))
    captions_config.null_condition_ids, training.condition_dropout = None, 0.1
    with pytest.raises(ValueError, match="`condition_dropout` must be 0 for a model without `null_condition_ids`"):
        condition_reader(CAPTIONS, captions_config, tiny_tokenizer, training=training)


def test_cached_samples_have_their_own_condition_and_streams_are_not_cached(
    tiny_rqvae, tiny_tokenizer, captions_config, training, encode
):
    training.cache_latents = True
    with pytest.raises(ValueError, match="`cache_latents` must be False with `streaming`"):
        code_datasets(Recipe(training, CodeDataArguments(streaming=True)), {}, tiny_rqvae, None, None)
    data = CodeDataArguments(caption_column="words", transform="imagenet")
    splits = {"train": make_rows(["a", "red", "heart"])}
    samples = code_datasets(Recipe(training, data), splits, tiny_rqvae, captions_config, tiny_tokenizer)["train"]
    for index, text in enumerate(("a", "red", "heart")):
        assert samples[index].keys() == {"latents", "input_ids"} and samples[index]["latents"].shape == (4, 4, 8)
        assert samples[index]["input_ids"].tolist() == encode(text)


def test_captions_give_the_configuration(tiny_tokenizer, training):
    expected = {"vocab_size": 80, "condition_length": 6, "pad_token_id": 0}
    assert condition_config(CAPTIONS, training, tiny_tokenizer, {}) == expected | {"null_condition_ids": None}
    training.condition_dropout = 0.1
    assert condition_config(CAPTIONS, training, tiny_tokenizer, {}) == expected | {"null_condition_ids": [0] * 6}
    assert condition_config(CodeDataArguments(), training, None, {}) == {"vocab_size": 1, "condition_length": 1}


@pytest.mark.parametrize(
    "values, feature, names",
    [
        ([2, 0], datasets.ClassLabel(names=CLASSES), CLASSES),
        (["tabby", "goose", None, "Tabby"], None, ["Tabby", "goose", "tabby"]),
        ([10, None, -1, 2], None, ["2", "10"]),
    ],
)
def test_labels_give_the_configuration(training, values, feature, names):
    data, rows = CodeDataArguments(label_column="words"), make_rows(values, feature)
    splits = {"train": rows.take(len(values) - 1), "validation": rows.skip(len(values) - 1)}  # alone in its class
    for rate, null_condition_ids in ((0.0, None), (0.1, [len(names)])):
        training.condition_dropout = rate
        assert condition_config(data, training, None, splits) == {
            "vocab_size": len(names) + (rate > 0),
            "condition_length": 1,
            "id2label": dict(enumerate(names)),
            "null_condition_ids": null_condition_ids,
        }


@pytest.mark.parametrize(
    "values, expected",
    [
        ([None, -1], "labels, got 'words' without any"),
        ([[1], [2]], r"class names or whole numbers, got a column of List\(Value\('int64'\)\)"),
    ],
)
def test_a_column_without_labels_is_refused(training, values, expected):
    with pytest.raises(ValueError, match=f"`label_column` must hold {expected}"):
        condition_config(CodeDataArguments(label_column="words"), training, None, {"train": make_rows(values)})


def test_streamed_labels_need_class_labels_or_names(training):
    data, splits = CodeDataArguments(label_column="words"), {"train": make_rows([2, 0], stream=True)}
    with pytest.raises(ValueError, match="`label_column` must be a `ClassLabel` while streaming"):
        condition_config(data, training, None, splits)
    assert condition_config(data, training, None, splits, {"0": "a", "2": "b"})["vocab_size"] == 3
    splits = {"train": make_rows([2, 0], datasets.ClassLabel(names=CLASSES), stream=True)}
    assert condition_config(data, training, None, splits)["id2label"] == dict(enumerate(CLASSES))


def test_a_tokenizer_is_loaded_from_its_folder_or_from_a_pipeline(tiny_tokenizer, tmp_path):
    tiny_tokenizer.save_pretrained(tmp_path / "pipeline" / "tokenizer")
    for folder in (tmp_path / "pipeline", tmp_path / "pipeline" / "tokenizer"):
        loaded = load_tokenizer(CodeDataArguments(caption_column="text", tokenizer_name_or_path=str(folder)))
        assert loaded.get_vocab() == tiny_tokenizer.get_vocab()
    assert load_tokenizer(CAPTIONS, str(tmp_path / "pipeline")).get_vocab() == tiny_tokenizer.get_vocab()
    assert load_tokenizer(CodeDataArguments()) is None


def test_captions_without_a_tokenizer_of_fixed_length_are_refused(tiny_tokenizer, make_pipeline, tmp_path):
    make_pipeline("class").save_pretrained(tmp_path / "class")
    with pytest.raises(OSError, match=f"'{tmp_path}/class' has no tokenizer, which `caption_column` needs"):
        load_tokenizer(CAPTIONS, str(tmp_path / "class"))
    data = CodeDataArguments("data/mine", caption_column="words")
    made = r"`rq-hf train-tokenizer --dataset_name data/mine --caption_column words{}` makes one"
    with pytest.raises(ValueError, match="`tokenizer_name_or_path` must be .*, got None; " + made.format("")):
        load_tokenizer(data)
    data.tokenizer_name_or_path = str(tmp_path / "none")
    with pytest.raises(ValueError, match="cannot be loaded .*; " + made.format(f" --output_dir {tmp_path}/none")):
        load_tokenizer(data)
    PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer.backend_tokenizer).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must have a `model_max_length`"):
        load_tokenizer(CodeDataArguments(caption_column="text", tokenizer_name_or_path=str(tmp_path)))
