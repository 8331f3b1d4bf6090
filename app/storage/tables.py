"""Tables on disk: Arrow IPC files of record batches neither small nor large, read batch by batch at constant memory.

Nothing of torch is imported here: the process that reads a client's file starts fast.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Rows = NDArray[np.int64]

_BATCH_ROWS = 65_536
_BATCH_BYTES = 32 * 2**20


class TableTooLargeError(Exception):
    """A table takes more bytes than it may."""


def write_table(
    path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], max_bytes: int | None = None
) -> int:
    """Write batches of any sizes as one table.

    Args:
        path: The new file.
        schema: The batches' schema.
        batches: The rows.
        max_bytes: Bytes that the rows may take in memory, all together; default: any number.

    Returns:
        How many rows were written.

    Raises:
        TableTooLargeError: At the first batch beyond ``max_bytes``.
    """
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    rows = total = 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema, options=options) as writer:
        for batch in _regrouped(batches):
            total += batch.nbytes
            if max_bytes is not None and total > max_bytes:
                raise TableTooLargeError(f"the rows take more than {max_bytes:,} bytes")
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def _regrouped(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Put small batches together and cut large ones: what is done once a batch is then done seldom."""
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        step = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, batch.nbytes // max(1, batch.num_rows))))
        for start in range(0, batch.num_rows, step):
            piece = batch.slice(start, step)
            if waiting and (rows + piece.num_rows > _BATCH_ROWS or size + piece.nbytes > _BATCH_BYTES):
                yield pa.concat_batches(waiting)
                waiting, rows, size = [], 0, 0
            waiting.append(piece)
            rows += piece.num_rows
            size += piece.nbytes
    if waiting:
        yield pa.concat_batches(waiting)


class Table:
    """A table on disk.

    Args:
        path: A file that :func:`write_table` wrote.

    Attributes:
        schema: Its columns.
        rows: How many rows it has.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.schema: pa.Schema = pa.ipc.open_file(pa.OSFile(str(path))).schema
        reader = self._reader(self.schema.names[:1])
        counts = [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)]
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self.rows = int(self._starts[-1])

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield the rows in order, each batch with the number of its first row."""
        reader = self._reader(columns)
        for i in range(reader.num_record_batches):
            yield int(self._starts[i]), reader.get_batch(i).select(columns)

    def take(self, rows: Rows, columns: Sequence[str]) -> pa.Table:
        """Return rows ``[n]`` by number; they must ascend."""
        reader = self._reader(columns)
        schema = pa.schema([self.schema.field(name) for name in columns])
        parts: list[pa.RecordBatch] = []
        for i in np.unique(np.searchsorted(self._starts, rows, side="right") - 1):
            inside = rows[(rows >= self._starts[i]) & (rows < self._starts[i + 1])] - self._starts[i]
            parts.append(reader.get_batch(int(i)).select(columns).take(pa.array(inside)))
        return pa.Table.from_batches(parts, schema)

    def _reader(self, columns: Sequence[str]) -> Any:
        # Columns left out are neither read nor unpacked.
        included = [self.schema.get_field_index(name) for name in columns]
        options = pa.ipc.IpcReadOptions(included_fields=included)
        return pa.ipc.open_file(pa.OSFile(str(self._path)), options=options)
