"""What is counted of long streams: bounded in memory, and as exact as is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mtl_core.preprocessing import (
    CategoricalColumn,
    ColumnError,
    DatetimeColumn,
    ListColumn,
    NumberColumn,
    TensorColumn,
    TextColumn,
    merge_summaries,
)
from mtl_core.preprocessing import counting as bounds
from tests.mtl_core.preprocessing.columns import summarise

RNG = np.random.default_rng(0)
NUMBER = NumberColumn(name="x")


def test_quantiles_are_exact_for_what_fits_the_sample() -> None:
    values = RNG.normal(size=50_000)
    found = summarise(NUMBER, *(pa.array(chunk) for chunk in np.array_split(values, 7)))
    assert found.quantiles == np.quantile(values, np.linspace(0, 1, 101)).tolist()


def test_quantiles_of_more_are_close_and_do_not_depend_on_batches() -> None:
    values = RNG.normal(size=500_000)
    found = summarise(NUMBER, *(pa.array(chunk) for chunk in np.array_split(values, 13)))
    again = summarise(NUMBER, pa.array(values))
    assert found.quantiles is not None
    assert found.quantiles == again.quantiles
    assert found.quantiles[25:76] == pytest.approx(np.quantile(values, np.linspace(0.25, 0.75, 51)), abs=0.01)


def test_quantiles_of_merged_summaries_are_close() -> None:
    parts = [RNG.normal(size=20_000), RNG.normal(5, 2, size=60_000), np.zeros(1000)]
    summaries = [summarise(NUMBER, pa.array(part)) for part in parts]
    merged = merge_summaries(summaries)
    assert merged.quantiles is not None
    everything = np.concatenate(parts)
    assert merged.quantiles[5:96] == pytest.approx(
        np.quantile(everything, np.linspace(0.05, 0.95, 91)), abs=0.15
    )
    assert (merged.quantiles[0], merged.quantiles[100]) == (everything.min(), everything.max())
    assert merged.quantiles == sorted(merged.quantiles)
    assert merge_summaries(summaries[::-1]).quantiles == merged.quantiles


def test_values_beyond_bounds_are_forgotten_rarest_first() -> None:
    rare = [
        pa.array([f"v{i}" for i in range(start, start + 250_000)]) for start in range(0, 1_250_000, 250_000)
    ]
    found = summarise(
        CategoricalColumn(name="c"), pa.array(["often"] * 3), *rare, pa.array(["often"] * 3)
    ).counts
    assert found is not None
    assert found.values[0] == ("often", 6)
    assert len(found.values) == bounds.KEPT_VALUES
    assert not found.distinct_is_exact
    assert 1_000_000 <= found.distinct <= 1_250_001


def test_distinct_values_of_cut_counts_are_a_lower_bound() -> None:
    many = summarise(CategoricalColumn(name="c"), pa.array([f"v{i}" for i in range(150_000)]))
    few = summarise(CategoricalColumn(name="c"), pa.array(["a", "v1"]))
    assert many.counts is not None
    assert (many.counts.distinct, many.counts.distinct_is_exact) == (150_000, True)
    merged = merge_summaries([few, many]).counts
    assert merged is not None
    assert not merged.distinct_is_exact
    assert merged.distinct == 150_000
    assert merged.values[0] == ("v1", 2)


@pytest.mark.parametrize(
    ("spec", "values", "constant"),
    [
        (NUMBER, [1.0, 1.0], True),
        (NUMBER, [1.0, None], False),
        (NUMBER, [None, None], True),
        (NUMBER, [1.0, 2.0], False),
        (CategoricalColumn(name="x"), ["a", " a"], True),
        (CategoricalColumn(name="x"), ["a", "b"], False),
        (ListColumn(name="x"), [[1.0], [1.0, 1.0]], False),
        (TextColumn(name="x", encoder="e"), ["a", "b"], False),
        (DatetimeColumn(name="x"), ["2020-01-01", "2020-01-01"], True),
    ],
)
def test_a_column_that_tells_nothing_is_known(spec: Any, values: Any, constant: bool) -> None:
    array = pa.array(values, pa.float64() if spec.type == "number" else None)
    assert summarise(spec, array).is_constant == constant


def test_statistics_are_what_people_read() -> None:
    shown = summarise(NUMBER, pa.array([1.0, 3.0, None])).statistics()
    quantiles = shown.pop("quantiles")
    assert shown == {"rows": 3, "missing": 1, "mean": 2.0, "deviation": 1.0, "min": 1.0, "max": 3.0}
    assert quantiles == {"5%": 1.1, "25%": 1.5, "50%": 2.0, "75%": 2.5, "95%": pytest.approx(2.9)}
    dates = summarise(DatetimeColumn(name="x"), pa.array(["2020-01-01T00:00:01", "1969-12-31"])).statistics()
    assert dates == {"rows": 2, "missing": 0, "min": "1969-12-31T00:00:00Z", "max": "2020-01-01T00:00:01Z"}
    assert summarise(CategoricalColumn(name="x"), pa.array(["b", "a", "b"])).statistics() == {
        "rows": 3,
        "missing": 0,
        "distinct": 2,
        "distinct_is_exact": True,
        "top": [["b", 2], ["a", 1]],
    }


def test_tensors_of_two_shapes_are_no_column() -> None:
    spec = TensorColumn(name="x")
    parts = [summarise(spec, pa.array(values)) for values in ([[1.0, 2.0]], [[1.0]], [None])]
    assert merge_summaries([parts[0], parts[2]]).shape == [2]
    with pytest.raises(ColumnError, match=r"some rows have shape \[2\], others do not"):
        merge_summaries(parts)
    with pytest.raises(ColumnError, match=r"row 1: shape \[1\], but \[2\] in the rows before"):
        summarise(spec, pa.array([[1.0, 2.0]]), pa.array([[1.0]]))
