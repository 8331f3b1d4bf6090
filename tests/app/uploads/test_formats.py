from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from app.uploads.faults import UnreadableError
from app.uploads.options import Limits
from tests.app.uploads.conftest import Read

Reader = Callable[..., Read]


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def arrow(table: pa.Table, stream: bool = False) -> bytes:
    sink = io.BytesIO()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def npz(compress: bool = False, **arrays: Any) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(file, **arrays)
    return file.getvalue()


def lines(*records: Any) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


WRITERS = {
    "parquet": parquet,
    "arrow": arrow,
    "arrow stream": lambda table: arrow(table, stream=True),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_arrow_types_become_those_of_tables(read: Reader, write: Callable[[pa.Table], bytes]) -> None:
    columns = {
        "i8": pa.array([1, None], pa.int8()),
        "u32": pa.array([2**32 - 1, 0], pa.uint32()),
        "f16": pa.array(np.array([1.5, 2], np.float16)),
        "f32": pa.array([1.5, float("nan")], pa.float32()),
        "decimal": pa.array([Decimal("1.25"), None]),
        "text": pa.array(["x", "y"], pa.large_string()),
        "category": pa.array(["x", "y"]).dictionary_encode(),
        "date": pa.array([0, 1], pa.date32()),
        "naive": pa.array([0, 1], pa.timestamp("ms")),
        "zoned": pa.array([0, 3_600_000_000_001], pa.timestamp("ns", "Europe/Berlin")),
        "none": pa.nulls(2),
        "ints": pa.array([[1, 2], []], pa.list_(pa.int32())),
        "texts": pa.array([["x"], None], pa.large_list(pa.string())),
    }
    found = read(write(pa.table(columns)))
    assert found.dtypes == {
        **{"i8": "int64", "u32": "int64", "f16": "float32", "f32": "float32", "decimal": "float64"},
        **{
            "text": "string",
            "category": "string",
            "date": "date",
            "naive": "timestamp",
            "zoned": "timestamp",
        },
        **{"none": "string", "ints": "list<int64>", "texts": "list<string>"},
    }
    assert found.records[1] == {
        **{"i8": None, "u32": 0, "f16": 2.0, "f32": None, "decimal": None, "text": "y", "category": "y"},
        **{"date": "1970-01-02", "naive": "1970-01-01T00:00:00.001000Z", "zoned": "1970-01-01T01:00:00Z"},
        **{"none": None, "ints": [], "texts": None},
    }
    assert found.column("f32")["nulls"] == 1


@pytest.mark.parametrize(
    "values",
    [
        pa.array([{"a": 1}]),
        pa.array([b"x"]),
        pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        pa.array([[[1]]]),
        pa.array([1], pa.duration("s")),
        pa.array([1], pa.time32("s")),
    ],
    ids=["struct", "binary", "map", "list of lists", "duration", "time"],
)
def test_what_has_no_place_in_a_table_is_named(read: Reader, values: pa.Array) -> None:
    for content in (arrow(pa.table({"good": pa.array([1]), "bad": values})),):
        with pytest.raises(UnreadableError, match="not supported") as caught:
            read(content)
        assert caught.value.column == "bad"


def test_numbers_beyond_64_bits_are_refused(read: Reader) -> None:
    with pytest.raises(UnreadableError) as caught:
        read(arrow(pa.table({"a": pa.array([2**64 - 1], pa.uint64())})))
    assert caught.value.column == "a"


@pytest.mark.parametrize("compress", [False, True])
def test_arrays_become_columns_and_tensors(read: Reader, compress: bool) -> None:
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    found = read(
        npz(
            compress,
            images=images,
            x=np.array([[1, 2], [3, 4]], ">f8"),
            half=np.ones((2, 2), np.float16),
            mask=np.array([[True], [False]]),
            label=np.array([1, 2], np.uint8),
            flag=np.array([True, False]),
            name=np.array(["a", "ß"]),
            time=np.array(["2020-01-01", "2020-01-02T10:00"], "datetime64[m]"),
        )
    )
    assert {name: (found.column(name)["dtype"], found.column(name)["shape"]) for name in found.dtypes} == {
        **{"images": ("uint8", [3, 4]), "x": ("float64", [2]), "half": ("float32", [2])},
        **{"mask": ("uint8", [1]), "label": ("int64", []), "flag": ("bool", []), "name": ("string", [])},
        **{"time": ("timestamp", [])},
    }
    first, second = found.records
    assert first["images"] == images[0].tolist()
    assert second["x"] == [3.0, 4.0]
    assert second["name"] == "ß"
    assert second["time"] == "2020-01-02T10:00:00Z"


def test_safetensors_become_columns_and_tensors(read: Reader) -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    found = read(safetensors.numpy.save({"x": x, "label": np.arange(4)}))
    assert found.read_as == {"format": "safetensors"}
    assert [record["x"] for record in found.records] == x.tolist()
    assert [record["label"] for record in found.records] == [0, 1, 2, 3]


def test_large_arrays_come_in_many_batches(read: Reader) -> None:
    x = np.arange(200_000 * 8, dtype=np.float32).reshape(-1, 8)
    found = read(npz(x=x, row=np.arange(200_000)))
    taken = found.table.take(np.array([0, 65_536, 199_999]), ["row", "x"])
    assert taken["row"].to_pylist() == [0, 65_536, 199_999]
    assert taken["x"].combine_chunks().to_numpy_ndarray().tolist() == x[[0, 65_536, 199_999]].tolist()


@pytest.mark.parametrize(
    ("content", "column", "says"),
    [
        (npz(a=np.arange(3), b=np.arange(4)), "b", "4 rows where others have 3"),
        (npz(a=np.array(3)), "a", "no first dimension"),
        (npz(a=np.array([{"x": 1}], object)), "a", "pickled objects are refused"),
        (npz(a=np.array([1j])), "a", "not supported"),
        (npz(a=np.ones((2, 0))), "a", "holds nothing"),
        (npz(a=np.arange(300))[:-200], None, "damaged"),
        (safetensors.numpy.save({"a": np.arange(3), "b": np.arange(4)}), "b", "where others have"),
        (safetensors.numpy.save({"a": np.arange(300)})[:-9], None, "damaged"),
        (struct.pack("<Q", 20) + b'{"a": "nonsense"}   ' + b"x" * 30, None, "damaged"),
    ],
)
def test_faults_of_arrays_are_named(read: Reader, content: bytes, column: str | None, says: str) -> None:
    with pytest.raises(UnreadableError, match=says) as caught:
        read(content)
    assert caught.value.column == column


def test_no_pickle_is_ever_loaded(read: Reader) -> None:
    class Bang:
        def __reduce__(self) -> Any:
            return exec, ("raise SystemExit('code was run')",)

    member = io.BytesIO()
    np.lib.format.write_array(member, np.array([0], object), allow_pickle=True)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", member.getvalue() + pickle.dumps(Bang()))
    with pytest.raises(UnreadableError, match="pickled"):
        read(file.getvalue())


def test_an_npz_bomb_is_put_out(read: Reader) -> None:
    limits = Limits(max_columns=10, max_bytes=2**20, memory_bytes=2**31, seconds=60)
    with pytest.raises(UnreadableError, match="bomb"):
        read(npz(compress=True, a=np.zeros(2**20)), limits=limits)


def test_json_lines_hold_numbers_texts_lists_and_times(read: Reader) -> None:
    found = read(
        lines(
            {"i": 1, "f": 1, "s": "x", "b": True, "l": [1, 2], "t": ["x"], "d": "2020-01-31", "n": None},
            {"i": 2, "f": 2.5, "s": "1", "b": None, "l": [], "d": "2020-02-01", "late": 3},
        )
    )
    assert found.read_as["format"] == "jsonl"
    assert found.dtypes == {
        **{"i": "int64", "f": "float64", "s": "string", "b": "bool", "l": "list<int64>", "t": "list<string>"},
        **{"d": "date", "n": "string", "late": "int64"},
    }
    assert found.records[1] == {
        **{"i": 2, "f": 2.5, "s": "1", "b": None, "l": [], "t": None, "d": "2020-02-01", "n": None, "late": 3}
    }


def test_json_types_are_decided_by_all_lines(read: Reader) -> None:
    padding = "x" * 1000
    early = lines({"a": 1, "p": padding}) * 20_000
    found = read(early + lines({"a": 1.5, "p": padding, "new": ["x"]}))
    assert found.dtypes == {"a": "float64", "p": "string", "new": "list<string>"}
    assert found.records[-1]["new"] == ["x"]
    with pytest.raises(UnreadableError) as caught:
        read(early + lines({"a": "text", "p": padding}))
    assert caught.value.column == "a"


@pytest.mark.parametrize(
    ("content", "row", "column"),
    [
        (lines({"a": 1}, [1, 2]), 2, None),
        (lines({"a": {"b": 1}}), None, "a"),
        (lines({"a": [[1]]}), None, "a"),
        (lines({"a": 1}) + b"\n" + lines({"a": "x"}), 3, "a"),
        (lines({"a": 1}, {"a": 2}) + b'{"a": \n', 3, None),
        (b'{"a": 1, "a": 2}\n', 1, "a"),
    ],
    ids=["array", "nested object", "list of lists", "mixed", "broken", "key twice"],
)
def test_faults_of_json_lines_say_where(
    read: Reader, content: bytes, row: int | None, column: str | None
) -> None:
    with pytest.raises(UnreadableError) as caught:
        read(content, format="jsonl")
    assert (caught.value.row, caught.value.column) == (row, column)


def test_damaged_columnar_files_are_refused(read: Reader) -> None:
    table = pa.table({"a": list(range(1000))})
    for content in (parquet(table), arrow(table), arrow(table, stream=True)):
        with pytest.raises(UnreadableError, match="damaged"):
            read(content[:-100])


def test_offsets_that_lie_are_noticed(read: Reader) -> None:
    offsets = np.array([0, 1, 2**30, 3], np.int32)
    buffers = [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"abc")]
    table = pa.table({"a": pa.Array.from_buffers(pa.string(), 3, buffers)})
    with pytest.raises(UnreadableError, match="damaged"):
        read(arrow(table))
