"""Laws that hold for columns of every type and any values."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl_core.preprocessing import (
    ColumnSpec,
    ColumnSummary,
    FieldPlan,
    FittedField,
    columns_from_lists,
    columns_from_records,
    fit_field,
    merge_summaries,
)
from tests.mtl_core.preprocessing.columns import Values, arrow, columns, fit, summarise

Column = tuple[ColumnSpec, Values]

few = settings(max_examples=120, deadline=None)


@few
@given(columns())
def test_fitted_twice_is_equal_and_so_is_what_was_stored(column: Column) -> None:
    spec, values = column
    array = arrow(spec.type, values)
    field, again = fit(spec, array), fit(spec, array)
    encoded = field.encode({spec.name: array})
    stored = FittedField.model_validate_json(field.model_dump_json())
    assert field == again == stored == pickle.loads(pickle.dumps(field))  # noqa: S301
    assert encoded.tobytes() == stored.encode({spec.name: array}).tobytes()


@few
@given(columns())
def test_an_example_has_the_shape_type_and_range_that_the_field_says(column: Column) -> None:
    spec, values = column
    array = arrow(spec.type, values)
    field = fit(spec, array)
    encoded = field.encode({spec.name: array})
    assert encoded.shape == (len(values), *field.shape)
    assert encoded.dtype == field.dtype
    assert encoded.flags.c_contiguous
    assert np.isfinite(encoded).all()
    if field.vocabulary is not None:
        assert encoded.min(initial=0) >= 0
        assert encoded.max(initial=0) < field.vocabulary
    if field.dtype == "float32" and spec.type != "tensor":
        assert len(field.feature_names) == field.shape[0]


@few
@given(columns(), st.data())
def test_a_row_alone_is_encoded_as_in_any_batch(column: Column, data: st.DataObject) -> None:
    spec, values = column
    known = data.draw(st.integers(1, len(values)))
    field = fit(spec, arrow(spec.type, values[:known]))
    together = field.encode({spec.name: arrow(spec.type, values)})
    for row, value in enumerate(values):
        alone = field.encode({spec.name: arrow(spec.type, [value])})
        assert alone.tobytes() == together[row : row + 1].tobytes()
        record = columns_from_records({"field": field}, [{spec.name: value}])
        assert field.encode(record).tobytes() == alone.tobytes()


@few
@given(columns())
def test_json_is_read_as_the_table_is(column: Column) -> None:
    spec, values = column
    array = arrow(spec.type, values)
    field = fit(spec, array)
    expected = field.encode({spec.name: array}).tobytes()
    records = columns_from_records({"field": field}, [{spec.name: value} for value in values])
    assert field.encode(records).tobytes() == expected
    assert field.encode(columns_from_lists({"field": field}, {spec.name: values})).tobytes() == expected


@few
@given(columns(), st.data())
def test_a_column_may_be_chunked_and_sliced(column: Column, data: st.DataObject) -> None:
    spec, values = column
    array = arrow(spec.type, values)
    cut = data.draw(st.integers(0, len(values)))
    chunked = pa.chunked_array([array[:cut], array[cut:]], type=array.type)
    field = fit(spec, array)
    assert field.encode({spec.name: chunked}).tobytes() == field.encode({spec.name: array}).tobytes()
    sliced = field.encode({spec.name: array[cut:]})
    assert sliced.tobytes() == field.encode({spec.name: array})[cut:].tobytes()


@few
@given(columns(), st.data())
def test_summaries_of_chunks_say_what_that_of_the_whole_does(column: Column, data: st.DataObject) -> None:
    spec, values = column
    array = arrow(spec.type, values)
    cut = data.draw(st.integers(0, len(values)))
    whole = summarise(spec, array)
    streamed = summarise(spec, array[:cut], array[cut:])
    parts = [summarise(spec, array[:cut]), summarise(spec, array[cut:])]
    alike(streamed, whole)
    assert streamed.quantiles == whole.quantiles
    alike(merge_summaries(parts), whole)
    alike(merge_summaries(parts[::-1]), whole)
    assert ColumnSummary.model_validate_json(whole.model_dump_json()) == whole
    assert whole.statistics()["rows"] == len(values)


def alike(one: ColumnSummary, other: ColumnSummary) -> None:
    moments = ("moments", "log_moments", "year_moments")
    left, right = (s.model_dump(exclude={"quantiles", *moments}) for s in (one, other))
    assert left == right
    for name in moments:
        mine, others = getattr(one, name), getattr(other, name)
        assert (mine is None) == (others is None)
        if mine is not None:
            assert (mine.n, mine.low, mine.high) == (others.n, others.low, others.high)
            size = max(abs(mine.low), abs(mine.high))
            assert math.isclose(mine.mean, others.mean, rel_tol=1e-9, abs_tol=1e-9 * size)
            assert math.isclose(mine.m2, others.m2, rel_tol=1e-9, abs_tol=1e-9 * size**2)


@few
@given(
    st.lists(
        columns().filter(lambda column: _goes_with_numbers(column[0])),
        max_size=4,
        unique_by=lambda column: column[0].name,
    )
)
def test_columns_side_by_side_are_encoded_as_each_alone(several: list[Column]) -> None:
    rows = min((len(values) for _, values in several), default=0)
    if not rows:
        return
    arrays = {spec.name: arrow(spec.type, values[:rows]) for spec, values in several}
    plan = FieldPlan(columns=[spec for spec, _ in several])
    field = fit_field(plan, {spec.name: summarise(spec, arrays[spec.name]) for spec, _ in several})
    alone = [fit(spec, arrays[spec.name]).encode(arrays) for spec, _ in several]
    assert np.array_equal(field.encode(arrays), np.concatenate(alone, axis=1))
    assert field.column_names == [spec.name for spec, _ in several]


def _goes_with_numbers(spec: Any) -> bool:
    return spec.type in ("number", "boolean", "datetime", "list") or getattr(spec, "encode", None) == "onehot"
