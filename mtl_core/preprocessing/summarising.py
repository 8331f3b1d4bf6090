"""One pass over a column's rows, at constant memory, to its summary."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mtl_core.preprocessing.arrays import list_categories, list_numbers, read_lists, read_tensors
from mtl_core.preprocessing.columns import (
    FLOAT32_MAX,
    Column,
    ColumnError,
    Missing,
    read_booleans,
    read_categories,
    read_numbers,
    read_texts,
)
from mtl_core.preprocessing.counting import Moments, Sample, ValueCounter
from mtl_core.preprocessing.datetimes import DAY, micros_of_day, read_instants, years
from mtl_core.preprocessing.specs import (
    BooleanColumn,
    CategoricalColumn,
    ColumnSpec,
    DatetimeColumn,
    ListColumn,
    NumberColumn,
    SequenceColumn,
    TensorColumn,
    TextColumn,
)
from mtl_core.preprocessing.summaries import ColumnSummary, wider_dtype
from mtl_core.preprocessing.words import Words


class Summariser:
    """Sums up a column's rows as they stream by, at constant memory.

    Args:
        spec: The column.

    Example:
        >>> import pyarrow as pa
        >>> summariser = Summariser(CategoricalColumn(name="colour"))
        >>> summariser.add(pa.array(["red", "blue", " red", None]), 0)
        >>> summariser.finish().counts.values
        [('red', 2), ('blue', 1)]
    """

    def __init__(self, spec: ColumnSpec) -> None:
        self._name = spec.name
        self._pass = _pass_over(spec)
        self._rows = 0
        self._missing = 0

    def add(self, array: Column, start_row: int) -> None:
        """Take some rows into account.

        Args:
            array: Their values.
            start_row: Number of the first, for errors.

        Raises:
            ColumnError: At a value that the column's type does not take.
        """
        try:
            given = self._pass.add(array)
        except ColumnError as error:
            raise error.moved(start_row) from None
        self._rows += len(array)
        self._missing += len(array) - given

    def finish(self) -> ColumnSummary:
        """Return the summary of all rows so far."""
        return ColumnSummary(name=self._name, rows=self._rows, missing=self._missing, **self._pass.parts())


class _Pass(Protocol):
    def add(self, array: Column) -> int:
        """Take rows into account and return how many have a value."""
        ...

    def parts(self) -> dict[str, Any]:
        """Return the parts of the summary that the column's type has."""
        ...


def _pass_over(spec: ColumnSpec) -> _Pass:
    match spec:
        case NumberColumn():
            found = _Numbers(spec)
        case BooleanColumn():
            found = _Booleans(spec)
        case CategoricalColumn():
            found = _Categories(spec)
        case DatetimeColumn():
            found = _Datetimes(spec)
        case TextColumn():
            found = _Texts(spec)
        case ListColumn():
            found = _Lists(spec)
        case SequenceColumn():
            found = _Sequences(spec)
        case TensorColumn():
            found = _Tensors(spec)
    return found


class _Numbers:
    def __init__(self, spec: NumberColumn) -> None:
        self._name, self._missing = spec.name, Missing(spec.missing)
        self._moments, self._logged, self._sample = Moments(), Moments(), Sample()

    def add(self, array: Column) -> int:
        numbers = read_numbers(array, self._name, self._missing)
        self._sample.add(numbers)
        given = numbers[~np.isnan(numbers)]
        self._moments = self._moments.merged(Moments.of(given))
        self._logged = self._logged.merged(Moments.of(np.sign(given) * np.log1p(np.abs(given))))
        return len(given)

    def parts(self) -> dict[str, Any]:
        return {"moments": self._moments, "log_moments": self._logged, "quantiles": self._sample.quantiles()}


class _Booleans:
    def __init__(self, spec: BooleanColumn) -> None:
        self._name, self._missing = spec.name, Missing(spec.missing)
        self._moments = Moments()

    def add(self, array: Column) -> int:
        values = read_booleans(array, self._name, self._missing)
        given = values[~np.isnan(values)]
        self._moments = self._moments.merged(Moments.of(given))
        return len(given)

    def parts(self) -> dict[str, Any]:
        return {"moments": self._moments}


class _Categories:
    def __init__(self, spec: CategoricalColumn) -> None:
        self._name, self._missing = spec.name, Missing(spec.missing)
        self._counter = ValueCounter()

    def add(self, array: Column) -> int:
        categories = read_categories(array, self._name, self._missing)
        self._counter.add(categories.counted())
        return int((categories.codes >= 0).sum())

    def parts(self) -> dict[str, Any]:
        return {"counts": self._counter.finish()}


class _Datetimes:
    def __init__(self, spec: DatetimeColumn) -> None:
        self._name, self._missing = spec.name, Missing(spec.missing)
        self._days, self._years = Moments(), Moments()
        self._has_time = False

    def add(self, array: Column) -> int:
        found = read_instants(array, self._name, self._missing)
        micros = found.micros[found.given]
        self._days = self._days.merged(Moments.of(micros / DAY))
        self._years = self._years.merged(Moments.of(years(micros)))
        self._has_time |= bool(micros_of_day(micros).any())
        return len(micros)

    def parts(self) -> dict[str, Any]:
        return {"moments": self._days, "year_moments": self._years, "has_time": self._has_time}


class _Texts:
    def __init__(self, spec: TextColumn) -> None:
        self._name, self._missing = spec.name, Missing(spec.missing)
        self._words = Words([], spec.lowercase) if spec.encoder is None else None
        self._counter = ValueCounter()

    def add(self, array: Column) -> int:
        given = [text for text in read_texts(array, self._name, self._missing) if text]
        if self._words is not None:
            self._counter.add(Counter(self._words.split(given)).items())
        return len(given)

    def parts(self) -> dict[str, Any]:
        return {} if self._words is None else {"counts": self._counter.finish()}


class _Lists:
    def __init__(self, spec: ListColumn) -> None:
        self._name, self._missing = spec.name, Missing(spec.missing)
        self._moments, self._max_length = Moments(), 0

    def add(self, array: Column) -> int:
        lists = read_lists(array, self._name)
        self._moments = self._moments.merged(Moments.of(list_numbers(lists, self._name, self._missing)))
        self._max_length = max(self._max_length, int(lists.lengths.max(initial=0)))
        return int(lists.given.sum())

    def parts(self) -> dict[str, Any]:
        return {"moments": self._moments, "max_length": self._max_length}


class _Sequences:
    def __init__(self, spec: SequenceColumn) -> None:
        self._name, self._missing = spec.name, Missing(spec.missing)
        self._counter, self._max_length = ValueCounter(), 0

    def add(self, array: Column) -> int:
        lists = read_lists(array, self._name)
        self._counter.add(list_categories(lists, self._name, self._missing).counted())
        self._max_length = max(self._max_length, int(lists.lengths.max(initial=0)))
        return int(lists.given.sum())

    def parts(self) -> dict[str, Any]:
        return {"counts": self._counter.finish(), "max_length": self._max_length}


class _Tensors:
    def __init__(self, spec: TensorColumn) -> None:
        self._name, self._missing = spec.name, Missing(spec.missing)
        self._moments = Moments()
        self._shape: list[int] | None = None
        self._dtype: str | None = None

    def add(self, array: Column) -> int:
        tensors = read_tensors(array, self._name, self._missing)
        if not tensors.given.any():
            return 0
        if self._shape is not None and tensors.shape != self._shape:
            row = int(np.flatnonzero(tensors.given)[0])
            raise ColumnError(self._name, row, f"shape {tensors.shape}, but {self._shape} in the rows before")
        self._shape = tensors.shape
        self._dtype = wider_dtype(self._dtype, tensors.values.dtype.name)
        values: NDArray[Any] = tensors.values if tensors.given.all() else tensors.values[tensors.given]
        if values.dtype == np.float64:
            values = np.clip(values, -FLOAT32_MAX, FLOAT32_MAX)
        self._moments = self._moments.merged(Moments.of(values.reshape(-1)))
        return len(values)

    def parts(self) -> dict[str, Any]:
        return {"moments": self._moments, "shape": self._shape, "dtype": self._dtype}
