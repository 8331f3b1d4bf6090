"""Slices of a task in a dataset: which column each field of their rules is, and the column's values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.types as kinds
from numpy.typing import NDArray

from app.datasets import service as datasets
from app.datasets.parts import take_rows
from app.db.tables import Split
from app.storage.artifacts import ArtifactStore
from app.storage.tables import Table
from mtl_core.errors import TaskloomError
from mtl_core.scoring.metrics import METRICS
from mtl_core.slicing import slice_fields, slice_masks
from mtl_core.slicing.names import slice_label_sets
from mtl_core.specs import TaskSpec

_TRIED_ROWS = 64


def slice_columns(specs: Sequence[TaskSpec], split: Split) -> dict[str, str]:
    """Return the column of each field that the tasks' slices name.

    A field of the dataset that is made of one column is that column as it was before encoding; any other name is a
    column's own.
    """
    columns: dict[str, str] = {}
    for name in (name for spec in specs for name in slice_fields(spec)):
        made_of: list[dict[str, Any]] = split.fields.get(name, {}).get("columns", [])
        columns[name] = made_of[0]["name"] if len(made_of) == 1 else name
    return columns


def scored_labels(spec: TaskSpec) -> dict[str, list[str]]:
    """Return the label sets that a task is scored on, its slices' among them, each with the names of its metrics."""
    metrics = [METRICS.arguments(metric)[0] for metric in spec.metrics]
    kinds = slice_label_sets(spec.name, (part.name for part in spec.slices))
    return {spec.name: metrics} | {
        label: ["f1"] if kind == "indicator" else metrics for label, kind in kinds.items()
    }


def slice_faults(store: ArtifactStore, spec: TaskSpec, split: Split) -> Iterator[str]:
    """Yield what keeps a task's slices from being told apart in a split, as its first rows show it."""
    columns = slice_columns([spec], split)
    parts = datasets.parts_of(split)
    schemas = [Table(store.path(part.table, verify=False)).schema for part in parts if columns]
    for field, column in columns.items():
        for schema in schemas:
            if schema.get_field_index(column) < 0:
                yield f"a slice of task '{spec.name}' reads '{field}', of which there is no column"
                return
            if not _is_comparable(schema.field(column).type):
                kind = schema.field(column).type
                yield f"a slice of task '{spec.name}' reads '{field}', a column of {kind}, not numbers or text"
                return
    rows = take_rows(store, parts, list(columns.values()), 0, _TRIED_ROWS).combine_chunks()
    try:
        slice_masks(
            spec.slices,
            {name: raw_array(rows.column(column).combine_chunks()) for name, column in columns.items()},
        )
    except TaskloomError as error:
        yield f"task '{spec.name}': {error}"


def raw_array(column: pa.Array) -> NDArray[Any]:
    """Return a column's values as they are, ``[n]`` or ``[n, …]``; NaN or None where they are missing."""
    if isinstance(column, pa.FixedShapeTensorArray):
        return column.to_numpy_ndarray()
    return column.to_numpy(zero_copy_only=False)


def _is_comparable(kind: pa.DataType) -> bool:
    tests = (kinds.is_integer, kinds.is_floating, kinds.is_boolean, kinds.is_string, kinds.is_large_string)
    return isinstance(kind, pa.FixedShapeTensorType) or any(test(kind) for test in tests)
