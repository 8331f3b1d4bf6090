"""JSON Lines files as batches: one object a line, its values numbers, texts, truth values or lists of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.json

from app.uploads.column_types import check_names
from app.uploads.faults import UnreadableError
from app.uploads.text import MAX_LINE, Text

_BLOCK = 2 * MAX_LINE
_ROW = re.compile(r" in row (\d+)$")
_CHANGED = re.compile(r"Column\(/?(.*)\) changed from (\w+) to (\w+)")
_TWICE = re.compile(r"Column\(/(.*)\) was specified twice")


class JsonLinesFile:
    """A JSON Lines file.

    Args:
        text: Its text.
        max_columns: Keys that its objects may have, all together.
    """

    def __init__(self, text: Text, max_columns: int) -> None:
        self._text = text
        types: dict[str, pa.DataType] = {}
        for line, block in self._lines():
            for field in _parse(block, line, None).schema:
                types[field.name] = _shared_type(types.get(field.name, pa.null()), field)
            if len(types) > max_columns:
                break
        check_names(list(types), max_columns)
        # Times are found in text later, as in CSV files.
        self.schema = pa.schema(
            [(name, pa.string() if pa.types.is_null(dtype) else dtype) for name, dtype in types.items()]
        )

    def blocks(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows."""
        for line, block in self._lines():
            table = _parse(block, line, self.schema)
            yield from table.combine_chunks().to_batches()

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield whole lines, some megabytes at a time, with the number of the first."""
        line, rest = 1, b""
        with self._text.open() as file:
            while chunk := file.read(_BLOCK):
                whole, end, after = chunk.rpartition(b"\n")
                if end:
                    yield line, rest + whole
                    line += whole.count(b"\n") + rest.count(b"\n") + 1
                    rest = after
                else:
                    rest += chunk
        if rest:
            yield line, rest


def _parse(block: bytes, line: int, schema: pa.Schema | None) -> pa.Table:
    if not block.strip():
        return (schema or pa.schema([])).empty_table()
    try:
        return pyarrow.json.read_json(
            pa.BufferReader(block),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            parse_options=pyarrow.json.ParseOptions(explicit_schema=schema, newlines_in_values=False),
        )
    except pa.ArrowInvalid as error:
        raise _fault(str(error), block, line) from None


def _fault(message: str, block: bytes, line: int) -> UnreadableError:
    found = _ROW.search(message)
    row = None
    if found:
        filled = (i for i, text in enumerate(block.split(b"\n")) if text.strip())
        row = next((line + i for n, i in enumerate(filled) if n == int(found[1])), None)
    if changed := _CHANGED.search(message):
        column, before, now = changed.groups()
        if not column:
            return UnreadableError(f"the line holds a JSON {now}, not an object", row=row)
        return UnreadableError(f"a {now} where lines before have a {before}", row=row, column=column)
    if twice := _TWICE.search(message):
        return UnreadableError("the line has this key twice", row=row, column=twice[1])
    return UnreadableError(message.removeprefix("JSON parse error: "), row=row)


def _shared_type(known: pa.DataType, field: pa.Field) -> pa.DataType:
    dtype = pa.string() if pa.types.is_timestamp(field.type) else field.type
    if pa.types.is_struct(dtype) or (pa.types.is_list(dtype) and (pa.types.is_nested(dtype.value_type))):
        raise UnreadableError("nested objects and lists of lists are not supported", column=field.name)
    if pa.types.is_list(dtype) and pa.types.is_timestamp(dtype.value_type):
        dtype = pa.list_(pa.string())
    if pa.types.is_null(known) or known == dtype:
        return dtype
    if pa.types.is_null(dtype):
        return known
    if pa.types.is_list(known) and pa.types.is_list(dtype):
        return pa.list_(_shared_type(known.value_type, pa.field(field.name, dtype.value_type)))
    if {known, dtype} == {pa.int64(), pa.float64()}:
        return pa.float64()
    raise UnreadableError(f"values of type {known} and of type {dtype}", column=field.name)
