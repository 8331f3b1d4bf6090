from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from mtl_core import SpecError
from mtl_core.slicing import fields_of, mask, slice_fields, slice_masks
from mtl_core.specs import Predicate, SliceSpec, TaskSpec

from ..shapes import shape_spec

READ = TypeAdapter[Any](Predicate)

COLUMNS: dict[str, np.ndarray] = {
    "age": np.array([20.0, 60.0, 61.0, np.nan]),
    "visits": np.array([0, 1, 2, 3]),
    "town": np.array(["Bern", "Chur", None, "Bern"], dtype=object),
    "hard": np.array([True, False, True, False]),
    "seen": np.array([True, None, False, None], dtype=object),
    "ones": np.array([1.0, 0.0, np.nan, 1.0]),
    "scan": np.array([[1.0, 5.0], [2.0, 6.0], [3.0, np.nan], [4.0, 8.0]]),
    "empty": np.array([None] * 4, dtype=object),
}


def members(predicate: dict[str, Any], columns: dict[str, np.ndarray] = COLUMNS) -> list[int]:
    return np.flatnonzero(mask(READ.validate_python(predicate), columns)).tolist()


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        ({"field": "age", "op": ">", "value": 60}, [2]),
        ({"field": "age", "op": ">=", "value": 60.0}, [1, 2]),
        ({"field": "age", "op": "!=", "value": 60}, [0, 2]),
        ({"field": "age", "op": "is_null"}, [3]),
        ({"not": {"field": "age", "op": "<", "value": 60}}, [1, 2, 3]),
        ({"field": "age", "op": "not_in", "value": [20, 61.0]}, [1]),
        ({"field": "visits", "op": "in", "value": [0, 3, 2.5]}, [0, 3]),
        ({"field": "visits", "op": "<", "value": 2**63 - 1}, [0, 1, 2, 3]),
        ({"field": "town", "op": "==", "value": "Bern"}, [0, 3]),
        ({"field": "town", "op": "!=", "value": "Bern"}, [1]),
        ({"field": "town", "op": "not_in", "value": ["Chur"]}, [0, 3]),
        ({"field": "town", "op": "is_null"}, [2]),
        ({"field": "hard", "op": "==", "value": False}, [1, 3]),
        ({"field": "seen", "op": "!=", "value": True}, [2]),
        ({"mask": "hard"}, [0, 2]),
        ({"mask": "seen"}, [0]),
        ({"mask": "ones"}, [0, 3]),
        ({"mask": "empty"}, []),
        ({"field": "empty", "op": "==", "value": "Bern"}, []),
        ({"field": "empty", "op": "is_null"}, [0, 1, 2, 3]),
        ({"field": "scan", "op": ">", "value": 5, "index": 1}, [1, 3]),
        ({"field": "scan", "op": "is_null", "index": 1}, [2]),
        ({"and": [{"mask": "hard"}, {"field": "age", "op": "<", "value": 30}]}, [0]),
        ({"or": [{"mask": "hard"}, {"field": "age", "op": "is_null"}]}, [0, 2, 3]),
    ],
)
def test_who_a_predicate_holds_for(predicate: dict[str, Any], expected: list[int]) -> None:
    assert members(predicate) == expected


def test_a_number_is_compared_at_the_precision_that_a_column_has() -> None:
    tenths = {"x": np.array([0.1, 0.2], dtype=np.float32)}
    assert members({"field": "x", "op": "==", "value": 0.1}, tenths) == [0]
    assert members({"field": "x", "op": "in", "value": [0.2]}, tenths) == [1]
    assert members({"field": "x", "op": "<", "value": 1e300}, tenths) == [0, 1]


@pytest.mark.parametrize(
    ("predicate", "pointer", "message"),
    [
        ({"field": "agee", "op": "==", "value": 1}, "", "there is no field 'agee'; there are: age, empty"),
        ({"not": {"mask": "nobody"}}, "/not", "there is no field 'nobody'"),
        ({"field": "town", "op": ">", "value": 3}, "/value", "field 'town' is of texts, and 3 is a number"),
        (
            {"field": "age", "op": "==", "value": "old"},
            "/value",
            "field 'age' is of numbers, and 'old' is a text",
        ),
        ({"field": "age", "op": "in", "value": [True]}, "/value", "True is a boolean"),
        (
            {"field": "hard", "op": ">", "value": 0},
            "/value",
            "field 'hard' is of booleans, and 0 is a number",
        ),
        (
            {"field": "scan", "op": ">", "value": 0},
            "",
            "field 'scan' has 2 values for each example: say which",
        ),
        ({"field": "scan", "op": ">", "value": 0, "index": 2}, "", "and none at 2"),
        (
            {"field": "age", "op": ">", "value": 0, "index": 0},
            "",
            "has one value for each example, and so no index",
        ),
        ({"mask": "town"}, "/mask", "field 'town' is text"),
        ({"mask": "visits"}, "/mask", "field 'visits' has the value 2"),
        ({"mask": "scan"}, "", "say which by index"),
        ({"and": [{"mask": "hard"}, {"or": [{"mask": "town"}]}]}, "/and/1/or/0/mask", "is text"),
    ],
)
def test_what_does_not_compare_is_refused_where_it_stands(
    predicate: dict[str, Any], pointer: str, message: str
) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        members(predicate)
    assert [fault.pointer for fault in caught.value.faults] == [pointer]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (np.array([1, "a"], dtype=object), "values of type int and str"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "is of datetime64"),
        (np.zeros((1, 2, 3)), r"has values of shape \[2, 3\]"),
    ],
)
def test_columns_that_nothing_compares_with_are_refused(column: np.ndarray, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        members({"field": "x", "op": "is_null"}, {"x": column})


def test_whether_a_predicate_suits_shows_without_any_example() -> None:
    nobody = {name: column[:0] for name, column in COLUMNS.items()}
    assert members({"field": "age", "op": ">", "value": 60}, nobody) == []
    for wrong in ({"field": "age", "op": "==", "value": "a"}, {"field": "scan", "op": "==", "value": 1}):
        with pytest.raises(SpecError):
            members(wrong, nobody)


def test_the_masks_of_slices_and_the_faults_of_all_of_them() -> None:
    old = SliceSpec.model_validate({"name": "old", "where": {"field": "age", "op": ">", "value": 60}})
    hard = SliceSpec.model_validate({"name": "hard", "where": {"not": {"mask": "hard"}}})
    masks = slice_masks([old, hard], COLUMNS)
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "old": [False, False, True, False],
        "hard": [False, True, False, True],
    }
    with pytest.raises(SpecError) as caught:
        slice_masks([old, hard], {"town": COLUMNS["town"]})
    assert [fault.pointer for fault in caught.value.faults] == ["/slices/0/where", "/slices/1/where/not"]


def test_the_fields_of_predicates_and_of_a_tasks_slices() -> None:
    where = {"or": [{"mask": "b"}, {"not": {"and": [{"field": "a", "op": "is_null"}, {"mask": "b"}]}}]}
    assert fields_of(READ.validate_python(where)) == ["b", "a"]
    slices = [{"name": "x", "where": where}, {"name": "y", "where": {"mask": "c"}}]
    assert slice_fields(TaskSpec.model_validate(shape_spec(slices=slices))) == ["b", "a", "c"]
    assert slice_fields(TaskSpec.model_validate(shape_spec())) == []


numbers = st.integers(-3, 3) | st.sampled_from([0.5, -1.5, 2.0])
texts = st.sampled_from(["a", "b", ""])
VALUES = {"n": numbers, "i": st.integers(-3, 3), "t": texts, "b": st.booleans()}
NULLABLE = {"n", "t", "b"}


@st.composite
def comparisons(draw: st.DrawFn) -> dict[str, Any]:
    field = draw(st.sampled_from(sorted(VALUES)))
    values = numbers if field == "i" else VALUES[field]
    orderings = ["<", "<=", ">", ">="] if field in {"n", "i"} else []
    op = draw(st.sampled_from(["==", "!=", "in", "not_in", "is_null", *orderings]))
    if op == "is_null":
        return {"field": field, "op": op}
    several = st.lists(values, min_size=1, max_size=3)
    return {"field": field, "op": op, "value": draw(several if op in {"in", "not_in"} else values)}


predicates = st.recursive(
    comparisons() | st.just({"mask": "b"}),
    lambda inner: (
        st.fixed_dictionaries({"not": inner})
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"and": parts})
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"or": parts})
    ),
    max_leaves=8,
).filter(lambda predicate: _depth(predicate) <= 8)
rows = st.fixed_dictionaries(
    {name: (values | st.none()) if name in NULLABLE else values for name, values in VALUES.items()}
)


def _depth(predicate: dict[str, Any]) -> int:
    inner = [
        *predicate.get("and", []),
        *predicate.get("or", []),
        *([predicate["not"]] if "not" in predicate else []),
    ]
    return 1 + max(map(_depth, inner), default=0)


def holds(predicate: dict[str, Any], row: dict[str, Any]) -> bool:
    """The same for one example, in plain Python."""
    match predicate:
        case {"and": parts}:
            return all(holds(part, row) for part in parts)
        case {"or": parts}:
            return any(holds(part, row) for part in parts)
        case {"not": part}:
            return not holds(part, row)
        case {"mask": field}:
            return row[field] is True
    given, wanted = row[predicate["field"]], predicate.get("value")
    if predicate["op"] == "is_null":
        return given is None
    return given is not None and COMPARE[predicate["op"]](given, wanted)


COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda given, wanted: given == wanted,
    "!=": lambda given, wanted: given != wanted,
    "in": lambda given, wanted: given in wanted,
    "not_in": lambda given, wanted: given not in wanted,
    "<": lambda given, wanted: given < wanted,
    "<=": lambda given, wanted: given <= wanted,
    ">": lambda given, wanted: given > wanted,
    ">=": lambda given, wanted: given >= wanted,
}


@given(predicates, st.lists(rows, max_size=6))
def test_a_predicate_holds_as_it_does_example_by_example(
    predicate: dict[str, Any], examples: list[dict[str, Any]]
) -> None:
    columns = {
        "n": np.array([math.nan if row["n"] is None else row["n"] for row in examples], dtype=np.float64),
        "i": np.array([row["i"] for row in examples], dtype=np.int64),
        "t": np.array([row["t"] for row in examples], dtype=object),
        "b": np.array([row["b"] for row in examples], dtype=object),
    }
    read = READ.validate_python(predicate)
    assert mask(read, columns).tolist() == [holds(predicate, row) for row in examples]
    assert READ.validate_python(READ.dump_python(read, mode="json")) == read


@pytest.mark.parametrize(
    "where",
    [
        None,
        3,
        "hard",
        [],
        {},
        {"mask": ""},
        {"mask": 3},
        {"mask": "x", "op": "=="},
        {"and": []},
        {"and": {"mask": "x"}},
        {"and": [{"mask": "x"}], "or": [{"mask": "x"}]},
        {"not": [{"mask": "x"}]},
        {"not": None},
        {"field": "x"},
        {"op": "is_null"},
        {"field": "x", "op": "=", "value": 1},
        {"field": "x", "op": "==", "value": None},
        {"field": "x", "op": "==", "value": [1]},
        {"field": "x", "op": "==", "value": math.nan},
        {"field": "x", "op": "==", "value": math.inf},
        {"field": "x", "op": "in", "value": 1},
        {"field": "x", "op": "in", "value": []},
        {"field": "x", "op": "in", "value": [1, "a"]},
        {"field": "x", "op": "in", "value": [1, True]},
        {"field": "x", "op": "is_null", "value": True},
        {"field": "x", "op": "<", "value": "a"},
        {"field": "x", "op": "<", "value": True},
        {"field": "x", "op": "<", "value": 1, "index": -1},
        {"field": "x", "op": "<", "value": 1, "index": True},
        {"field": "x", "op": "<", "value": 1, "index": "0"},
        {"or": [{"mask": "x"}] * 64},
    ],
)
def test_predicates_of_odd_forms_are_refused(where: Any) -> None:
    with pytest.raises(ValidationError):
        SliceSpec.model_validate({"name": "s", "where": where})


@pytest.mark.parametrize(("depth", "is_allowed"), [(8, True), (9, False), (100_000, False)])
def test_predicates_are_only_so_deep(depth: int, is_allowed: bool) -> None:
    where: dict[str, Any] = {"mask": "x"}
    for _ in range(depth - 1):
        where = {"not": where}
    if is_allowed:
        SliceSpec.model_validate({"name": "s", "where": where})
        return
    with pytest.raises(ValidationError, match="at most 8 deep"):
        SliceSpec.model_validate({"name": "s", "where": where})


@pytest.mark.parametrize("name", ["base", "old_ind", "old_pred", "a:b", "", "a b"])
def test_names_that_a_slice_cannot_have_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        SliceSpec.model_validate({"name": name, "where": {"mask": "x"}})


def test_slices_of_one_name_are_refused_and_too_many() -> None:
    one = {"name": "s", "where": {"mask": "x"}}
    with pytest.raises(ValidationError, match="two slices are named 's'"):
        TaskSpec.model_validate(shape_spec(slices=[one, one]))
    many = [one | {"name": f"s{i}"} for i in range(65)]
    with pytest.raises(ValidationError):
        TaskSpec.model_validate(shape_spec(slices=many))
