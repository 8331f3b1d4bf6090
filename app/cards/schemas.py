"""Model cards as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from app.wire import Out, shown_as

_SCORE: dict[str, Any] = {
    "task": "circle_task",
    "dataset": "circleDataset",
    "dataset_version": 1,
    "split": "test",
    "metric": "accuracy",
    "value": 0.9725,
    "reason": None,
    "n": 100,
    "run": "run_01KD8Z6Y0000000000000000AB",
}
_CARD: dict[str, Any] = {
    "model": "shapes",
    "version": 1,
    "aliases": ["latest", "default"],
    "created_at": "2026-01-02T03:04:05Z",
    "made_by": {
        "run": "run_01KD8Z6Y0000000000000000AB",
        "kind": "train",
        "client": "127.0.0.1",
        "search": None,
        "init_from": None,
        "started_at": "2026-01-02T03:03:50Z",
        "finished_at": "2026-01-02T03:04:05Z",
    },
    "starts_from": [],
    "parameters": 70,
    "bytes": 664,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "data": [
        {
            "dataset": "circleDataset",
            "version": 1,
            "split": "train",
            "used": "trained on",
            "run": "run_01KD8Z6Y0000000000000000AB",
            "rows": 800,
            "sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
            "labels": {
                "circle_task": {"labelled": 790, "unlabelled": 10, "counts": {"0": 400, "1": 390}},
            },
            "missing": None,
        }
    ],
    "fields": [
        {
            "name": "circle_data",
            "shape": [2],
            "dtype": "float32",
            "vocabulary": None,
            "columns": [
                {
                    "column": "circle_data",
                    "type": "tensor",
                    "fitted": {"shape": [2], "dtype": "float32", "center": 0.0, "scale": 1.0, "missing": []},
                }
            ],
        }
    ],
    "tasks": [
        {
            "name": "circle_task",
            "kind": "multiclass",
            "fields": ["circle_data"],
            "loss": "cross_entropy",
            "output": "softmax",
            "metrics": ["accuracy"],
            "target_scaling": None,
            "class_names": None,
            "path": [
                {"name": "base_mlp", "module": "base_mlp", "inputs": [["_input_", "circle_data"]]},
                {"name": "circle_head", "module": "circle_head_module", "inputs": ["base_mlp"]},
            ],
            "own_parameters": 10,
            "shared_parameters": 60,
            "slices": [],
            "worst_slice": None,
        }
    ],
    "modules": [
        {"name": "base_mlp", "parameters": 60, "used_by": ["circle_task"]},
        {"name": "circle_head_module", "parameters": 10, "used_by": ["circle_task"]},
    ],
    "training": {
        "seed": 1,
        "train": "all",
        "frozen": [],
        "settings": {"n_epochs": 10, "lr": 0.02, "batch_size": 32},
    },
    "scores": [_SCORE],
    "verdict": None,
    "calibration": None,
    "limits": ["What the model is meant for, and what it must not be used for, nobody told the service."],
}


class MadeByOut(Out):
    """The run that made a version."""

    run: str
    kind: str
    """`train`, or another kind of run that makes versions."""
    client: str | None
    """Who asked for it; null where that is not known."""
    search: str | None
    """The search that it was a trial of."""
    init_from: int | None
    """The version that it started from."""
    started_at: datetime | None
    finished_at: datetime | None


class StartOut(Out):
    """Modules that did not start from random weights."""

    model: str
    version: int
    sha256: str
    """Checksum of the weights that they were taken from."""
    modules: dict[str, str]
    """This version's module → the one that it started from."""


class CardLabelsOut(Out):
    """How much of a split is labelled for one task."""

    labelled: int
    unlabelled: int
    counts: dict[str, int] | None
    """Examples of each class; null where labels are no classes."""


class CardDataOut(Out):
    """A split that the version was trained or scored on, as it was then."""

    dataset: str
    version: int
    split: str
    used: Literal["trained on", "watched", "calibrated on", "scored on", "read"]
    """`watched`: scored while the training ran, which may have stopped, or chosen weights, by that; `read`: by a run
    that neither trains, calibrates nor scores."""
    run: str
    """The run that used it."""
    rows: int
    sha256: str
    """Checksum of the data."""
    labels: dict[str, CardLabelsOut] | None
    """By the name of the label set, which is the task's unless it was scored along another's path; null where the data
    is no longer there to tell."""
    missing: str | None
    """Why `labels` is null."""


class CardColumnOut(Out):
    """A raw column, and how it is encoded."""

    column: str
    type: str
    fitted: dict[str, Any]
    """What its encoding goes by, fitted to the training data; of words and values, how many there are."""


class CardFieldOut(Out):
    """A field that the version reads."""

    name: str
    shape: list[int] | None
    """Shape of one example; null where nothing told it."""
    dtype: str
    vocabulary: int | None
    """How many indices there are; null where the field holds no indices."""
    columns: list[CardColumnOut]
    """The raw columns that it is made of; none where it was given as numbers only."""


class StepOut(Out):
    """One operation on a task's path."""

    name: str
    module: str
    inputs: list[str | list[str | int]]
    """As in the task's spec: earlier operations, `["_input_", field]`, or `[operation, index]`."""


class SliceScoreOut(Out):
    """One metric of a task on one of its slices."""

    dataset: str
    split: str
    metric: str
    value: float | None
    reason: str | None
    """Why the value is null."""
    n: int
    """Labelled examples of the slice."""
    of: Literal["answers", "membership", "slice head"]
    """Of what: the task's answers for the slice; whether an example is told to belong to it; the head that learnt from
    the slice alone."""


class SliceOut(Out):
    """A part of the data that the task was told to mind."""

    name: str
    where: dict[str, Any] | None
    """Which examples belong to it; null for `base`, to which all belong."""
    scores: list[SliceScoreOut]


class WorstSliceOut(Out):
    """Where a task answers worst."""

    slice: str
    dataset: str
    split: str
    metric: str
    value: float
    n: int
    """Labelled examples of the slice."""
    whole: float | None
    """The same of the whole split; null where it is undefined."""


class CardTaskOut(Out):
    """A task of the version."""

    name: str
    kind: str | dict[str, Any] | None
    """What the labels are, where the task names a kind."""
    fields: list[str]
    """The fields that its path reads."""
    loss: str | dict[str, Any]
    output: str | dict[str, Any]
    metrics: list[str | dict[str, Any]]
    target_scaling: dict[str, Any] | None
    """Where its values lie, if they are learnt on that scale."""
    class_names: list[str | int | bool] | None
    """Names of the classes in order; null where labels are plain numbers."""
    path: list[StepOut]
    own_parameters: int
    """Numbers in modules that no other task uses."""
    shared_parameters: int
    """Numbers in modules that other tasks use, too."""
    slices: list[SliceOut]
    worst_slice: WorstSliceOut | None
    """By the task's first metric that has a better and a worse, on the test split, or the validation split where no
    test split tells; null without slices or scores of them."""


class CardModuleOut(Out):
    """A module of the version."""

    name: str
    parameters: int
    """Numbers that it holds."""
    used_by: list[str]


class TrainingOut(Out):
    """How the version was trained."""

    seed: int | None
    train: str
    """Whether `all` modules were trained, or only `new` ones."""
    frozen: list[str]
    """Modules that stayed as they were because only new ones were trained."""
    settings: dict[str, Any]
    """Every setting, defaults filled in."""


class CardScoreOut(Out):
    """One metric of one task on one split; the newest of equal names."""

    task: str
    """The task, or the label set that was scored along a task's path."""
    dataset: str
    dataset_version: int | None
    """null where the run that scored no longer says."""
    split: str
    metric: str
    value: float | None
    """null where the metric is undefined."""
    reason: str | None
    """Why the value is null."""
    n: int
    """Labelled examples that it was computed over."""
    run: str
    """The run that computed it."""


class CardOut(Out, json_schema_extra=shown_as(_CARD)):
    """All that the service knows of a version, in one document."""

    model: str
    version: int
    aliases: list[str]
    """Names that stand for it now."""
    created_at: datetime
    made_by: MadeByOut
    starts_from: list[StartOut]
    """Versions that modules were taken from; empty where all started anew."""
    parameters: int
    bytes: int
    """Size of its weights, a safetensors file."""
    sha256: str
    """Checksum of its weights."""
    data: list[CardDataOut]
    fields: list[CardFieldOut]
    tasks: list[CardTaskOut]
    modules: list[CardModuleOut]
    training: TrainingOut | None
    """null for a version that was not trained here."""
    scores: list[CardScoreOut]
    """Of tasks as wholes; those of slices stand with the tasks, comparisons with tasks trained alone in the verdict."""
    verdict: dict[str, Any] | None
    """What sharing gained or lost, as `GET /v1/runs/{run}/verdict` has it; null where the run was not asked for it."""
    calibration: dict[str, Any] | None
    """What calibrating it came to, as `GET /v1/runs/{run}/calibration` has it; null for a version of another kind of
    run."""
    limits: list[str]
    """What this card cannot say."""
