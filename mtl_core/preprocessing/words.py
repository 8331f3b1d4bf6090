"""Texts as words, and words as indices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel

PAD, UNKNOWN = "[PAD]", "[UNK]"
SPECIAL = 2
"""Indices before the first word's: 0 pads, 1 is unknown."""

_BATCH_CHARACTERS = 2**20
_MAX_WORD = 100


class Words:
    """A tokenizer: runs of letters, digits and underscores are words, and so are runs of other signs.

    Args:
        words: Those that have an index, from 2 on.
        lowercase: Whether words that differ in case only are one.

    Example:
        >>> Words(["don", "t"], lowercase=True).indices(["Don't!"], 6)
        array([[2, 1, 3, 1, 0, 0]])
    """

    def __init__(self, words: Sequence[str], lowercase: bool) -> None:
        vocabulary = {word: index for index, word in enumerate([PAD, UNKNOWN, *words])}
        self._tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
        self._normalizer = normalizers.Sequence(
            [normalizers.NFC(), *([normalizers.Lowercase()] if lowercase else [])]
        )
        self._pre_tokenizer = pre_tokenizers.Whitespace()
        self._tokenizer.normalizer = self._normalizer
        self._tokenizer.pre_tokenizer = self._pre_tokenizer

    def split(self, texts: Sequence[str]) -> Iterator[str]:
        """Yield the words of texts; those of more than 100 letters are left out, so that a vocabulary stays small."""
        for text in texts:
            for word, _ in self._pre_tokenizer.pre_tokenize_str(self._normalizer.normalize_str(text)):
                if len(word) <= _MAX_WORD:
                    yield word

    def indices(self, texts: Sequence[str], length: int) -> NDArray[np.int64]:
        """Return indices ``[n, length]`` of the texts' first words, padded with 0."""
        out = np.zeros((len(texts), length), dtype=np.int64)
        row = 0
        for batch in _batches(texts):
            for found in self._tokenizer.encode_batch_fast(batch):
                ids = found.ids[:length]
                out[row, : len(ids)] = ids
                row += 1
        return out


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield texts in batches that are small when tokenized: a word takes a hundred bytes and more."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text) + 64
        if characters > _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
