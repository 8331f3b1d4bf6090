"""Runs as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.runs.job import RunTrainerConfig
from mtl_core.specs import NAME_PATTERN, Name

RunStatus = Literal["queued", "running", "succeeded", "failed", "cancelling", "cancelled"]
RunKind = Literal["train", "score"]


class TrainIn(BaseModel):
    """A training to be done."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_extra={
            "examples": [
                {
                    "datasets": ["circleDataset"],
                    "trainer": {"n_epochs": 10, "lr": 0.02, "seed": 1},
                    "init_from": "latest",
                }
            ]
        },
    )

    datasets: Annotated[list[Name], Field(min_length=1, max_length=1000)]
    """What to train, watch and score on: all splits of these datasets that carry labels of the model's tasks."""
    trainer: RunTrainerConfig = RunTrainerConfig()
    """Settings of the training."""
    init_from: (
        Annotated[int, Field(ge=1, le=2**31 - 1)] | Annotated[str, Field(pattern=NAME_PATTERN)] | None
    ) = "latest"
    """The version whose modules the training starts from, as far as the model still has them; `latest` is none while
    there is no version. null: every module starts anew."""


class ScoreIn(BaseModel):
    """A scoring to be done."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"datasets": ["circleDataset"]}]}
    )

    datasets: Annotated[list[Name], Field(min_length=1, max_length=1000)]


class ProgressOut(BaseModel):
    """How far a training has come."""

    epoch: int
    """Epochs finished."""
    n_epochs: int
    step: int
    """Batches trained on."""
    n_steps: int
    fraction: float
    examples_per_s: float | None
    eta_s: float | None
    """Seconds that the rest will take at this pace."""


class RunOut(BaseModel):
    """A run."""

    id: str
    kind: RunKind
    model: str
    status: RunStatus
    datasets: list[str]
    trainer: dict[str, Any] | None
    """Every setting of the training, defaults filled in; null for a scoring."""
    init_from: int | None
    """The version whose modules the training started from."""
    model_version: int | None
    """The version that the run made, or scored."""
    progress: ProgressOut | None
    error: dict[str, Any] | None
    """Why the run failed, as a problem."""
    attempt: int
    """How often it was started."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class MetricPoint(BaseModel):
    """A logged value."""

    attempt: int
    epoch: int
    step: int
    value: float | None
    """null where the metric was undefined or not finite."""
    reason: str | None = None
    """Why the value is null."""


class MetricsOut(BaseModel):
    """Everything that a run logged, by `task/dataset/split/metric`."""

    run: str
    series: dict[str, list[MetricPoint]]
