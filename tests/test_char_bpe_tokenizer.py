# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The published text models' tokenizer: its ids are those of the `CharBPETokenizer` that these were trained with."""

import json
import random
import re
from pathlib import Path

import pytest
import torch
from tokenizers import CharBPETokenizer, Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rq_hf import RQImageGenerationPipeline, convert_char_bpe_tokenizer
from rq_hf.caption_tokenizer import BPEDropoutEncoder

METADATA = sorted((Path(__file__).parent / "fixtures" / "emoji").glob("*/metadata.jsonl"))
ROWS = [json.loads(line) for file in METADATA for line in file.read_text(encoding="utf-8").split("\n") if line]
CAPTIONS = sorted({caption for row in ROWS for caption in row["captions"]})
OTHER_CAPTIONS = [
    *("Ein süßer Bär", "un café à l'été, naïve", "красное сердце", "赤いハート", "心形 中文", "καρδιά Σίσυφος"),
    *("قلب أحمر", "לב אדום שָׁלוֹם", "หัวใจสีแดง", "हिन्दी", "[brackets] a/b (c) <d> #1 & more!"),
]
RUNS = [
    *("[PAD]", "[UNK]", "[pad]", "[Unk]", "[PAD", "[ PAD ]", "[PAD][UNK]", "x[UNK]y", "[P\u200bAD]", "</w>", "<unk>"),
    *("red", "Heart", "DON'T", "t-rex", "...?!", "--!!--", "'''", "a.b.c", "(((", "1,000.50", "@#$%^&*", "“”«»¿¡—…"),
    *("é", "e\u0301", "ñ", "n\u0303", "İ", "ẞ", "ΣΑΣ", "o\u0302\u0323", "ﬁ", "①", "ＡＢＣ", "ǅ", "\u0301", "Ж"),
    *("心", "心形", "ハﾊ", "龍a龍", "𠀀", "한국어", "ㅎㅏㄴ", "قَلْب", "שָׁ", "ไทย", "क्ष", "𝔘𐍈"),
    *("😃", "❤️", "👩🏽", "👨‍👩‍👧", "🇩🇪", "🏳️‍🌈", "a😃b"),
    *("\u0000", "\u0007", "\x7f", "\ufffd", "\ue000", "\u200b", "\u200d", "\ufeff", "\u00ad", "\u202e"),
    *("\t", "\n", "\r", "\x85", "\u00a0", "\u2028", "\u3000"),
]
EDGES = [
    *("", " ", "\n", "\u200b", "[PAD]", " [PAD] ", "[PAD] red heart", "red heart [PAD]", "red [PAD] heart", "[UNK]"),
    *(
        "[PAD]" * 40,
        "red " * 200,
        " ".join(["word", "cat!"] * 100),
        "redheart" * 500,
        "心" * 200,
        "!?" * 200,
        "😃" * 200,
    ),
]


def hard_texts(number: int) -> list[str]:
    source = random.Random(0)
    runs = [source.choices([*RUNS, source.choice(CAPTIONS)], k=source.randint(1, 12)) for _ in range(number)]
    return [source.choice(["", " "]).join(text) for text in runs]


TEXTS = [*random.Random(1).sample(CAPTIONS, 500), *OTHER_CAPTIONS, *RUNS, *EDGES, *hard_texts(500)]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """Vocabulary and merges as the published ones: [PAD] is 0 and [UNK] is 1."""
    trained = CharBPETokenizer(unk_token="[UNK]", lowercase=True)
    trained.train_from_iterator(
        CAPTIONS + 2 * OTHER_CAPTIONS, vocab_size=1200, special_tokens=["[PAD]", "[UNK]"], show_progress=False
    )
    return trained.save_model(str(tmp_path_factory.mktemp("published")))


@pytest.fixture(scope="module")
def tokenizer(files) -> PreTrainedTokenizerFast:
    return convert_char_bpe_tokenizer(*files, max_length=16)


def published(files: list[str]) -> CharBPETokenizer:
    """The published text models' tokenizer, neither padding nor cutting yet."""
    tokenizer = CharBPETokenizer.from_file(*files, unk_token="[UNK]", lowercase=True)
    tokenizer.add_special_tokens(["[PAD]"])
    return tokenizer


def published_rows(files: list[str], length: int) -> list[list[int]]:
    tokenizer = published(files)
    tokenizer.enable_padding(length=length, pad_id=0)
    tokenizer.enable_truncation(length)
    return [tokenizer.encode(text).ids for text in TEXTS]


def rows(tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    return [tokenizer(text, padding="max_length", truncation=True).input_ids for text in TEXTS]


@pytest.mark.parametrize("length", [1, 6, 32, 400])
def test_padded_and_cut_ids_are_the_published_tokenizers(files, length):
    tokenizer = convert_char_bpe_tokenizer(*files, length)
    expected = published_rows(files, length)
    assert len(TEXTS) > 1000 and {len(row) for row in expected} == {length}
    assert rows(tokenizer) == expected
    assert tokenizer(TEXTS, padding="max_length", truncation=True).input_ids == expected


def test_ids_without_padding_and_cutting_are_the_published_tokenizers(files, tokenizer):
    expected = [encoding.ids for encoding in published(files).encode_batch(TEXTS)]
    assert tokenizer(TEXTS, verbose=False).input_ids == expected
    assert rows(tokenizer) == published_rows(files, 16)  # padded again
    known = [index for row in expected for index in row if index > 1]
    assert len(known) > 6000 and len(set(known)) > 200  # most ids are of something


@pytest.mark.parametrize("load", [AutoTokenizer.from_pretrained, PreTrainedTokenizerFast.from_pretrained])
def test_a_saved_tokenizer_gives_equal_ids_and_holds_what_the_files_hold(files, tokenizer, tmp_path, load):
    tokenizer.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    expected = published_rows(files, 16)
    assert loaded.model_max_length == 16 and rows(loaded) == expected
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))  # the file alone pads and cuts too
    assert [backend.encode(text).ids for text in TEXTS] == expected
    model = json.loads(loaded.backend_tokenizer.to_str())["model"]
    assert model["vocab"] == json.loads(Path(files[0]).read_text(encoding="utf-8"))
    lines = Path(files[1]).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert [" ".join(pair) for pair in model["merges"]] == lines[1:]


def test_special_tokens_typed_in_capitals_are_special(tokenizer):
    assert tokenizer("[PAD] red[UNK]").input_ids == [0, *tokenizer("red").input_ids, 1]
    assert tokenizer("[pad]").input_ids == tokenizer("[ PAD ]").input_ids
    assert tokenizer.added_tokens_encoder == {"[PAD]": 0, "[UNK]": 1}


def test_accents_and_chinese_characters_are_kept_and_case_is_not(tokenizer):
    assert tokenizer.tokenize("CAFÉ 心形") == ["café</w>", "心</w>", "形</w>"]
    assert tokenizer("cafe").input_ids != tokenizer("café").input_ids == tokenizer("CAFÉ").input_ids


@pytest.fixture
def pipe(tokenizer, make_rqvae, make_transformer) -> RQImageGenerationPipeline:
    rqvae = make_rqvae()
    fields = dict(vocab_size=len(tokenizer), condition_length=16, pad_token_id=None, null_condition_ids=None)
    pipe = RQImageGenerationPipeline(rqvae, make_transformer("text", rqvae, **fields), tokenizer)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_saved_pipeline_draws_equal_pictures_of_equal_ids(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = RQImageGenerationPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert rows(loaded.tokenizer) == rows(pipe.tokenizer)
    prompts = ["a red heart, noto style", "café 心形 [UNK]", ""]
    first, second = (
        each(prompts, generator=torch.Generator().manual_seed(0), output_type="latent").images
        for each in (pipe, loaded)
    )
    assert torch.equal(first, second) and not torch.equal(first[0], first[1])


def test_a_pipeline_encodes_as_published_and_names_what_it_cuts_or_cannot_read(pipe, files, caplog):
    expected = dict(zip(TEXTS, published_rows(files, 16), strict=True))
    readable = [text for text in expected if not text or set(pipe.tokenizer(text).input_ids) - {1}]
    assert len(readable) > 800
    assert pipe.encode_prompt(readable).tolist() == [expected[text] for text in readable]
    caplog.clear()
    pipe.encode_prompt("red heart " * 8 + "green apple")
    assert "this part is not used: 'green apple'" in caplog.text
    assert pipe.encode_prompt("😃").tolist() == [[1] + [0] * 15]
    assert "knows no letter of the prompt '😃'" in caplog.text


def test_without_dropout_the_encoder_gives_the_published_ids(files):
    encoder = BPEDropoutEncoder(convert_char_bpe_tokenizer(*files, max_length=32))
    assert [encoder(text, 0.0) for text in TEXTS] == published_rows(files, 32)


def test_dropout_varies_the_ids_and_keeps_the_text_and_typed_special_tokens(files):
    tokenizer = convert_char_bpe_tokenizer(*files, max_length=100)
    encoder, source = BPEDropoutEncoder(tokenizer), torch.Generator().manual_seed(0)
    varied = 0
    for text in [*CAPTIONS[:200], *OTHER_CAPTIONS]:
        row, expected = encoder(text, 0.3, source), tokenizer(text, padding="max_length").input_ids
        varied += row != expected
        assert tokenizer.decode(row).replace("[PAD]", "") == tokenizer.decode(expected).replace("[PAD]", "")
    assert varied > 150
    specials = encoder("[PAD] red [UNK]", 1.0, source)[:5]
    assert tokenizer.convert_ids_to_tokens(specials) == ["[PAD]", "r", "e", "d</w>", "[UNK]"]


VOCAB = {"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3, "b</w>": 4, "ab": 5, "ab</w>": 6}
MERGES = "#version: 0.2\na b\na b</w>\n"


def write(folder: Path, vocab: str | bytes, merges: str | bytes) -> list[Path]:
    paths = [folder / "vocab.json", folder / "merges.txt"]
    for path, content in zip(paths, (vocab, merges), strict=True):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return paths


@pytest.mark.parametrize("merges", [MERGES, MERGES.replace("\n", "\r\n"), "a b\na b</w>"])
def test_line_ends_and_the_version_line_make_no_difference(tmp_path, merges):
    tokenizer = convert_char_bpe_tokenizer(*write(tmp_path, json.dumps(VOCAB), merges), max_length=4)
    assert tokenizer.tokenize("ab aba") == ["ab</w>", "ab", "[UNK]"]
    assert tokenizer.unk_token_id == 1


@pytest.mark.parametrize(
    ("vocab", "merges", "message"),
    [
        (MERGES, json.dumps(VOCAB), "`vocab_file` must be JSON, got '{vocab}': Expecting value: line 1 column 1"),
        (json.dumps(VOCAB)[:-9], MERGES, "`vocab_file` must be JSON, got '{vocab}': "),
        (b"\xff\xfe{}", MERGES, "`vocab_file` must be UTF-8 text, got '{vocab}': "),
        (json.dumps(list(VOCAB)), MERGES, "`vocab_file` must be a JSON object that numbers its tokens from 0 without"),
        (json.dumps(VOCAB | {"c": 8}), MERGES, "from 0 without a gap, got '{vocab}'."),
        (json.dumps(VOCAB | {"c": 6}), MERGES, "from 0 without a gap, got '{vocab}'."),
        (json.dumps(VOCAB | {"a": "2"}), MERGES, "from 0 without a gap, got '{vocab}'."),
        (json.dumps(VOCAB | {"[UNK]": True}), MERGES, "from 0 without a gap, got '{vocab}'."),
        ("{}", MERGES, "`vocab_file` must have [PAD] at 0 and [UNK] at 1, got them at None and None in '{vocab}'."),
        (json.dumps(VOCAB | {"[PAD]": 1, "[UNK]": 0}), MERGES, "got them at 1 and 0 in '{vocab}'."),
        (json.dumps(VOCAB), json.dumps(VOCAB), '`merges_file` must hold two tokens a line, got \'{{"[PAD]": 0, '),
        (json.dumps(VOCAB), MERGES + "a b c\n", "got 'a b c' in line 4 of '{merges}'."),
        (json.dumps(VOCAB), "a b\n\na b</w>\n", "got '' in line 2 of '{merges}'."),
        (json.dumps(VOCAB), "", "got '' in line 1 of '{merges}'."),
        (json.dumps(VOCAB), b"a \xff", "`merges_file` must be UTF-8 text, got '{merges}': "),
        (json.dumps(VOCAB), MERGES + "a c\n", "must merge tokens of `vocab_file`, got 'c' in line 4 of '{merges}'."),
        (json.dumps(VOCAB), MERGES + "b a\n", "must merge tokens of `vocab_file`, got 'ba' in line 4 of '{merges}'."),
        (
            json.dumps(VOCAB),
            "#version: 0.2\na b\n",
            "`merges_file` must belong to `vocab_file`, got 1 merges in '{merges}' that do not make 1 tokens of "
            "'{vocab}', such as 'ab</w>'.",
        ),
    ],
)
def test_files_that_are_swapped_broken_or_of_two_tokenizers_are_refused(tmp_path, vocab, merges, message):
    paths = write(tmp_path, vocab, merges)
    with pytest.raises(ValueError, match=re.escape(message.format(vocab=paths[0], merges=paths[1]))):
        convert_char_bpe_tokenizer(*paths, max_length=4)


def test_missing_files_and_bad_lengths_are_refused(tmp_path):
    vocab, merges = write(tmp_path, json.dumps(VOCAB), MERGES)
    for arguments, error, message in [
        (
            (tmp_path / "none.json", merges, 4),
            ValueError,
            f"`vocab_file` must be a file, but there is none at '{tmp_path}/none.json'.",
        ),
        ((vocab, tmp_path, 4), ValueError, f"`merges_file` must be a file, but there is none at '{tmp_path}'."),
        ((vocab, merges, 0), ValueError, "`max_length` must be at least 1, got 0."),
        ((vocab, merges, 4.0), ValueError, "`max_length` must be an integer, got 4.0 of type float."),
    ]:
        with pytest.raises(error, match=re.escape(message)):
            convert_char_bpe_tokenizer(*arguments)
