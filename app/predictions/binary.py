"""Binary bodies → rows: the bytes of one tensor, safetensors, and Arrow streams."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from app.datasets.tensors import MAX_DIMENSIONS
from app.predictions.answering import DTYPE, NAME, SAFETENSORS, SHAPE, TENSOR
from app.predictions.batching import Fields
from app.predictions.loaded import LoadedVersion, Route
from app.predictions.rows import Arrays, Rows, encoded
from app.problems import Invalid, MalformedBody
from mtl_core.errors import pointer_to

DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in (*("float16", "float32", "float64"), *("int8", "int16", "int32", "int64"), "uint8", "bool")
}
"""Numbers that a tensor may have, in little-endian order."""


def rows_of_bytes(content: bytes, media_type: str, headers: Mapping[str, str]) -> Rows:
    """Return the rows in a binary body.

    Args:
        content: The body.
        media_type: One of :data:`MEDIA_TYPES` but JSON.
        headers: The request's, of which the bytes of one tensor need some.

    Raises:
        MalformedBody: If it is not of its media type.
        Invalid: If it holds what no field is.
    """
    if media_type == TENSOR:
        return _tensor(content, headers)
    if media_type == SAFETENSORS:
        try:
            return Arrays(load(content))
        except (SafetensorError, KeyError, ValueError) as error:
            raise MalformedBody(f"the body is no safetensors of plain numbers: {error}") from None
    return ArrowRows(_table(content))


def _tensor(content: bytes, headers: Mapping[str, str]) -> Rows:
    dtype_name, shape_text = headers.get(DTYPE, "float32"), headers.get(SHAPE, "")
    dtype = DTYPES.get(dtype_name)
    if dtype is None:
        raise _bad_header(DTYPE, f"{dtype_name[:40]!r} is none of {', '.join(DTYPES)}")
    sizes = shape_text.split(",")
    if not all(size.strip().isascii() and size.strip().isdecimal() and len(size) < 12 for size in sizes):
        raise _bad_header(SHAPE, "a shape is sizes with commas between them, rows first, as 256,64")
    shape = [int(size) for size in sizes]
    if not 1 <= len(shape) <= 1 + MAX_DIMENSIONS:
        raise _bad_header(SHAPE, f"a tensor has 1 to {1 + MAX_DIMENSIONS} dimensions")
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != len(content):
        raise _bad_header(
            SHAPE, f"{shape_text} of {dtype_name} are {wanted:,} bytes; the body has {len(content):,}"
        )
    array = np.frombuffer(content, dtype).reshape(shape)
    return OneArray(array, headers.get(NAME))


def _bad_header(header: str, detail: str) -> Invalid:
    return Invalid(detail, [{"parameter": header, "detail": detail}])


@dataclass(frozen=True)
class OneArray(Rows):
    """Values of one field.

    Attributes:
        array: ``[n, …]``.
        name: The field; None for the only one that the version reads.
    """

    array: NDArray[Any]
    name: str | None

    def fields(self, loaded: LoadedVersion, route: Route) -> Fields:
        """Return the field."""
        if self.name is not None:
            return Arrays({self.name: self.array}).fields(loaded, route)
        if len(route.fields) != 1:
            raise _bad_header(NAME, f"several fields are read, {', '.join(route.fields)}: name the tensor's")
        return Arrays(dict.fromkeys(route.fields, self.array)).fields(loaded, route)


@dataclass(frozen=True)
class ArrowRows(Rows):
    """A table whose columns are fields as the network reads them, or raw columns.

    Attributes:
        table: Numbers, or lists of equal length or tensors, as fields; anything as raw columns.
    """

    table: pa.Table

    def fields(self, loaded: LoadedVersion, route: Route) -> Fields:
        """Return the fields: raw columns are encoded, where there is a column that is no field."""
        columns = {name: _whole(self.table.column(name)) for name in self.table.column_names}
        if loaded.are_raw(columns.keys()):
            return encoded(loaded, route, columns)
        return Arrays({name: _array(name, column) for name, column in columns.items()}).fields(loaded, route)

    def raw(self, loaded: LoadedVersion, n: int) -> dict[str, Any] | None:
        """Return the first rows of raw columns."""
        if not loaded.are_raw(self.table.column_names):
            return None
        return {"columns": self.table.slice(0, n).to_pydict()}


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole.dictionary_decode() if isinstance(whole, pa.DictionaryArray) else whole


def _array(name: str, column: pa.Array) -> NDArray[Any]:
    """Return a column of numbers, or of arrays of one shape, as an array."""
    if isinstance(column, pa.FixedShapeTensorArray) and not column.null_count:
        return cast("NDArray[Any]", column.to_numpy_ndarray())
    shape, values = [len(column)], column
    while isinstance(values, pa.FixedSizeListArray) and not values.null_count:
        shape.append(values.type.list_size)
        values = values.flatten()
    is_plain = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    if values.null_count or not (is_plain or pa.types.is_boolean(values.type)):
        detail = "a field is a column of numbers, of fixed-size lists of them or of tensors, without nulls"
        raise Invalid.at(pointer_to("inputs", name), detail)
    return cast("NDArray[Any]", values.to_numpy(zero_copy_only=False)).reshape(shape)


def _table(content: bytes) -> pa.Table:
    try:
        for message in pa.ipc.MessageReader.open_stream(pa.py_buffer(content)):
            if _is_compressed(message):
                # It could unpack to any size.
                raise MalformedBody("the Arrow stream is compressed: send it without compression")
        table = pa.ipc.open_stream(pa.py_buffer(content)).read_all()
        # Offsets that lie would lead anywhere in memory.
        table.validate(full=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError, struct.error) as error:
        raise MalformedBody(f"the body is no Arrow stream: {error}") from None
    if len(set(table.column_names)) < table.num_columns:
        raise MalformedBody("two columns of the Arrow stream have one name")
    return table


def _is_compressed(message: pa.Message) -> bool:
    """Say whether a message of an Arrow stream has a compressed body.

    pyarrow does not tell, so it is read from the message's flatbuffer, by the numbers that the fields have in Arrow's
    ``Message.fbs``: ``header`` is 2, a dictionary's ``data`` is 1, a record batch's ``compression`` is 3.
    """
    data = bytes(message.metadata)
    root: int = struct.unpack_from("<I", data)[0]
    batch = _member(data, root, 2)
    if batch is not None and message.type == "dictionary":
        batch = _member(data, batch, 1)
    return (
        message.type in ("record batch", "dictionary") and batch is not None and bool(_member(data, batch, 3))
    )


def _member(data: bytes, table: int, number: int) -> int | None:
    """Return where a table that is a member of a flatbuffer's table stands; None if it has none."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    (size,) = struct.unpack_from("<H", data, vtable)
    place = 4 + 2 * number
    offset = struct.unpack_from("<H", data, vtable + place)[0] if place < size else 0
    return table + offset + struct.unpack_from("<I", data, table + offset)[0] if offset else None
