"""Rows of a table as JSON records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any, cast

import numpy as np
import pyarrow as pa

Record = dict[str, Any]

_MAX_TEXT = 256
_MAX_NUMBERS = 256


def to_records(rows: pa.Table | pa.RecordBatch) -> list[Record]:
    """Return rows as records; numbers that are not finite are null, as missing values are."""
    columns = {name: _values(rows.column(name)) for name in rows.schema.names}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def to_preview(rows: pa.RecordBatch) -> list[Record]:
    """Return rows as records for the eye: long texts are cut, and large tensors left out."""
    shown = [
        field.name
        for field in rows.schema
        if not isinstance(field.type, pa.FixedShapeTensorType) or math.prod(field.type.shape) <= _MAX_NUMBERS
    ]
    records = to_records(rows.select(shown))
    return [{name: shortened(value) for name, value in record.items()} for record in records]


def to_json(value: Any) -> Any:
    """Return a value as JSON has it."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case date():
            return value.isoformat()
        case list():
            return [to_json(entry) for entry in cast("list[Any]", value)]
        case _:
            return value


def shortened(value: Any) -> Any:
    """Return a value, a long text or list cut off."""
    match value:
        case str() if len(value) > _MAX_TEXT:
            return value[: _MAX_TEXT - 1] + "…"
        case list():
            return [shortened(entry) for entry in cast("list[Any]", value)[:_MAX_NUMBERS]]
        case _:
            return value


def _values(column: pa.ChunkedArray | pa.Array) -> Sequence[Any]:
    dtype = column.type
    if not isinstance(dtype, pa.FixedShapeTensorType):
        try:
            return [to_json(value) for value in column.to_pylist()]
        except (OverflowError, ValueError):
            # Arrow's years go beyond Python's.
            return column.cast(pa.string()).to_pylist()
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return [
        None if value is None else to_json(np.reshape(value, dtype.shape).tolist())
        for chunk in chunks
        for value in chunk.storage.to_pylist()
    ]
