"""Datasets as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from app.wire import In, Out, shown_as
from mtl_core.preprocessing import LabelSpec
from mtl_core.specs import Name

Values = Annotated[
    list[Any], Field(min_length=1, description="One value per example: a number, or nested lists of numbers.")
]
ColumnName = Annotated[str, Field(min_length=1, max_length=256)]
UploadId = Annotated[
    str,
    Field(
        min_length=1, max_length=255, description="An upload's id, or the filename of the newest that has it."
    ),
]
ColumnEntry = Annotated[
    ColumnName | dict[str, Any],
    Field(description='A column, or `{"name": column, "type": …, …options}`: see docs/datasets.md.'),
]

_CIRCLE_SPLIT: dict[str, Any] = {
    "name": "circleDataset",
    "split": "train",
    "X_dict": {"circle_data": [[0.1, -0.4], [0.9, 0.9], [-0.2, 0.3], [0.8, -0.9]]},
    "Y_dict": {"circle_task": [1, 0, 1, 0]},
}
_MORE_CIRCLES = {member: value for member, value in _CIRCLE_SPLIT.items() if member != "name"}
_PEOPLE: dict[str, Any] = {
    "name": "people",
    "source": {"upload": "people.csv"},
    "fields": {"person": {"columns": "*"}},
    "labels": {"income": {"column": "income"}},
    "splits": {"train": 0.8, "test": 0.2},
    "seed": 1,
}
_MORE_PEOPLE: dict[str, Any] = {"source": {"upload": "people.csv"}}
_CIRCLE_DATASET: dict[str, Any] = {
    "name": "circleDataset",
    "version": 1,
    "versions": [1],
    "parent": None,
    "sha256": "7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730",
    "splits": [
        {
            "split": "train",
            "rows": 4,
            "fields": {
                "circle_data": {
                    "dtype": "float32",
                    "shape": [2],
                    "vocabulary": None,
                    "columns": [{"type": "tensor", "name": "circle_data", "scale": "none", "missing": []}],
                }
            },
            "labels": {
                "circle_task": {
                    "column": "label:circle_task",
                    "dtype": "int64",
                    "shape": [],
                    "class_names": None,
                    "labelled": 4,
                    "counts": {"0": 2, "1": 2},
                }
            },
            "overlap": [],
            "weights": None,
            "columns": {},
            "sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
            "created_at": "2026-01-02T03:04:05Z",
        }
    ],
    "warnings": [],
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


class SourceIn(In):
    """Where a dataset's rows come from: one upload, or one for each split."""

    upload: UploadId | None = None
    """An upload, whose rows are one split or dealt to several."""
    splits: Annotated[dict[Name, UploadId], Field(min_length=1, max_length=100)] | None = None
    """An upload for each split, all with the same columns."""

    @model_validator(mode="after")
    def _is_one(self) -> SourceIn:
        if (self.upload is None) == (self.splits is None):
            raise ValueError("name either one upload or uploads by split")
        return self


class FieldIn(In):
    """A field: the columns that make it, and how they are encoded.

    Further members are options for all of its columns, such as `scale`, `encode` or `min_count`.
    """

    model_config = ConfigDict(extra="allow")

    columns: Literal["*"] | Annotated[list[ColumnEntry], Field(min_length=1, max_length=10_000)] | None = None
    """Columns in order, or `"*"`: all that nothing else of the dataset uses."""
    tensor: ColumnName | None = None
    """A column of arrays, in place of `columns`."""
    exclude: list[ColumnName] = Field([])
    """Columns that `"*"` leaves out."""
    type: str | None = None
    """Type of all columns; default: what each column looks like."""
    types: dict[ColumnName, str | dict[str, Any]] = Field({})
    """Types or `{"type": …, …options}` of single columns."""

    @model_validator(mode="after")
    def _is_one(self) -> FieldIn:
        if (self.columns is None) == (self.tensor is None):
            raise ValueError("name either columns or a tensor")
        return self


class WeightsIn(In):
    """How much each example counts in the losses."""

    column: ColumnName


class ByColumn(In):
    """Rows dealt by a column that names their split."""

    by_column: ColumnName


Shares = Annotated[dict[Name, Annotated[float, Field(gt=0, le=1)]], Field(min_length=1, max_length=100)]
Splits = Annotated[
    Annotated[Shares, Tag("<shares>")] | Annotated[ByColumn, Tag("<by_column>")],
    Discriminator(
        lambda value: "<by_column>" if isinstance(value, dict) and "by_column" in value else "<shares>"
    ),
]


class RowsFrom(In):
    """Rows of uploads, and how they are dealt to splits."""

    source: SourceIn
    split: Name | None = None
    """The split that all rows of the upload belong to."""
    splits: Splits | None = None
    """Shares such as `{"train": 0.8, "valid": 0.1, "test": 0.1}`, or `{"by_column": name}`."""
    seed: Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)] = 0
    """Seeds how shares are dealt: the same rows and seed make the same splits."""
    stratify_by: ColumnName | None = None
    """A column (or a task's label) of which every split gets its share of each value."""
    group_by: ColumnName | None = None
    """A column whose equal values stay in one split; shares are then met only about."""


class DatasetIn(RowsFrom, json_schema_extra=shown_as(_PEOPLE)):
    """A dataset to be made of uploads."""

    name: Name
    """The dataset's name."""
    fields: Annotated[dict[Name, FieldIn], Field(min_length=1, max_length=1024)] | None = None
    """Which columns form which field; default: one field `features` of all that looks like a feature."""
    labels: dict[Name, LabelSpec | ColumnName] = Field({}, max_length=4096)
    """Which column labels which task."""
    weights: WeightsIn | None = None
    missing: list[str | int | float] = Field([], max_length=100)
    """Values that mean "missing" in every column, such as `"?"`."""


class AppendIn(RowsFrom, json_schema_extra=shown_as(_MORE_PEOPLE)):
    """Rows to be added; columns mean what they mean in the dataset.

    Without `split` or `splits` the rows are dealt by the rule by which the dataset was made.
    """


class InlineAppendIn(In, json_schema_extra=shown_as(_MORE_CIRCLES)):
    """Examples to be added to a split."""

    split: Name
    X_dict: Annotated[dict[Name, Values], Field(min_length=1, max_length=1024)]
    Y_dict: dict[Name, Values] = Field({}, max_length=4096)


# A tag in angle brackets is no member of a body, so it stays out of the pointers of errors.
def _form(value: Any) -> str:
    return "<source>" if isinstance(value, dict) and "source" in value else "<inline>"


RegisterIn = Annotated[
    Annotated[SplitIn, Tag("<inline>")] | Annotated[DatasetIn, Tag("<source>")], Discriminator(_form)
]
AppendedIn = Annotated[
    Annotated[InlineAppendIn, Tag("<inline>")] | Annotated[AppendIn, Tag("<source>")], Discriminator(_form)
]


REGISTER_EXAMPLES: dict[str, Any] = {
    "examples in the request": {"value": _CIRCLE_SPLIT},
    "rows of an upload": {"value": _PEOPLE},
}
APPEND_EXAMPLES: dict[str, Any] = {
    "examples in the request": {"value": _MORE_CIRCLES},
    "rows of an upload": {"value": _MORE_PEOPLE},
}


class FieldOut(Out):
    """A field: its columns, and what one example looks like when it is encoded as the train split says."""

    dtype: str
    shape: list[int]
    vocabulary: int | None
    """How many indices there are; null where the field holds no indices."""
    columns: list[dict[str, Any]]
    """Type and options of each column."""


class LabelsOut(Out):
    """What a split says of one task."""

    column: str
    dtype: str
    shape: list[int]
    """Shape of one label; `[]` for a single number."""
    class_names: list[str | int | bool] | None
    """Names of the classes in order; null where labels are plain numbers."""
    labelled: int
    """How many examples have a label."""
    counts: dict[str, int] | None
    """Examples of each class; null where labels are no classes."""


class OverlapOut(Out):
    """How many examples are labelled for two tasks at once."""

    tasks: tuple[str, str]
    rows: int


class SplitOut(Out):
    """One split."""

    split: str
    rows: int
    fields: dict[str, FieldOut]
    labels: dict[str, LabelsOut]
    overlap: list[OverlapOut]
    weights: dict[str, str] | None
    columns: dict[str, dict[str, Any]]
    """Summary statistics of each column."""
    sha256: str
    """Checksum of the data."""
    created_at: datetime


class DatasetOut(Out, json_schema_extra=shown_as(_CIRCLE_DATASET)):
    """A version of a dataset and its splits."""

    name: str
    version: int
    versions: list[int]
    """All versions of the dataset; a run takes the newest, or another as `name@version`."""
    parent: int | None
    """The version that this one adds to."""
    sha256: str
    """Checksum of all that is in the version."""
    splits: list[SplitOut]
    warnings: list[str]
    """What usually hurts, as far as the data shows it."""
    created_at: datetime


class DatasetSummary(Out):
    """A dataset in a list."""

    name: str
    version: int
    """The newest."""
    splits: dict[str, int]
    """Rows of each split."""
    created_at: datetime


class RowsOut(Out, json_schema_extra=shown_as(_CIRCLE_ROWS)):
    """Some consecutive examples of a split, before any preprocessing."""

    offset: int
    rows: int
    """How many examples the split has in all."""
    X_dict: dict[str, list[Any]]
    """Values of each column that a field is made of; a field given in the request is a column of its own name."""
    Y_dict: dict[str, list[Any]]
    """Labels as trained on: the number of the class, -1 (null for values) where there is none."""
