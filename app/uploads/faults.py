"""What is wrong with a file."""

from __future__ import annotations


class UnreadableError(Exception):
    """A file cannot be read as it stands.

    Args:
        detail: What is wrong, for the client to read.
        row: Line of the file, counted from 1 as editors show it; for files of records, the record.
        column: The column's name.
    """

    def __init__(self, detail: str, *, row: int | None = None, column: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.row = row
        self.column = column
