"""Reads one file into a table, as a process of its own: ``python -m app.uploads.reading``.

A file that makes the reader crash, swell or run for ever ends this process, and not the server that started it.
Instructions come as JSON by standard input; what was found goes out as JSON by standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import zipfile
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from app.storage.tables import TableTooLargeError, write_table
from app.uploads.arrays import npz_batches, safetensors_batches
from app.uploads.column_types import TypeChangedError, check_names, converted, typed, typed_by_all
from app.uploads.columnar import Columnar, arrow_batches, parquet_batches
from app.uploads.compression import compression_of
from app.uploads.csv_files import CsvFile
from app.uploads.description import TableDescription
from app.uploads.dialect import find_dialect
from app.uploads.faults import UnreadableError
from app.uploads.json_lines import JsonLinesFile
from app.uploads.options import Limits, Options
from app.uploads.records import Record, to_preview
from app.uploads.text import Text, open_text

_PREVIEW_ROWS = 10
_CSV_ONLY = ("delimiter", "quote", "header", "columns", "null_values")


def read_file(path: Path, table: Path, folder: Path, options: Options, limits: Limits) -> dict[str, Any]:
    """Read a file into a table.

    Args:
        path: The file.
        table: The new table.
        folder: Where files on the way may lie.
        options: How to read it.
        limits: What that may take.

    Returns:
        ``read_as``, ``rows``, ``columns``, ``preview`` and ``warnings``.

    Raises:
        UnreadableError: If it cannot be read.
    """
    head = path.open("rb").read(16)
    if not head:
        raise UnreadableError("the file is empty")
    kind = options.format or _binary_format(path, head)
    if kind in (None, "csv", "jsonl"):
        return _read_text(path, table, head, options, limits)
    for name in (*_CSV_ONLY, "encoding", "compression"):
        if getattr(options, name) not in (None, (), "none"):
            raise UnreadableError(f"'{name}' has no meaning for a file of format {kind}")
    with _opened(kind, path, folder, limits) as (schema, batches):
        written = _write(table, schema, batches, limits)
    return {"read_as": {"format": kind}} | written


def _binary_format(path: Path, head: bytes) -> str | None:
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "safetensors"
    if compression_of(head) == "zip":
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            if any(name.endswith(".npy") for name in archive.namelist()):
                return "npz"
    return None


def _opened(
    kind: str, path: Path, folder: Path, limits: Limits
) -> contextlib.AbstractContextManager[Columnar]:
    match kind:
        case "parquet":
            return parquet_batches(path, limits.max_columns)
        case "arrow":
            return arrow_batches(path, limits.max_columns)
        case "npz":
            return npz_batches(path, folder, limits.max_columns, limits.max_bytes)
        case _:
            return safetensors_batches(path, limits.max_columns)


def _read_text(path: Path, table: Path, head: bytes, options: Options, limits: Limits) -> dict[str, Any]:
    compression = options.compression or compression_of(head)
    text = open_text(path, compression, options.encoding, limits.max_bytes)
    read_as: dict[str, Any] = {"compression": compression, "encoding": text.encoding}
    if (options.format or options.hint or _text_format(text)) == "jsonl":
        for name in _CSV_ONLY:
            if getattr(options, name) not in (None, ()):
                raise UnreadableError(f"'{name}' has no meaning for a file of format jsonl")
        file = JsonLinesFile(text, limits.max_columns)
        read_as |= {"format": "jsonl"}
    else:
        dialect = find_dialect(text, options, limits.max_columns)
        check_names(dialect.columns, limits.max_columns)
        file = CsvFile(text, dialect, options.null_values)
        read_as |= {"format": "csv"} | asdict(dialect) | {"null_values": list(options.null_values)}
    written = _write_typed(table, file, limits)
    return {"read_as": read_as} | written | {"warnings": [*text.warnings, *written["warnings"]]}


def _text_format(text: Text) -> str:
    with text.open() as file:
        first = file.readline().strip()
    try:
        return "jsonl" if first.startswith(b"{") and isinstance(json.loads(first), dict) else "csv"
    except ValueError:
        return "csv"


def _write_typed(table: Path, file: CsvFile | JsonLinesFile, limits: Limits) -> dict[str, Any]:
    block = next(iter(file.blocks()), None)
    if block is None:
        raise UnreadableError("the file has no rows")
    schema, read = typed(file.schema, file.blocks, block)
    try:
        return _write(table, *converted(schema, read()), limits)
    except TypeChangedError:
        schema, read = typed_by_all(file.schema, file.blocks)
        return _write(table, *converted(schema, read()), limits)


def _write(
    table: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], limits: Limits
) -> dict[str, Any]:
    description = TableDescription(schema)
    preview: list[Record] = []

    def seen() -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if missing := _PREVIEW_ROWS - len(preview):
                preview.extend(to_preview(batch.slice(0, missing)))
            description.see(batch)
            yield batch

    try:
        rows = write_table(table, schema, seen(), limits.max_bytes)
    except TableTooLargeError as error:
        raise UnreadableError(f"{error}: is this a decompression bomb?") from None
    if not rows:
        raise UnreadableError("the file has no rows")
    return {
        "rows": rows,
        "columns": description.columns(),
        "preview": preview,
        "warnings": description.warnings(),
    }


@contextlib.contextmanager
def _confined(limits: Limits) -> Generator[None]:
    resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Should the server be gone, nobody else would end this process.
    signal.alarm(limits.seconds)
    yield


def main() -> None:
    """Do what standard input says."""
    told = json.load(sys.stdin)
    limits = Limits(**told["limits"])
    with _confined(limits):
        try:
            found = read_file(
                Path(told["path"]),
                Path(told["table"]),
                Path(told["folder"]),
                Options.from_json(told["options"]),
                limits,
            )
        except UnreadableError as error:
            found = {"fault": {"detail": error.detail, "row": error.row, "column": error.column}}
        except MemoryError:
            found = {"fault": {"detail": "reading it takes too much memory", "row": None, "column": None}}
    sys.stdout.write(json.dumps(found, allow_nan=False))
    sys.stdout.flush()
    # Nothing is left to tidy up, and a library that was cut short may not manage to.
    os._exit(0)


if __name__ == "__main__":
    main()
