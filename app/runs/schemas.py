"""Runs as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from app.runs.trainer_config import RunTrainerConfig
from app.wire import In, Out, shown_as
from mtl_core.specs import NAME_PATTERN, Name

RunStatus = Literal["queued", "running", "succeeded", "failed", "cancelling", "cancelled"]
RunKind = Literal["train", "score"]
DatasetRef = Annotated[
    str,
    Field(
        pattern=NAME_PATTERN.removesuffix("$") + r"(@[0-9]{1,9})?$", description="`name` or `name@version`."
    ),
]
VersionRef = (
    Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)] | Annotated[str, Field(pattern=NAME_PATTERN)]
)
ModuleName = Annotated[str, Field(min_length=1, max_length=300)]

_RUN: dict[str, Any] = {
    "id": "run_01KD8Z6Y0000000000000000AB",
    "kind": "train",
    "model": "shapes",
    "status": "running",
    "datasets": ["circleDataset"],
    "data": [
        {
            "dataset": "circleDataset",
            "version": 1,
            "split": "train",
            "rows": 800,
            "sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
        }
    ],
    "trainer": {"n_epochs": 10, "lr": 0.02, "seed": 1, "batch_size": 32},
    "init_from": None,
    "init_modules": {},
    "train": "all",
    "log": None,
    "model_version": None,
    "progress": {
        "epoch": 4,
        "n_epochs": 10,
        "step": 112,
        "n_steps": 250,
        "fraction": 0.448,
        "examples_per_s": 21500.0,
        "eta_s": 0.2,
    },
    "error": None,
    "attempt": 1,
    "created_at": "2026-01-02T03:04:05Z",
    "started_at": "2026-01-02T03:04:05Z",
    "finished_at": None,
}
_METRICS: dict[str, Any] = {
    "run": "run_01KD8Z6Y0000000000000000AB",
    "series": {
        "circle_task/circleDataset/train/loss": [
            {"attempt": 1, "epoch": 1, "step": 25, "value": 0.61, "reason": None},
            {"attempt": 1, "epoch": 2, "step": 50, "value": 0.44, "reason": None},
        ]
    },
}


class ModuleSource(In):
    """A module of a trained version."""

    model: Name | None = Field(default=None, examples=["shapes"])
    """The version's model; default: the one that is trained."""
    version: VersionRef = "latest"
    """A number or an alias."""
    module: ModuleName | None = Field(default=None, examples=["base_mlp"])
    """The module's name there; default: as here."""


class TrainIn(
    In,
    json_schema_extra=shown_as(
        {
            "datasets": ["circleDataset"],
            "trainer": {"n_epochs": 10, "lr": 0.02, "seed": 1, "logging": True, "log_writer": "json"},
            "init_from": "latest",
        }
    ),
):
    """A training to be done."""

    datasets: Annotated[list[DatasetRef], Field(min_length=1, max_length=1000, examples=[["circleDataset"]])]
    """What to train, watch and score on: all splits of these datasets that carry labels of the model's tasks; `name`
    stands for the newest version, `name@2` for another."""
    trainer: RunTrainerConfig = RunTrainerConfig()
    """Settings of the training."""
    init_from: VersionRef | None = "latest"
    """The version whose modules the training starts from, as far as the model still has them; `latest` is none while
    there is no version. null: every module starts anew."""
    init_modules: dict[ModuleName, ModuleSource] = Field(
        default={},
        max_length=256,
        examples=[{"base_mlp": {"model": "shapes", "version": 1, "module": "base_mlp"}}],
    )
    """Modules that start from elsewhere: by their names, a version (of any model) and the module's name there."""
    train: Literal["all", "new"] = "all"
    """`new` trains only the modules that start with random weights: no bit of the others changes."""
    preprocessing: Literal["keep", "refit"] = "keep"
    """Whether raw columns are encoded as for the version that the training starts from, or fitted anew to this run's
    train splits. What that version was not fitted for is fitted anyway."""


class ScoreIn(In, json_schema_extra=shown_as({"datasets": ["circleDataset"]})):
    """A scoring to be done."""

    datasets: Annotated[list[DatasetRef], Field(min_length=1, max_length=1000, examples=[["circleDataset"]])]
    """What to score on: all splits of these datasets that carry labels of the version's tasks."""
    remap_labels: dict[Name, Name | None] = Field(
        default={}, max_length=1000, examples=[{"old_circle_labels": "circle_task", "square_task": None}]
    )
    """Label set → the task along whose path it is scored, in place of the one of its name; null leaves it out."""


class ProgressOut(Out):
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


class DataOut(Out):
    """A split that a run uses, as it was when the run was accepted."""

    dataset: str
    version: int
    split: str
    rows: int
    sha256: str
    """Checksum of the data."""


class RunOut(Out, json_schema_extra=shown_as(_RUN)):
    """A run."""

    id: str
    kind: RunKind
    model: str
    status: RunStatus
    datasets: list[str]
    data: list[DataOut]
    """Exactly what the run reads: later versions of the datasets change nothing of it."""
    trainer: dict[str, Any] | None
    """Every setting of the training, defaults filled in; null for a scoring."""
    init_from: int | None
    """The version whose modules the training started from."""
    init_modules: dict[str, ModuleSource]
    """The modules that it was to take from elsewhere."""
    train: Literal["all", "new"] | None
    """Whether all modules were trained, or only those that are new; null for a scoring."""
    log: str | None
    """Where the log is that the training was asked to write; null while there is none."""
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


class MetricPoint(Out):
    """A logged value."""

    attempt: int
    epoch: int
    step: int
    value: float | None
    """null where the metric was undefined or not finite."""
    reason: str | None = None
    """Why the value is null."""


class MetricsOut(Out, json_schema_extra=shown_as(_METRICS)):
    """Everything that a run logged, by `task/dataset/split/metric`."""

    run: str
    series: dict[str, list[MetricPoint]]
