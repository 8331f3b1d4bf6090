"""Parquet files, and Arrow IPC files and streams, as batches."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from app.uploads.column_types import check_names, converted
from app.uploads.faults import UnreadableError

_ROWS = 65_536

Columnar = tuple[pa.Schema, Iterator[pa.RecordBatch]]


@contextlib.contextmanager
def parquet_batches(path: Path, max_columns: int) -> Generator[Columnar]:
    """Open a Parquet file.

    Raises:
        UnreadableError: If it is damaged or has columns that tables have not; also while batches are taken.
    """
    with _readable("Parquet"), pq.ParquetFile(path) as file:
        # Nested columns count by their leaves.
        check_names(file.schema_arrow.names, max_columns)
        batches = _checked(file.iter_batches(_ROWS, use_threads=False))
        yield converted(file.schema_arrow, _counted(batches, file.metadata.num_rows))


@contextlib.contextmanager
def arrow_batches(path: Path, max_columns: int) -> Generator[Columnar]:
    """Open an Arrow IPC file or stream.

    Raises:
        UnreadableError: If it is damaged or has columns that tables have not; also while batches are taken.
    """
    with _readable("Arrow"), pa.memory_map(str(path)) as mapped:
        is_file = mapped.read(6) == b"ARROW1"
        mapped.seek(0)
        reader = pa.ipc.open_file(mapped) if is_file else pa.ipc.open_stream(mapped)
        check_names(reader.schema.names, max_columns)
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if is_file else iter(reader)
        yield converted(reader.schema, _checked(batches))


@contextlib.contextmanager
def _readable(kind: str) -> Generator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise UnreadableError(f"the {kind} data are damaged or break off: {error}") from None


def _checked(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        # Offsets that lie would lead anywhere in memory.
        batch.validate(full=True)
        yield batch


def _counted(batches: Iterator[pa.RecordBatch], promised: int) -> Iterator[pa.RecordBatch]:
    rows = 0
    for batch in batches:
        rows += batch.num_rows
        yield batch
    if rows != promised:
        raise UnreadableError(
            f"the Parquet data are damaged: the footer tells of {promised:,} rows, and there are {rows:,}"
        )
