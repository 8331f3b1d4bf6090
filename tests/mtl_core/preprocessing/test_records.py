"""Rows as JSON has them: what is refused, and where the fault is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mtl_core.errors import Fault, SpecError
from mtl_core.preprocessing import (
    BooleanColumn,
    CategoricalColumn,
    ColumnSpec,
    DatetimeColumn,
    FieldPlan,
    FittedField,
    ListColumn,
    NumberColumn,
    SequenceColumn,
    TensorColumn,
    TextColumn,
    columns_from_lists,
    columns_from_records,
    fit_field,
)
from tests.mtl_core.preprocessing.columns import fit, summarise

HUGE = 10**400


def fields(**columns: ColumnSpec) -> dict[str, FittedField]:
    return {name: fit(spec, pa.array([], pa.null())) for name, spec in columns.items()}


PERSON = fields(
    age=NumberColumn(name="age", scale="none", impute="zero"),
    job=CategoricalColumn(name="job", hash_buckets=5, encode="index"),
)


def faults(call: Any, *arguments: Any) -> list[Fault]:
    with pytest.raises(SpecError) as caught:
        call(*arguments)
    return caught.value.faults


def test_records_and_lists_become_the_columns_that_fields_read() -> None:
    records = [{"age": 38, "job": "clerk"}, {"age": "38.5", "job": None}, {"age": None, "job": 7}]
    columns = columns_from_records(PERSON, records)
    assert PERSON["age"].encode(columns).tolist() == [[38.0], [38.5], [0.0]]
    assert PERSON["job"].encode(columns)[1].tolist() == [1]
    lists = {name: [record[name] for record in records] for name in ("job", "age")}
    assert columns_from_lists(PERSON, lists) == columns
    assert PERSON["age"].encode(columns_from_records(PERSON, [])).shape == (0, 1)


def test_a_column_of_two_fields_is_given_once() -> None:
    both = fields(a=NumberColumn(name="x", scale="none"), b=CategoricalColumn(name="x", hash_buckets=9))
    columns = columns_from_records(both, [{"x": 6}, {"x": "7"}])
    assert both["a"].encode(columns).tolist() == [[6], [7]]
    alone = both["b"].encode(columns_from_records(both, [{"x": 7}]))
    assert both["b"].encode(columns)[1].tolist() == alone[0].tolist()


def test_every_absent_and_unknown_key_is_named() -> None:
    assert faults(columns_from_records, PERSON, [{"age": 1, "job": "a"}, {"Age": 1, "job": "a"}, 7]) == [
        Fault("/records/1", "column 'age' is not there; where it is missing, say null"),
        Fault("/records/1/Age", "is no column that the model reads"),
        Fault("/records/2", "a record is an object of columns and values"),
    ]
    assert faults(columns_from_lists, PERSON, {"age": [1], "a/b": [1]}) == [
        Fault("/columns", "column 'job' is not there; where it is missing, say null"),
        Fault("/columns/a~1b", "is no column that the model reads"),
    ]
    assert len(faults(columns_from_records, PERSON, [{}] * 10_000)) == 100
    [fault, *_] = faults(columns_from_records, fields(), [{"\ud800": 1}])
    assert fault.pointer == "/records/0/?"


def test_lists_are_lists_of_one_length() -> None:
    assert faults(columns_from_lists, PERSON, {"age": [1, 2], "job": ["a"]}) == [
        Fault("/columns/job", "1 values, but 2 in column 'age'")
    ]
    assert faults(columns_from_lists, PERSON, {"age": 1, "job": ["a"]}) == [
        Fault("/columns/age", "values come as a list")
    ]


@pytest.mark.parametrize(
    ("spec", "good", "bad", "detail"),
    [
        (NumberColumn(name="x"), 1, "abc", "'abc' is no number"),
        (NumberColumn(name="x"), 1, True, "'true' is no number"),
        (NumberColumn(name="x"), True, True, "values of type bool are no number"),
        (NumberColumn(name="x"), 1, [1], "a list is no single value"),
        (NumberColumn(name="x"), 1, {"a": 1}, "an object is no single value"),
        (NumberColumn(name="x"), 1, HUGE, "is too large a number"),
        (BooleanColumn(name="x"), True, 2, "'2' is neither true nor false"),
        (CategoricalColumn(name="x"), "a", ["a"], "a list is no single value"),
        (CategoricalColumn(name="x"), "a", "\ud800", "half a surrogate pair is no text"),
        (CategoricalColumn(name="x"), "a", HUGE, "is too large a number"),
        (DatetimeColumn(name="x"), "2020-01-01", "tomorrow", "'tomorrow' is no date or time"),
        (DatetimeColumn(name="x"), 5, 5, "values of type int64 are no date or time"),
        (TextColumn(name="x"), "a", "b\udfff", "half a surrogate pair is no text"),
        (ListColumn(name="x", length=2), [1], 7, "7 is no list"),
        (ListColumn(name="x", length=2), [1], [1, "z"], "'z' is no number"),
        (ListColumn(name="x", length=2), [1], [1, [2]], "item 1: a list is no single value"),
        (ListColumn(name="x", length=2), [1], [HUGE], "item 0: is too large a number"),
        (SequenceColumn(name="x"), ["a"], ["b", "\ud800"], "item 1: half a surrogate pair is no text"),
        (SequenceColumn(name="x"), ["a"], {"a": 1}, "an object is no list"),
    ],
)
def test_a_fault_points_to_the_value(spec: ColumnSpec, good: Any, bad: Any, detail: str) -> None:
    field = {"field": fit(spec, pa.array([], pa.null()))}
    row = 0 if type(good) is type(bad) and good == bad else 2
    [fault] = faults(columns_from_records, field, [{"x": good}, {"x": None if row else good}, {"x": bad}])
    assert fault.pointer == f"/records/{row}/x"
    assert detail in fault.detail
    [fault] = faults(columns_from_lists, field, {"x": [good, None if row else good, bad]})
    assert fault.pointer == f"/columns/x/{row}"


def test_each_column_has_its_fault() -> None:
    found = faults(columns_from_records, PERSON, [{"age": "x", "job": [1]}])
    assert [fault.pointer for fault in found] == ["/records/0/age", "/records/0/job"]


IMAGE = {
    "image": fit(TensorColumn(name="x"), pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((1, 2, 2))))
}


def deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "bad",
    [
        [[1, 2]],
        [[1, 2], [3]],
        [["a", "b"], ["c", "d"]],
        1,
        "abc",
        {"a": 1},
        [[1, None], [1, 1]],
        deep(5000),
        [[HUGE, 1], [1, 1]],
    ],
)
def test_tensors_come_as_nested_lists_of_their_shape(bad: Any) -> None:
    columns = columns_from_records(IMAGE, [{"x": [[1, 2], [3, 4.5]]}, {"x": None}])
    assert IMAGE["image"].encode(columns).tolist() == [[[1, 2], [3, 4.5]], [[0, 0], [0, 0]]]
    [fault] = faults(columns_from_records, IMAGE, [{"x": None}, {"x": bad}])
    assert fault.pointer == "/records/1/x"


def test_integer_tensors_take_integers_and_single_numbers_have_no_shape() -> None:
    spec = TensorColumn(name="x")
    field = {"f": fit(spec, pa.array([1, 2]))}
    assert field["f"].encode(columns_from_records(field, [{"x": 3}, {"x": None}, {"x": 4.0}])).tolist() == [
        3,
        0,
        4,
    ]
    for bad in (0.5, 2**63, math.nan):
        [fault] = faults(columns_from_records, field, [{"x": bad}])
        assert "integers of 64 bits" in fault.detail


def test_a_field_of_several_columns_is_read_from_records() -> None:
    specs = [NumberColumn(name="a", scale="none"), BooleanColumn(name="b")]
    plan = FieldPlan(columns=specs)
    field = fit_field(plan, {spec.name: summarise(spec, pa.array([], pa.null())) for spec in specs})
    columns = columns_from_records({"f": field}, [{"b": "yes", "a": 2.5}, {"a": 3, "b": False}])
    assert field.encode(columns).tolist() == [[2.5, 1], [3, 0]]
