"""Labels from columns: names of classes, what is missing, what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mtl_core.preprocessing import (
    ColumnError,
    FittedLabel,
    LabelSpec,
    LabelSummariser,
    LabelSummary,
    class_names_of,
    fit_label,
)


def summarise(spec: LabelSpec, array: Any) -> LabelSummary:
    summariser = LabelSummariser(spec)
    summariser.add(array[: len(array) // 2], 0)
    summariser.add(array[len(array) // 2 :], len(array) // 2)
    return summariser.finish()


def fit(array: Any, **options: Any) -> tuple[FittedLabel, Any]:
    """Return a fitted label and the labels of the values it was fitted to."""
    array = array if isinstance(array, pa.Array) else pa.array(array)
    spec = LabelSpec(column="y", **options)
    label = fit_label(spec, class_names_of(spec, summarise(spec, array)))
    assert FittedLabel.model_validate_json(label.model_dump_json()) == label
    return label, label.encode(array)


@pytest.mark.parametrize(
    ("values", "options", "names", "codes"),
    [
        (["b", None, " a", "", "b"], {}, ["a", "b"], [1, -1, 0, -1, 1]),
        ([10, 9, None, -1], {}, [-1, 9, 10], [2, 1, -1, 0]),
        ([True, True, None], {}, [False, True], [1, 1, -1]),
        (["10", "9"], {}, ["10", "9"], [0, 1]),
        ([2.0, None, 1.0], {"type": "class"}, [1, 2], [1, -1, 0]),
        ([0.5, 1.0], {"type": "class"}, ["0.5", "1"], [0, 1]),
        (["x", "?", "y"], {"missing": ["?"]}, ["x", "y"], [0, -1, 1]),
        ([0, 9, 1], {"missing": [9]}, [0, 1], [0, -1, 1]),
        (["x", "y"], {"classes": ["y", "z", "x"]}, ["y", "z", "x"], [2, 0]),
        ([1.0, 0.0], {"classes": [0, 1]}, [0, 1], [1, 0]),
        ([" 50000+.", "- 50000.", None], {"positive": "50000+."}, [False, True], [1, 0, -1]),
        ([1, 2, 3], {"positive": [1, 3]}, [False, True], [1, 0, 1]),
        ([True, False], {"positive": True}, [False, True], [1, 0]),
        ([0.5, 1.5], {"positive": 1.5}, [False, True], [0, 1]),
    ],
)
def test_classes_by_name(values: Any, options: Any, names: list[Any], codes: list[int]) -> None:
    label, encoded = fit(values, **options)
    assert (label.type, label.class_names, encoded.tolist()) == ("class", names, codes)
    assert [type(name) for name in label.class_names or []] == [type(name) for name in names]
    assert encoded.dtype == np.int64


@pytest.mark.parametrize(
    ("values", "options"),
    [([0.5, None, math.nan, 2.0], {}), (["0.5", "", "?", "2"], {"type": "number", "missing": ["?"]})],
)
def test_numbers(values: Any, options: Any) -> None:
    label, encoded = fit(values, **options)
    assert (label.type, label.class_names, encoded.dtype) == ("number", None, np.float32)
    assert np.array_equal(encoded, np.array([0.5, np.nan, np.nan, 2.0], np.float32), equal_nan=True)


@pytest.mark.parametrize("values", [[2, None, -1, 0], [2.0, math.nan, -1.0, 0.0], ["2", "", "-1", "0"]])
def test_indices_stay_as_they_are(values: Any) -> None:
    label, encoded = fit(values, type="index")
    assert (label.class_names, encoded.dtype, encoded.tolist()) == (None, np.int64, [2, -1, -1, 0])


def test_tensors_are_labels_of_several_at_once() -> None:
    storage = pa.array([[1, None], None, [0, 9]], pa.list_(pa.int64(), 2))
    array = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.int64(), [2]), storage)
    label, encoded = fit(array, missing=[9])
    assert label.type == "number"
    nan = math.nan
    assert np.array_equal(encoded, np.array([[1, nan], [nan, nan], [0, nan]], np.float32), equal_nan=True)
    assert encoded.dtype == np.float32
    assert fit(array, type="index", missing=[9])[1].tolist() == [[1, -1], [-1, -1], [0, -1]]


@pytest.mark.parametrize(
    ("label", "array", "detail"),
    [
        (
            FittedLabel(column="y", type="class", class_names=["a"]),
            pa.array(["a", "b"]),
            "row 1: 'b' is no class; classes are 'a'",
        ),
        (FittedLabel(column="y", type="number"), pa.array(["1", "x"]), "row 1: 'x' is no number"),
        (
            FittedLabel(column="y", type="index"),
            pa.array([1.0, 0.5]),
            "row 1: a number with a fraction is no index",
        ),
        (FittedLabel(column="y", type="class", class_names=["a"]), pa.array([["a"]]), "values of type list"),
    ],
)
def test_what_is_no_label_is_refused(label: FittedLabel, array: pa.Array, detail: str) -> None:
    with pytest.raises(ColumnError, match=f"^column 'y'.*{detail}"):
        label.encode(array)


def test_a_value_beyond_the_stated_classes_is_found_while_counting() -> None:
    summariser = LabelSummariser(LabelSpec(column="y", classes=["a"]))
    with pytest.raises(ColumnError, match="column 'y', row 101: 'b' is no class"):
        summariser.add(pa.array(["a", "b"]), 100)


def test_summaries_count_labels() -> None:
    found = summarise(LabelSpec(column="y"), pa.array(["b", "a", None, "b"]))
    assert (found.rows, found.missing, found.kind) == (4, 1, "text")
    assert found.counts is not None
    assert found.counts.values == [("b", 2), ("a", 1)]
    assert summarise(LabelSpec(column="y"), pa.array([0.5, None])).counts is None
    assert summarise(LabelSpec(column="y", type="index"), pa.array([3, -1])).missing == 1


def test_too_many_classes_are_none() -> None:
    spec = LabelSpec(column="y")
    with pytest.raises(ColumnError, match="column 'y': 10,001 different values are too many classes"):
        class_names_of(spec, summarise(spec, pa.array([f"v{i}" for i in range(10_001)])))


@pytest.mark.parametrize(
    ("options", "detail"),
    [
        ({"classes": ["a"], "positive": "a"}, "not both"),
        ({"type": "number", "classes": ["a"]}, "labels of type 'number' have no classes by name"),
        ({"classes": [1, "1"]}, "must differ"),
        ({"classes": [" "]}, "must differ, and none may be empty"),
        ({"classes": []}, "at least 1 item"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(options: Any, detail: str) -> None:
    with pytest.raises(ValidationError, match=detail):
        LabelSpec(column="y", **options)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=3), min_size=1))
def test_a_class_name_stands_for_the_values_of_its_code(values: list[str | None]) -> None:
    label, encoded = fit(pa.array(values, pa.string()))
    for value, code in zip(values, encoded.tolist(), strict=True):
        stripped = (value or "").strip()
        assert (label.class_names or [])[code] == stripped if stripped else code == -1
