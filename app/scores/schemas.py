"""Scores as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict


class ScoreOut(BaseModel):
    """One metric of one task of a version on one split."""

    model_config = ConfigDict(from_attributes=True)

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
