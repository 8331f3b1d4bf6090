"""Raw rows as JSON has them, as the columns of the table that they would have been."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mtl_core.errors import Fault, SpecError, pointer_to
from mtl_core.preprocessing.columns import Column, ColumnError, category_text, shown
from mtl_core.preprocessing.fitted import FittedList
from mtl_core.preprocessing.fitted_arrays import FittedSequence, FittedTensor
from mtl_core.preprocessing.fitted_field import FittedColumn, FittedField

_MAX_BITS = 1023
_MAX_FAULTS = 100
_SCALARS = (str, bool, int, float)


def columns_from_records(fields: Mapping[str, FittedField], records: Sequence[Any]) -> dict[str, Column]:
    """Return the columns that the fields read, from one object for each row.

    Args:
        fields: The fields to encode.
        records: Rows as JSON objects: column → value, null where missing.

    Raises:
        SpecError: With a fault at each absent or unknown key, and for each column at the first value that its type
            does not take; pointers start with `/records`.

    Example:
        >>> columns_from_records({}, [{"age": 38}])
        Traceback (most recent call last):
        mtl_core.errors.SpecError: /records/0/age: is no column that the model reads
    """
    readers = _readers(fields)
    faults: list[Fault] = []
    for row, record in enumerate(records):
        if not isinstance(record, dict):
            faults.append(Fault(pointer_to("records", row), "a record is an object of columns and values"))
            continue
        keys = cast("dict[str, Any]", record).keys()
        if keys != readers.keys():
            faults += _key_faults(readers, keys, pointer_to("records", row))
        if len(faults) >= _MAX_FAULTS:
            break
    if faults:
        raise SpecError(faults[:_MAX_FAULTS])
    values = {name: [record[name] for record in records] for name in readers}
    return _columns(readers, values, lambda name, row: pointer_to("records", row, name))


def columns_from_lists(fields: Mapping[str, FittedField], columns: Mapping[str, Any]) -> dict[str, Column]:
    """Return the columns that the fields read, from a list of values for each.

    Args:
        fields: The fields to encode.
        columns: Column → its values in all rows, null where missing.

    Raises:
        SpecError: With a fault at each absent or unknown column, at lists of another length than the first, and for
            each column at the first value that its type does not take; pointers start with `/columns`.
    """
    readers = _readers(fields)
    faults = list(_key_faults(readers, columns.keys(), "/columns"))
    faults += [
        Fault(pointer_to("columns", name), "values come as a list")
        for name, values in columns.items()
        if name in readers and not isinstance(values, list)
    ]
    if faults:
        raise SpecError(faults[:_MAX_FAULTS])
    lengths = {name: len(columns[name]) for name in readers}
    first = next(iter(lengths), "")
    faults = [
        Fault(pointer_to("columns", name), f"{n} values, but {lengths[first]} in column '{first}'")
        for name, n in lengths.items()
        if n != lengths[first]
    ]
    if faults:
        raise SpecError(faults[:_MAX_FAULTS])
    return _columns(readers, columns, lambda name, row: pointer_to("columns", name, row))


def _readers(fields: Mapping[str, FittedField]) -> dict[str, list[FittedColumn]]:
    """Return all that reads each column."""
    readers: dict[str, list[FittedColumn]] = {}
    for field in fields.values():
        for column in field.columns:
            readers.setdefault(column.name, []).append(column)
    return readers


def _key_faults(readers: Mapping[str, object], keys: Any, pointer: str) -> list[Fault]:
    given = set(keys)
    absent = [name for name in readers if name not in given]
    unknown = [key for key in keys if key not in readers]
    faults = [
        Fault(pointer, f"column '{name}' is not there; where it is missing, say null") for name in absent
    ]
    # A key may hold what is no text, which an answer could not hold.
    shown_keys = [str(key).encode(errors="replace").decode() for key in unknown]
    return faults + [
        Fault(pointer + pointer_to(key), "is no column that the model reads") for key in shown_keys
    ]


def _columns(
    readers: Mapping[str, list[FittedColumn]],
    values: Mapping[str, list[Any]],
    pointer: Callable[[str, int], str],
) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    faults: list[Fault] = []
    for name, read_by in readers.items():
        try:
            columns[name] = _column(name, values[name], read_by)
        except ColumnError as error:
            row = error.row
            if row is None:
                row = next((i for i, value in enumerate(values[name]) if value is not None), 0)
            faults.append(Fault(pointer(name, row), error.detail))
    if faults:
        raise SpecError(faults[:_MAX_FAULTS])
    return columns


def _column(name: str, values: list[Any], read_by: Sequence[FittedColumn]) -> Column:
    tensor = next((column for column in read_by if isinstance(column, FittedTensor)), None)
    if tensor is not None:
        array = _tensors(name, values, tensor)
    elif any(isinstance(column, FittedList | FittedSequence) for column in read_by):
        array = _lists(name, values)
    else:
        array = _scalars(name, values)
    for column in read_by:
        column.read(array)
    return array


def _scalars(name: str, values: Sequence[Any]) -> Column:
    """Return single values as a column of their type; those of several types as text, which is read the same."""
    kinds: set[type[Any]] = {type(value) for value in values if value is not None}
    if kinds <= {int} and all(value is None or -(2**63) <= value < 2**63 for value in values):
        return pa.array(values, type=pa.int64() if kinds else pa.null())
    if kinds in ({bool}, {float}):
        return pa.array(values, type=pa.bool_() if kinds == {bool} else pa.float64())
    texts = [_text(name, row, value) for row, value in enumerate(values)]
    try:
        return pa.array(texts, type=pa.string())
    except UnicodeEncodeError:
        row = next(row for row, text in enumerate(texts) if text is not None and not _is_unicode(text))
        raise ColumnError(name, row, "half a surrogate pair is no text") from None


def _text(name: str, row: int, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, _SCALARS):
        raise ColumnError(name, row, f"{_called(value)} is no single value")
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise ColumnError(name, row, "is too large a number")
    return category_text(value)


def _lists(name: str, values: Sequence[Any]) -> Column:
    given: list[list[Any]] = []
    for row, value in enumerate(values):
        if value is not None and not isinstance(value, list):
            raise ColumnError(name, row, f"{_called(value)} is no list")
        given.append(cast("list[Any]", value or []))
    ends = np.cumsum([0, *map(len, given)], dtype=np.int32)
    try:
        items = _scalars(name, list(chain.from_iterable(given)))
    except ColumnError as error:
        item = error.row or 0
        row = int(np.searchsorted(ends[1:], item, side="right"))
        raise ColumnError(name, row, f"item {item - int(ends[row])}: {error.detail}") from None
    absent = pa.array([value is None for value in values], type=pa.bool_())
    return pa.ListArray.from_arrays(pa.array(ends), items, mask=absent)


def _tensors(name: str, values: Sequence[Any], tensor: FittedTensor) -> Column:
    dtype = np.dtype(np.int64 if tensor.dtype == "int64" else np.float64)
    out = np.zeros((len(values), *tensor.shape), dtype=dtype)
    for row, value in enumerate(values):
        if value is not None:
            out[row] = _tensor(name, row, value, tensor.shape, dtype)
    absent = pa.array([value is None for value in values], type=pa.bool_())
    if not tensor.shape:
        return pc.if_else(absent, pa.scalar(None, type=pa.from_numpy_dtype(dtype)), pa.array(out))
    storage = pa.FixedSizeListArray.from_arrays(
        pa.array(out.reshape(-1)), int(np.prod(tensor.shape)), mask=absent
    )
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(dtype), tensor.shape)
    return pa.ExtensionArray.from_storage(kind, storage)


def _tensor(name: str, row: int, value: Any, shape: list[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        numbers: NDArray[Any] = np.array(value)
    except (ValueError, OverflowError, RecursionError):
        raise ColumnError(name, row, f"is no array of shape {shape}") from None
    if numbers.dtype.kind not in "biuf":
        raise ColumnError(name, row, f"is no array of numbers of shape {shape}")
    if list(numbers.shape) != shape:
        raise ColumnError(name, row, f"shape {list(numbers.shape)} where {shape} is due")
    with np.errstate(invalid="ignore"):
        cast_to = numbers.astype(dtype)
    if dtype.kind == "i" and not np.array_equal(cast_to, numbers):
        raise ColumnError(name, row, "numbers of the tensor are integers of 64 bits")
    return cast_to


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _called(value: object) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return shown(value)
