"""The dialect of a CSV file: delimiter, quote, blanks after the delimiter, and whether the first row holds names."""

from __future__ import annotations

import csv
import io
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from app.uploads.column_types import check_count
from app.uploads.faults import UnreadableError
from app.uploads.options import NULL_VALUES, Options
from app.uploads.text import MAX_LINE, Text

csv.field_size_limit(MAX_LINE)

# In the order in which they are believed where several fit equally well: a comma also stands within numbers.
_DELIMITERS = ("\t", ";", "|", ",")
_STARTS = frozenset("+-.0123456789")
_SAMPLE_ROWS = 1000
_SAMPLE_BYTES = 2 * MAX_LINE


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written.

    Attributes:
        delimiter: Between values.
        quote: Around values.
        strip: Whether blanks around values are no part of them.
        header: Whether the first row holds names.
        columns: The columns' names.
    """

    delimiter: str
    quote: str
    strip: bool
    header: bool
    columns: tuple[str, ...]


def find_dialect(text: Text, options: Options, max_columns: int) -> Dialect:
    """Return a file's dialect: what the client said, the rest by its first thousand rows.

    Args:
        text: The file's text.
        options: What the client said.
        max_columns: Columns that it may have.

    Raises:
        UnreadableError: If it has no row, too many columns or other ones than the client said.
    """
    lines = _sample(text)
    if not any(line.strip() for line in lines):
        raise UnreadableError("the file has no rows")
    quote = options.quote or '"'
    delimiter = options.delimiter or _find_delimiter(lines, quote)
    rows = list(_rows(lines, delimiter, quote))
    strip = delimiter not in (" ", "\t") and _has_blanks_after_delimiter(rows)
    if strip:
        rows = [[value.strip() for value in row] for row in rows]
    first, *others = rows
    check_count(len(first), max_columns)
    header = options.header
    if header is None:
        header = _is_header(first, others, options.columns)
    names = options.columns or (
        tuple(first) if header else tuple(f"column_{i + 1}" for i in range(len(first)))
    )
    if len(names) != len(first):
        raise UnreadableError(f"{len(names)} columns are named, but the first row has {len(first)}", row=1)
    return Dialect(delimiter, quote, strip, header, names)


def first_fault(text: Text, dialect: Dialect) -> UnreadableError | None:
    """Return what is wrong with the first row that is, found by a slow walk over all rows."""
    wanted = len(dialect.columns)
    with text.open() as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, delimiter=dialect.delimiter, quotechar=dialect.quote, strict=True)
        line = 1
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                return UnreadableError(f"bad quotes: {error}", row=line)
            if row is None:
                return None
            if row and len(row) != wanted:
                column = dialect.columns[len(row)] if len(row) < wanted else None
                what = f"the row has {len(row)} values where there are {wanted} columns"
                return UnreadableError(what, row=line, column=column)
            line = reader.line_num + 1


def _sample(text: Text) -> list[str]:
    with text.open() as file:
        content = file.read(_SAMPLE_BYTES)
    # Other than str.splitlines, this ends lines only where CSV files do.
    lines = list(io.StringIO(content.decode(errors="ignore"), newline=""))
    return (lines[:-1] if len(content) == _SAMPLE_BYTES else lines)[:_SAMPLE_ROWS]


def _rows(lines: Sequence[str], delimiter: str, quote: str) -> Iterator[list[str]]:
    reader = csv.reader(lines, delimiter=delimiter, quotechar=quote)
    try:
        yield from (row for row in reader if row)
    except csv.Error as error:
        raise UnreadableError(f"bad quotes: {error}", row=reader.line_num) from None


def _find_delimiter(lines: Sequence[str], quote: str) -> str:
    best, best_share = ",", 0.0
    for delimiter in _DELIMITERS:
        rows = list(itertools.islice(_rows(lines, delimiter, quote), 200))
        ((width, count),) = Counter(map(len, rows)).most_common(1)
        share = count / len(rows)
        if width > 1 and share > best_share:
            best, best_share = delimiter, share
    return best


def _has_blanks_after_delimiter(rows: Sequence[Sequence[str]]) -> bool:
    later = [value for row in rows for value in row[1:] if value]
    return bool(later) and all(value[0] == " " for value in later)


def _is_header(first: Sequence[str], others: Sequence[Sequence[str]], columns: Sequence[str] | None) -> bool:
    if columns is not None:
        # Names are known already: the first row is data unless it says the same, or is unlike all others.
        same = [value.strip().lower() for value in first] == [name.strip().lower() for name in columns]
        return same or (not _has_values(first) and any(_has_values(row) for row in others))
    return any(first) and not _has_values(first)


def _has_values(row: Sequence[str]) -> bool:
    """Say whether a row holds a number, a date or a truth value, which are no names."""
    return any(_is_value(value) for value in row if value not in NULL_VALUES)


def _is_value(value: str) -> bool:
    if value.lower() in ("true", "false"):
        return True
    if value.strip()[:1] not in _STARTS:
        return False
    for dtype in (pa.float64(), pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            pc.cast(pa.scalar(value.strip()), dtype)
        except pa.ArrowInvalid:
            continue
        return True
    return False
