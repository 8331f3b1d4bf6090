"""Raw lists and tensors of a column as numpy arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types

from mtl_core.preprocessing.columns import (
    Categories,
    Column,
    ColumnError,
    Missing,
    flat,
    is_number,
    read_categories,
    read_numbers,
)


@dataclass(frozen=True)
class Lists:
    """Lists of a column: whether each is ``given [n]``, how many items it has, and all items in one row."""

    given: NDArray[np.bool_]
    lengths: NDArray[np.int64]
    items: Column

    def row_of(self, item: int) -> int:
        """Return the row to which an item belongs."""
        return int(np.searchsorted(np.cumsum(self.lengths), item, side="right"))

    def padded(self, values: NDArray[Any], width: int) -> NDArray[Any]:
        """Return one value for each item as ``[n, width]``: cut, or padded with 0."""
        rows = np.repeat(np.arange(len(self.lengths)), self.lengths)
        places = np.arange(len(values)) - np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths)
        kept = places < width
        out = np.zeros((len(self.lengths), width), dtype=values.dtype)
        out[rows[kept], places[kept]] = values[kept]
        return out


def read_lists(array: Column, name: str) -> Lists:
    """Return lists of anything; a missing list has no items.

    Raises:
        ColumnError: If the values are no lists.
    """
    array = _storage(array)
    if types.is_null(array.type):
        array = array.cast(pa.list_(pa.null()))
    if not _is_list(array.type):
        raise ColumnError(name, None, f"values of type {array.type} are no lists")
    given = array.is_valid().to_numpy(zero_copy_only=False)
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return Lists(given, np.where(given, lengths, 0), array.flatten())


def list_numbers(lists: Lists, name: str, missing: Missing) -> NDArray[np.float64]:
    """Return the numbers of all lists in one row, 0 where missing.

    Raises:
        ColumnError: At an item that is no number.
    """
    try:
        return np.nan_to_num(read_numbers(lists.items, name, missing), nan=0.0)
    except ColumnError as error:
        raise _of_item(error, lists) from None


def list_categories(lists: Lists, name: str, missing: Missing) -> Categories:
    """Return the categories of all lists in one row.

    Raises:
        ColumnError: If items are lists themselves.
    """
    try:
        return read_categories(lists.items, name, missing)
    except ColumnError as error:
        raise _of_item(error, lists) from None


@dataclass(frozen=True)
class Tensors:
    """Tensors of a column: ``values [n, …]`` as stored, ``absent`` where one is missing, and which are ``given``."""

    given: NDArray[np.bool_]
    values: NDArray[Any]

    @property
    def shape(self) -> list[int]:
        """Shape of one tensor."""
        return list(self.values.shape[1:])


def read_tensors(array: Column, name: str, missing: Missing, absent: float = 0) -> Tensors:
    """Return tensors of one shape, from Arrow's tensors, lists of equal lengths or plain numbers.

    Args:
        array: The column.
        name: Its name, for errors.
        missing: Numbers that mean "missing", beside NaN and infinite ones.
        absent: What stands for a missing number or tensor; NaN makes floats of integers.

    Raises:
        ColumnError: If the values are of another type, or the lists of different lengths.
    """
    shape = _tensor_shape(flat(array).type, name)
    array = _storage(array)
    given: NDArray[np.bool_] = array.is_valid().to_numpy(zero_copy_only=False)
    if not given.any():
        return Tensors(given, np.full((len(array), *(shape or [])), absent, dtype=np.float32))
    lists = _is_list(array.type)
    if lists:
        lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
        first = int(lengths[given][0])
        wrong = np.flatnonzero(given & (lengths != first))
        if len(wrong):
            row = int(wrong[0])
            raise ColumnError(name, row, f"{int(lengths[row])} numbers, but {first} in the rows before")
        shape = [first] if shape is None else shape
    items = array.flatten() if lists else array.drop_null()
    if types.is_boolean(items.type):
        items = items.cast(pa.uint8())
    if not is_number(items.type):
        raise ColumnError(name, None, f"values of type {items.type} are no tensors of numbers")
    numbers = _numbers(items, missing, absent)
    if given.all():
        return Tensors(given, numbers.reshape(len(array), *(shape or [])))
    values = np.full((len(array), *(shape or [])), absent, dtype=numbers.dtype)
    values[given] = numbers.reshape(-1, *(shape or []))
    return Tensors(given, values)


def _numbers(items: Column, missing: Missing, absent: float) -> NDArray[Any]:
    if math.isnan(absent) and types.is_integer(items.type):
        items = items.cast(pa.float64(), safe=False)
    values: NDArray[Any] = pc.fill_null(items, pa.scalar(absent, type=items.type)).to_numpy(
        zero_copy_only=False
    )
    wrong = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(len(values), dtype=np.bool_)
    if len(missing.numbers):
        wrong |= np.isin(values, missing.numbers)
    return np.where(wrong, values.dtype.type(absent), values) if wrong.any() else values


def _tensor_shape(kind: Any, name: str) -> list[int] | None:
    if not isinstance(kind, pa.FixedShapeTensorType):
        return None
    if kind.permutation is not None and list(kind.permutation) != sorted(kind.permutation):
        raise ColumnError(name, None, "tensors with permuted dimensions are not read")
    return list(kind.shape)


def _storage(array: Column) -> Column:
    array = flat(array)
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def _is_list(kind: Any) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _of_item(error: ColumnError, lists: Lists) -> ColumnError:
    return ColumnError(error.column, None if error.row is None else lists.row_of(error.row), error.detail)
