"""Raw values of a column as numpy arrays: one reading for summaries, training and prediction alike."""

from __future__ import annotations

import datetime
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types

from mtl_core.errors import TaskloomError

Column: TypeAlias = pa.Array | pa.ChunkedArray
"""Raw values of a column, one for each row."""

MAX_TEXT = 100_000
"""Characters of a text that are read."""

FLOAT32_MAX = float(np.finfo(np.float32).max)
"""Numbers beyond it, and below its negative, are cut to it."""

_MAX_CATEGORY = 400  # no number has more digits
_WORDS = {True: ("true", "t", "yes", "y", "on", "1"), False: ("false", "f", "no", "n", "off", "0")}
_BOOLEANS = {word: float(value) for value, words in _WORDS.items() for word in words}


class ColumnError(TaskloomError):
    """A value of a column is not what the column's type takes.

    Attributes:
        column: The column's name.
        row: Number of the row, from 0; None where it is about the column as a whole.
        detail: What is wrong.
    """

    def __init__(self, column: str, row: int | None, detail: str) -> None:
        where = "" if row is None else f", row {row}"
        super().__init__(f"column '{column}'{where}: {detail}")
        self.column = column
        self.row = row
        self.detail = detail

    def moved(self, rows: int) -> ColumnError:
        """Return the same error for rows that are counted from further up."""
        return ColumnError(self.column, None if self.row is None else self.row + rows, self.detail)


class Missing:
    """Values that mean "missing", as text and as numbers."""

    def __init__(self, values: Sequence[str | int | float]) -> None:
        self.texts = {category_text(value) for value in values} | {""}
        self.numbers = np.array(
            [n for text in self.texts if (n := _number(text)) is not None], dtype=np.float64
        )


@dataclass(frozen=True)
class Categories:
    """Categories of a column: ``codes [n]`` (int64) into ``values``, -1 where missing; values may repeat."""

    codes: NDArray[np.int64]
    values: list[str]

    def lookup(self, index: Mapping[str, int], unknown: int, missing: int) -> NDArray[np.int64]:
        """Return each row's number ``[n]`` in ``index``."""
        found = [index.get(value, unknown) for value in self.values]
        return np.array([*found, missing], dtype=np.int64)[self.codes]

    def counted(self) -> list[tuple[str, int]]:
        """Return values with their number of rows."""
        counts = np.bincount(self.codes[self.codes >= 0], minlength=len(self.values))
        return list(zip(self.values, counts.tolist(), strict=True))

    def of_row(self, row: int) -> str:
        """Return a row's value, which must be given."""
        return self.values[int(self.codes[row])]

    def first_row(self, wrong: Sequence[bool]) -> int | None:
        """Return the first row whose value is wrong, by a flag for each value."""
        rows = np.flatnonzero(np.array([*wrong, False])[self.codes])
        return int(rows[0]) if len(rows) else None


def category_text(value: str | int | float | bool) -> str:
    """Return the text that stands for a value as a category; "" is missing.

    Example:
        >>> [category_text(value) for value in (6, 6.0, " 6", 0.5, True)]
        ['6', '6', '6', '0.5', 'true']
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if not math.isfinite(value):
            return ""
        return str(int(value)) if value.is_integer() else repr(value)
    text = str(value).strip()
    if len(text) > _MAX_CATEGORY:
        # Whatever comes, a vocabulary stays small.
        return f"{text[:300]}…{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"
    return text


def read_numbers(array: Column, name: str, missing: Missing) -> NDArray[np.float64]:
    """Return numbers ``[n]``, NaN where missing, NaN or infinite; beyond float32's range they are cut to it.

    Raises:
        ColumnError: At a value that is no number.
    """
    array = flat(array)
    kind = array.type
    if is_number(kind) or types.is_decimal(kind) or types.is_null(kind):
        read = array.cast(pa.float64(), safe=False)
    elif is_text(kind):
        read = parse(given_texts(array, name, missing), pa.float64(), name, "number")
    else:
        raise wrong_type(array, name, "number")
    numbers: NDArray[np.float64] = read.to_numpy(zero_copy_only=False)
    absent = ~np.isfinite(numbers)
    if len(missing.numbers):
        absent |= np.isin(numbers, missing.numbers)
    # Adding 0 makes 0 of -0, so that all forms of a number are one.
    return np.where(absent, np.nan, np.clip(numbers, -FLOAT32_MAX, FLOAT32_MAX) + 0.0)


def read_booleans(array: Column, name: str, missing: Missing) -> NDArray[np.float64]:
    """Return 1, 0 or NaN (missing) for each row.

    Raises:
        ColumnError: At a value that is neither true nor false.
    """
    categories = read_categories(array, name, missing)
    values = [_BOOLEANS.get(value.lower()) for value in categories.values]
    row = categories.first_row([value is None for value in values])
    if row is not None:
        raise ColumnError(name, row, f"{shown(categories.of_row(row))} is neither true nor false")
    return np.array([*values, np.nan], dtype=np.float64)[categories.codes]


def read_categories(array: Column, name: str, missing: Missing) -> Categories:
    """Return the categories of text, numbers, booleans or dates.

    Raises:
        ColumnError: If the values are of another type.
    """
    array = flat(array)
    kind = array.type
    if types.is_null(kind):
        return Categories(np.full(len(array), -1, dtype=np.int64), [])
    if not (is_number(kind) or is_text(kind) or types.is_boolean(kind) or types.is_date(kind)):
        raise wrong_type(array, name, "category")
    encoded = array.dictionary_encode()
    codes: NDArray[np.int64] = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    values = [category_text(value) for value in _values(encoded.dictionary, name)]
    kept = [code if value not in missing.texts else -1 for code, value in enumerate(values)]
    return Categories(np.array([*kept, -1], dtype=np.int64)[codes], values)


def read_texts(array: Column, name: str, missing: Missing) -> list[str]:
    """Return texts, "" where missing, at most :data:`MAX_TEXT` characters of each.

    Raises:
        ColumnError: If the values are neither text nor anything that has one.
    """
    array = flat(array)
    if is_text(array.type):
        texts = _values(_valid(pc.utf8_slice_codeunits, array, name, 0, MAX_TEXT), name)
        return ["" if text is None or text.strip() in missing.texts else text for text in texts]
    categories = read_categories(array, name, missing)
    values = [*categories.values, ""]
    return [values[code] for code in categories.codes.tolist()]


def flat(array: Column) -> Column:
    """Return a column as one array of plain values."""
    if isinstance(array, pa.ChunkedArray):
        if is_text(array.type) and array.nbytes >= 2**31:
            array = array.cast(pa.large_string())
        array = array.combine_chunks() if array.num_chunks != 1 else array.chunk(0)
    return array.dictionary_decode() if types.is_dictionary(array.type) else array


def is_number(kind: Any) -> bool:
    """Whether an Arrow type is one of integers or floats."""
    return bool(types.is_integer(kind) or types.is_floating(kind))


def is_text(kind: Any) -> bool:
    """Whether an Arrow type is one of strings."""
    return bool(types.is_string(kind) or types.is_large_string(kind))


def shown(value: object) -> str:
    """Return a value as an error message shows it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]}…{text[0]}"


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _values(array: Column, name: str) -> list[Any]:
    if types.is_floating(array.type) and not types.is_float64(array.type):
        # The shortest decimal that means the same: 0.1 as float32 is 0.1, as it is in JSON.
        return [None if v is None else float(str(np.float32(v))) for v in array.to_pylist()]
    try:
        values: list[Any] = array.to_pylist()
    except UnicodeDecodeError:
        raise ColumnError(name, None, "a value is not UTF-8") from None
    return (
        [v.isoformat() if isinstance(v, datetime.date) else v for v in values]
        if types.is_date(array.type)
        else values
    )


def _valid(function: Any, array: Column, name: str, *arguments: Any) -> Column:
    try:
        return function(array, *arguments)
    except pa.ArrowInvalid:
        raise ColumnError(name, None, "a value is not UTF-8") from None


def given_texts(array: Column, name: str, missing: Missing) -> Column:
    """Return stripped texts, null where missing."""
    texts = _valid(pc.utf8_trim_whitespace, array, name)
    absent = pc.is_in(texts, value_set=pa.array(sorted(missing.texts), type=texts.type))
    return pc.if_else(absent, pa.scalar(None, type=texts.type), texts)


def parse(texts: Column, kind: Any, name: str, what: str) -> Column:
    """Return texts as values of an Arrow type; an error calls the first that is none a ``what``."""
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:
        row = _first_that_fails(texts, kind)
    raise ColumnError(name, row, f"{shown(texts[row].as_py())} is no {what}")


def _first_that_fails(texts: Column, kind: Any) -> int:
    first, after = 0, len(texts)
    while after - first > 1:
        middle = (first + after) // 2
        try:
            texts.slice(first, middle - first).cast(kind)
        except pa.ArrowInvalid:
            after = middle
        else:
            first = middle
    return first


def wrong_type(array: Column, name: str, what: str) -> ColumnError:
    """Return the error for a column of another Arrow type."""
    return ColumnError(name, None, f"values of type {re.sub(r'<.*', '', str(array.type))} are no {what}")
