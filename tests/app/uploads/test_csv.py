from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable

import pyarrow as pa
import pytest

from app.uploads.faults import UnreadableError
from app.uploads.options import Limits
from tests.app.uploads.conftest import Read

Reader = Callable[..., Read]
PLAIN = b"age,education\n38,Bachelors\n52,Doctorate\n"
RECORDS = [{"age": 38, "education": "Bachelors"}, {"age": 52, "education": "Doctorate"}]


def by_arrow(codec: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(PLAIN)
    return sink.getvalue().to_pybytes()


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize(
    ("compression", "content"),
    [
        ("none", PLAIN),
        ("gzip", gzip.compress(PLAIN)),
        ("gzip", gzip.compress(PLAIN[:20]) + gzip.compress(PLAIN[20:])),
        ("bz2", bz2.compress(PLAIN)),
        ("xz", lzma.compress(PLAIN)),
        ("zstd", by_arrow("zstd")),
        ("lz4", by_arrow("lz4")),
        ("zip", zipped(people=PLAIN)),
    ],
    ids=["none", "gzip", "gzip in two members", "bz2", "xz", "zstd", "lz4", "zip"],
)
def test_compression_is_found(read: Reader, compression: str, content: bytes) -> None:
    found = read(content)
    assert found.records == RECORDS
    assert found.read_as["compression"] == compression
    assert read(content, compression=compression).records == RECORDS


@pytest.mark.parametrize(
    ("content", "delimiter", "columns", "rows"),
    [
        (b"a,b\n1,2\n", ",", ["a", "b"], 1),
        (b"a;b\n1,5;2,5\n3,5;4,5\n", ";", ["a", "b"], 2),
        (b"a\tb\n1\t2\n", "\t", ["a", "b"], 1),
        (b"a|b,c\n1|2\n", "|", ["a", "b,c"], 1),
        (b'a,b\n"x;y;z",1\n"u;v;w",2\n', ",", ["a", "b"], 2),
        (b"just one\n1\n2\n", ",", ["just one"], 2),
        (b"a,b\r\n1,2\r\n", ",", ["a", "b"], 1),
        (b"a,b\r1,2\r", ",", ["a", "b"], 1),
        (b"a,b\n1,2", ",", ["a", "b"], 1),
        (b'"a\nx","b"\n1,2\n', ",", ["a\nx", "b"], 1),
    ],
)
def test_delimiter_and_names_are_found(
    read: Reader, content: bytes, delimiter: str, columns: list[str], rows: int
) -> None:
    found = read(content)
    assert found.read_as["delimiter"] == delimiter
    assert list(found.read_as["columns"]) == columns
    assert found.read_as["header"] is True
    assert found.answer["rows"] == rows


def test_a_file_without_header_is_seen_to_have_none(read: Reader) -> None:
    found = read(b"1,x\n2,y\n")
    assert found.records == [{"column_1": 1, "column_2": "x"}, {"column_1": 2, "column_2": "y"}]
    assert read(b"x,y\nz,u\n").read_as["header"] is True
    assert read(b"x,y\nz,u\n", header=False).answer["rows"] == 2
    assert read(b"1990,1991\n1,2\n", header=True).records == [{"1990": 1, "1991": 2}]


def test_named_columns_are_laid_over_the_first_row_only_where_that_is_a_header(read: Reader) -> None:
    assert read(b"x,y\nz,u\n", columns=("a", "b")).answer["rows"] == 2
    assert read(b"a,b\nz,u\n", columns=("a", "b")).records == [{"a": "z", "b": "u"}]
    assert read(b"name,n\nz,1\n", columns=("a", "b")).records == [{"a": "z", "b": 1}]
    with pytest.raises(UnreadableError, match="3 columns are named, but the first row has 2"):
        read(PLAIN, columns=("a", "b", "c"))


def test_blanks_after_the_delimiter_are_no_part_of_values(read: Reader) -> None:
    found = read(b"38, Private, ?\n40, NA, b \n", null_values=("?",))
    assert found.read_as["strip"] is True
    assert found.records == [
        {"column_1": 38, "column_2": "Private", "column_3": None},
        {"column_1": 40, "column_2": None, "column_3": "b"},
    ]
    kept = read(b"a,b\n x,y\nz, u\n1,w\n")
    assert kept.read_as["strip"] is False
    assert kept.records[:2] == [{"a": " x", "b": "y"}, {"a": "z", "b": " u"}]


def test_types_are_the_narrowest_that_all_values_share(read: Reader) -> None:
    found = read(
        b"i,f,b,d,t,z,s,none,lead\n"
        b"1,1.5,true,2020-01-31,2020-01-31 10:00:00,2020-01-31T10:00:00+02:00,x,,0x\n"
        b"NA,2,FALSE,2020-02-01,2020-01-31,2020-01-31T10:00:00Z,1,,7\n"
    )
    assert found.dtypes == {
        **{"i": "int64", "f": "float64", "b": "bool", "d": "date", "t": "timestamp", "z": "timestamp"},
        **{"s": "string", "none": "string", "lead": "string"},
    }
    assert found.records[0] == {
        **{"i": 1, "f": 1.5, "b": True, "d": "2020-01-31", "t": "2020-01-31T10:00:00Z"},
        **{"z": "2020-01-31T08:00:00Z", "s": "x", "none": None, "lead": "0x"},
    }
    assert found.column("i")["nulls"] == 1


@pytest.mark.parametrize(
    ("late", "dtype", "first"),
    [
        ("2.5", "float64", 7.0),
        ("x", "string", "7"),
        ("true", "string", "7"),
        ("99999999999999999999", "float64", 7.0),
    ],
)
def test_a_late_value_changes_the_type_of_the_whole_column(
    read: Reader, late: str, dtype: str, first: object
) -> None:
    # Some blocks of 8 MiB come before it.
    row = b"7," + b"x" * 1000 + b"\n"
    found = read(b"a,b\n" + row * 20_000 + f"{late},y\n".encode())
    assert found.dtypes["a"] == dtype
    assert found.answer["rows"] == 20_001
    assert found.answer["preview"][0]["a"] == first


@pytest.mark.parametrize(
    ("content", "encoding", "guessed"),
    [
        ("naïve,b\né,1\n".encode(), "utf_8", False),
        (b"\xef\xbb\xbf" + "naïve,b\né,1\n".encode(), "utf_8_sig", False),
        ("naïve,b\né,1\n".encode("utf-16"), "utf_16", False),
        ("naïve,b\né,1\n".encode("utf-32"), "utf_32", False),
        ("naïve,b\né,1\nMálaga à côté,2\n".encode("cp1252"), None, True),
    ],
)
def test_encoding_is_found(read: Reader, content: bytes, encoding: str | None, guessed: bool) -> None:
    found = read(content)
    assert found.records[0] == {"naïve": "é", "b": 1}
    assert encoding in (None, found.read_as["encoding"])
    assert any("guess" in warning for warning in found.answer["warnings"]) is guessed


def test_a_stated_encoding_is_used(read: Reader) -> None:
    assert read("a,b\nЖ,1\n".encode("koi8-r"), encoding="KOI8-R").records == [{"a": "Ж", "b": 1}]
    with pytest.raises(UnreadableError, match="cannot be decoded") as caught:
        read("a,b\nx,1\né,1\n".encode("latin-1"), encoding="utf-8")
    assert caught.value.row == 3
    for name in ("klingon", "unicode_escape", "base64", "../os"):
        with pytest.raises(UnreadableError, match="no text encoding"):
            read(PLAIN, encoding=name)


@pytest.mark.parametrize(
    ("content", "row", "column", "says"),
    [
        (b"a,b\n1,2\n3\n", 3, "b", "1 values where there are 2 columns"),
        (b'a,b\n"x\ny",2\n3,4,5\n', 4, None, "3 values"),
        (b'a,b\n1,2\n3,"x\n4,5\n', 3, None, "bad quotes"),
        (b"a,b,a\n1,2,3\n", None, "a", "two columns"),
        (b"a,,c\n1,2,3\n", None, None, "column 2 has no name"),
        (b"a,b\n", None, None, "no rows"),
        (b"\n\n", None, None, "no rows"),
        (b"a,b\n1,\x002\n", 2, None, "NUL"),
        (b"a,b\n1," + b"x" * 5 * 2**20 + b"\n", 2, None, "a line has more"),
    ],
)
def test_faults_say_where(
    read: Reader, content: bytes, row: int | None, column: str | None, says: str
) -> None:
    with pytest.raises(UnreadableError, match=says) as caught:
        read(content)
    assert (caught.value.row, caught.value.column) == (row, column)


def test_a_ragged_row_far_down_is_named(read: Reader) -> None:
    with pytest.raises(UnreadableError, match="1 values") as caught:
        read(b"a,b\n" + b"1,2\n" * 3_000_000 + b"3\n")
    assert caught.value.row == 3_000_002


def test_bombs_are_put_out(read: Reader) -> None:
    limits = Limits(max_columns=1000, max_bytes=2**20, memory_bytes=2**31, seconds=60)
    rows = b"a,b\n" + b"1,2\n" * 2**20
    for content in (gzip.compress(rows), zipped(bomb=rows), bz2.compress(rows)):
        with pytest.raises(UnreadableError, match="bomb"):
            read(content, limits=limits)
    # Rows may take more than the text that they come from.
    with pytest.raises(UnreadableError, match="bomb"):
        read(b"a,b\n" + b"1,2\n" * 200_000, limits=limits)


def test_options_of_csv_mean_nothing_elsewhere(read: Reader) -> None:
    with pytest.raises(UnreadableError, match="'delimiter' has no meaning"):
        read(b'{"a": 1}\n', delimiter=",")
