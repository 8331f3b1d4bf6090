"""Predictions as they travel over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from app.wire import In, Out, shown_as
from mtl_core.specs import NAME_PATTERN, Name

Return = Annotated[
    str,
    Field(
        pattern=r"^(preds|classes|probs|logits|top_k:[1-9][0-9]{0,4}|operation:[A-Za-z0-9][A-Za-z0-9_.-]{0,127})$",
        description="`preds`, `classes`, `probs`, `logits`, `top_k:<k>` or `operation:<name>`.",
    ),
]


_PREDICTION: dict[str, Any] = {"preds": [1, 0], "probs": [[0.08, 0.92], [0.97, 0.03]]}


_Values = Annotated[list[Any], Field(min_length=1)]
_CIRCLES: dict[str, Any] = {"inputs": {"circle_data": [[0.1, 0.2], [0.9, 0.9]]}}


class PredictIn(In, json_schema_extra=shown_as(_CIRCLES)):
    """Inputs to predict for one task: tensors as `inputs`, or raw rows as `records` or `columns`."""

    inputs: Annotated[dict[Name, _Values], Field(min_length=1)] | None = None
    """Values of each field as the network reads it, one per row."""
    records: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None
    """Rows as they would stand in the data: `{"age": 38, "education": "Bachelors"}`; null where a value is missing.
    They are encoded as the version's training data was."""
    columns: Annotated[dict[str, _Values], Field(min_length=1)] | None = None
    """The same by column: `{"age": [38, 27], "education": ["Bachelors", null]}`."""
    version: (
        Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)] | Annotated[str, Field(pattern=NAME_PATTERN)]
    ) = "default"
    """A version's number, `latest`, `default` or an alias."""
    returns: list[Return] = Field(["preds", "classes", "probs"], alias="return", min_length=1, max_length=32)
    """What to answer: predicted classes or values (`preds`), the classes by name where they have names (`classes`),
    probabilities (`probs`), raw outputs (`logits`), the likeliest classes (`top_k:3`), or what an operation on the path
    puts out (`operation:base_mlp`)."""

    @model_validator(mode="after")
    def _is_one(self) -> PredictIn:
        if sum(form is not None for form in (self.inputs, self.records, self.columns)) != 1:
            raise ValueError("send either inputs, records or columns")
        return self


class PredictManyIn(
    PredictIn,
    json_schema_extra=shown_as(
        {"tasks": None, "inputs": {"circle_data": [[0.1, 0.2], [0.9, 0.9]]}, "return": ["preds", "probs"]}
    ),
):
    """Inputs to predict for several tasks."""

    tasks: Annotated[list[Name], Field(min_length=1, max_length=4096)] | None = None
    """Names of tasks; null for all of the version's."""


class TopClasses(Out):
    """The likeliest classes of each row, the likeliest first."""

    classes: list[Any]
    """By name where they have names, else by number."""
    probs: list[Any]
    """Their probabilities."""


class TaskPrediction(Out):
    """What one task answers; only what was asked for is there."""

    preds: list[Any] | None = None
    """The likeliest class of each row, or what the task's output function decides."""
    classes: list[Any] | None = None
    """The name of each row's likeliest class, for tasks whose classes have names."""
    class_names: list[str | int | bool] | None = None
    """Names of the classes, in the order of `probs`; where that is one number a row, it is the second class's."""
    probs: list[Any] | None = None
    """Probabilities of the classes, for tasks that have classes."""
    outputs: list[Any] | None = None
    """Values, in place of `probs`, for tasks without classes."""
    logits: list[Any] | None = None
    """What the task's last operation put out."""
    top_k: TopClasses | None = None
    """The `k` likeliest classes of each row, for tasks that have classes."""
    operations: dict[str, Any] | None = None
    """What operations put out, by name."""
    reason: str | None = None
    """Why some numbers are null."""


class PredictOut(
    TaskPrediction,
    json_schema_extra=shown_as({"model": "shapes", "version": 1, "task": "circle_task", **_PREDICTION}),
):
    """One task's predictions."""

    model: str
    version: int
    task: str


class PredictManyOut(
    Out,
    json_schema_extra=shown_as(
        {"model": "shapes", "version": 1, "predictions": {"circle_task": _PREDICTION}}
    ),
):
    """Several tasks' predictions."""

    model: str
    version: int
    predictions: dict[str, TaskPrediction]
