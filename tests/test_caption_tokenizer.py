# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Caption tokenizers: training, the published vocabulary against `CharBPETokenizer`, and BPE dropout with a seed."""

import json
import pickle
import random
from collections import Counter

import pytest
import torch
from conftest import seeded
from tokenizers import CharBPETokenizer, Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rq_hf import convert_char_bpe_tokenizer, train_caption_tokenizer
from rq_hf.caption_tokenizer import BPEDropoutEncoder

NAMES = "red heart,green apple,pizza,rocket,cat face,house,castle,three o'clock,t-rex,woman cook,up arrow".split(",")
STYLES = "noto,twemoji,firefox,cartoon,3d,fluent".split(",")
CAPTIONS = [text for n in NAMES for s in STYLES for text in (f"{n}, {s} style", f"A {s} Emoji of {n}")]
OTHER_CAPTIONS = "Ein süßer Bär|un café à l'été|красное сердце|赤いハート|心形|καρδιά|قلب أحمر|❤️ heart".split("|")
RUNS = [
    *("[PAD]", "[UNK]", "[pad]", "[ PAD ]", "x[UNK]y", "</w>", "DON'T", "t-rex", "...?!", "1,000.50", "“”«»¿¡—…"),
    *(
        "é",
        "e\u0301",
        "İ",
        "ẞ",
        "ΣΑΣ",
        "ﬁ",
        "①",
        "ＡＢＣ",
        "ǅ",
        "心",
        "ハﾊ",
        "龍a龍",
        "한국어",
        "ㅎㅏㄴ",
        "قَلْب",
        "ไทย",
    ),
    *("😃", "❤️", "👨‍👩‍👧", "a😃b", "\u0000", "\ufffd", "\u200b", "\u202e", "\t", "\n", "\x85", "\u00a0", "\u3000"),
]
SOURCE = random.Random(0)
MIXED = [
    SOURCE.choice(["", " "]).join(SOURCE.choices([*RUNS, *CAPTIONS], k=SOURCE.randint(1, 12))) for _ in range(500)
]
TEXTS = [*CAPTIONS, *OTHER_CAPTIONS, *RUNS, "", " ", "red " * 200, "redheart" * 50, *MIXED]


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, padding="max_length", truncation=True).input_ids


def rows(tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    return [encode(tokenizer, text) for text in TEXTS]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_caption_tokenizer(CAPTIONS + OTHER_CAPTIONS, vocab_size=400, max_length=16)


def test_every_row_has_max_length_ids_of_which_pad_is_0_and_unk_is_1(tokenizer):
    assert tokenizer.added_tokens_encoder == {"[PAD]": 0, "[UNK]": 1}
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    padded, cut = encode(tokenizer, "red heart"), encode(tokenizer, "red heart " * 30)
    assert len(padded) == len(cut) == tokenizer.model_max_length == 16
    assert padded[:2] == cut[:2] and padded[2:] == [0] * 14 and 0 not in cut
    assert encode(tokenizer, "") == [0] * 16


def test_vocabulary_size_is_a_bound_that_is_reached_if_there_are_enough_pairs():
    assert train_caption_tokenizer(["red", "der"], vocab_size=8).tokenize("red") == ["r", "e", "d</w>"]
    assert len(train_caption_tokenizer(CAPTIONS, vocab_size=100)) == 100
    every_word = train_caption_tokenizer(CAPTIONS)
    assert len(every_word) < 16384
    assert every_word.tokenize("green rocket") == ["green</w>", "rocket</w>"]


def test_the_vocabulary_depends_on_word_counts_alone(tokenizer):
    captions = CAPTIONS + OTHER_CAPTIONS
    shuffled = random.Random(0).sample(captions, len(captions))
    for same_words in (shuffled, iter(captions), [" ".join(shuffled)], [word for c in captions for word in c.split()]):
        other = train_caption_tokenizer(same_words, vocab_size=400, max_length=16)
        assert other.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_case_and_spacing_are_normalized_and_accents_are_kept(tokenizer):
    assert encode(tokenizer, "  RED\t\nHeart ") == encode(tokenizer, "red heart")
    assert encode(tokenizer, "süßer") != encode(tokenizer, "sußer")
    assert tokenizer.tokenize("心形") == ["心</w>", "形</w>"]
    assert tokenizer.decode(encode(tokenizer, " Un  Café\tGREEN "), skip_special_tokens=True) == "un café green"
    for character in set("".join(CAPTIONS).lower()) - {" "}:  # each is known anywhere in a word
        assert tokenizer.unk_token_id not in tokenizer(f"{character} {character}a a{character}").input_ids
    assert tokenizer("ж q 😃").input_ids.count(tokenizer.unk_token_id) == 3  # none of them is in the captions


def test_a_saved_tokenizer_gives_equal_ids_and_takes_special_tokens_for_text(tmp_path):
    trained = train_caption_tokenizer([*CAPTIONS, *OTHER_CAPTIONS, "[brackets]"], vocab_size=400, max_length=16)
    trained.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert rows(loaded) == rows(trained)
    assert loaded.get_vocab() == trained.get_vocab() and loaded.model_max_length == 16
    for text in ("[PAD]", "[UNK]", "a [PAD] style", "[UNK][PAD]"):
        input_ids = loaded(text).input_ids
        assert not {0, 1} & set(input_ids) and input_ids == loaded(text.lower()).input_ids


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """A vocabulary and merges in the published format."""
    trained = CharBPETokenizer(unk_token="[UNK]", lowercase=True)
    trained.train_from_iterator(
        CAPTIONS + 2 * OTHER_CAPTIONS, vocab_size=600, special_tokens=["[PAD]", "[UNK]"], show_progress=False
    )
    return trained.save_model(str(tmp_path_factory.mktemp("published")))


@pytest.mark.parametrize("length", [1, 32])
def test_ids_are_the_published_tokenizers(files, length):
    tokenizer = convert_char_bpe_tokenizer(*files, length)
    published = CharBPETokenizer.from_file(*files, unk_token="[UNK]", lowercase=True)  # as the models were trained
    published.add_special_tokens(["[PAD]"])
    published.enable_padding(length=length, pad_id=0)
    published.enable_truncation(length)
    expected = [published.encode(text).ids for text in TEXTS]
    assert len({index for row in expected for index in row}) > 30
    assert rows(tokenizer) == expected
    assert tokenizer(TEXTS, padding="max_length", truncation=True).input_ids == expected
    assert tokenizer("[PAD] red[UNK]").input_ids == [0, *tokenizer("red").input_ids, 1]  # they are special here
    assert tokenizer("[pad]").input_ids == tokenizer("[ PAD ]").input_ids


def test_without_dropout_the_ids_are_the_tokenizers_and_others_are_refused(tokenizer, files):
    for each in (tokenizer, convert_char_bpe_tokenizer(*files, 32)):
        encoder = BPEDropoutEncoder(each)
        for text in TEXTS:
            assert encoder(text, 0.0, seeded(0)) == encode(each, text), repr(text)
    other = Tokenizer(models.BPE({"<unk>": 0, "a</w>": 1}, [], unk_token="<unk>", end_of_word_suffix="</w>"))
    with pytest.raises(ValueError, match="`bpe_dropout` must be 0 for a tokenizer that is not of"):
        BPEDropoutEncoder(PreTrainedTokenizerFast(tokenizer_object=other, unk_token="<unk>"))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_encodings_have_the_probabilities_of_bpe_dropout(tmp_path, rate):
    vocab, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    tokens = ["[PAD]", "[UNK]", "a", "b", "c</w>", "ab", "bc</w>", "abc</w>"]
    vocab.write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    merges.write_text("#version: 0.2\na b\nb c</w>\nab c</w>\na bc</w>\n")
    encoder = BPEDropoutEncoder(convert_char_bpe_tokenizer(vocab, merges, 3))
    kept = 1 - rate
    expected = {
        (7, 0, 0): kept * kept + rate * kept * kept,  # ab, then abc; or bc, then abc
        (5, 4, 0): kept * rate,
        (2, 6, 0): rate * kept * rate,
        (2, 3, 4): rate * rate,
    }
    draws, source = 5_000, seeded(5)
    counts = Counter(tuple(encoder("abc", rate, source)) for _ in range(draws))
    assert counts.keys() == expected.keys()
    for input_ids, probability in expected.items():
        deviation = (draws * probability * (1 - probability)) ** 0.5
        assert abs(counts[input_ids] - draws * probability) < 4 * deviation


def test_dropout_varies_the_ids_by_the_generator_alone_and_keeps_the_text(tokenizer):
    before, state = tokenizer.backend_tokenizer.to_str(), torch.get_rng_state()
    encoder, varied = BPEDropoutEncoder(tokenizer), 0
    copy = pickle.loads(pickle.dumps(encoder))  # for a worker of a data loader
    for seed, text in enumerate(CAPTIONS):
        row, expected = encoder(text, 0.1, seeded(seed)), encode(tokenizer, text)
        varied += row != expected
        decoded = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (row, expected))
        assert len(set(decoded)) == 1 or 0 not in row  # cut
        assert copy(text, 0.1, seeded(seed)) == row
    assert len(CAPTIONS) // 4 < varied < len(CAPTIONS)
    assert tokenizer.backend_tokenizer.to_str() == before and torch.equal(torch.get_rng_state(), state)
