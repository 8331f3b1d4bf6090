"""What a column is taken for."""

from __future__ import annotations

from typing import Any

import pytest

from mtl_core.preprocessing import infer_column


@pytest.mark.parametrize(
    ("dtype", "shape", "summary", "expected"),
    [
        ("int64", [], {"nulls": 3, "distinct": 2}, "number"),
        ("float64", [], {"nulls": 0}, "number"),
        ("float32", [], {"nulls": 0}, "number"),
        ("bool", [], {"nulls": 0}, "boolean"),
        ("date", [], {"nulls": 0}, "datetime"),
        ("timestamp", [], {"nulls": 0}, "datetime"),
        ("timestamp[us, tz=UTC]", [], {"nulls": 0}, "datetime"),
        ("list<float64>", [], {"nulls": 0}, "list"),
        ("list<int64>", [], {"nulls": 0}, "list"),
        ("list<string>", [], {"nulls": 0}, "sequence"),
        ("uint8", [28, 28], {"nulls": 0}, "tensor"),
        ("float32", [3], {"nulls": 0}, "tensor"),
        ("string", [], {"nulls": 0, "distinct": 20}, "categorical"),
        ("string", [], {"nulls": 0, "distinct": 500, "mean_length": 50}, "categorical"),
        ("string", [], {"nulls": 0, "distinct": 900, "mean_length": 50}, "text"),
        ("string", [], {"nulls": 0, "distinct": 900, "mean_length": 50, "top": [["two words", 1]]}, "text"),
        ("string", [], {"nulls": 0, "distinct": 900, "mean_length": 50, "top": [["2a77-b1", 1]]}, None),
        ("string", [], {"nulls": 0, "distinct": 900, "mean_length": 8}, None),
        ("string", [], {"nulls": 1000, "distinct": 0}, None),
        ("int64", [], {"nulls": 1000}, None),
        ("null", [], {"nulls": 0}, None),
        ("struct<a: int64>", [], {"nulls": 0}, None),
    ],
)
def test_a_column_is_taken_for(
    dtype: str, shape: list[int], summary: dict[str, Any], expected: str | None
) -> None:
    spec = infer_column("x", dtype, shape, 1000, summary)
    assert (spec.type if spec else None) == expected
    assert spec is None or spec.name == "x"


def test_text_that_repeats_is_a_category_however_many_values_it_has() -> None:
    spec = infer_column("city", "string", [], 100_000, {"nulls": 0, "distinct": 5000, "mean_length": 9})
    assert spec is not None
    assert spec.type == "categorical"
