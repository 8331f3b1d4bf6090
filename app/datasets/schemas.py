"""Datasets as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from app.wire import In, Out, shown_as
from mtl_core.specs import Name

Values = Annotated[
    list[Any], Field(min_length=1, description="One value per example: a number, or nested lists of numbers.")
]

_CIRCLE_SPLIT: dict[str, Any] = {
    "name": "circleDataset",
    "split": "train",
    "X_dict": {"circle_data": [[0.1, -0.4], [0.9, 0.9], [-0.2, 0.3], [0.8, -0.9]]},
    "Y_dict": {"circle_task": [1, 0, 1, 0]},
}


_CIRCLE_DATASET: dict[str, Any] = {
    "name": "circleDataset",
    "splits": [
        {
            "split": "train",
            "rows": 4,
            "fields": {"circle_data": {"dtype": "float32", "shape": [2]}},
            "labels": {
                "circle_task": {"dtype": "int64", "shape": [], "labelled": 4, "counts": {"0": 2, "1": 2}}
            },
            "sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
            "bytes": 240,
            "created_at": "2026-01-02T03:04:05Z",
        }
    ],
    "created_at": "2026-01-02T03:04:05Z",
}
_CIRCLE_ROWS: dict[str, Any] = {
    "offset": 0,
    "rows": 4,
    "X_dict": {"circle_data": [[0.1, -0.4], [0.9, 0.9]]},
    "Y_dict": {"circle_task": [1, 0]},
}


class SplitIn(In, json_schema_extra=shown_as(_CIRCLE_SPLIT)):
    """One split of a dataset, its examples within the request."""

    name: Name
    """The dataset's name."""
    split: Name
    """The split's name: a run trains on `train`, watches `valid` and keeps `test`, unless it says otherwise."""
    X_dict: Annotated[dict[Name, Values], Field(min_length=1, max_length=1024)]
    """Values of each field."""
    Y_dict: dict[Name, Values] = Field({}, max_length=4096)
    """Labels for each task; `-1` or `null` where an example has none."""


class FieldOut(Out):
    """What one example of a field looks like."""

    dtype: str
    shape: list[int]


class LabelsOut(Out):
    """What a split says of one task."""

    dtype: str
    shape: list[int]
    """Shape of one label; `[]` for a single number."""
    labelled: int
    """How many examples have a label."""
    counts: dict[str, int] | None
    """Examples of each class; null where labels are no classes."""


class SplitOut(Out):
    """One split."""

    split: str
    rows: int
    fields: dict[str, FieldOut]
    labels: dict[str, LabelsOut]
    sha256: str
    """Checksum of the stored tensors."""
    bytes: int
    created_at: datetime


class DatasetOut(Out, json_schema_extra=shown_as(_CIRCLE_DATASET)):
    """A dataset and its splits."""

    name: str
    splits: list[SplitOut]
    created_at: datetime


class RowsOut(Out, json_schema_extra=shown_as(_CIRCLE_ROWS)):
    """Some consecutive examples of a split."""

    offset: int
    rows: int
    """How many examples the split has in all."""
    X_dict: dict[str, list[Any]]
    Y_dict: dict[str, list[Any]]
