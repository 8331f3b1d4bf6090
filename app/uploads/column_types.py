"""The types that a table's columns have: those of other formats converted, those of text found in its values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from app.uploads.faults import UnreadableError

TIMESTAMP = pa.timestamp("us", "UTC")
TRUE, FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")

_MAX_NAME = 256
_FIRST_VALUES = 64
_TENSOR_NUMBERS = (pa.uint8(), pa.int64(), pa.float32(), pa.float64())


def _is_text(dtype: pa.DataType) -> bool:
    return pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype)


_TABLE_TYPES: tuple[tuple[Callable[[pa.DataType], bool], pa.DataType], ...] = (
    (pa.types.is_boolean, pa.bool_()),
    (pa.types.is_integer, pa.int64()),
    (pa.types.is_float16, pa.float32()),
    (pa.types.is_float32, pa.float32()),
    (pa.types.is_float64, pa.float64()),
    (pa.types.is_decimal, pa.float64()),
    (pa.types.is_date, pa.date32()),
    (pa.types.is_timestamp, TIMESTAMP),
    (_is_text, pa.string()),
    (pa.types.is_null, pa.string()),
)

Batches = Callable[[], Iterable[pa.RecordBatch]]


def check_count(columns: int, max_columns: int) -> None:
    """Refuse more columns than there may be.

    Raises:
        UnreadableError: If there are too many.
    """
    if columns > max_columns:
        raise UnreadableError(f"the file has {columns:,} columns, and {max_columns:,} are allowed")


def check_names(names: Sequence[str], max_columns: int) -> None:
    """Refuse names that cannot be a table's.

    Raises:
        UnreadableError: If there are too many, two are equal, or one is empty or too long.
    """
    if not names:
        raise UnreadableError("the file has no columns")
    check_count(len(names), max_columns)
    seen: set[str] = set()
    for i, name in enumerate(names, start=1):
        if not name.strip():
            raise UnreadableError(f"column {i} has no name: give names by 'columns', or state 'header'")
        if len(name) > _MAX_NAME or "\0" in name:
            raise UnreadableError(
                f"the name of column {i} has more than {_MAX_NAME} characters, or a NUL among them"
            )
        if name in seen:
            raise UnreadableError(
                f"two columns are called {name!r}: give names by 'columns', or state 'header'", column=name
            )
        seen.add(name)


def table_type(dtype: pa.DataType) -> pa.DataType | None:
    """Return the type that values of an Arrow type have in a table; None where tables have no such values."""
    if isinstance(dtype, pa.FixedShapeTensorType):
        return _tensor_type(dtype)
    if isinstance(dtype, pa.BaseExtensionType):
        return table_type(dtype.storage_type)
    if pa.types.is_dictionary(dtype):
        return table_type(dtype.value_type)
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype) or pa.types.is_fixed_size_list(dtype):
        return _list_type(dtype.value_type)
    return next((target for belongs, target in _TABLE_TYPES if belongs(dtype)), None)


def converted(
    schema: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Return a table's schema, and its batches made of those of another schema.

    Raises:
        UnreadableError: If a column's values have no place in a table; also while batches are taken.
    """
    fields: list[pa.Field] = []
    for field in schema:
        dtype = table_type(field.type)
        if dtype is None:
            raise UnreadableError(f"values of type {field.type} are not supported", column=field.name)
        fields.append(pa.field(field.name, dtype))
    target = pa.schema(fields)
    return target, (_convert(batch, target) for batch in batches)


def typed(
    schema: pa.Schema, batches: Batches, block: pa.RecordBatch
) -> tuple[pa.Schema, Callable[[], Iterator[pa.RecordBatch]]]:
    """Return the schema in which columns of text have the type that their values share, and the batches in it.

    The first block decides; where a later one does not fit, a walk over all blocks decides anew.

    Args:
        schema: Types as they were read.
        batches: Reads the blocks, from the first, each time it is called.
        block: The first of them.

    Returns:
        The schema, and what yields the batches, which raises :class:`TypeChangedError` where values do not fit.
    """
    kinds = [_Kind() if field.type == pa.string() else None for field in schema]
    for kind, column in zip(kinds, block.columns, strict=True):
        if kind:
            kind.see(column)
    return _with_kinds(schema, batches, kinds)


def typed_by_all(
    schema: pa.Schema, batches: Batches
) -> tuple[pa.Schema, Callable[[], Iterator[pa.RecordBatch]]]:
    """Return the same as :func:`typed`, decided by all blocks."""
    kinds = [_Kind() if field.type == pa.string() else None for field in schema]
    for block in batches():
        for kind, column in zip(kinds, block.columns, strict=True):
            if kind:
                kind.see(column)
    return _with_kinds(schema, batches, kinds)


class TypeChangedError(Exception):
    """A value is of another type than those before it."""


def _with_kinds(
    schema: pa.Schema, batches: Batches, kinds: Sequence[_Kind | None]
) -> tuple[pa.Schema, Callable[[], Iterator[pa.RecordBatch]]]:
    fields = [
        pa.field(field.name, kind.dtype if kind else field.type)
        for field, kind in zip(schema, kinds, strict=True)
    ]
    target = pa.schema(fields)

    def read() -> Iterator[pa.RecordBatch]:
        for block in batches():
            columns: list[pa.Array] = []
            for column, kind in zip(block.columns, kinds, strict=True):
                try:
                    columns.append(kind.cast(column) if kind else column)
                except pa.ArrowInvalid as error:
                    raise TypeChangedError(str(error)) from None
            yield pa.RecordBatch.from_arrays(columns, schema=target)

    return target, read


def _as_text(column: pa.Array) -> pa.Array:
    return column


def _as_bool(column: pa.Array) -> pa.Array:
    is_true = pc.is_in(column, pa.array(TRUE))
    known = pc.or_(is_true, pc.is_in(column, pa.array(FALSE)))
    if not pc.all(pc.or_(known, column.is_null()), min_count=0).as_py():
        raise pa.ArrowInvalid("no truth value")
    return pc.if_else(column.is_null(), pa.scalar(None, pa.bool_()), is_true)


def _as(dtype: pa.DataType, column: pa.Array) -> pa.Array:
    try:
        return pc.cast(column, dtype)
    except pa.ArrowInvalid:
        return pc.cast(pc.utf8_trim_whitespace(column), dtype)


def _as_timestamp(column: pa.Array) -> pa.Array:
    return _as(pa.timestamp("us"), column).cast(TIMESTAMP)


_CASTS: dict[str, tuple[pa.DataType, Callable[[pa.Array], pa.Array]]] = {
    "int64": (pa.int64(), partial(_as, pa.int64())),
    "float64": (pa.float64(), partial(_as, pa.float64())),
    "bool": (pa.bool_(), _as_bool),
    "date": (pa.date32(), partial(_as, pa.date32())),
    "timestamp": (TIMESTAMP, _as_timestamp),
    "zoned timestamp": (TIMESTAMP, partial(_as, TIMESTAMP)),
    "string": (pa.string(), _as_text),
}
# What else all values may be, once they are not all of a type.
_WIDER = {
    "int64": ("float64", "string"),
    "float64": ("string",),
    "bool": ("string",),
    "date": ("timestamp", "string"),
    "timestamp": ("string",),
    "zoned timestamp": ("string",),
    "string": (),
}


class _Kind:
    """The narrowest type of all values of a column of text that were seen."""

    def __init__(self) -> None:
        self._name: str | None = None

    @property
    def dtype(self) -> Any:
        return _CASTS[self._name or "string"][0]

    def cast(self, column: pa.Array) -> pa.Array:
        if self._name is None and column.null_count < len(column):
            raise pa.ArrowInvalid("a column without values has one")
        return _CASTS[self._name or "string"][1](column)

    def see(self, column: pa.Array) -> None:
        if column.null_count == len(column):
            return
        candidates = list(_CASTS) if self._name is None else [self._name, *_WIDER[self._name]]
        # A cast that fails is slow, for it fails at every value: it fails at few of them first.
        head = column.drop_null().slice(0, _FIRST_VALUES)
        self._name = next(name for name in candidates if _fits(name, head) and _fits(name, column))


def _fits(name: str, column: pa.Array) -> bool:
    try:
        _CASTS[name][1](column)
    except pa.ArrowInvalid:
        return False
    return True


def _convert(batch: pa.RecordBatch, target: pa.Schema) -> pa.RecordBatch:
    columns = [_converted_column(batch.column(i), field) for i, field in enumerate(target)]
    return pa.RecordBatch.from_arrays(columns, schema=target)


def _converted_column(column: pa.Array, field: pa.Field) -> pa.Array:
    try:
        if isinstance(field.type, pa.FixedShapeTensorType):
            numbers = column.storage.cast(field.type.storage_type)
            if pc.list_flatten(numbers).null_count:
                raise UnreadableError("numbers are missing within a tensor", column=field.name)
            return pa.ExtensionArray.from_storage(field.type, numbers)
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        # Nanoseconds are cut off: datasets have no use for them.
        is_finer = pa.types.is_timestamp(column.type) and column.type.unit == "ns"
        return column.cast(field.type, safe=not is_finer)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UnreadableError(f"a value has no place in {field.type}: {error}", column=field.name) from None


def _list_type(dtype: pa.DataType) -> pa.DataType | None:
    if pa.types.is_integer(dtype) or pa.types.is_boolean(dtype):
        return pa.list_(pa.int64())
    if pa.types.is_floating(dtype) or pa.types.is_decimal(dtype) or pa.types.is_null(dtype):
        return pa.list_(pa.float64())
    return pa.list_(pa.string()) if _is_text(dtype) else None


def _tensor_type(dtype: pa.FixedShapeTensorType) -> pa.DataType | None:
    permutation = dtype.permutation
    if permutation is not None and list(permutation) != sorted(permutation):
        return None
    value = dtype.value_type
    if value not in _TENSOR_NUMBERS:
        value = {"halffloat": pa.float32(), "bool": pa.uint8()}.get(str(value)) or (
            pa.int64() if pa.types.is_integer(value) else None
        )
    return None if value is None else pa.fixed_shape_tensor(value, dtype.shape)
