from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from app.datasets import tensors
from app.problems import Invalid

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, max_side=4)
FLOATS = st.floats(-(2.0**100), 2.0**100, allow_nan=False, allow_subnormal=False, width=32)
INTS = st.integers(-(2**63), 2**63 - 1)


@given(hnp.arrays("float32", SHAPES, elements=FLOATS))
def test_numbers_make_the_round_trip(array: Any) -> None:
    values = json.loads(json.dumps(array.tolist()))
    tensor = tensors.tensor_from_json(values, "/x")
    assert tensor.dtype == torch.float32
    assert tensor.tolist() == array.tolist()


@given(hnp.arrays("int64", SHAPES, elements=INTS))
def test_integers_stay_exact(array: Any) -> None:
    tensor = tensors.tensor_from_json(orjson.loads(orjson.dumps(array.tolist())), "/x")
    assert tensor.dtype == torch.int64
    assert tensor.tolist() == array.tolist()


def _put(values: Any, index: list[int], fault: Any) -> str:
    *path, last = index
    at = values
    for i in path:
        at = at[i]
    at[last] = fault
    return "/x" + "".join(f"/{i}" for i in index)


@given(
    hnp.arrays("float32", hnp.array_shapes(min_dims=2, max_dims=4, max_side=4), elements=FLOATS), st.data()
)
def test_a_fault_is_found_where_it_is(array: Any, data: st.DataObject) -> None:
    values = array.tolist()
    index = [data.draw(st.integers(0, side - 1)) for side in array.shape]
    fault = data.draw(st.sampled_from([None, "1", {"a": 1}, 1e39, -1e300, 10**39, [], "x" * 100]))
    pointer = _put(values, index, fault)
    with pytest.raises(Invalid) as raised:
        tensors.tensor_from_json(values, "/x")
    (error,) = raised.value.errors
    # Where the first value itself is a list in place of a number, the next one looks wrong to a reader, too.
    assert error["pointer"] == pointer
    assert len(error["detail"]) < 200


@given(
    hnp.arrays("float32", hnp.array_shapes(min_dims=2, max_dims=4, min_side=2, max_side=4), elements=FLOATS),
    st.data(),
)
def test_a_ragged_row_is_found_where_it_is(array: Any, data: st.DataObject) -> None:
    values = array.tolist()
    index = [data.draw(st.integers(1, side - 1)) for side in array.shape]
    depth = data.draw(st.integers(1, len(index) - 1))
    at = values
    for i in index[:depth]:
        at = at[i]
    at.append(at[0])
    with pytest.raises(Invalid) as raised:
        tensors.tensor_from_json(values, "/x")
    assert raised.value.errors[0]["pointer"] == "/x" + "".join(f"/{i}" for i in index[:depth])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([True, False], [1, 0]),
        ([1, 0.5], [1.0, 0.5]),
        ([-0.0, 1e-46], [0.0, 0.0]),
        ([2**62, 1], [2**62, 1]),
        ([[[[[[[[1]]]]]]]], [[[[[[[[1]]]]]]]]),
    ],
)
def test_what_counts_as_a_number(values: list[Any], expected: list[Any]) -> None:
    assert tensors.tensor_from_json(values, "/x").tolist() == expected


@pytest.mark.parametrize("depth", [10, 100, 900])
def test_deep_nesting_is_refused(depth: int) -> None:
    values: list[Any] = [1]
    for _ in range(depth):
        values = [values]
    for read in (tensors.tensor_from_json, tensors.labels_from_json):
        with pytest.raises(Invalid, match="dimensions"):
            read(values, "/x")


@given(st.lists(st.one_of(st.none(), st.integers(-1, 9)), min_size=1))
def test_a_label_of_null_is_minus_one(labels: list[int | None]) -> None:
    read = tensors.labels_from_json(labels, "/y").tolist()
    assert read == [-1 if label is None else label for label in labels]


def test_what_an_embedding_reads_must_be_whole() -> None:
    whole = tensors.as_dtype(torch.tensor([1.0, 2.0]), "int64", "/x")
    assert whole.dtype == torch.int64
    assert tensors.as_dtype(torch.tensor([1, 2]), "float32", "/x").dtype == torch.float32
    with pytest.raises(Invalid, match="integers"):
        tensors.as_dtype(torch.tensor([1.5]), "int64", "/x")


@given(st.one_of(hnp.arrays("float32", SHAPES, elements=FLOATS), hnp.arrays("int64", SHAPES, elements=INTS)))
def test_a_column_holds_the_tensor(array: Any) -> None:
    column = tensors.column_of(torch.from_numpy(array.copy()))
    assert len(column) == len(array)
    back = column.to_numpy() if array.ndim == 1 else column.to_numpy_ndarray()
    assert back.dtype == array.dtype
    assert back.tolist() == array.tolist()
