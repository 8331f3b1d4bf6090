"""Predictions of whole tables as they travel over HTTP."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from app.predictions.question import DEFAULT_RETURNS
from app.predictions.schemas import Return
from app.runs.schemas import DatasetRef, Queued, VersionRef
from app.wire import shown_as
from mtl_core.specs import Name

Format = Literal["parquet", "jsonl"]


class BatchIn(
    Queued,
    json_schema_extra=shown_as(
        {"dataset": "circleDataset", "split": "train", "tasks": None, "return": ["preds", "probs"]},
        {"upload": "upl_01KD8Z6Y0000000000000000AB", "keep": ["id"], "format": "jsonl"},
    ),
):
    """Rows to be predicted: a dataset's, or all of an upload's."""

    dataset: DatasetRef | None = None
    """`name` stands for the newest version, `name@2` for another. Labels are not needed."""
    split: Name | None = None
    """Of the dataset; default: all of its splits."""
    upload: Annotated[str, Field(max_length=300)] | None = None
    """An upload's id or filename. Its columns are called as those that the version was trained on."""
    tasks: Annotated[list[Name], Field(min_length=1, max_length=4096)] | None = None
    """Names of tasks; null for all of the version's."""
    version: VersionRef = "default"
    """A version's number, `latest`, `default` or an alias: what it stands for now."""
    returns: list[Return] = Field(list(DEFAULT_RETURNS), alias="return", min_length=1, max_length=32)
    """What to answer, as for predictions of a few rows."""
    format: Format = "parquet"
    """`parquet` has a column `{task}.preds` and so on; `jsonl` a line for each row."""
    keep: list[Annotated[str, Field(max_length=300)]] = Field([], max_length=256)
    """Columns of the data that the result has too, such as one that tells who a row is."""

    @model_validator(mode="after")
    def _is_one(self) -> BatchIn:
        if (self.dataset is None) == (self.upload is None):
            raise ValueError("name either a dataset or an upload")
        if self.split is not None and self.dataset is None:
            raise ValueError("an upload has no splits")
        return self
