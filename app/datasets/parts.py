"""A split's rows on disk: parts, each some rows of one table, with what was found in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from app.storage.artifacts import ArtifactStore
from app.storage.tables import Table
from mtl_core.preprocessing import ColumnSummary, Moments, merge_summaries


class Part(BaseModel):
    """Some rows of a table.

    Attributes:
        table: Artifact of the table.
        assignment: Artifact that says for each row of the table which split it is in; None: all rows are in this one.
        number: The split's number there.
        rows: How many rows belong to the part.
        summary: Artifact of the part's :class:`PartSummary`; empty where the rows are a whole upload's.
    """

    table: str
    assignment: str | None
    number: int
    rows: int
    summary: str

    @property
    def artifacts(self) -> list[str]:
        """The artifacts that must stay as long as the part does."""
        return [name for name in (self.table, self.summary, self.assignment) if name]


class LabelSummary(BaseModel):
    """What some rows say of one task.

    Attributes:
        labelled: Rows that have a label.
        counts: Rows of each class, by its number; None where labels are no classes.
        lowest: Least class.
        highest: Greatest class.
        moments: Of each value of a label, or of the classes' numbers; None where a label has very many.
    """

    labelled: int
    counts: dict[int, int] | None = None
    lowest: int | None = None
    highest: int | None = None
    moments: list[Moments] | None = None


class PartSummary(BaseModel):
    """What was found in a part, such that two parts' findings can be put together.

    Attributes:
        fields: Field → column → summary.
        labels: Task → summary.
        overlap: Pairs of tasks, and in how many rows both are labelled.
    """

    fields: dict[str, dict[str, ColumnSummary]]
    labels: dict[str, LabelSummary]
    overlap: list[tuple[str, str, int]]


def store_summary(store: ArtifactStore, summary: PartSummary) -> str:
    """Store a summary and return its artifact's name."""
    return store.put(summary.model_dump_json().encode())


def load_summary(store: ArtifactStore, parts: Sequence[Part]) -> PartSummary:
    """Return what was found in all of a split's parts together."""
    found = [PartSummary.model_validate_json(store.path(part.summary).read_bytes()) for part in parts]
    return found[0] if len(found) == 1 else merge_parts(found)


def merge_parts(found: Sequence[PartSummary]) -> PartSummary:
    """Put the findings of parts with the same fields and labels together."""
    first = found[0]
    pairs: dict[tuple[str, str], int] = {}
    for summary in found:
        for one, other, rows in summary.overlap:
            pairs[one, other] = pairs.get((one, other), 0) + rows
    return PartSummary(
        fields={
            field: {column: merge_summaries([s.fields[field][column] for s in found]) for column in columns}
            for field, columns in first.fields.items()
        },
        labels={task: _merged([s.labels[task] for s in found]) for task in first.labels},
        overlap=[(one, other, rows) for (one, other), rows in pairs.items()],
    )


def merge_moments(found: Sequence[list[Moments] | None]) -> list[Moments] | None:
    """Put moments of labels together, value by value; None where some are unknown or of other shapes."""
    known = [moments for moments in found if moments is not None]
    if len(known) < len(found) or len({len(moments) for moments in known}) != 1:
        return None
    return [reduce(Moments.merged, of_value) for of_value in zip(*known, strict=True)]


def _merged(labels: Sequence[LabelSummary]) -> LabelSummary:
    counts: dict[int, int] | None = {}
    for label in labels:
        if counts is None or label.counts is None:
            counts = None
        else:
            for code, n in label.counts.items():
                counts[code] = counts.get(code, 0) + n
    return LabelSummary(
        labelled=sum(label.labelled for label in labels),
        counts=dict(sorted(counts.items())) if counts is not None else None,
        lowest=min((label.lowest for label in labels if label.lowest is not None), default=None),
        highest=max((label.highest for label in labels if label.highest is not None), default=None),
        moments=merge_moments([label.moments for label in labels]),
    )


def read_part(store: ArtifactStore, part: Part, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield a part's rows in the table's order, after checking that the table is what it was."""
    assignment = None if part.assignment is None else _load_assignment(store, part.assignment, verify=True)
    for start, batch in Table(store.path(part.table)).batches(columns):
        if assignment is None:
            yield batch
        else:
            mine = assignment[start : start + batch.num_rows] == part.number
            if mine.any():
                yield batch.filter(pa.array(mine))


def take_rows(
    store: ArtifactStore, parts: Sequence[Part], columns: Sequence[str], offset: int, limit: int
) -> pa.Table:
    """Return consecutive rows of a split without reading what lies before them."""
    taken: list[pa.Table] = []
    for part in parts:
        wanted = range(max(offset, 0), min(offset + limit, part.rows))
        if wanted or not taken:
            rows: Any = np.arange(wanted.start, wanted.stop, dtype=np.int64)
            if part.assignment is not None:
                assignment = _load_assignment(store, part.assignment, verify=False)
                rows = np.flatnonzero(assignment == part.number)[wanted.start : wanted.stop]
            taken.append(Table(store.path(part.table, verify=False)).take(rows, columns))
        offset -= part.rows
        if offset + limit <= 0:
            break

    return pa.concat_tables(taken, promote_options="permissive")


def store_assignment(store: ArtifactStore, assignment: np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    """Store which split each row of a table is in."""
    with store.scratch() as folder:
        np.save(folder / "assignment.npy", assignment, allow_pickle=False)
        return store.put_file(folder / "assignment.npy").sha256


def _load_assignment(
    store: ArtifactStore, sha256: str, *, verify: bool
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.load(store.path(sha256, verify=verify), mmap_mode="r", allow_pickle=False)
