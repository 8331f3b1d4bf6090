from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.storage.tables import Table
from app.uploads.options import Limits, Options
from app.uploads.reading import read_file
from app.uploads.records import Record, to_records

LIMITS = Limits(max_columns=1000, max_bytes=64 * 2**20, memory_bytes=2**31, seconds=60)


class Read:
    """A file that was read."""

    def __init__(self, folder: Path, content: bytes, limits: Limits = LIMITS, **options: Any) -> None:
        folder.mkdir(exist_ok=True)
        path = folder / "file"
        path.write_bytes(content)
        (folder / "table").unlink(missing_ok=True)
        self.answer = read_file(path, folder / "table", folder, Options(**options), limits)
        self.table = Table(folder / "table")

    @property
    def read_as(self) -> dict[str, Any]:
        return self.answer["read_as"]

    @property
    def dtypes(self) -> dict[str, str]:
        return {column["name"]: column["dtype"] for column in self.answer["columns"]}

    @property
    def records(self) -> list[Record]:
        batches = [batch for _, batch in self.table.batches(self.table.schema.names)]
        return [record for batch in batches for record in to_records(batch)]

    def column(self, name: str) -> dict[str, Any]:
        return next(column for column in self.answer["columns"] if column["name"] == name)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Read]:
    return lambda content, **options: Read(tmp_path, content, **options)
