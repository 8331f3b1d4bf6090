from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from app.storage.tables import Table, TableTooLargeError, write_table


def numbered(*sizes: int) -> list[pa.RecordBatch]:
    ends = np.cumsum(sizes)
    return [
        pa.RecordBatch.from_pydict(
            {"row": np.arange(end - size, end), "text": [f"r{i}" for i in range(size)]}
        )
        for size, end in zip(sizes, ends, strict=True)
    ]


@pytest.mark.parametrize("sizes", [(1,), (5, 0, 3), (200_000,), (1,) * 50, (70_000, 1, 70_000)])
def test_batches_of_any_size_come_back_in_order(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    batches = numbered(*sizes)
    total = sum(sizes)
    assert write_table(tmp_path / "table", batches[0].schema, batches) == total
    table = Table(tmp_path / "table")
    assert table.rows == total
    read = list(table.batches(["row"]))
    assert [name for _, batch in read for name in batch.schema.names] == ["row"] * len(read)
    assert all(batch.num_rows <= 65_536 for _, batch in read)
    assert [start for start, _ in read] == [batch["row"][0].as_py() for _, batch in read]
    assert np.array_equal(np.concatenate([batch["row"].to_numpy() for _, batch in read]), np.arange(total))


def test_rows_are_taken_across_batches(tmp_path: Path) -> None:
    batches = numbered(150_000)
    write_table(tmp_path / "table", batches[0].schema, batches)
    rows = np.array([0, 65_535, 65_536, 149_999])
    taken = Table(tmp_path / "table").take(rows, ["text", "row"])
    assert taken.column_names == ["text", "row"]
    assert taken["row"].to_pylist() == rows.tolist()
    assert Table(tmp_path / "table").take(rows[:0], ["row"]).num_rows == 0


def test_a_table_that_grows_too_large_is_not_written_on(tmp_path: Path) -> None:
    batches = numbered(100_000, 100_000)
    seen: list[int] = []

    def counted() -> object:
        for batch in batches:
            seen.append(batch.num_rows)
            yield batch

    with pytest.raises(TableTooLargeError, match="1,000 bytes"):
        write_table(tmp_path / "table", batches[0].schema, counted(), max_bytes=1000)
    assert len(seen) == 1
