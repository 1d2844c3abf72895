# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Caption tokenizer: byte-pair encoding of lower-case words into rows of fixed length, and its seeded dropout.

A tokenizer is trained, or made from the files of the published RQ-Transformer's (16,384 entries, 32 ids a caption for
CC-3M). The structure is the same: characters with an end-of-word suffix are merged inside words, there is no start or
end token, and rows are padded on the right.
"""

import heapq
import json
import os
import random
from collections import Counter
from collections.abc import Iterable
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

PAD_TOKEN = "[PAD]"  # id 0
UNK_TOKEN = "[UNK]"  # id 1
END_OF_WORD = "</w>"

# The pre-tokenizer makes a word of every punctuation mark; `decode` takes the usual spaces out again.
_SPACE_BESIDE_PUNCTUATION = "|".join(
    [
        r"(?<!,) (?=[,.!?;:%)\]}…])",  # before closing marks
        r"(?<=[(\[{]) ",  # after opening brackets
        r"(?<=\w) (?=['’\-/] \w)|(?<=\w ['’\-/]) (?=\w)",  # o'clock, t-rex, and/or
        r"(?<=\d [.:]) (?=\d)",  # 3.5, 10:30
        r"(?<=[+<#$]) (?=\d)|(?<=^-|\W -) (?=\d)",  # +1, <3, #1, $5, -1
    ]
)


def _check_integer(name: str, value: int, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"`{name}` must be an integer, got {value!r} of type {type(value).__name__}.")
    if value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, got {value}.")


def _normalizer() -> normalizers.Normalizer:
    return normalizers.Sequence(
        [normalizers.BertNormalizer(lowercase=False, strip_accents=False), normalizers.Lowercase()]
    )


def _build_tokenizer(
    vocab: dict[str, int], merges: list[tuple[str, str]], max_length: int, split_special_tokens: bool
) -> PreTrainedTokenizerFast:
    backend = Tokenizer(BPE(vocab=vocab, merges=merges, unk_token=UNK_TOKEN, end_of_word_suffix=END_OF_WORD))
    backend.normalizer = _normalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.Sequence(
        [
            decoders.BPEDecoder(suffix=END_OF_WORD),
            decoders.Fuse(),
            decoders.Replace(Regex(_SPACE_BESIDE_PUNCTUATION), ""),
        ]
    )
    backend.enable_padding(direction="right", pad_id=0, pad_token=PAD_TOKEN, length=max_length)
    backend.enable_truncation(max_length, direction="right")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD_TOKEN,
        unk_token=UNK_TOKEN,
        model_max_length=max_length,
        padding_side="right",
        truncation_side="right",
        split_special_tokens=split_special_tokens,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids"],  # the models read padding as they read words
    )


def train_caption_tokenizer(
    captions: Iterable[str],
    vocab_size: int = 16384,
    max_length: int = 32,
    min_frequency: int = 1,
    limit_alphabet: int = 1000,
    show_progress: bool = False,
) -> PreTrainedTokenizerFast:
    """
    Train a byte-pair encoding on captions.

    Text is lower-cased, accents are kept, control characters are removed, and words are split at white space, around
    punctuation and around each Chinese character. The result depends on how often each word occurs and on nothing
    else: neither on the order of the captions nor on how words are grouped into captions.

    "[PAD]" and "[UNK]" typed in a caption are plain text (`split_special_tokens=True`, which `tokenizer_config.json`
    keeps; `tokenizers.Tokenizer.from_file` alone does not know it and would map them to ids 0 and 1).

    Args:
        captions (`Iterable[str]`):
            The captions, read once. Empty strings are allowed as long as some caption has text.
        vocab_size (`int`, defaults to 16384):
            The largest number of entries, the two special tokens and the characters included. There are fewer if the
            captions have no more pairs to merge, so models should be sized by `len(tokenizer)`.
        max_length (`int`, defaults to 32):
            The number of ids in a row: `model_max_length` of the tokenizer.
        min_frequency (`int`, defaults to 1):
            Pairs that occur less often are not merged.
        limit_alphabet (`int`, defaults to 1000):
            The number of different characters kept, the most frequent ones. The others become [UNK]. A kept character
            takes two entries, inside a word and at its end, so it is never unknown.
        show_progress (`bool`, defaults to `False`):
            Whether to show the progress of the merge search.

    Returns:
        `PreTrainedTokenizerFast`: [PAD] is 0 and [UNK] is 1. `tokenizer(text, padding="max_length", truncation=True)`
        gives `max_length` ids, padded and cut on the right.

    Raises:
        `ValueError`: If `captions` is one string, is not iterable or contains anything but strings, if the captions
            contain no text, a number is no integer or below its minimum, or `vocab_size` cannot hold the special
            tokens and the characters.

    Example:

    ```python
    >>> from rq_hf.caption_tokenizer import train_caption_tokenizer

    >>> tokenizer = train_caption_tokenizer(["a red heart", "a red apple"], vocab_size=64, max_length=6)
    >>> tokenizer.tokenize("A red heart")
    ['a</w>', 'red</w>', 'heart</w>']
    >>> len(tokenizer("a red heart", padding="max_length", truncation=True).input_ids)
    6
    ```
    """
    _check_integer("vocab_size", vocab_size, 4)  # two special tokens and one character
    _check_integer("max_length", max_length, 1)
    _check_integer("min_frequency", min_frequency, 1)
    _check_integer("limit_alphabet", limit_alphabet, 1)
    if isinstance(captions, str) or not isinstance(captions, Iterable):
        raise ValueError(f"`captions` must be an iterable of strings, got {type(captions).__name__}.")

    normalizer, pre_tokenizer = _normalizer(), pre_tokenizers.BertPreTokenizer()
    word_counts = Counter()
    for index, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise ValueError(
                f"`captions[{index}]` must be a string, got {caption!r} of type {type(caption).__name__}."
            )
        words = pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(caption))
        word_counts.update(word for word, _ in words)
    if not word_counts:
        raise ValueError("`captions` must contain text, got no captions or only blank ones.")

    character_counts = Counter()
    for word, count in word_counts.items():
        for character in word:
            character_counts[character] += count
    by_frequency = sorted(character_counts, key=lambda character: (-character_counts[character], character))
    alphabet = set(by_frequency[:limit_alphabet])
    symbols = [character + suffix for character in sorted(alphabet) for suffix in ("", END_OF_WORD)]
    if vocab_size < len(symbols) + 2:
        raise ValueError(
            f"`vocab_size` must be at least {len(symbols) + 2} for these captions (2 special tokens and 2 entries for "
            f"each of {len(alphabet)} characters), got {vocab_size}. A smaller `limit_alphabet` needs fewer."
        )

    # The trainer breaks ties by id and numbers final characters in the order of a randomly seeded hash map, so the
    # result is reproducible only if all first symbols are given to it in order.
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[PAD_TOKEN, UNK_TOKEN, *symbols],
        end_of_word_suffix=END_OF_WORD,
        show_progress=show_progress,
    )
    known_words = Counter({word: count for word, count in word_counts.items() if alphabet.issuperset(word)})
    trained = Tokenizer(BPE(unk_token=UNK_TOKEN, end_of_word_suffix=END_OF_WORD))
    trained.train_from_iterator(known_words.elements(), trainer)

    # A fresh backend, because the trained one takes every symbol for a special token.
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return _build_tokenizer(model["vocab"], merges, max_length, split_special_tokens=True)


def convert_char_bpe_tokenizer(
    vocab_file: str | os.PathLike, merges_file: str | os.PathLike, max_length: int
) -> PreTrainedTokenizerFast:
    """
    Make the tokenizer of a published text model from its two files, with equal ids for any text.

    It splits and merges text as [`train_caption_tokenizer`]'s does, but for one thing: "[PAD]" and "[UNK]" typed in a
    caption, in capitals, are the special tokens, as they are in the published tokenizer.

    Args:
        vocab_file (`str` or `os.PathLike`):
            JSON object of tokens and ids ("bpe-16k-vocab.json" or "bpe-30k-vocab.json" of the official code).
        merges_file (`str` or `os.PathLike`):
            The merges, two tokens a line, most frequent first ("bpe-16k-merges.txt" or "bpe-30k-merges.txt").
        max_length (`int`):
            The number of ids in a row: `model_max_length` of the tokenizer and `condition_length` of the transformer,
            32 for CC-3M.

    Returns:
        `PreTrainedTokenizerFast`: [PAD] is 0 and [UNK] is 1. `tokenizer(text, padding="max_length", truncation=True)`
        gives `max_length` ids, padded and cut on the right.

    Raises:
        `ValueError`: If `max_length` is not an integer of at least 1, a file is missing or not of its format, [PAD]
            and [UNK] are not 0 and 1, or the two files do not belong together: a merge needs a token that has no id,
            or no merge makes a token of several characters.
    """
    _check_integer("max_length", max_length, 1)
    vocab = _read_vocab(vocab_file)
    merges = _read_merges(merges_file, vocab)
    made = {left + right for left, right in merges}
    unmade = [token for token in vocab if len(token.removesuffix(END_OF_WORD)) > 1 and token not in made]
    unmade = [token for token in unmade if token not in (PAD_TOKEN, UNK_TOKEN)]
    if unmade:
        raise ValueError(
            f"`merges_file` must belong to `vocab_file`, got {len(merges)} merges in {str(merges_file)!r} that do not "
            f"make {len(unmade)} tokens of {str(vocab_file)!r}, such as {unmade[0]!r}."
        )
    return _build_tokenizer(vocab, merges, max_length, split_special_tokens=False)


def _read_text(name: str, file: str | os.PathLike) -> str:
    if not Path(file).is_file():
        raise ValueError(f"`{name}` must be a file, but there is none at {str(file)!r}.")
    try:
        return Path(file).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"`{name}` must be UTF-8 text, got {str(file)!r}: {error}.") from error


def _read_vocab(file: str | os.PathLike) -> dict[str, int]:
    try:
        vocab = json.loads(_read_text("vocab_file", file))
    except json.JSONDecodeError as error:
        raise ValueError(f"`vocab_file` must be JSON, got {str(file)!r}: {error}.") from error
    ids = list(vocab.values()) if isinstance(vocab, dict) else [None]
    if any(type(index) is not int for index in ids) or set(ids) != set(range(len(ids))):
        raise ValueError(
            f"`vocab_file` must be a JSON object that numbers its tokens from 0 without a gap, got {str(file)!r}."
        )
    pad_id, unk_id = vocab.get(PAD_TOKEN), vocab.get(UNK_TOKEN)
    if (pad_id, unk_id) != (0, 1):
        raise ValueError(
            f"`vocab_file` must have {PAD_TOKEN} at 0 and {UNK_TOKEN} at 1, got them at {pad_id} and {unk_id} in "
            f"{str(file)!r}."
        )
    return vocab


def _read_merges(file: str | os.PathLike, vocab: dict[str, int]) -> list[tuple[str, str]]:
    merges = []
    lines = _read_text("merges_file", file).removesuffix("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if line.startswith("#version"):
            continue
        pair = tuple(line.removesuffix("\r").split(" "))
        where = f"line {number} of {str(file)!r}"
        if len(pair) != 2:
            raise ValueError(f"`merges_file` must hold two tokens a line, got {line[:80]!r} in {where}.")
        unknown = [token for token in (*pair, "".join(pair)) if token not in vocab]
        if unknown:
            raise ValueError(f"`merges_file` must merge tokens of `vocab_file`, got {unknown[0]!r} in {where}.")
        merges.append(pair)
    return merges


class BPEDropoutEncoder:
    """
    Encode captions with BPE dropout (Provilkov et al., 2020, https://arxiv.org/abs/1910.13267), reproducibly.

    The dropout of `tokenizers` cannot be seeded, and forked workers repeat each other's draws. Here the library does
    all but the merging (normalization, splitting, unknown characters, special tokens), and the merges are drawn from
    the given generator. The tokenizer is copied and never altered. The encoder can be pickled.

    Args:
        tokenizer (`PreTrainedTokenizerFast`):
            A tokenizer with a BPE model (character or byte level, any suffix or prefix), a pad token and a
            `model_max_length`.

    Raises:
        `ValueError`: If `tokenizer` is no `PreTrainedTokenizerFast`, if its model is not BPE, stores a dropout or
            skips merges (`ignore_merges`), or if it has no pad token or no `model_max_length`.

    Example:

    ```python
    >>> import torch
    >>> from rq_hf.caption_tokenizer import BPEDropoutEncoder, train_caption_tokenizer

    >>> tokenizer = train_caption_tokenizer(["a red heart", "a red apple"], vocab_size=64, max_length=12)
    >>> encoder = BPEDropoutEncoder(tokenizer)
    >>> input_ids = encoder("a red heart", dropout=0.1, generator=torch.Generator().manual_seed(0))
    >>> len(input_ids)
    12
    ```
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise ValueError(f"`tokenizer` must be a PreTrainedTokenizerFast, got {type(tokenizer).__name__}.")
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        model = backend["model"]
        if model["type"] != "BPE":
            raise ValueError(f"`tokenizer` must have a BPE model, got {model['type']}.")
        if model["dropout"]:
            raise ValueError(f"`tokenizer` must have no dropout of its own, got {model['dropout']}.")
        if model["ignore_merges"]:
            raise ValueError("`tokenizer` must merge every word, got a model with ignore_merges=True.")
        if tokenizer.pad_token_id is None:
            raise ValueError("`tokenizer` must have a pad token, got pad_token=None.")
        if tokenizer.model_max_length > 2**31:  # transformers writes "no limit" as 1e30
            raise ValueError(f"`tokenizer` must have a model_max_length, got {tokenizer.model_max_length}.")
        self.max_length = tokenizer.model_max_length
        self.pad_token_id = tokenizer.pad_token_id
        self.padding_side = tokenizer.padding_side
        self.truncation_side = tokenizer.truncation_side
        self._split_special_tokens = tokenizer.split_special_tokens

        vocab = model["vocab"]
        prefix_length = len(model["continuing_subword_prefix"] or "")
        self._merges = {  # (left id, right id) -> (rank, merged id)
            (vocab[left], vocab[right]): (rank, vocab[left + right[prefix_length:]])
            for rank, (left, right) in enumerate(model["merges"])
        }
        backend["model"] = {**model, "merges": []}
        self._unmerged = Tokenizer.from_str(json.dumps({**backend, "truncation": None, "padding": None}))
        self._unmerged.encode_special_tokens = self._split_special_tokens

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._unmerged.encode_special_tokens = self._split_special_tokens  # not part of the backend's own state

    def __call__(self, caption: str, dropout: float, generator: torch.Generator | None = None) -> list[int]:
        """
        Encode one caption.

        Args:
            caption (`str`):
                The caption, of any length.
            dropout (`float`):
                The probability in [0, 1] that a candidate merge is skipped at a step. At 0 the ids are the
                tokenizer's, at 1 they are characters (or bytes).
            generator (`torch.Generator`, *optional*):
                The source of randomness, required if `dropout` is above 0. One number is drawn from it per call, and
                none at dropout 0.

        Returns:
            `list[int]`: `model_max_length` ids, padded and cut as the tokenizer does it.

        Raises:
            `ValueError`: If `caption` is no string or `generator` no `torch.Generator`, or if `dropout` is outside
                [0, 1], or above 0 without a generator.
        """
        if not isinstance(caption, str):
            raise ValueError(f"`caption` must be a string, got {caption!r} of type {type(caption).__name__}.")
        if not 0 <= dropout <= 1:
            raise ValueError(f"`dropout` must be in [0, 1], got {dropout}.")
        uniforms = None
        if dropout > 0:
            if generator is None:
                raise ValueError(f"`generator` must be given if `dropout` is above 0, got None at dropout {dropout}.")
            if not isinstance(generator, torch.Generator):
                raise ValueError(f"`generator` must be a torch.Generator, got {type(generator).__name__}.")
            seed = torch.randint(2**63 - 1, (), generator=generator, device=generator.device).item()
            uniforms = random.Random(seed)

        encoding = self._unmerged.encode(caption)
        before, input_ids, after = [], [], []  # start tokens, the caption, end tokens
        for word_index, symbols in groupby(zip(encoding.word_ids, encoding.ids, strict=True), key=itemgetter(0)):
            symbol_ids = [symbol_id for _, symbol_id in symbols]
            if word_index is not None:
                input_ids += self._merge(symbol_ids, dropout, uniforms)
            elif input_ids:
                after = symbol_ids
            else:
                before = symbol_ids

        excess = max(0, len(input_ids) + len(before) + len(after) - self.max_length)
        kept = slice(excess, None) if self.truncation_side == "left" else slice(len(input_ids) - excess)
        input_ids = before + input_ids[kept] + after
        padding = [self.pad_token_id] * (self.max_length - len(input_ids))
        return padding + input_ids if self.padding_side == "left" else input_ids + padding

    def _merge(self, symbols: list[int], dropout: float, uniforms: random.Random | None) -> list[int]:
        """Merge one word: at each step the first merge, by rank and then position, that dropout leaves standing."""
        merges, length = self._merges, len(symbols)
        previous, following = list(range(-1, length - 1)), list(range(1, length + 1))
        candidates = [(merges[pair][0], left) for left, pair in enumerate(pairwise(symbols)) if pair in merges]
        heapq.heapify(candidates)
        skipped = []
        while candidates:
            rank, left = heapq.heappop(candidates)
            right = following[left]
            merge = merges.get((symbols[left], symbols[right])) if right < length else None
            if merge is None or merge[0] != rank:
                continue  # one of the two symbols is part of another merge by now
            if dropout and uniforms.random() < dropout:
                skipped.append((rank, left))
                continue
            while skipped:  # skipped merges are candidates again at the next step
                heapq.heappush(candidates, skipped.pop())
            symbols[left], symbols[right] = merge[1], None
            following[left] = beyond = following[right]
            if beyond < length:
                previous[beyond] = left
                if (pair := (symbols[left], symbols[beyond])) in merges:
                    heapq.heappush(candidates, (merges[pair][0], left))
            if (before := previous[left]) >= 0 and (pair := (symbols[before], symbols[left])) in merges:
                heapq.heappush(candidates, (merges[pair][0], before))
        return [symbol for symbol in symbols if symbol is not None]
