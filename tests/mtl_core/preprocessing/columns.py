"""Columns of every type with values to fill them: what property tests draw from, and how a field is fitted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from mtl_core.preprocessing import (
    BooleanColumn,
    CategoricalColumn,
    ColumnSpec,
    ColumnSummary,
    DatetimeColumn,
    FieldPlan,
    FittedField,
    ListColumn,
    NumberColumn,
    SequenceColumn,
    Summariser,
    TensorColumn,
    TextColumn,
    fit_field,
)

Values = list[Any]

_NUMBERS = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70)
_WORDS = st.sampled_from(["red", "Blue", " green ", "7", "a much longer word", "é", "", "?"]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=5
)
_MOMENTS = st.datetimes(datetime(1600, 1, 1), datetime(2200, 1, 1)).map(lambda moment: moment.isoformat())

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "number": _NUMBERS,
    "boolean": st.none() | st.booleans() | st.sampled_from(["yes", "F", "1", 0]),
    "categorical": st.none() | _WORDS | st.integers(-3, 3) | st.floats(-2, 2) | st.booleans(),
    "datetime": st.none() | _MOMENTS | st.dates(date(1900, 1, 1)).map(str),
    "list": st.none() | st.lists(_NUMBERS, max_size=5),
    "text": st.none() | st.lists(_WORDS, max_size=6).map(" ".join),
    "sequence": st.none() | st.lists(st.none() | _WORDS | st.integers(0, 5), max_size=5),
    "tensor": st.none()
    | st.lists(st.lists(st.floats(width=32), min_size=2, max_size=2), min_size=3, max_size=3),
}

_SPECS: dict[str, st.SearchStrategy[ColumnSpec]] = {
    "number": st.builds(
        NumberColumn,
        name=st.just("number"),
        scale=st.sampled_from(["standard", "robust", "minmax", "log", "none"]),
        impute=st.sampled_from(["mean", "median", "zero", -1.5]),
        indicator=st.sampled_from([None, True, False]),
        missing=st.sampled_from([[], [-3, "?"]]),
    ),
    "boolean": st.builds(BooleanColumn, name=st.just("boolean")),
    "categorical": st.builds(
        CategoricalColumn,
        name=st.just("categorical"),
        encode=st.sampled_from(["onehot", "index"]),
        min_count=st.integers(1, 2),
        max_size=st.sampled_from([None, 1, 3]),
        hash_buckets=st.sampled_from([None, 1, 7]),
        missing=st.sampled_from([[], ["?", 2]]),
    ),
    "datetime": st.builds(
        DatetimeColumn,
        name=st.just("datetime"),
        parts=st.none() | st.permutations(["elapsed", "year", "month", "day", "weekday", "hour", "minute"]),
    ),
    "list": st.builds(ListColumn, name=st.just("list"), length=st.sampled_from([None, 1, 4])),
    "text": st.builds(
        TextColumn, name=st.just("text"), max_length=st.integers(1, 5), min_count=st.integers(1, 2)
    ),
    "sequence": st.builds(SequenceColumn, name=st.just("sequence"), max_length=st.integers(1, 5)),
    "tensor": st.builds(
        TensorColumn, name=st.just("tensor"), scale=st.sampled_from(["none", "standard", "minmax"])
    ),
}


@st.composite
def columns(draw: st.DrawFn, min_size: int = 1) -> tuple[ColumnSpec, Values]:
    """Draw a column of any type and values for it."""
    kind = draw(st.sampled_from(list(VALUES)))
    values = draw(st.lists(VALUES[kind], min_size=min_size, max_size=12))
    if kind == "tensor":
        values = [[[1.0, 2.0]] * 3, *values]  # without any, a tensor's shape is not known
    return draw(_SPECS[kind]), values


def arrow(kind: str, values: Values) -> pa.Array:
    """Return values as the column of a table, of the Arrow type that a file of them has."""
    kinds = {"number": pa.float64(), "list": pa.list_(pa.float64()), "sequence": pa.list_(pa.string())}
    if kind == "tensor":
        flat = [None if value is None else np.array(value).reshape(-1).tolist() for value in values]
        storage = pa.array(flat, pa.list_(pa.float64(), 6))
        return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float64(), [3, 2]), storage)
    return pa.array([_as_in_a_file(kind, value) for value in values], kinds.get(kind, pa.string()))


def summarise(spec: ColumnSpec, *chunks: pa.Array) -> ColumnSummary:
    """Return the summary of one column."""
    summariser = Summariser(spec)
    row = 0
    for chunk in chunks:
        summariser.add(chunk, row)
        row += len(chunk)
    return summariser.finish()


def fit(spec: ColumnSpec, array: pa.Array) -> FittedField:
    """Return a field of one column, fitted to its values."""
    return fit_field(FieldPlan(columns=[spec]), {spec.name: summarise(spec, array)})


def encode(spec: ColumnSpec, train: Sequence[Any] | pa.Array, values: Sequence[Any] | pa.Array) -> Any:
    """Fit a field of one column to some values and return others encoded, as lists."""
    field = fit(spec, _array(train))
    return field.encode({spec.name: _array(values)}).tolist()


def _array(values: Sequence[Any] | pa.Array) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values)


def _as_in_a_file(kind: str, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, list):
        return [_as_in_a_file("number" if kind == "list" else kind, item) for item in value]
    if kind == "number":
        return float(value)
    if isinstance(value, str):
        return value
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)
