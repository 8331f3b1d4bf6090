"""Columns fitted to training data that are a field of their own: text, sequence, tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from mtl_core.documented import Documented
from mtl_core.preprocessing.arrays import Lists, Tensors, list_categories, read_lists, read_tensors
from mtl_core.preprocessing.columns import FLOAT32_MAX, Categories, Column, ColumnError, read_texts
from mtl_core.preprocessing.fitted import FittedBase
from mtl_core.preprocessing.words import SPECIAL, Words
from mtl_core.specs import DType

_SCALED_AT_ONCE = 2**20

SentenceEncoder: TypeAlias = Callable[[list[str]], NDArray[np.float32]]
"""Texts to vectors ``[n, dim]``."""


class SentenceEncoderInfo(Documented):
    """Which sentence encoder a field was fitted with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dim: int = Field(ge=1)
    """Numbers of one text's vector."""
    sha256: str
    """Checksum of its files."""


class FittedText(FittedBase):
    """The indices of a text's first words, or its vector where there is an encoder."""

    type: Literal["text"] = "text"
    words: list[str]
    max_length: int
    lowercase: bool
    encoder: str | None = None
    encoder_info: SentenceEncoderInfo | None = None

    @property
    def dtype(self) -> DType:
        """Type of the field's numbers."""
        return "int64" if self.encoder_info is None else "float32"

    @property
    def shape(self) -> list[int]:
        """Shape of one example."""
        return [self.max_length if self.encoder_info is None else self.encoder_info.dim]

    @property
    def vocabulary(self) -> int | None:
        """How many indices there are."""
        return None if self.encoder_info is not None else SPECIAL + len(self.words)

    def read(self, array: Column) -> list[str]:
        """Return the raw values."""
        return read_texts(array, self.name, self.missing_values)

    def encode(self, array: Column, encoders: Mapping[str, SentenceEncoder]) -> NDArray[Any]:
        """Return the field."""
        texts = self.read(array)
        if self.encoder is None or self.encoder_info is None:
            return self._words.indices(texts, self.max_length)
        if self.encoder not in encoders:
            raise ColumnError(self.name, None, f"there is no sentence encoder '{self.encoder}'")
        out = np.zeros((len(texts), self.encoder_info.dim), dtype=np.float32)
        given = [row for row, text in enumerate(texts) if text]
        if given:
            vectors = np.asarray(encoders[self.encoder]([texts[row] for row in given]), dtype=np.float32)
            if vectors.shape != (len(given), self.encoder_info.dim) or not np.isfinite(vectors).all():
                detail = (
                    f"sentence encoder '{self.encoder}' gave no {self.encoder_info.dim} numbers for each text"
                )
                raise ColumnError(self.name, None, detail)
            out[given] = vectors
        return out

    @cached_property
    def _words(self) -> Words:
        return Words(self.words, self.lowercase)


class FittedSequence(FittedBase):
    """The indices of a list's first items."""

    type: Literal["sequence"] = "sequence"
    values: list[str]
    max_length: int

    @property
    def dtype(self) -> DType:
        """Type of the field's numbers."""
        return "int64"

    @property
    def shape(self) -> list[int]:
        """Shape of one example."""
        return [self.max_length]

    @property
    def vocabulary(self) -> int | None:
        """How many indices there are."""
        return SPECIAL + len(self.values)

    def read(self, array: Column) -> tuple[Lists, Categories]:
        """Return the raw values: lists, and the categories of all their items in one row."""
        lists = read_lists(array, self.name)
        return lists, list_categories(lists, self.name, self.missing_values)

    def encode(self, array: Column, encoders: Mapping[str, SentenceEncoder]) -> NDArray[Any]:
        """Return the field."""
        lists, items = self.read(array)
        return lists.padded(items.lookup(self._index, SPECIAL - 1, SPECIAL - 1), self.max_length)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {value: index for index, value in enumerate(self.values, SPECIAL)}


class FittedTensor(FittedBase):
    """``(x - center) / scale`` of every number, or integers as they are."""

    type: Literal["tensor"] = "tensor"
    shape: list[int]
    dtype: DType
    center: float
    scale: float

    @property
    def vocabulary(self) -> int | None:
        """How many indices there are: a tensor's are not known."""
        return None

    def read(self, array: Column) -> Tensors:
        """Return the raw values."""
        tensors = read_tensors(array, self.name, self.missing_values)
        if tensors.given.any() and tensors.shape != self.shape:
            row = int(np.flatnonzero(tensors.given)[0])
            raise ColumnError(self.name, row, f"shape {tensors.shape} where {self.shape} is due")
        return tensors

    def encode(self, array: Column, encoders: Mapping[str, SentenceEncoder]) -> NDArray[Any]:
        """Return the field."""
        tensors = self.read(array)
        if not tensors.given.any():
            return np.zeros((len(array), *self.shape), dtype=self.dtype)
        if self.dtype == "int64":
            return self._integers(tensors.values)
        out = self._scaled(tensors.values)
        out[~tensors.given] = 0.0
        return out

    def _scaled(self, values: NDArray[Any]) -> NDArray[np.float32]:
        if values.dtype == np.float32 and (self.center, self.scale) == (0.0, 1.0):
            return np.array(values)
        out = np.empty(values.shape, dtype=np.float32)
        step = max(1, _SCALED_AT_ONCE // math.prod(self.shape))
        for start in range(0, len(values), step):
            rows = values[start : start + step].astype(np.float64)
            with np.errstate(over="ignore"):
                scaled = (rows - self.center) / self.scale
            out[start : start + step] = np.clip(scaled, -FLOAT32_MAX, FLOAT32_MAX)
        return out

    def _integers(self, values: NDArray[Any]) -> NDArray[np.int64]:
        if values.dtype.kind == "f":
            wrong = np.flatnonzero((values != np.trunc(values)).reshape(len(values), -1).any(axis=1))
            if len(wrong):
                raise ColumnError(self.name, int(wrong[0]), "numbers with a fraction where integers are due")
        return np.array(values, dtype=np.int64)
