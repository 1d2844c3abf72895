# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
import json
import multiprocessing
import pickle
import random
import re
import runpy
from collections import Counter
from pathlib import Path

import datasets
import pytest
import torch
from tokenizers import CharBPETokenizer, Tokenizer, models, pre_tokenizers, processors, trainers
from torch.utils.data import DataLoader, Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rq_hf.caption_tokenizer import BPEDropoutEncoder, train_caption_tokenizer

NAMES = "red heart,green apple,pizza,rocket,cat face,house,castle,three o'clock,t-rex,woman cook,up arrow".split(",")
STYLES = "noto,twemoji,firefox,cartoon,3d,fluent".split(",")
CAPTIONS = [text for n in NAMES for s in STYLES for text in (f"{n}, {s} style", f"A {s} Emoji of {n}")]
OTHER_CAPTIONS = "Ein süßer Bär|un café à l'été|красное сердце|赤いハート|心形|καρδιά|قلب أحمر|❤️ heart".split("|")
ALPHABETS = [
    *("abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "aaaabbbeeett", "0123456789", " \t\n\u00a0\u3000"),
    *(".,;:!?'\"()[]{}<>/\\-_&%#@$*+=~^|`’“”…–", "äöüßéèêñçåøæœİıŁőΣς", "e\u0301a\u0308n\u0303"),  # e and an accent
    *("красноесердцеЯЮЖ", "καρδιάΩ", "קלבقلبأحمر", "心形中文漢字", "ひらがなカタカナ한국어", "हिन्दीไทย"),
    *("\u200b\u200d\ufe0f\u0000\u0007\ufffd\u00ad", "😃❤🎈👩🏽🇩🇪𝔘𐍈"),  # invisible and control characters; emoji
]
PIECES = ["[PAD]", "[UNK]", "[pad]", "</w>", "##", "red", "heart", " style", "<0x41>"]


def random_text(source: random.Random) -> str:
    """A string of 0 to 12 runs, each of up to 12 characters of one script, or a known piece."""
    runs = []
    for _ in range(source.randint(0, 12)):
        if source.random() < 0.2:
            runs.append(source.choice(PIECES))
        else:
            runs.append("".join(source.choices(source.choice(ALPHABETS), k=source.randint(1, 12))))
    return source.choice(["", " "]).join(runs)


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, padding="max_length", truncation=True).input_ids


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model_of(tokenizer: PreTrainedTokenizerFast) -> dict:
    return json.loads(tokenizer.backend_tokenizer.to_str())["model"]


def wrap(model: models.Model, **kwargs) -> PreTrainedTokenizerFast:
    kwargs = {"pad_token": "[PAD]", "model_max_length": 64, **kwargs}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **kwargs)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_caption_tokenizer(CAPTIONS + OTHER_CAPTIONS, vocab_size=400, max_length=16)


def test_pad_is_0_and_unk_is_1_and_nothing_else_is_special(tokenizer):
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id) == (0, 1)
    assert tokenizer.added_tokens_encoder == {"[PAD]": 0, "[UNK]": 1}
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


def test_every_row_has_max_length_ids(tokenizer, tmp_path):
    padded, cut = encode(tokenizer, "red heart"), encode(tokenizer, "red heart " * 30)
    assert len(padded) == len(cut) == tokenizer.model_max_length == 16
    assert padded[:2] == cut[:2] and padded[2:] == [0] * 14 and 0 not in cut
    assert encode(tokenizer, "") == [0] * 16
    train_caption_tokenizer(CAPTIONS, max_length=6).save_pretrained(tmp_path)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))  # the file alone pads and cuts too
    assert backend.encode("cat").ids[1:] == [0] * 5 and len(backend.encode("cat " * 20).ids) == 6


def test_min_frequency_bounds_the_merges():
    for min_frequency, merges in ((3, ["a"]), (2, ["a", "b"]), (1, ["a", "b", "c"])):
        trained = train_caption_tokenizer(["aa aa aa bb bb cc"], min_frequency=min_frequency)
        assert model_of(trained)["merges"] == [[letter, f"{letter}</w>"] for letter in merges]


def test_vocabulary_size_is_a_bound_that_is_reached_where_pairs_suffice():
    assert train_caption_tokenizer(["red", "der"], vocab_size=8).tokenize("red") == ["r", "e", "d</w>"]
    assert len(train_caption_tokenizer(CAPTIONS, vocab_size=100)) == 100
    every_word = train_caption_tokenizer(CAPTIONS)
    assert len(every_word) < 16384
    words = ("green", "rocket", ",", "fluent", "style")
    assert every_word.tokenize("green rocket, fluent style") == [f"{word}</w>" for word in words]


def model_trained_on(captions: list[str]) -> dict:
    return model_of(train_caption_tokenizer(captions, vocab_size=400))


def test_the_vocabulary_depends_on_word_counts_alone():
    captions = CAPTIONS + OTHER_CAPTIONS
    expected = model_trained_on(captions)
    shuffled = random.Random(0).sample(captions, len(captions))
    for same_words in (shuffled, iter(captions), [" ".join(shuffled)], [word for c in captions for word in c.split()]):
        assert model_trained_on(same_words) == expected
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # another process seeds its hash maps differently
        assert pool.apply(model_trained_on, (captions,)) == expected


def test_a_character_of_the_captions_is_known_anywhere_in_a_word(tokenizer):
    characters = set("".join(CAPTIONS).lower()) - {" "}
    for character in characters:
        assert tokenizer.unk_token_id not in tokenizer(f"{character} {character}a a{character}").input_ids
    assert tokenizer("ж q 😃").input_ids.count(tokenizer.unk_token_id) == 3  # none of them is in the captions


def test_limit_alphabet_keeps_the_most_frequent_characters():
    limited = train_caption_tokenizer(["zzzz zzy zyyc", "dd c"], limit_alphabet=2)
    letters = {token.removesuffix("</w>") for token in limited.get_vocab()}
    assert {"y", "z"} <= letters and not {"c", "d"} & set("".join(letters))
    assert limited("cyz d").input_ids == [1, *limited("yz").input_ids, 1]


def test_case_and_spacing_are_normalized_and_accents_are_kept(tokenizer):
    assert encode(tokenizer, "  RED\t\nHeart ") == encode(tokenizer, "red heart")
    assert encode(tokenizer, "süßer") != encode(tokenizer, "sußer")
    assert tokenizer.tokenize("心形") == ["心</w>", "形</w>"]


def test_special_tokens_typed_in_a_caption_are_plain_text(tmp_path):
    trained = train_caption_tokenizer([*CAPTIONS, "[brackets]"], max_length=16)
    trained.save_pretrained(tmp_path)
    for tokenizer in (trained, AutoTokenizer.from_pretrained(tmp_path)):
        for text in ("[PAD]", "[UNK]", "a [PAD] style", "[UNK][PAD]"):
            input_ids = tokenizer(text).input_ids
            assert not {0, 1} & set(input_ids)
            assert encode(tokenizer, text)[: len(input_ids)] == input_ids == tokenizer(text.lower()).input_ids


@pytest.mark.parametrize("load", [AutoTokenizer.from_pretrained, PreTrainedTokenizerFast.from_pretrained])
def test_a_saved_tokenizer_gives_equal_ids(tokenizer, tmp_path, load):
    tokenizer.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    source = random.Random(1)
    texts = CAPTIONS + [random_text(source) for _ in range(500)]
    assert [encode(loaded, text) for text in texts] == [encode(tokenizer, text) for text in texts]
    assert loaded.get_vocab() == tokenizer.get_vocab() and loaded.model_max_length == 16


def test_decode_gives_the_lower_case_caption_back(tokenizer):
    punctuated = ["a t-rex (green), 3.5 m tall: what?! no...", "input symbols, %, &, !", "it’s [a] and/or 10:30; 50%"]
    punctuated += ["+1, hand", "thumb, -1, <3"]
    wide = train_caption_tokenizer(punctuated + CAPTIONS, max_length=64)
    for caption in punctuated + CAPTIONS:
        assert wide.decode(wide(caption).input_ids) == caption.lower()
        assert wide.decode(encode(wide, caption), skip_special_tokens=True) == caption.lower()
    assert tokenizer.decode(encode(tokenizer, " un  Café À\tl'été "), skip_special_tokens=True) == "un café à l'été"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"captions": []}, ValueError, "`captions` must contain text, got no captions or only blank ones."),
        ({"captions": ["", " \n"]}, ValueError, "`captions` must contain text"),
        ({"captions": "red heart"}, ValueError, "`captions` must be an iterable of strings, got str."),
        ({"captions": None}, ValueError, "`captions` must be an iterable of strings, got NoneType."),
        ({"captions": ["red", None]}, ValueError, "`captions[1]` must be a string, got None of type NoneType."),
        ({"captions": [["red"]]}, ValueError, "`captions[0]` must be a string, got ['red'] of type list."),
        ({"vocab_size": 7}, ValueError, "`vocab_size` must be at least 8 for these captions"),
        ({"vocab_size": 0}, ValueError, "`vocab_size` must be at least 4, got 0."),
        ({"vocab_size": 64.0}, ValueError, "`vocab_size` must be an integer, got 64.0 of type float."),
        ({"max_length": 0}, ValueError, "`max_length` must be at least 1, got 0."),
        ({"max_length": True}, ValueError, "`max_length` must be an integer, got True of type bool."),
        ({"min_frequency": 0}, ValueError, "`min_frequency` must be at least 1, got 0."),
        ({"limit_alphabet": 0}, ValueError, "`limit_alphabet` must be at least 1, got 0."),
    ],
)
def test_training_names_bad_input(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        train_caption_tokenizer(**{"captions": ["red"], **arguments})


def build(pre_tokenizer=None, trainer=None, start_and_end=False, **kwargs):
    """Return a function that trains a tokenizer whose BPE model has the remaining arguments."""

    def trained(**sides) -> PreTrainedTokenizerFast:
        backend = Tokenizer(models.BPE(**kwargs))
        backend.pre_tokenizer = pre_tokenizer or pre_tokenizers.Whitespace()
        specials = ["[PAD]", "[UNK]", "<s>", "</s>"]
        options = {"vocab_size": 420, "special_tokens": specials, "show_progress": False, **(trainer or {})}
        backend.train_from_iterator(CAPTIONS + OTHER_CAPTIONS, trainers.BpeTrainer(**options))
        if start_and_end:
            backend.post_processor = processors.TemplateProcessing(
                single="<s> <s> $A </s>", pair="$A $B", special_tokens=[("<s>", 2), ("</s>", 3)]
            )
        return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", model_max_length=24, **sides)

    return trained


def published_structure() -> PreTrainedTokenizerFast:
    """The structure of the published tokenizers, in which typed special tokens are special."""
    backend = CharBPETokenizer(unk_token="[UNK]", lowercase=True)
    backend.train_from_iterator(CAPTIONS, vocab_size=300, special_tokens=["[PAD]", "[UNK]"], show_progress=False)
    special_tokens = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend._tokenizer, model_max_length=32, **special_tokens)


byte_level = build(pre_tokenizers.ByteLevel(), {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()})
PREFIX = {"continuing_subword_prefix": "##"}
TOKENIZERS = {
    "caption": lambda: train_caption_tokenizer(CAPTIONS + OTHER_CAPTIONS, vocab_size=400, max_length=32),
    "short": lambda: train_caption_tokenizer(CAPTIONS, vocab_size=200, max_length=3),
    "published": published_structure,
    "byte_level": byte_level,
    "start_and_end": build(unk_token="[UNK]", start_and_end=True),
    "left": lambda: build(unk_token="[UNK]", start_and_end=True)(padding_side="left", truncation_side="left"),
    "fused_unknown": build(unk_token="[UNK]", fuse_unk=True),
    "no_unknown": build(),
    "subword_prefix": build(unk_token="[UNK]", trainer=PREFIX, **PREFIX),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_without_dropout_the_ids_are_the_tokenizers(name):
    tokenizer = TOKENIZERS[name]()
    encoder = BPEDropoutEncoder(tokenizer)
    source = random.Random(2)
    texts = ["", " ", "".join(source.choices("redheart", k=50_000)), "😃" * 50, "red heart " * 40]
    texts += [*CAPTIONS, *OTHER_CAPTIONS, *PIECES, *(random_text(source) for _ in range(2000))]
    merged_pairs = 0
    for text in texts:
        assert encoder(text, 0.0) == encode(tokenizer, text), repr(text)
        merged_pairs += len(encoder._unmerged.encode(text).ids) - len(tokenizer(text, verbose=False).input_ids)
    assert merged_pairs > 1000


def test_random_merge_rules_are_applied_in_the_tokenizers_order():
    source = random.Random(3)
    for _ in range(50):
        vocab = {"[PAD]": 0, "a": 1, "b": 2, "c": 3}
        merges = []
        for _ in range(40):  # in no order that training would give
            left, right = source.choice(list(vocab)[1:]), source.choice(list(vocab)[1:])
            if (left, right) not in merges and len(left + right) < 9:
                merges.append((left, right))
                vocab.setdefault(left + right, len(vocab))
        source.shuffle(merges)
        tokenizer = wrap(models.BPE(vocab=vocab, merges=merges))
        encoder = BPEDropoutEncoder(tokenizer)
        for _ in range(40):
            text = "".join(source.choices("abc", k=source.randint(1, 40)))
            assert encoder(text, 0.0) == encode(tokenizer, text)


def test_full_dropout_gives_characters(tokenizer):
    encoder = BPEDropoutEncoder(tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(encoder("Red cat", 1.0, generator()))
    assert tokens == [*("r", "e", "d</w>", "c", "a", "t</w>"), *["[PAD]"] * 10]
    encoder = BPEDropoutEncoder(bytes_tokenizer := byte_level())
    assert bytes_tokenizer.convert_ids_to_tokens(encoder("é", 1.0, generator()))[:3] == ["Ġ", "Ã", "©"]


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_encodings_have_the_probabilities_of_bpe_dropout(rate):
    vocab = {"[PAD]": 0, "a": 1, "b": 2, "c": 3, "ab": 4, "bc": 5, "abc": 6}
    model = models.BPE(vocab=vocab, merges=[("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")])
    encoder = BPEDropoutEncoder(wrap(model, model_max_length=3))
    kept = 1 - rate
    expected = {
        (6, 0, 0): kept * kept + rate * kept * kept,  # ab, then abc; or bc, then abc
        (4, 3, 0): kept * rate,
        (1, 5, 0): rate * kept * rate,
        (1, 2, 3): rate * rate,
    }
    draws, source = 20_000, generator(5)
    counts = Counter(tuple(encoder("abc", rate, source)) for _ in range(draws))
    assert counts.keys() == expected.keys()
    for input_ids, probability in expected.items():
        deviation = (draws * probability * (1 - probability)) ** 0.5
        assert abs(counts[input_ids] - draws * probability) < 4 * deviation


def test_encodings_are_as_frequent_as_the_librarys_own_dropout(tokenizer):
    encoder, source, draws = BPEDropoutEncoder(tokenizer), generator(6), 10_000
    ours = Counter(tuple(encoder("twemoji", 0.3, source)) for _ in range(draws))
    random_backend = pickle.loads(pickle.dumps(tokenizer.backend_tokenizer))
    random_backend.model.dropout = 0.3
    random_backend.enable_padding(length=16, pad_id=0, pad_token="[PAD]")
    theirs = Counter(tuple(random_backend.encode("twemoji").ids) for _ in range(draws))
    assert len(ours) > 10
    for input_ids, count in ours.most_common(5):  # differences of more than 6 standard deviations
        assert abs(count - theirs[input_ids]) < 6 * (count + theirs[input_ids]) ** 0.5


def test_a_low_dropout_varies_the_ids_and_keeps_the_text(tokenizer):
    rows = [BPEDropoutEncoder(tokenizer)("red heart", 0.1, generator(seed)) for seed in range(200)]
    assert 3 < len(set(map(tuple, rows))) < 100
    assert rows.count(encode(tokenizer, "red heart")) > 40
    assert {tokenizer.decode(row, skip_special_tokens=True) for row in rows} == {"red heart"}


def test_equal_generators_give_equal_ids_and_one_number_is_drawn(tokenizer):
    encoder = BPEDropoutEncoder(tokenizer)
    first, second = generator(9), generator(9)
    assert [encoder(text, 0.5, first) for text in CAPTIONS] == [encoder(text, 0.5, second) for text in CAPTIONS]
    short, long = generator(10), generator(10)
    encoder("a", 0.5, short)
    encoder("a green castle " * 20, 0.1, long)
    assert torch.equal(short.get_state(), long.get_state())
    encoder("a green castle", 0.0, short)
    assert torch.equal(short.get_state(), long.get_state())


def test_encoding_leaves_tokenizer_and_global_random_state_alone(tokenizer):
    before = tokenizer.backend_tokenizer.to_str(), random.getstate(), torch.get_rng_state()
    encoder = BPEDropoutEncoder(tokenizer)
    for text in CAPTIONS:
        encoder(text, 0.5, generator())
    assert tokenizer.backend_tokenizer.to_str() == before[0]
    assert tokenizer.backend_tokenizer.model.dropout is None
    assert random.getstate() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize("name", ["caption", "published", "byte_level"])
def test_a_pickled_encoder_gives_equal_ids(name):
    encoder = BPEDropoutEncoder(TOKENIZERS[name]())
    copy, source = pickle.loads(pickle.dumps(encoder)), random.Random(11)
    for text in [*CAPTIONS, *PIECES, *(random_text(source) for _ in range(300))]:
        assert copy(text, 0.0) == encoder(text, 0.0)
        assert copy(text, 0.3, generator(12)) == encoder(text, 0.3, generator(12))


class EncodedCaptions(Dataset):
    def __init__(self, encoder: BPEDropoutEncoder):
        self.encoder = encoder

    def __len__(self) -> int:
        return len(CAPTIONS)

    def __getitem__(self, index: int) -> torch.Tensor:  # seeded by the index
        return torch.tensor(self.encoder(CAPTIONS[index], 0.3, generator(index)))


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_data_loader_workers_change_nothing(tokenizer, start_method):
    dataset = EncodedCaptions(BPEDropoutEncoder(tokenizer))
    expected = torch.cat(list(DataLoader(dataset, batch_size=8)))
    workers = {"num_workers": 2, "multiprocessing_context": start_method, "persistent_workers": True}
    loader = DataLoader(dataset, batch_size=8, **workers)
    for _ in range(2):  # two epochs of the same workers
        assert torch.equal(torch.cat(list(loader)), expected)
    assert len(expected.unique(dim=0)) == len(set(CAPTIONS))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"caption": ["red"]}, ValueError, "`caption` must be a string, got ['red'] of type list."),
        ({"dropout": -0.1}, ValueError, "`dropout` must be in [0, 1], got -0.1."),
        ({"dropout": float("nan")}, ValueError, "`dropout` must be in [0, 1], got nan."),
        ({"generator": None}, ValueError, "`generator` must be given if `dropout` is above 0"),
        ({"generator": 3}, ValueError, "`generator` must be a torch.Generator, got int."),
    ],
)
def test_encoding_names_bad_input(tokenizer, arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        BPEDropoutEncoder(tokenizer)(**{"caption": "red", "dropout": 0.1, "generator": generator(), **arguments})


def test_an_unsuitable_tokenizer_is_refused(tokenizer):
    vocab = {"[PAD]": 0, "a": 1}
    for unsuitable, message in [
        (wrap(models.WordLevel(vocab, unk_token="[PAD]")), "must have a BPE model, got WordLevel."),
        (wrap(models.BPE(vocab, [], dropout=0.3)), "must have no dropout of its own, got 0.3"),
        (wrap(models.BPE(vocab, [], ignore_merges=True)), "ignore_merges=True"),
        (wrap(models.BPE(vocab, []), pad_token=None), "must have a pad token, got pad_token=None."),
        (wrap(models.BPE(vocab, []), model_max_length=None), "must have a model_max_length, got 1"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            BPEDropoutEncoder(unsuitable)
    with pytest.raises(ValueError, match="`tokenizer` must be a PreTrainedTokenizerFast, got Tokenizer."):
        BPEDropoutEncoder(tokenizer.backend_tokenizer)


@pytest.fixture
def script_main(tmp_path, monkeypatch):
    """The script's main function, with the data set cache in a temporary folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "train_caption_tokenizer.py"))["main"]


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    """Arguments that name a folder of captions."""
    (tmp_path / "data").mkdir()
    rows = [{"text": c, "captions": [c, c.upper()], "number": 1.0, "gap": c} for c in CAPTIONS]
    rows[0]["gap"] = None
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folders = ["--dataset_name", str(tmp_path / "data"), "--output_dir", str(tmp_path / "out")]
    return [*folders, "--vocab_size", "100", "--max_length", "8"]


@pytest.mark.parametrize(
    "more", [[], ["--caption_column", "captions"], ["--streaming"], ["--caption_column", "gap"]], ids=str
)
def test_script_trains_on_a_folder(script_main, arguments, tmp_path, capsys, more):
    script_main([*arguments, *more])
    captions = [text for c in CAPTIONS for text in (c, c.upper())] if "captions" in more else CAPTIONS
    captions = captions[1:] if "gap" in more else captions
    expected = train_caption_tokenizer(captions, vocab_size=100, max_length=8)
    trained = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model_of(trained) == model_of(expected) and trained.model_max_length == 8
    cut = sum(len(expected(text, verbose=False).input_ids) > 8 for text in captions) / len(captions)
    printed = capsys.readouterr().out
    assert "100 entries saved" in printed and f"The first {len(captions)} captions" in printed
    assert f"{cut:.2%} are cut at 8." in printed


def test_script_replaces_nothing_but_a_tokenizer_and_that_only_if_told_to(script_main, arguments, tmp_path):
    output_dir = tmp_path / "out"
    output_dir.mkdir()
    (output_dir / "notes.txt").write_text("mine")
    script_main(arguments)
    first = (output_dir / "tokenizer.json").read_text()
    with pytest.raises(ValueError, match="already contains .*tokenizer.json.*--overwrite"):
        script_main([*arguments, "--vocab_size", "90"])
    assert (output_dir / "tokenizer.json").read_text() == first
    script_main([*arguments, "--vocab_size", "90", "--overwrite"])
    assert len(AutoTokenizer.from_pretrained(output_dir)) == 90
    assert (output_dir / "notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="`--output_dir` must be a folder, got the file"):
        script_main([*arguments, "--overwrite", "--output_dir", str(output_dir / "notes.txt")])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--caption_column caption", "`--caption_column` must be one of ['text', 'captions', 'number', 'gap'], got"),
        ("--caption_column number", "strings or lists of strings, got 1.0 in row 0."),
        ("--caption_column number --streaming", "strings or lists of strings, got 1.0 in row 0."),
        ("--split nonesuch", 'Unknown split "nonesuch"'),
        ("--vocab_size 10", "`vocab_size` must be at least"),
    ],
)
def test_script_names_bad_input_and_saves_nothing(script_main, arguments, tmp_path, more, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        script_main([*arguments, *more.split()])
    assert not (tmp_path / "out").exists()
