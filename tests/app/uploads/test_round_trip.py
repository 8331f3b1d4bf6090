"""Any table comes out of each format that can hold it as it went in."""

from __future__ import annotations

import csv
import io
import json
import math
import string
import tempfile
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from app.uploads.options import NULL_VALUES
from app.uploads.records import Record, to_records
from tests.app.uploads.conftest import Read
from tests.app.uploads.test_formats import arrow, npz, parquet

WORD = string.ascii_letters + "äß漢, ;'\"\n|"
TIMES = st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
# What is read as another type in a text file needs no less care, but is another value.
WORDS = st.text(WORD, min_size=1, max_size=8).filter(
    lambda s: (
        s.strip() == s and s not in NULL_VALUES and s.lower() not in ("true", "false", "inf", "infinity")
    )
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False).map(lambda x: x + 0.0)
VALUES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "int": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "float": (pa.float64(), FLOATS),
    "bool": (pa.bool_(), st.booleans()),
    "text": (pa.string(), WORDS),
    "date": (pa.date32(), st.dates(date(1700, 1, 1), date(2200, 1, 1))),
    "time": (pa.timestamp("us", "UTC"), TIMES),
    "ints": (pa.list_(pa.int64()), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3)),
    "floats": (pa.list_(pa.float64()), st.lists(FLOATS, max_size=3)),
    "texts": (pa.list_(pa.string()), st.lists(WORDS, max_size=3)),
}
LISTS = ("ints", "floats", "texts")


@st.composite
def tables(draw: st.DrawFn, kinds: tuple[str, ...], nulls: bool = True) -> pa.Table:
    rows = draw(st.integers(1, 5))
    chosen = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=4))
    columns: dict[str, pa.Array] = {"key": pa.array([f"k{i}" for i in range(rows)])}
    for i, kind in enumerate(chosen):
        dtype, values = VALUES[kind]
        entries = draw(st.lists(st.none() | values if nulls else values, min_size=rows, max_size=rows))
        # Types are found in values: there must be one, and a list that is not empty.
        entries[0] = draw(values.filter(bool) if kind in LISTS else values)
        columns[f"{kind} {i}"] = pa.array(entries, dtype)
    return pa.table(columns)


@st.composite
def arrays(draw: st.DrawFn) -> dict[str, np.ndarray[Any, Any]]:
    rows = draw(st.integers(1, 4))
    dtypes = st.sampled_from([np.uint8, np.int64, np.float32, np.float64])
    shapes = st.lists(st.integers(1, 3), max_size=3)
    return {
        f"a{i}": np.arange(rows * math.prod(shape)).reshape(rows, *shape).astype(draw(dtypes))
        for i, shape in enumerate(draw(st.lists(shapes, min_size=1, max_size=3)))
    }


def records_of(content: bytes, **options: Any) -> list[Record]:
    with tempfile.TemporaryDirectory() as folder:
        return Read(Path(folder), content, **options).records


def as_csv(table: pa.Table) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(table.column_names)
    for record in to_records(table):
        writer.writerow(record.values())
    return file.getvalue().encode()


def as_json_lines(table: pa.Table) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in to_records(table)).encode()


@given(tables(tuple(VALUES)))
@settings(max_examples=60)
def test_parquet_and_arrow(table: pa.Table) -> None:
    for content in (parquet(table), arrow(table), arrow(table, stream=True)):
        assert records_of(content) == to_records(table)


@given(tables(("int", "float", "bool", "text", "date", "time")))
@settings(max_examples=100)
def test_csv(table: pa.Table) -> None:
    assert records_of(as_csv(table), format="csv", delimiter=",", header=True) == to_records(table)


@given(tables(tuple(VALUES)))
@settings(max_examples=100)
def test_json_lines(table: pa.Table) -> None:
    assert records_of(as_json_lines(table)) == to_records(table)


@given(arrays())
@settings(max_examples=60)
def test_arrays(values: dict[str, np.ndarray[Any, Any]]) -> None:
    rows = len(next(iter(values.values())))
    expected = [{name: array[i].tolist() for name, array in values.items()} for i in range(rows)]
    for content in (npz(**values), npz(compress=True, **values), safetensors.numpy.save(values)):
        assert records_of(content) == expected


@given(arrays())
@settings(max_examples=30)
def test_tensor_columns(values: dict[str, np.ndarray[Any, Any]]) -> None:
    columns = {
        name: pa.FixedShapeTensorArray.from_numpy_ndarray(array) if array.ndim > 1 else pa.array(array)
        for name, array in values.items()
    }
    table = pa.table(columns)
    rows = len(next(iter(values.values())))
    expected = [{name: array[i].tolist() for name, array in values.items()} for i in range(rows)]
    for content in (parquet(table), arrow(table)):
        assert records_of(content) == expected
