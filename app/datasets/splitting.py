"""Deals the rows of a table to splits: by shares, by shares of every value, by groups, or by a column."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel

from app.problems import Invalid
from app.storage.tables import Table
from mtl_core.specs import NAME_PATTERN

Assignment = NDArray[np.uint8]
"""For each row of a table the number of its split; ``NO_SPLIT`` where it is in none."""

NO_SPLIT = 255


class Splitting(BaseModel):
    """The rule that deals rows to splits; kept with a dataset, so that rows appended later are dealt alike."""

    shares: dict[str, float] | None = None
    by_column: str | None = None
    seed: int = 0
    stratify_by: str | None = None
    group_by: str | None = None

    @property
    def columns(self) -> list[str]:
        """Columns that the rule reads, which are no features."""
        return [name for name in (self.by_column, self.group_by) if name]


def check_shares(shares: Mapping[str, float], pointer: str = "/splits") -> None:
    """Refuse shares that are more than all rows.

    Raises:
        Invalid: If they are.
    """
    total = sum(shares.values())
    if total > 1 + 1e-9:
        raise Invalid.at(pointer, f"the shares add up to {total:g}, which is more than all rows")


def assign(rule: Splitting, table: Table) -> tuple[list[str], Assignment]:
    """Deal every row of a table.

    Returns:
        Names of splits, and for each row which of them it belongs to.

    Raises:
        Invalid: If a split would be empty, or the column that names splits names too many, or none.
    """
    if rule.by_column:
        names, assignment = _by_column(table, rule.by_column)
    else:
        assert rule.shares is not None
        names = list(rule.shares)
        shares = np.array(list(rule.shares.values()))
        if rule.group_by:
            assignment = _by_group(table, rule.group_by, shares, rule.seed)
        elif rule.stratify_by:
            assignment = _stratified(table, rule.stratify_by, shares, rule.seed)
        else:
            assignment = _dealt(np.random.default_rng(rule.seed), table.rows, shares)
    counts = np.bincount(assignment, minlength=256)
    for number, name in enumerate(names):
        if not counts[number]:
            raise Invalid.at("/splits", f"split '{name}' would have none of the {table.rows:,} rows")
    return names, assignment


def _dealt(rng: np.random.Generator, rows: int, shares: NDArray[np.float64]) -> Assignment:
    """Deal rows at random, each split getting its share to the nearest row."""
    ends = np.rint(np.cumsum(shares) * rows).astype(np.int64).clip(max=rows)
    counts = np.diff(ends, prepend=0)
    numbers = np.append(np.arange(len(shares)), NO_SPLIT).astype(np.uint8)
    dealt = np.repeat(numbers, np.append(counts, rows - ends[-1]))
    rng.shuffle(dealt)
    return dealt


def _stratified(table: Table, column: str, shares: NDArray[np.float64], seed: int) -> Assignment:
    codes, n_values = _codes(table, column)
    if n_values > 10_000:
        raise Invalid.at(
            "/stratify_by",
            f"column '{column}' has more than 10,000 different values: none could get its share",
        )
    rng = np.random.default_rng(seed)
    assignment = np.full(table.rows, NO_SPLIT, dtype=np.uint8)
    order = np.argsort(codes, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        assignment[rows] = _dealt(rng, len(rows), shares)
    return assignment


def _by_group(table: Table, column: str, shares: NDArray[np.float64], seed: int) -> Assignment:
    """Deal groups by a hash of seed and key: rows that come later join the split of their group."""
    ends = np.cumsum(shares)
    if ends[-1] > 1 - 1e-9:
        ends[-1] = 1.0
    numbers = np.append(np.arange(len(shares)), NO_SPLIT)

    def split_of(key: str) -> int:
        digest = hashlib.blake2b(key.encode(), digest_size=8, key=str(seed).encode()).digest()
        return int(numbers[np.searchsorted(ends, int.from_bytes(digest) / 2**64, side="right")])

    # A row without a key is a group of its own.
    return _mapped(table, column, split_of, lambda row: split_of(f"\0{row}"))


def _by_column(table: Table, column: str) -> tuple[list[str], Assignment]:
    numbers: dict[str, int] = {}

    def split_of(key: str) -> int:
        if key not in numbers:
            if not re.match(NAME_PATTERN, key):
                raise Invalid.at(
                    "/splits/by_column", f"column '{column}' holds '{key[:80]}', which names no split"
                )
            if len(numbers) == 100:
                raise Invalid.at("/splits/by_column", f"column '{column}' names more than 100 splits")
            numbers[key] = len(numbers)
        return numbers[key]

    assignment = _mapped(table, column, split_of, lambda _: NO_SPLIT)
    if not numbers:
        raise Invalid.at("/splits/by_column", f"column '{column}' names no split: all of it is missing")
    return list(numbers), assignment


def _mapped(
    table: Table, column: str, of_key: Callable[[str], int], of_missing: Callable[[int], int]
) -> Assignment:
    """Give every row what its key, the column's value as text, stands for."""
    assignment = np.empty(table.rows, dtype=np.uint8)
    for start, keys, codes in _keys(table, column):
        of_code = np.array([of_key(key) for key in keys] or [0], dtype=np.uint8)
        part = assignment[start : start + len(codes)]
        part[:] = of_code[codes]
        for row in np.flatnonzero(codes < 0):
            part[row] = of_missing(start + int(row))
    return assignment


def _codes(table: Table, column: str) -> tuple[NDArray[np.int64], int]:
    """Number the values of a column; missing ones are a value, too."""
    numbers: dict[str, int] = {}
    codes = np.full(table.rows, -1, dtype=np.int64)
    for start, keys, local in _keys(table, column):
        of_code = np.array([numbers.setdefault(key, len(numbers)) for key in keys] or [0])
        codes[start : start + len(local)] = np.where(local < 0, -1, of_code[local])
    return codes, len(numbers)


def _keys(table: Table, column: str) -> Iterator[tuple[int, list[str], NDArray[np.int64]]]:
    """Yield for each batch its first row's number, its values as text, and for each row which one it has, or -1."""
    for start, batch in table.batches([column]):
        values = pc.cast(batch.column(0), pa.string()).dictionary_encode()
        codes = values.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        yield start, [key.strip() for key in values.dictionary.to_pylist()], codes
