"""Files that no table can be read from, each with what the answer must say of it."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy

ROWS = b"age,education\n" + b"38,Bachelors\n" * 1000


@dataclass(frozen=True)
class Broken:
    """A broken file.

    Attributes:
        filename: Its name.
        content: Its bytes, or what makes them: a bomb takes seconds, and every test process lists all files.
        says: What the problem's detail holds.
        row: The line that it names.
        column: The column that it names.
        query: How the client says to read it.
        breaks_down: Whether the process that reads it does.
    """

    filename: str
    content: bytes | Callable[[], bytes]
    says: str = ""
    row: int | None = None
    column: str | None = None
    query: dict[str, Any] = field(default_factory=dict[str, Any])
    breaks_down: bool = False

    def data(self) -> bytes:
        """Return the bytes."""
        return self.content() if callable(self.content) else self.content


def broken_files() -> Iterator[Broken]:
    """Yield them all."""
    yield from _csv_files()
    yield from _compressed_files()
    yield from _json_files()
    yield from _columnar_files()
    yield from _array_files()


def _csv_files() -> Iterator[Broken]:
    yield Broken("only-blank-lines.csv", b"\n\n\r\n", "no rows")
    yield Broken("only-blanks.csv", b"   \n", "")
    yield Broken("only-a-header.csv", b"age,education\n", "no rows")
    yield Broken("only-a-mark.csv", b"\xef\xbb\xbf", "no rows")
    yield Broken("short-row.csv", b"a,b,c\n1,2,3\n4,5\n", "2 values where there are 3", 3, "c")
    yield Broken("long-row.csv", b"a,b\n1,2\n3,4,5\n", "3 values where there are 2", 3)
    yield Broken("late-short-row.csv", ROWS + b"39\n", "1 values", 1002, "education")
    yield Broken("short-row-after-text-of-two-lines.csv", b'a,b\n"x\ny",1\n2\n', "1 values", 4, "b")
    yield Broken("quote-never-closed.csv", b'a,b\n1,"x\n2,y\n', "bad quotes", 2)
    yield Broken("duplicate-header.csv", b"a,b,a\n1,2,3\n", "two columns are called 'a'", None, "a")
    yield Broken("nameless-column.csv", b"a,,c\n1,2,3\n", "column 2 has no name")
    yield Broken("long-name.csv", b"a," + b"n" * 300 + b"\n1,2\n", "column 2")
    yield Broken("nul.csv", b"a,b\n1,2\n3,\0\n", "NUL", 3)
    yield Broken("nothing-but-nul.csv", bytes(1000), "NUL", 1)
    yield Broken("long-line.csv", b"a,b\n1," + b"x" * (5 * 2**20) + b"\n", "a line has more than", 2)
    yield Broken("one-line.csv", b"x" * (9 * 2**20), "a line has more than", 1)
    names = ",".join(f"c{i}" for i in range(10**6)).encode()
    yield Broken("million-columns.csv", names + b"\n" + b"1," * 999_999 + b"1\n", "a line has more than", 1)
    names = ",".join(f"c{i}" for i in range(20_000)).encode()
    yield Broken("many-columns.csv", names + b"\n" + b"1," * 19_999 + b"1\n", "20,000 columns")
    latin = "name,n\nx,1\nJosé,2\n".encode("latin-1")
    yield Broken("latin.csv", latin, "cannot be decoded as utf_8", 3, query={"encoding": "utf-8"})
    yield Broken("not-ascii.csv", "a,b\né,1\n".encode(), "cannot be decoded", 2, query={"encoding": "ascii"})
    yield Broken("half-a-character.csv", b"a,b\nx,\xe2\x82", "decoded", 2, query={"encoding": "utf-8"})
    yield Broken("odd-utf-16.csv", "a,b\n1,2\n".encode("utf-16") + b"x", "decoded")
    yield Broken("no-such-encoding.csv", ROWS, "no text encoding", query={"encoding": "klingon"})
    yield Broken("no-text-encoding.csv", ROWS, "no text encoding", query={"encoding": "rot13"})
    yield Broken("other-columns.csv", ROWS, "3 columns are named", 1, query={"columns": ["a,b,c"]})
    yield Broken("same-columns.csv", ROWS, "two columns", None, "a", query={"columns": ["a,a"]})
    yield Broken("noise.bin", np.random.default_rng(1).bytes(5000), "")
    yield Broken("noise.csv", np.random.default_rng(2).bytes(5000), "", query={"format": "csv"})
    picture = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(200)
    yield Broken("picture.png", picture, "", 1)


def _compressed_files() -> Iterator[Broken]:
    whole = gzip.compress(np.random.default_rng(3).integers(0, 10, 50_000).astype("S1").tobytes())
    yield Broken("cut.csv.gz", whole[:-2000], "gzip data are damaged or break off")
    yield Broken("altered.csv.gz", whole[:2000] + b"\xff\0" + whole[2002:], "gzip data are damaged")
    yield Broken("only-head.csv.gz", whole[:12], "gzip data are damaged")
    yield Broken("rubbish-behind.csv.gz", gzip.compress(ROWS) + b"rubbish behind it", "gzip data are damaged")
    yield Broken("nothing-in-it.csv.gz", gzip.compress(b""), "no rows")
    yield Broken("no-gzip.csv", ROWS, "gzip data are damaged", query={"compression": "gzip"})
    yield Broken("no-xz.csv", ROWS, "xz data are damaged", query={"compression": "xz"})
    yield Broken("no-zip.csv", ROWS, "zip data are damaged", query={"compression": "zip"})
    yield Broken("cut.csv.bz2", bz2.compress(ROWS)[:-10], "bz2 data are damaged")
    yield Broken("cut.csv.xz", lzma.compress(ROWS)[:-30], "xz data are damaged")
    for codec in ("zstd", "lz4"):
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as stream:
            stream.write(np.random.default_rng(4).integers(48, 58, 300_000, np.uint8).tobytes())
        yield Broken(f"cut.csv.{codec}", sink.getvalue().to_pybytes()[:-5000], f"{codec} data are damaged")
    # Streams put together are one file.
    rows = b"1,2\n" * (2**20)
    yield Broken("bomb.csv.gz", lambda: gzip.compress(rows) * 80, "bomb")
    yield Broken("bomb.csv.bz2", lambda: bz2.compress(rows) * 80, "bomb")
    yield Broken("bomb.zip", lambda: _zip({"rows.csv": rows * 80}), "bomb")
    yield Broken("two-members.zip", _zip({"a.csv": ROWS, "b.csv": ROWS}), "2 files")
    yield Broken("no-members.zip", _zip({}), "0 files")
    yield Broken("cut.zip", _zip({"a.csv": ROWS})[:-30], "zip")
    yield Broken("climbing-out.zip", _zip({"../../a.csv": b"a,b\n1\n"}), "1 values", 2, "b")
    locked = bytearray(_zip({"a.csv": ROWS}))
    for place in (6, bytes(locked).index(b"PK\1\2") + 8):
        locked[place] |= 1
    yield Broken("locked.zip", bytes(locked), "encrypted")
    wrapped = gzip.compress(gzip.compress(ROWS))
    yield Broken("twice.csv.gz.gz", wrapped, "")


def _json_files() -> Iterator[Broken]:
    yield Broken("arrays.jsonl", b"[1, 2]\n[3, 4]\n", "not an object", 1)
    yield Broken("array-later.jsonl", b'{"a": 1}\n[1]\n', "array", 2)
    yield Broken("numbers.jsonl", b"1\n2\n", "not an object", 1)
    yield Broken("nested.jsonl", b'{"a": 1, "b": {"c": 2}}\n', "nested", None, "b")
    yield Broken("lists-of-lists.jsonl", b'{"a": [[1]]}\n', "lists of lists", None, "a")
    yield Broken("mixed.jsonl", b'{"a": 1}\n{"a": 2}\n{"a": "x"}\n', "a string where", 3, "a")
    yield Broken("cut.jsonl", b'{"a": 1}\n{"a": 2}\n{"a": ', "", 3)
    yield Broken("broken-line.jsonl", b'{"a": 1}\n{"a" 2}\n{"a": 3}\n', "", 2)
    yield Broken("key-twice.jsonl", b'{"a": 1, "a": 2}\n', "twice", 1, "a")
    yield Broken("nothing-in-them.jsonl", b"{}\n{}\n", "no columns")
    yield Broken("deep.jsonl", b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", breaks_down=True)
    wide = json.dumps({f"k{i}": i for i in range(20_000)}).encode()
    yield Broken("many-keys.jsonl", wide + b"\n", "columns")
    yield Broken("latin.jsonl", '{"a": "é"}\n'.encode("latin-1"), "decoded", 1, query={"encoding": "utf-8"})
    pretty = json.dumps([{"a": 1}, {"a": 2}], indent=1).encode()
    yield Broken("pretty.json", pretty, "", query={"format": "jsonl"})


def _columnar_files() -> Iterator[Broken]:
    table = pa.table({"age": np.arange(5000), "name": [f"person {i}" for i in range(5000)]})
    parquet = _parquet(table)
    yield Broken("cut.parquet", parquet[:-2000], "Parquet data are damaged")
    yield Broken("only-magic.parquet", b"PAR1PAR1", "Parquet data are damaged")
    yield Broken("long-footer.parquet", parquet[:-8] + struct.pack("<i", 2**30) + b"PAR1", "Parquet data")
    yield Broken("negative-footer.parquet", parquet[:-8] + struct.pack("<i", -5) + b"PAR1", "Parquet data")
    yield Broken("no-footer.parquet", parquet[:-8] + bytes(4) + b"PAR1", "Parquet data")
    size = struct.unpack("<i", parquet[-8:-4])[0]
    start = len(parquet) - 8 - size
    noise = np.random.default_rng(5).bytes(size)
    yield Broken("noise-for-footer.parquet", parquet[:start] + noise + parquet[-8:], "")
    footer = parquet[start:-8]
    many = footer.replace(_varint(5000), _varint(8191))
    yield Broken("lying-footer.parquet", parquet[:start] + many + parquet[-8:], "Parquet data are damaged")
    yield Broken("pages-gone.parquet", parquet[:4] + bytes(start - 4) + parquet[start:], "Parquet data")
    yield Broken("no-parquet.csv", ROWS, "Parquet data", query={"format": "parquet"})
    yield Broken("no-rows.parquet", _parquet(table.slice(0, 0)), "no rows")
    yield Broken("struct.parquet", _parquet(pa.table({"s": [{"x": 1}]})), "not supported", None, "s")
    yield Broken("bytes.parquet", _parquet(pa.table({"b": [b"\0"]})), "not supported", None, "b")
    huge = pa.table({"n": pa.array([1, 2**64 - 1], pa.uint64())})
    yield Broken("beyond-int64.parquet", _parquet(huge), "no place", None, "n")
    yield Broken("bomb.parquet", _parquet_bomb, "bomb")
    arrow = _arrow(table)
    yield Broken("cut.arrow", arrow[:-300], "Arrow data are damaged")
    yield Broken("half.arrow", arrow[: len(arrow) // 2], "Arrow data are damaged")
    yield Broken("only-magic.arrow", b"ARROW1\0\0", "Arrow data are damaged")
    yield Broken("cut.arrows", _arrow(table, pa.ipc.new_stream)[:-3000], "Arrow data are damaged")
    long = b"\xff\xff\xff\xff" + struct.pack("<i", 2**31 - 1) + bytes(100)
    yield Broken("long-message.arrows", long, "")
    lying = [None, pa.py_buffer(np.array([0, 2**30, 3], np.int32).tobytes()), pa.py_buffer(b"abc")]
    column = pa.Array.from_buffers(pa.string(), 2, lying)
    yield Broken("lying-offsets.arrow", _arrow(pa.table({"a": column})), "Arrow data are damaged")
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    yield Broken("same-names.arrow", _arrow(twice), "two columns", None, "a")


def _array_files() -> Iterator[Broken]:
    yield Broken("pickled.npz", _npz(a=np.array([{"x": 1}], object)), "pickled", None, "a")
    yield Broken("lengths.npz", _npz(a=np.zeros(3), b=np.zeros(4)), "4 rows where others have 3", None, "b")
    yield Broken("scalar.npz", _npz(a=np.float64(3)), "no first dimension", None, "a")
    yield Broken("complex.npz", _npz(z=np.array([1j])), "not supported", None, "z")
    yield Broken("empty-rows.npz", _npz(a=np.zeros((3, 0))), "holds nothing", None, "a")
    yield Broken("no-rows.npz", _npz(a=np.zeros(0)), "no rows")
    yield Broken("cut.npz", _npz(a=np.zeros(1000))[:-100], "")
    yield Broken("no-array.zip", _zip({"a.npy": b"nonsense"}), "", None, "a")
    yield Broken("pickle.npz", _zip({"a.npy": pickle.dumps([1, 2])}), "", None, "a")
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    yield Broken("lying.npz", _zip({"a.npy": member.getvalue()}), "", None, "a")
    yield Broken("bomb.npz", lambda: _npz(np.savez_compressed, a=np.zeros(40 * 2**20)), "bomb")
    good = safetensors.numpy.save({"a": np.arange(100)})
    yield Broken("cut.safetensors", good[:-10], "safetensors data are damaged")
    header = json.dumps({"a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}).encode()
    yield Broken(
        "lying.safetensors", struct.pack("<Q", len(header)) + header + bytes(400), "safetensors data"
    )
    yield Broken(
        "no-header.safetensors", struct.pack("<Q", 2**62) + b"{}", "", query={"format": "safetensors"}
    )
    uneven = safetensors.numpy.save({"a": np.arange(3), "b": np.arange(4)})
    yield Broken("lengths.safetensors", uneven, "rows where others have", None, "b")


def _varint(number: int) -> bytes:
    """Return a number as Thrift's compact protocol has it, in zigzag."""
    number, out = number * 2, bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _zip(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _parquet_bomb() -> bytes:
    repeated = pa.table({"a": pa.array(["x" * 2**20] * 1000).dictionary_encode()})
    return _parquet(repeated, compression="zstd")


def _parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def _arrow(table: pa.Table, writer: Any = pa.ipc.new_file) -> bytes:
    sink = io.BytesIO()
    with writer(sink, table.schema) as open_writer:
        open_writer.write_table(table)
    return sink.getvalue()


def _npz(save: Any = np.savez, **arrays: Any) -> bytes:
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()
