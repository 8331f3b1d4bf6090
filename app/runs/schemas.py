"""Runs as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from app.runs.trainer_config import RunTrainerConfig
from app.wire import In, Out, shown_as
from mtl_core.specs import NAME_PATTERN, Name

RunStatus = Literal["queued", "running", "succeeded", "failed", "cancelling", "cancelled"]
RunKind = Literal["train", "score", "search", "predict", "calibrate", "export", "import"]
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
    "parent": None,
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
    "verdict": None,
    "calibration": None,
    "trial": None,
    "search": None,
    "model_version": None,
    "result": None,
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
    "priority": 0,
    "limits": {"seconds": None, "steps": None, "memory_mib": None},
    "resumable_from": 96,
    "attempt": 1,
    "attempts": [
        {
            "number": 1,
            "worker": "node-7-4242-3F9K2A",
            "started_at": "2026-01-02T03:04:05Z",
            "ended_at": None,
            "outcome": None,
            "reason": None,
        }
    ],
    "created_at": "2026-01-02T03:04:05Z",
    "started_at": "2026-01-02T03:04:05Z",
    "finished_at": None,
}
_VERDICT: dict[str, Any] = {
    "run": "run_01KD8Z6Y0000000000000000AB",
    "summary": (
        "Sharing gains for 'circle_task'. Not judged: 'square_task'. There is no reason to split the tasks."
    ),
    "tasks": [
        {
            "task": "circle_task",
            "word": "gains",
            "hurt_by": [],
            "comparisons": [
                {
                    "dataset": "circleDataset",
                    "split": "test",
                    "metric": "accuracy",
                    "shared": 0.95,
                    "single": 0.91,
                    "gain": 0.04,
                    "low": 0.01,
                    "high": 0.07,
                    "n": 100,
                    "skipped": 0,
                    "word": "gains",
                }
            ],
        }
    ],
    "unjudged": {"square_task": "it has no label in the splits 'test' and 'valid'"},
    "affinities": [{"tasks": ["circle_task", "square_task"], "value": 0.21}],
    "groups": [["circle_task", "square_task"]],
    "resamples": 1000,
    "confidence": 0.95,
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


class VerdictSettings(In):
    """How sure a verdict on sharing is."""

    resamples: Annotated[int, Field(strict=True, ge=100, le=10_000)] = 1000
    """Bootstrap resamples behind each interval."""
    confidence: Annotated[float, Field(strict=True, ge=0.5, le=0.999)] = 0.95
    """Share of the resamples that an interval holds."""


class RunLimits(In):
    """What a run may take; at a limit it fails, and can be resumed with a higher one from where it stood."""

    seconds: Annotated[float, Field(gt=0, le=1e9)] | None = Field(default=None, examples=[3600])
    """Time that a worker may be busy with it, all attempts together."""
    steps: Annotated[int, Field(strict=True, ge=1, le=10**12)] | None = Field(
        default=None, examples=[100_000]
    )
    """Batches of all its trainings; a scoring has none."""
    memory_mib: Annotated[int, Field(strict=True, ge=64, le=2**30)] | None = Field(
        default=None, examples=[4096]
    )
    """Memory that its process may hold, in MiB, about 150 of them for Python and PyTorch."""


class Queued(In):
    """What every run can be told that waits for a worker."""

    priority: Annotated[int, Field(strict=True, ge=-100, le=100)] = 0
    """Runs of a higher one are taken up first; among equals, clients take turns."""
    limits: RunLimits = RunLimits()
    """What the run may take."""


class ResumeIn(In, json_schema_extra=shown_as({"limits": {"seconds": 3600}})):
    """How a run is to go on."""

    limits: RunLimits | None = None
    """What the run may take from now on; default: as before."""


class TrainIn(
    Queued,
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
    verdict: Annotated[bool, Field(strict=True)] | VerdictSettings = Field(
        default=False, examples=[True, {"resamples": 1000, "confidence": 0.95}]
    )
    """Whether each task is also trained alone, with the same settings and data, to say what sharing gains or loses for
    it, which takes as long as all of these trainings; `{"resamples": 1000, "confidence": 0.95}` says with what
    intervals."""


class ScoreIn(Queued, json_schema_extra=shown_as({"datasets": ["circleDataset"]})):
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


class SearchProgressOut(Out):
    """How far a search has come."""

    runs: int
    """Trials that are over."""
    n_runs: int | None
    """Trials that there may be; null where only time limits them."""
    fraction: float
    """Share of its budget that is used up, of runs or of minutes, whichever is more."""
    best: float | None
    """The best value of the objective so far."""


class RowsProgressOut(Out):
    """How far a prediction of many rows has come."""

    rows: int
    """Rows predicted."""
    n_rows: int
    fraction: float
    rows_per_s: float
    eta_s: float
    """Seconds that the rest will take at this pace."""


class ResultOut(Out):
    """The file that a run ended with."""

    url: str
    """Where it is downloaded."""
    filename: str
    media_type: str
    bytes: int
    sha256: str


class TrialOut(Out):
    """A training's place in the search that it belongs to."""

    number: int
    """From 0 on, in the order in which trials were proposed."""
    params: dict[str, Any]
    """Its values of what is searched over."""


class DataOut(Out):
    """A split or an upload that a run uses, as it was when the run was accepted."""

    dataset: str | None
    """null for an upload, and so for `version` and `split`."""
    version: int | None
    split: str | None
    upload: str | None = None
    """null for a split."""
    rows: int
    sha256: str
    """Checksum of the data."""


class AttemptOut(Out):
    """What became of one start of a run."""

    number: int
    """From 1 on."""
    worker: str
    started_at: datetime
    ended_at: datetime | None
    outcome: Literal["succeeded", "failed", "cancelled", "crashed", "lost", "handed back"] | None
    """`crashed`: its process died; `lost`: its worker fell silent; `handed back`: its worker was stopped; null: it goes
    on."""
    reason: str | None
    """Why it came to nothing."""


class RunOut(Out, json_schema_extra=shown_as(_RUN)):
    """A run."""

    id: str
    kind: RunKind
    parent: str | None
    """The search that it is a trial of."""
    model: str
    status: RunStatus
    datasets: list[str]
    data: list[DataOut]
    """Exactly what the run reads: later versions of the datasets change nothing of it."""
    trainer: dict[str, Any] | None
    """Every setting of the training, defaults filled in; of a search, those that its trials start from; null for what
    trains nothing."""
    init_from: int | None
    """The version whose modules the training started from, or that was calibrated."""
    init_modules: dict[str, ModuleSource]
    """The modules that it was to take from elsewhere."""
    train: Literal["all", "new"] | None
    """Whether all modules were trained, or only those that are new; null for what trains nothing."""
    log: str | None
    """Where the log is that the training was asked to write; null while there is none."""
    verdict: str | None
    """Where the verdict on sharing is that the training was asked for; null while there is none."""
    calibration: str | None
    """Where it is told what a calibration came to; null while there is nothing."""
    trial: TrialOut | None
    """What it tries in a search; null for what a client started."""
    search: str | None
    """Where the trials of a search are told; null for all else."""
    model_version: int | None
    """The version that the run makes, scores, predicts with or exports; of a search, the one that its best trial
    became."""
    result: ResultOut | None
    """The file that a prediction of many rows or an export ended with; null until then, and once it was removed."""
    progress: ProgressOut | SearchProgressOut | RowsProgressOut | None
    error: dict[str, Any] | None
    """Why the run failed, as a problem."""
    priority: int
    limits: RunLimits
    resumable_from: int | None
    """The step that it would go on from; null without a snapshot."""
    attempt: int
    """How often it was started."""
    attempts: list[AttemptOut]
    """What became of each start."""
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


class ComparisonOut(Out):
    """A task's score in the shared model beside that of the task trained alone."""

    dataset: str
    split: str
    """The test split, or the validation split where no test split labels the task."""
    metric: str
    shared: float
    """The shared model's score."""
    single: float
    """The score of the task trained alone."""
    gain: float
    """What sharing gained; below 0 where it lost, whichever way of the metric is better."""
    low: float | None
    """Lower end of the interval around the gain; null where the metric was undefined on most resamples."""
    high: float | None
    """Upper end."""
    n: int
    """Labelled examples that were scored."""
    skipped: int
    """Resamples on which the metric was undefined."""
    word: Literal["gains", "loses", "no clear difference"]
    """What the interval says: whether all of it lies above 0, or below."""


class TaskVerdictOut(Out):
    """What sharing gained or lost for one task."""

    task: str
    word: Literal["gains", "loses", "no clear difference"]
    """That of the task's first metric; of several datasets, `loses` where it loses on any, else `gains` where it gains
    on any."""
    hurt_by: list[str]
    """Where it loses, the tasks whose gradients oppose its own, the fiercest first, at most 3."""
    comparisons: list[ComparisonOut]


class AffinityOut(Out):
    """How far two tasks pull the modules that they share in one direction."""

    tasks: list[str]
    value: float
    """The mean cosine of their gradients over the training, in [-1, 1]; below 0 they oppose one another."""


class VerdictOut(Out, json_schema_extra=shown_as(_VERDICT)):
    """What sharing gained or lost for each task, which tasks hurt one another, and what to do about it."""

    run: str
    summary: str
    """The verdict in a few sentences."""
    tasks: list[TaskVerdictOut]
    """The tasks that were judged."""
    unjudged: dict[str, str]
    """Why the others were not, by task."""
    affinities: list[AffinityOut]
    """Each pair of tasks whose gradients were compared."""
    groups: list[list[str]]
    """A suggested partition of the tasks into models; one group where nothing speaks for a split."""
    resamples: int
    confidence: float
