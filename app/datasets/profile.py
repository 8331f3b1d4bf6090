"""One pass over tables: what each split's columns and labels hold, and what in them usually hurts."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from app.datasets.meaning import Meaning
from app.datasets.parts import LabelSummary, PartSummary
from app.datasets.splitting import Assignment
from app.storage.tables import Table
from mtl_core.data import UNLABELLED
from mtl_core.preprocessing import ColumnError, ColumnSummary, FittedLabel, Moments, Summariser

_MAX_CLASSES = 1000
_MAX_VALUES = 1000
_MAX_OVERLAP_TASKS = 64
_COMPARED_ROWS = 100_000
_HASHED_ROWS = 1_000_000


class Profile:
    """What a pass over a dataset's tables finds.

    Args:
        meaning: What the columns mean.
        labels: How labels become numbers.
    """

    def __init__(self, meaning: Meaning, labels: Mapping[str, FittedLabel]) -> None:
        self._meaning = meaning
        self._labels = labels
        self._splits: dict[str, _SplitPass] = {}

    def add(self, table: Table, names: Sequence[str], assignment: Assignment | None) -> None:
        """Take a table's rows into account.

        Args:
            table: The rows.
            names: Names of splits that no table had before.
            assignment: Which of them each row is in; None: all are in the first.

        Raises:
            ColumnError: At a value that its column's type does not take.
        """
        splits = {name: _SplitPass(self._meaning, self._labels) for name in names}
        for start, batch in table.batches(self._meaning.columns):
            for number, split in enumerate(splits.values()):
                mine = _rows_of(assignment, number, start, batch.num_rows)
                if not len(mine):
                    continue
                try:
                    split.add(batch if len(mine) == batch.num_rows else batch.take(pa.array(mine)))
                except ColumnError as error:
                    row = None if error.row is None else start + int(mine[error.row])
                    raise ColumnError(error.column, row, error.detail) from None
        self._splits |= splits

    @cached_property
    def summaries(self) -> dict[str, PartSummary]:
        """What each split's rows hold; read it when all tables have been added."""
        return {name: split.finish() for name, split in self._splits.items()}

    def warnings(self) -> Iterator[str]:
        """Yield what usually hurts, as far as the rows show it."""
        for name, summary in self.summaries.items():
            for columns in summary.fields.values():
                for column, found in columns.items():
                    yield from _column_warnings(name, column, found)
        for task, label in self._labels.items():
            counted = {name: summary.labels[task] for name, summary in self.summaries.items()}
            yield from _label_warnings(task, label, counted)
        yield from self._copies_of_labels()
        yield from self._repeated_rows()

    def _copies_of_labels(self) -> Iterator[str]:
        first = next(iter(self._splits.values())).compared()
        inputs = {column.name for plan in self._meaning.fields.values() for column in plan.columns}
        codes = {column: _order_codes(first.column(column)) for column in inputs}
        for task, label in self._labels.items():
            gold = label.encode(first.column(label.column))
            if gold.ndim > 1:
                continue
            own = _order_codes(pa.array(gold))
            if own.max(initial=0) == 0:
                continue
            for column, theirs in codes.items():
                if np.array_equal(own, theirs):
                    yield f"column '{column}' tells the label of task '{task}' exactly: is it known when you predict?"

    def _repeated_rows(self) -> Iterator[str]:
        """Compare splits with the first one, by a hash of all inputs of a row."""
        (first_name, first), *others = self._splits.items()
        known = np.unique(first.hashes())
        for name, split in others:
            hashes = split.hashes()
            repeated = int(np.isin(hashes, known).sum())
            if repeated:
                yield (
                    f"{repeated:,} of {len(hashes):,} rows of split '{name}' have the same inputs as a row of"
                    f" split '{first_name}'"
                )


class _SplitPass:
    """Gathers what one split's rows hold."""

    def __init__(self, meaning: Meaning, labels: Mapping[str, FittedLabel]) -> None:
        self._fields = {
            field: {column.name: Summariser(column) for column in plan.columns}
            for field, plan in meaning.fields.items()
        }
        self._labels = {task: _LabelPass(label) for task, label in labels.items()}
        self._pairs = dict.fromkeys(combinations(list(labels)[:_MAX_OVERLAP_TASKS], 2), 0)
        self._inputs = list(dict.fromkeys(column for columns in self._fields.values() for column in columns))
        self._compared: list[pa.RecordBatch] = []
        self._weights = meaning.weights
        self._hashes: list[NDArray[np.uint64]] = []
        self._hashed = 0
        self._rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        if self._weights:
            _check_weights(batch.column(self._weights), self._weights)
        for columns in self._fields.values():
            for column, summariser in columns.items():
                summariser.add(batch.column(column), 0)
        labelled = {task: label.add(batch.column(label.column)) for task, label in self._labels.items()}
        for pair in self._pairs:
            self._pairs[pair] += int(np.count_nonzero(labelled[pair[0]] & labelled[pair[1]]))
        if self._rows < _COMPARED_ROWS:
            self._compared.append(batch.slice(0, _COMPARED_ROWS - self._rows))
        if self._hashed < _HASHED_ROWS:
            self._hashes.append(_row_hashes(batch, self._inputs))
            self._hashed += batch.num_rows
        self._rows += batch.num_rows

    def finish(self) -> PartSummary:
        return PartSummary(
            fields={
                field: {column: summariser.finish() for column, summariser in columns.items()}
                for field, columns in self._fields.items()
            },
            labels={task: label.finish() for task, label in self._labels.items()},
            overlap=[(one, other, rows) for (one, other), rows in self._pairs.items()],
        )

    def compared(self) -> pa.Table:
        return pa.Table.from_batches(self._compared).combine_chunks()

    def hashes(self) -> NDArray[np.uint64]:
        return np.concatenate(self._hashes)


class _LabelPass:
    """Counts one task's labels."""

    def __init__(self, label: FittedLabel) -> None:
        self.column = label.column
        self._label = label
        self._labelled = 0
        self._counts: dict[int, int] | None = {}
        self._moments: list[Moments] | None = []

    def add(self, values: pa.Array) -> NDArray[np.bool_]:
        """Count some rows and say which of them are labelled."""
        codes = self._label.encode(values)
        given = np.asarray(~np.isnan(codes) if codes.dtype.kind == "f" else codes != UNLABELLED)
        labelled = np.asarray(given.reshape(len(given), -1).any(axis=1))
        self._labelled += int(labelled.sum())
        # A number of -1 is none to the losses either.
        self._add_moments(
            codes.reshape(len(codes), -1), (given & (codes != UNLABELLED)).reshape(len(given), -1)
        )
        if codes.dtype.kind == "f":
            self._counts = None
        elif self._counts is not None:
            for code, n in zip(*np.unique(codes[given], return_counts=True), strict=True):
                self._counts[int(code)] = self._counts.get(int(code), 0) + int(n)
        return labelled

    def _add_moments(self, codes: NDArray[Any], given: NDArray[np.bool_]) -> None:
        if self._moments is None or codes.shape[1] > _MAX_VALUES:
            self._moments = None
            return
        known = self._moments or [Moments()] * codes.shape[1]
        self._moments = [moments.merged(Moments.of(codes[given[:, i], i])) for i, moments in enumerate(known)]

    def finish(self) -> LabelSummary:
        counts = self._counts
        return LabelSummary(
            labelled=self._labelled,
            counts=dict(sorted(counts.items()))
            if counts is not None and len(counts) <= _MAX_CLASSES
            else None,
            lowest=min(counts, default=None) if counts else None,
            highest=max(counts, default=None) if counts else None,
            moments=self._moments or None,
        )


def _rows_of(assignment: Assignment | None, number: int, start: int, rows: int) -> NDArray[np.intp]:
    """Return which rows of a batch belong to a split."""
    if assignment is None:
        return np.arange(rows)
    return np.flatnonzero(assignment[start : start + rows] == number)


def _check_weights(values: pa.Array, column: str) -> None:
    try:
        weights = values.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise ColumnError(column, None, "weights are numbers") from None
    wrong = pc.fill_null(pc.invert(pc.and_(pc.is_finite(weights), pc.greater_equal(weights, 0.0))), True)
    if pc.any(wrong).as_py():
        row = pc.index(wrong, True).as_py()
        raise ColumnError(column, row, f"a weight is a number of at least 0, not {values[row].as_py()!r}")


def _column_warnings(split: str, column: str, found: ColumnSummary) -> Iterator[str]:
    where = f"column '{column}' in split '{split}'"
    if not found.rows:
        return
    if found.missing == found.rows:
        yield f"{where} has no value at all"
    elif found.missing >= 0.99 * found.rows:
        yield f"{where} is {100 * found.missing / found.rows:.1f} % missing"
    elif found.is_constant and found.rows > 1:
        yield f"{where} has one value only: it tells nothing"


def _label_warnings(task: str, label: FittedLabel, counted: Mapping[str, LabelSummary]) -> Iterator[str]:
    everywhere: dict[int, int] = {}
    for split, found in counted.items():
        if not found.labelled:
            yield f"split '{split}' has no label for task '{task}'"
        for code, n in (found.counts or {}).items():
            everywhere[code] = everywhere.get(code, 0) + n
    named: Any = label.class_names or {code: code for code in everywhere}
    for code, n in everywhere.items():
        if n == 1:
            yield f"class {named[code]!r} of task '{task}' has one example only"
        lacking = [s for s, found in counted.items() if found.counts and code not in found.counts]
        if lacking and len(everywhere) <= _MAX_CLASSES:
            yield f"class {named[code]!r} of task '{task}' does not occur in {', '.join(map(repr, lacking))}"
    if len(everywhere) == 1:
        yield f"task '{task}' has one class only: {named[next(iter(everywhere))]!r}"


def _order_codes(values: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """Number values by first appearance: columns that say the same in other words come out equal."""
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_nested(array.type) or isinstance(array.type, pa.BaseExtensionType):
        return np.arange(len(array))
    codes = array.dictionary_encode(null_encoding="encode")
    return codes.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _row_hashes(batch: pa.RecordBatch, columns: Sequence[str]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each row's values in the columns."""
    hashes = np.full(batch.num_rows, 0x9E3779B97F4A7C15, dtype=np.uint64)
    for column in columns:
        hashes = (hashes ^ _value_hashes(batch.column(column))) * np.uint64(0xBF58476D1CE4E5B9)
        hashes ^= hashes >> np.uint64(29)
    return hashes


def _value_hashes(values: pa.Array) -> NDArray[np.uint64]:
    if isinstance(values, pa.ExtensionArray):
        rows = values.to_numpy_ndarray().reshape(len(values), -1)
        return np.array([zlib.crc32(row.tobytes()) for row in rows], dtype=np.uint64)
    if pa.types.is_nested(values.type):
        return np.array([zlib.crc32(str(value).encode()) for value in values.to_pylist()], dtype=np.uint64)
    if (
        pa.types.is_integer(values.type)
        or pa.types.is_floating(values.type)
        or pa.types.is_boolean(values.type)
    ):
        numbers = values.cast(pa.float64(), safe=False).fill_null(np.nan)
        return numbers.to_numpy(zero_copy_only=False).view(np.uint64)
    encoded = pc.fill_null(pc.cast(values, pa.string()), "\0").dictionary_encode()
    of_code = np.array(
        [zlib.crc32(text.encode()) | len(text) << 32 for text in encoded.dictionary.to_pylist()] or [0],
        dtype=np.uint64,
    )
    return of_code[encoded.indices.to_numpy(zero_copy_only=False)]
