"""Predictions as they travel over HTTP."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from app.wire import In, Out, shown_as
from mtl_core.specs import NAME_PATTERN, Name

ReturnKind = Literal["preds", "probs", "logits"]


_PREDICTION: dict[str, Any] = {"preds": [1, 0], "probs": [[0.08, 0.92], [0.97, 0.03]]}


class PredictIn(In, json_schema_extra=shown_as({"inputs": {"circle_data": [[0.1, 0.2], [0.9, 0.9]]}})):
    """Inputs to predict for one task."""

    inputs: Annotated[dict[Name, Annotated[list[Any], Field(min_length=1)]], Field(min_length=1)]
    """Values of each field, one per row."""
    version: (
        Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)] | Annotated[str, Field(pattern=NAME_PATTERN)]
    ) = "default"
    """A version's number, `latest`, `default` or an alias."""
    returns: list[ReturnKind] = Field(["preds", "probs"], alias="return", min_length=1, max_length=3)
    """What to answer: predicted classes or values, probabilities, raw outputs."""


class PredictManyIn(
    PredictIn,
    json_schema_extra=shown_as(
        {"tasks": None, "inputs": {"circle_data": [[0.1, 0.2], [0.9, 0.9]]}, "return": ["preds", "probs"]}
    ),
):
    """Inputs to predict for several tasks."""

    tasks: Annotated[list[Name], Field(min_length=1, max_length=4096)] | None = None
    """Names of tasks; null for all of the version's."""


class TaskPrediction(Out):
    """What one task answers; only what was asked for is there."""

    preds: list[Any] | None = None
    """The likeliest class of each row, or what the task's output function decides."""
    probs: list[Any] | None = None
    """Probabilities of the classes, for tasks that have classes."""
    outputs: list[Any] | None = None
    """Values, in place of `probs`, for tasks without classes."""
    logits: list[Any] | None = None
    """What the task's last operation put out."""
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
