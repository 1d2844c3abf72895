# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""Caption tokenizers: byte-pair encoding of lower-case words into rows of fixed length, and BPE dropout with a seed.

A tokenizer is trained on captions, or converted from the files of a published RQ-Transformer. In both, characters are
merged inside words, the last character of a word carries the suffix "</w>", there are no start and end tokens, and
rows are padded on the right.
"""

import copy
import json
import os
import random
from collections import Counter
from collections.abc import Iterable
from itertools import groupby, pairwise
from operator import itemgetter

import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

PAD_TOKEN = "[PAD]"  # id 0
UNK_TOKEN = "[UNK]"  # id 1
END_OF_WORD = "</w>"
MAX_CHARACTERS = 1000  # rarer ones become [UNK]


def train_caption_tokenizer(
    captions: Iterable[str], vocab_size: int = 16384, max_length: int = 32, show_progress: bool = False
) -> PreTrainedTokenizerFast:
    """
    Trains a byte-pair encoding on captions.

    Text is lower-cased and words are split at white space, around punctuation and around each Chinese character.
    Accents are kept. The result depends only on how often each word occurs. "[PAD]" and "[UNK]" typed in a caption are
    plain text.

    Args:
        captions (`Iterable[str]`): The captions, read once.
        vocab_size (`int`, *optional*, defaults to 16384): The largest number of entries: two special tokens, two for
            each of the 1,000 most frequent characters, and the merged pairs. Few captions give fewer, so use
            `len(tokenizer)` as the `vocab_size` of a model.
        max_length (`int`, *optional*, defaults to 32): Number of ids in a row. It is `model_max_length` of the
            tokenizer and `condition_length` of the transformer.
        show_progress (`bool`, *optional*, defaults to `False`): Whether to show a progress bar.

    Returns:
        `PreTrainedTokenizerFast`: [PAD] is 0 and [UNK] is 1. `tokenizer(text, padding="max_length", truncation=True)`
        gives `max_length` ids.

    Raises:
        `ValueError`: If `captions` has no text or is a string, or `vocab_size` cannot hold the special tokens and the
            characters.

    Example:

    ```python
    >>> from rq_hf import train_caption_tokenizer

    >>> tokenizer = train_caption_tokenizer(["a red heart", "a red apple"], vocab_size=64, max_length=6)
    >>> tokenizer.tokenize("A red heart")
    ['a</w>', 'red</w>', 'heart</w>']
    ```
    """
    if isinstance(captions, str):
        raise ValueError("`captions` must be an iterable of strings, got one string.")
    normalizer, pre_tokenizer = _normalizer(), pre_tokenizers.BertPreTokenizer()
    word_counts, character_counts = Counter(), Counter()
    for caption in captions:
        for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(caption)):
            word_counts[word] += 1
            character_counts.update(word)
    if not word_counts:
        raise ValueError("`captions` must contain text, got no captions or only blank ones.")

    by_frequency = sorted(character_counts, key=lambda character: (-character_counts[character], character))
    alphabet = set(by_frequency[:MAX_CHARACTERS])
    symbols = [character + suffix for character in sorted(alphabet) for suffix in ("", END_OF_WORD)]
    if vocab_size < len(symbols) + 2:
        raise ValueError(
            f"`vocab_size` must be at least {len(symbols) + 2} for the {len(alphabet)} characters of these captions, "
            f"got {vocab_size}."
        )

    # The trainer breaks ties by id, and gives random ids to characters. As special tokens they have fixed ids.
    known_words = Counter({word: count for word, count in word_counts.items() if alphabet.issuperset(word)})
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD_TOKEN, UNK_TOKEN, *symbols],
        end_of_word_suffix=END_OF_WORD,
        show_progress=show_progress,
    )
    trained = Tokenizer(BPE(unk_token=UNK_TOKEN, end_of_word_suffix=END_OF_WORD))
    trained.train_from_iterator(known_words.elements(), trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return _make_tokenizer(model["vocab"], merges, max_length, split_special_tokens=True)


def convert_char_bpe_tokenizer(
    vocab_file: str | os.PathLike, merges_file: str | os.PathLike, max_length: int
) -> PreTrainedTokenizerFast:
    """
    Makes the tokenizer of a published text model from its two files. It gives the published ids for any text.

    As in the published tokenizer, "[PAD]" and "[UNK]" typed in capitals are the special tokens.

    Args:
        vocab_file (`str` or `os.PathLike`): JSON object of tokens and ids, "bpe-16k-vocab.json" of the official code.
        merges_file (`str` or `os.PathLike`): The merges, two tokens a line, "bpe-16k-merges.txt" there.
        max_length (`int`): Number of ids in a row, 32 for CC-3M.

    Raises:
        `ValueError`: If the files cannot be read or do not belong together, or [PAD] and [UNK] are not 0 and 1.
    """
    try:
        vocab, merges = BPE.read_file(str(vocab_file), str(merges_file))
        tokenizer = _make_tokenizer(vocab, merges, max_length, split_special_tokens=False)
    except Exception as error:  # tokenizers raises nothing more specific
        raise ValueError(f"`vocab_file` and `merges_file` must be files of one tokenizer: {error}.") from error
    if (vocab.get(PAD_TOKEN), vocab.get(UNK_TOKEN)) != (0, 1):
        raise ValueError(f"`vocab_file` must have {PAD_TOKEN} as 0 and {UNK_TOKEN} as 1, got {str(vocab_file)!r}.")
    return tokenizer


class BPEDropoutEncoder:
    """
    Encodes captions with BPE dropout (Provilkov et al., 2020, https://arxiv.org/abs/1910.13267) and a generator. The
    dropout of `tokenizers` takes no seed.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): Of [`train_caption_tokenizer`] or [`convert_char_bpe_tokenizer`]; others
            raise a `ValueError`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        if model.get("end_of_word_suffix") != END_OF_WORD or tokenizer.unk_token != UNK_TOKEN:
            raise ValueError(
                "`bpe_dropout` must be 0 for a tokenizer that is not of `train_caption_tokenizer` or "
                "`convert_char_bpe_tokenizer`."
            )
        vocab = model["vocab"]
        self.max_length = tokenizer.model_max_length
        self._merges = {  # (left id, right id): (rank, merged id)
            (vocab[left], vocab[right]): (rank, vocab[left + right])
            for rank, (left, right) in enumerate(model["merges"])
        }
        self._characters = copy.deepcopy(tokenizer)  # splits captions into characters
        self._characters.backend_tokenizer.model = BPE(vocab, [], unk_token=UNK_TOKEN, end_of_word_suffix=END_OF_WORD)

    def __call__(self, caption: str, dropout: float, generator: torch.Generator) -> list[int]:
        """
        Encodes a caption to `model_max_length` ids, padded and cut on the right.

        `dropout` in [0, 1] is the probability that a possible merge is skipped at a step. At 0 the ids are the
        tokenizer's. At 1 they are characters.
        """
        uniform = random.Random(torch.randint(2**63 - 1, (), generator=generator).item()).random
        encoding = self._characters(caption, verbose=False)
        input_ids = []
        for _, word in groupby(zip(encoding.word_ids(), encoding.input_ids, strict=True), key=itemgetter(0)):
            input_ids += self._merge([symbol for _, symbol in word], dropout, uniform)
        return (input_ids + [0] * self.max_length)[: self.max_length]

    def _merge(self, symbols: list[int], dropout: float, uniform) -> list[int]:
        """Merges a word. Each step merges the pair of the lowest rank that dropout does not skip."""
        while True:
            candidates = [
                (self._merges[pair], position)
                for position, pair in enumerate(pairwise(symbols))
                if pair in self._merges and uniform() >= dropout
            ]
            if not candidates:
                return symbols
            (_, merged), position = min(candidates)
            symbols[position : position + 2] = [merged]


def _normalizer() -> normalizers.Normalizer:
    keep_accents = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    return normalizers.Sequence([keep_accents, normalizers.Lowercase()])


def _make_tokenizer(
    vocab: dict[str, int], merges: list[tuple[str, str]], max_length: int, split_special_tokens: bool
) -> PreTrainedTokenizerFast:
    backend = Tokenizer(BPE(vocab=vocab, merges=merges, unk_token=UNK_TOKEN, end_of_word_suffix=END_OF_WORD))
    backend.normalizer = _normalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.BPEDecoder(suffix=END_OF_WORD)
    backend.enable_padding(pad_id=0, pad_token=PAD_TOKEN, length=max_length)
    backend.enable_truncation(max_length)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD_TOKEN,
        unk_token=UNK_TOKEN,
        model_max_length=max_length,
        split_special_tokens=split_special_tokens,
        model_input_names=["input_ids"],  # padding is read as words are, without a mask
    )
