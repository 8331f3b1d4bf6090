"""What a table's columns hold: missing and distinct values, range, frequent values; found while it is written."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from app.uploads.records import shortened, to_json

_MAX_DISTINCT = 100_000
# Of fractions hardly two are equal, and nobody asks how many there are.
_MAX_DISTINCT_FLOATS = 1_000
# Of all columns together: what is counted is kept in memory.
_MAX_COUNTED = 2_000_000
_MAX_COUNTED_TEXT = 64 * 2**20
_TOP = 5
_MOSTLY_MISSING = 0.99
_FEWEST_IDENTIFIERS = 20


class TableDescription:
    """Sees a table's batches one after the other.

    Args:
        schema: The table's columns.
    """

    def __init__(self, schema: pa.Schema) -> None:
        budget = _Budget()
        self._columns = [_Column(field, budget) for field in schema]
        self._rows = 0

    def see(self, batch: pa.RecordBatch) -> None:
        """Take in the next rows."""
        self._rows += batch.num_rows
        for column, values in zip(self._columns, batch.columns, strict=True):
            column.see(values)

    def columns(self) -> list[dict[str, Any]]:
        """Return the description of each column."""
        return [column.describe() for column in self._columns]

    def warnings(self) -> list[str]:
        """Return what usually hurts."""
        return [warning for column in self._columns for warning in column.warnings(self._rows)]


def dtype_name(dtype: pa.DataType) -> str:
    """Return a table's type by the name that clients read; a tensor's is that of its numbers."""
    if isinstance(dtype, pa.FixedShapeTensorType):
        return dtype_name(dtype.value_type)
    if pa.types.is_list(dtype):
        return f"list<{dtype_name(dtype.value_type)}>"
    names = {pa.float64(): "float64", pa.float32(): "float32", pa.date32(): "date"}
    return names.get(dtype) or ("timestamp" if pa.types.is_timestamp(dtype) else str(dtype))


class _Budget:
    """What all columns together may keep in memory to count their distinct values."""

    def __init__(self) -> None:
        self.values = _MAX_COUNTED
        self.text = _MAX_COUNTED_TEXT


class _Column:
    def __init__(self, field: pa.Field, budget: _Budget) -> None:
        self._name = field.name
        self._type = field.type
        self._budget = budget
        self._is_tensor = isinstance(field.type, pa.FixedShapeTensorType)
        self._is_list = pa.types.is_list(field.type)
        self._is_text = pa.types.is_string(field.type)
        value = field.type.value_type if self._is_tensor else field.type
        self._is_float = pa.types.is_floating(value)
        self._is_number = self._is_float or pa.types.is_integer(value)
        self._counts: dict[Any, int] | None = None if self._is_tensor or self._is_list else {}
        self._distinct: int | None = None
        self._nulls = self._numbers = self._given = self._lengths = 0
        self._sum = 0.0
        self._min: Any = None
        self._max: Any = None

    def see(self, values: pa.Array) -> None:
        self._nulls += values.null_count
        if self._is_tensor:
            values = pc.list_flatten(values.storage)
        else:
            if self._is_float:
                is_nan = pc.is_nan(values)
                self._nulls += pc.sum(is_nan).as_py() or 0
                values = values.filter(pc.invert(is_nan))
            values = values.drop_null()
        self._given += len(values)
        if self._is_text or self._is_list:
            length = pc.utf8_length(values) if self._is_text else pc.list_value_length(values)
            self._lengths += pc.sum(length).as_py() or 0
        elif len(values):
            self._see_range(values)
        if self._counts is not None:
            self._count(values, self._counts)

    def _see_range(self, values: pa.Array) -> None:
        if self._is_number:
            finite = values.filter(pc.is_finite(values)) if self._is_float else values
            self._numbers += len(finite)
            self._sum += pc.sum(finite.cast(pa.float64(), safe=False)).as_py() or 0.0
        range_ = pc.min_max(values)
        least, most = range_["min"], range_["max"]
        if not least.is_valid:
            return
        low, high = _scalar(least), _scalar(most)
        self._min = low if self._min is None else min(self._min, low)
        self._max = high if self._max is None else max(self._max, high)

    def _count(self, values: pa.Array, counts: dict[Any, int]) -> None:
        before = len(counts)
        found = pc.value_counts(values)
        for value, n in zip(_scalars(found.field("values")), found.field("counts").to_pylist(), strict=True):
            if value in counts:
                counts[value] += n
            else:
                counts[value] = n
                self._budget.text -= len(value) if self._is_text else 0
        self._budget.values -= len(counts) - before
        most = _MAX_DISTINCT_FLOATS if self._is_float else _MAX_DISTINCT
        if len(counts) > most or self._budget.values < 0 or self._budget.text < 0:
            # From here on it is known only that there are at least so many.
            self._budget.values += len(counts)
            self._budget.text += sum(map(len, counts)) if self._is_text else 0
            self._distinct, self._counts = len(counts), None

    def describe(self) -> dict[str, Any]:
        """Return the column's description."""
        counts = self._counts
        top = [] if counts is None else sorted(counts.items(), key=lambda item: -item[1])[:_TOP]
        is_mean_known = self._is_number and self._numbers
        return {
            "name": self._name,
            "dtype": dtype_name(self._type),
            "shape": list(self._type.shape) if self._is_tensor else [],
            "nulls": self._nulls,
            "distinct": self._distinct if counts is None else len(counts),
            "distinct_is_exact": counts is not None,
            "min": to_json(self._min),
            "max": to_json(self._max),
            "mean": _finite(self._sum / self._numbers) if is_mean_known else None,
            "mean_length": self._lengths / self._given if self._lengths and self._given else None,
            "top": [[shortened(to_json(value)), count] for value, count in top],
        }

    def warnings(self, rows: int) -> list[str]:
        """Return what usually hurts in this column."""
        where = f"column {self._name!r}"
        if self._nulls == rows:
            return [f"{where} has no values"]
        found: list[str] = []
        if self._nulls > _MOSTLY_MISSING * rows:
            found.append(f"{where} is missing in {self._nulls:,} of {rows:,} rows")
        distinct = None if self._counts is None else len(self._counts)
        if distinct == 1 and rows > 1:
            found.append(f"{where} is constant")
        if self._is_text and distinct == self._given >= _FEWEST_IDENTIFIERS:
            found.append(f"{where} has another text in every row, as identifiers have")
        return found


def _scalar(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except (OverflowError, ValueError):
        # Arrow's years go beyond Python's.
        return str(value.cast(pa.string()))


def _scalars(values: pa.Array) -> list[Any]:
    try:
        return values.to_pylist()
    except (OverflowError, ValueError):
        return [_scalar(value) for value in values]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
