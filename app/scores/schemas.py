"""Scores as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from app.wire import Out, shown_as

_SCORE: dict[str, Any] = {
    "model": "shapes",
    "version": 1,
    "run": "run_01KD8Z6Y0000000000000000AB",
    "task": "circle_task",
    "dataset": "circleDataset",
    "split": "train",
    "metric": "accuracy",
    "value": 0.9725,
    "reason": None,
    "n": 800,
    "created_at": "2026-01-02T03:04:05Z",
}


class ScoreOut(Out, json_schema_extra=shown_as(_SCORE)):
    """One metric of one task of a version on one split."""

    model: str
    version: int
    run: str
    """The run that computed it."""
    task: str
    dataset: str
    split: str
    metric: str
    value: float | None
    """null where the metric is undefined."""
    reason: str | None
    """Why the value is null."""
    n: int
    """Labelled examples that it was computed over."""
    created_at: datetime
