"""Datasets as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from mtl_core.specs import Name

Values = Annotated[
    list[Any], Field(min_length=1, description="One value per example: a number, or nested lists of numbers.")
]

CIRCLE_SPLIT: dict[str, Any] = {
    "name": "circleDataset",
    "split": "train",
    "X_dict": {"circle_data": [[0.1, -0.4], [0.9, 0.9], [-0.2, 0.3], [0.8, -0.9]]},
    "Y_dict": {"circle_task": [1, 0, 1, 0]},
}


class SplitIn(BaseModel):
    """One split of a dataset, its examples within the request."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: Name
    """The dataset's name."""
    split: Name
    """The split's name: a run trains on `train`, watches `valid` and keeps `test`, unless it says otherwise."""
    X_dict: Annotated[dict[Name, Values], Field(min_length=1, max_length=1024)]
    """Values of each field."""
    Y_dict: Annotated[dict[Name, Values], Field(max_length=4096)] = {}
    """Labels for each task; `-1` or `null` where an example has none."""


class FieldOut(BaseModel):
    """What one example of a field looks like."""

    dtype: str
    shape: list[int]


class LabelsOut(BaseModel):
    """What a split says of one task."""

    dtype: str
    shape: list[int]
    """Shape of one label; `[]` for a single number."""
    labelled: int
    """How many examples have a label."""
    counts: dict[str, int] | None
    """Examples of each class; null where labels are no classes."""


class SplitOut(BaseModel):
    """One split."""

    split: str
    rows: int
    fields: dict[str, FieldOut]
    labels: dict[str, LabelsOut]
    sha256: str
    """Checksum of the stored tensors."""
    bytes: int
    created_at: datetime


class DatasetOut(BaseModel):
    """A dataset and its splits."""

    name: str
    splits: list[SplitOut]
    created_at: datetime


class RowsOut(BaseModel):
    """Some consecutive examples of a split."""

    offset: int
    rows: int
    """How many examples the split has in all."""
    X_dict: dict[str, list[Any]]
    Y_dict: dict[str, list[Any]]
