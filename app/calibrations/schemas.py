"""Calibrations as they travel over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from app.runs.schemas import DatasetRef, Queued
from app.wire import Out, shown_as
from mtl_core.specs import Name

_SCORES = {"log_loss": 0.41, "calibration_error": 0.09, "classwise_calibration_error": 0.1}
_CALIBRATION: dict[str, Any] = {
    "run": "run_01KD8Z6Y0000000000000000AB",
    "model": "shapes",
    "from_version": 1,
    "version": 2,
    "split": "valid",
    "tasks": {
        "circle_task": {
            "temperatures": [1.62],
            "n_labels": 100,
            "before": _SCORES,
            "after": {"log_loss": 0.36, "calibration_error": 0.03, "classwise_calibration_error": 0.04},
        }
    },
    "left_out": {"radius_task": "its output function 'identity' is neither softmax nor sigmoid"},
}


class CalibrateIn(Queued, json_schema_extra=shown_as({"split": "train", "tasks": ["circle_task"]})):
    """A calibration to be made."""

    datasets: Annotated[list[DatasetRef], Field(min_length=1, max_length=1000)] | None = None
    """Whose labels to fit temperatures to; default: the data that the version was trained on."""
    split: Name | None = None
    """Which split of theirs, one that the version was not trained on; default: the one that its training was watched
    on, by custom `valid`."""
    tasks: Annotated[list[Name], Field(min_length=1, max_length=4096)] | None = None
    """Names of tasks; null for all that have classes."""
    per_class: Annotated[bool, Field(strict=True)] = False
    """Whether a task has a temperature for each class or output, which may change what is predicted, and not one for
    all."""


class ProbabilityScoresOut(Out):
    """How good probabilities are: lower is better; null where that is undefined."""

    log_loss: float | None
    """Mean negative log-likelihood of a label, in nats."""
    calibration_error: float | None
    """How far, on average, the probability of what is predicted is from how often that is right."""
    classwise_calibration_error: float | None
    """The same for each class by itself, averaged."""


class CalibratedTaskOut(Out):
    """What the calibration of one task came to."""

    temperatures: list[float]
    """By which logits are divided: one for all, or one for each class or output."""
    n_labels: int
    """Labels that they were fitted to, and that the scores are of."""
    before: ProbabilityScoresOut
    after: ProbabilityScoresOut


class CalibrationOut(Out, json_schema_extra=shown_as(_CALIBRATION)):
    """What a calibration came to."""

    run: str
    model: str
    from_version: int
    """The version that was calibrated."""
    version: int
    """The version that was made: all weights as they were, and the temperatures."""
    split: str
    tasks: dict[str, CalibratedTaskOut]
    left_out: dict[str, str]
    """Why other tasks are as they were."""
