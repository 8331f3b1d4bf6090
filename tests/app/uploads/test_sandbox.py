from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from app.uploads.faults import UnreadableError
from app.uploads.options import Options
from app.uploads.sandbox import read_apart
from tests.app.uploads.conftest import LIMITS


def test_thousands_of_columns_fit_into_the_readers_memory(tmp_path: Path) -> None:
    columns = 4000
    lines = [",".join(f"c{i}" for i in range(columns))]
    lines += [",".join(str((i * row) % 7) for i in range(columns)) for row in range(100)]
    path = tmp_path / "wide.csv"
    path.write_text("\n".join(lines))
    limits = replace(LIMITS, max_columns=columns, memory_bytes=1536 * 2**20)
    found = read_apart(path, tmp_path / "table", tmp_path, Options(format="csv"), limits)
    assert (found.rows, len(found.columns)) == (100, columns)
    assert {column["dtype"] for column in found.columns} == {"int64"}


def test_a_reader_that_may_take_no_memory_is_ended_without_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"a,b\n" + b"1,2\n" * 1_000_000)
    limits = replace(LIMITS, memory_bytes=40 * 2**20)
    with pytest.raises(UnreadableError, match="memory"):
        read_apart(path, tmp_path / "table", tmp_path, Options(format="csv"), limits)
