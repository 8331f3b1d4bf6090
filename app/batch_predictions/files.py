"""Files that rows and what was predicted of them are written to, some at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from app.batch_predictions.service import PREDICTIONS
from app.predictions.answering import table_of
from app.uploads.records import to_records

_GROUP_ROWS = 65_536
_GROUP_BYTES = 16 * 2**20

ByTask = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Form:
    """A form in which results are written.

    Attributes:
        media_type: What it is called over HTTP.
        suffix: What its files' names end in.
    """

    media_type: str
    suffix: str


FORMS = {
    "parquet": Form("application/vnd.apache.parquet", "parquet"),
    "jsonl": Form("application/jsonl", "jsonl"),
}
"""By the names that clients give them."""


class ResultWriter(Protocol):
    """Writes rows to a file."""

    def write(self, about: pa.Table, by_task: ByTask) -> None:
        """Write some rows.

        Args:
            about: What each row says of itself: its number, and the columns that are kept.
            by_task: For each task, arrays ``[n, …]`` by name.
        """
        ...

    def close(self) -> None:
        """Write what is still to be written."""
        ...


class ParquetWriter:
    """Writes a column ``{task}.{name}`` for each array; a row group takes at most 65,536 rows, or some 16 MiB.

    Args:
        path: The new file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._schema: pa.Schema | None = None
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []

    def write(self, about: pa.Table, by_task: ByTask) -> None:
        """Write some rows, or have them wait for others."""
        table, answers = about, table_of(by_task)
        for name in answers.schema.names:
            table = table.append_column(answers.schema.field(name), answers.column(name))
        if self._schema is None:
            names = {
                task: answer["class_names"] for task, answer in by_task.items() if "class_names" in answer
            }
            about_classes = {"class_names": orjson.dumps(names).decode()} if names else None
            self._schema = table.schema.with_metadata(about_classes)
            self._writer = pq.ParquetWriter(self._path, self._schema, compression="zstd")
        self._waiting.append(table.cast(self._schema))
        rows = sum(waiting.num_rows for waiting in self._waiting)
        if rows >= _GROUP_ROWS or sum(waiting.nbytes for waiting in self._waiting) >= _GROUP_BYTES:
            self._write_group()

    def close(self) -> None:
        """Write what waits, and the file's end."""
        if self._writer is not None:
            self._write_group()
            self._writer.close()

    def _write_group(self) -> None:
        if self._writer is not None and self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
            self._waiting.clear()


class JsonLinesWriter:
    """Writes a line for each row, with ``predictions`` by task; numbers that are not finite are null.

    Args:
        path: The new file.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, about: pa.Table, by_task: ByTask) -> None:
        """Write some rows."""
        for record, predictions in zip(to_records(about), _rows_of(by_task, about.num_rows), strict=True):
            line = {**record, PREDICTIONS: predictions}
            self._file.write(
                orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)
            )

    def close(self) -> None:
        """Write the file's end."""
        self._file.close()


def writer_of(form: str, path: Path) -> ResultWriter:
    """Return what writes a form's files."""
    return ParquetWriter(path) if form == "parquet" else JsonLinesWriter(path)


def _rows_of(by_task: ByTask, n: int) -> Iterator[dict[str, Any]]:
    for i in range(n):
        yield {
            task: {
                name: _row(value, i)
                for name, value in answer.items()
                if name not in ("class_names", "reason")
            }
            for task, answer in by_task.items()
        }


def _row(value: Any, i: int) -> Any:
    """Return what one row has of arrays ``[n, …]``, of lists of ``n`` names, or of those by name or in a list."""
    if isinstance(value, np.ndarray):
        return cast("NDArray[Any]", value)[i]
    if isinstance(value, Mapping):
        return {name: _row(item, i) for name, item in cast("Mapping[str, Any]", value).items()}
    items = cast("list[Any]", value)
    if items and isinstance(items[0], np.ndarray | Mapping):
        return [_row(item, i) for item in items]
    return items[i]
