"""CSV files as batches of text."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from app.uploads.dialect import Dialect, first_fault
from app.uploads.faults import UnreadableError
from app.uploads.options import NULL_VALUES
from app.uploads.text import MAX_LINE, Text

_BLOCK = 2 * MAX_LINE
# Arrow sets aside a block's bytes for each column of text.
_BLOCK_OF_ALL_COLUMNS = 2**30


_M_MMAP_THRESHOLD, _THRESHOLD_BYTES = -3, 128 * 1024


def _give_back_at_once() -> None:
    """Have glibc return every large buffer to the system as soon as it is freed.

    By default it keeps them, more or fewer as threads happen to run, and with thousands of columns those that are kept
    count for more against the memory limit than those in use. It costs a third of the speed, so narrow tables do
    without.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES)


class CsvFile:
    """A CSV file whose dialect is known.

    Args:
        text: Its text.
        dialect: How it is written.
        null_values: What stands for a missing value, besides ``NULL_VALUES``.
    """

    def __init__(self, text: Text, dialect: Dialect, null_values: tuple[str, ...]) -> None:
        self._text = text
        self._dialect = dialect
        self._nulls = (*NULL_VALUES, *null_values)
        self.schema = pa.schema([(name, pa.string()) for name in dialect.columns])
        # Arrow ends a value that was never closed with the file; an odd number of quotes gives it away.
        if text.quotes % 2 and dialect.quote == '"' and (fault := first_fault(text, dialect)):
            raise fault

    def blocks(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows, every value as text.

        Raises:
            UnreadableError: At a row with more or fewer values than there are columns.
        """
        dialect = self._dialect
        block_size = min(_BLOCK, _BLOCK_OF_ALL_COLUMNS // len(dialect.columns))
        if block_size < _BLOCK:
            _give_back_at_once()
        read = pyarrow.csv.ReadOptions(
            # Without threads: their blocks would take memory side by side.
            use_threads=False,
            block_size=block_size,
            column_names=list(dialect.columns),
            skip_rows_after_names=int(dialect.header),
        )
        parse = pyarrow.csv.ParseOptions(
            delimiter=dialect.delimiter, quote_char=dialect.quote, newlines_in_values=True
        )
        convert = pyarrow.csv.ConvertOptions(
            column_types=self.schema, strings_can_be_null=True, null_values=list(self._nulls)
        )
        try:
            with (
                self._text.open() as file,
                pyarrow.csv.open_csv(
                    file, read_options=read, parse_options=parse, convert_options=convert
                ) as reader,
            ):
                for batch in reader:
                    yield self._stripped(batch) if dialect.strip else batch
        except pa.ArrowInvalid as error:
            raise first_fault(self._text, dialect) or UnreadableError(str(error)) from None

    def _stripped(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        nulls = pa.array(self._nulls)
        columns: list[pa.Array] = []
        for column in batch.columns:
            plain = pc.utf8_trim_whitespace(column)
            columns.append(pc.if_else(pc.is_in(plain, nulls), pa.scalar(None, pa.string()), plain))
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)
