"""What the database of a service held that was stopped at one revision, and what migrations do to it on purpose.

Every column of every table has a value in some row.
"""

from __future__ import annotations

from typing import Any

from tests.app.db.rows import (
    ENDED,
    HELD,
    NOW,
    Row,
    Rows,
    artifact,
    asked,
    dataset_version,
    events,
    job,
    report,
    row,
    run,
    runs,
    score,
    spec,
    split,
    split_ref,
    tasks,
    tensors,
    tensors_ref,
    upload,
    version,
)

OBJECTIVE = "own/d/valid/loss"

# 0001: the first release. The model was trained for task t, which has made way for two others since.

_OLD_1, _NEW_1 = [spec("t")], [spec("t3", classes=3), spec("t2", classes=3)]
_TRAINED_1 = job(_OLD_1, [tensors_ref("train", "t"), tensors_ref("test", "t")])
_WAITS_1 = job(_NEW_1, [tensors_ref("train", "t3", "t2")], init_from=1)
# The split was removed after it was scored.
_SCORED_1 = job(_OLD_1, [tensors_ref("removed", "t")])
_RUNS_1 = runs(_TRAINED_1, _WAITS_1, _SCORED_1, asked())
_ANSWER = {"status": 202, "headers": {"location": "/v1/runs/run_4"}, "body": '{"id": "run_4"}'}

_ROWS_1: Rows = {
    "tasks": tasks([*_OLD_1, *_NEW_1]),
    "datasets": [row(name="d")],
    "splits": [tensors("train", 100), tensors("test", 8)],
    "models": [row(name="m")],
    "model_tasks": [
        {"model": "m", "task": "t3", "position": 0},
        {"model": "m", "task": "t2", "position": 1},
    ],
    "runs": _RUNS_1,
    "run_events": events(_RUNS_1),
    "versions": [version(_OLD_1)],
    "aliases": [{"model": "m", "name": "best", "version": 1}],
    "scores": [score("t", value=0.75), score("t", metric="roc_auc", reason="one class only")],
    "idempotent_answers": [row(key=artifact("key"), request=artifact("body"), **_ANSWER)],
}

# 0002: datasets from files, and the preprocessing that belongs to a version.

_FITTED: Row = {"preprocessing": artifact("fitted")}
_DEALT = {"shares": {"train": 0.9, "test": 0.1}, "by_column": None, "seed": 0}
_SPLITTING = _DEALT | {"stratify_by": None, "group_by": None}
_TRAINED_2 = job(_OLD_1, [split_ref("train", 100, "t"), split_ref("test", 8, "t")], **_FITTED)
_WAITS_2 = job(_NEW_1, [split_ref("train", 100, "t3", "t2")], init_from=1, **_FITTED)

_ROWS_2: Rows = _ROWS_1 | {
    "tasks": tasks([*_OLD_1, *_NEW_1], vocabulary=None),
    "uploads": [upload()],
    "dataset_versions": [dataset_version(1), dataset_version(2, parent=1, splitting=_SPLITTING)],
    "splits": [split(1, "train", 0, 100), split(2, "train", 0, 100), split(2, "test", 1, 8)],
    "runs": runs(_TRAINED_2, _WAITS_2, _TRAINED_2, asked(preprocessing="keep")),
    "versions": [version(_OLD_1, **_FITTED)],
}

# 0003: logs, scores of slices, and jobs that name the weights that they start from.

_SINCE_3: Row = {"slices": []}
_OLD_3, _NEW_3 = ([spec | _SINCE_3 for spec in specs] for specs in (_OLD_1, _NEW_1))
_WEIGHTS = {"model": "m", "version": 1, "sha256": artifact("weights"), "modules": {"trunk": "trunk"}}


def _job_3(specs: list[Row], *splits: tuple[str, int], weights: tuple[Row, ...] = ()) -> Row:
    labelled = [spec["name"] for spec in specs]
    refs = [split_ref(*split, *labelled, slice_columns={}) for split in splits]
    since: Row = {"weights": [*weights], "remap_labels": {}, "frozen": []}
    return job(specs, refs, init_from=1 if weights else None, **_FITTED, **since)


_TRAINED_3 = _job_3(_OLD_3, ("train", 100), ("test", 8))
_WAITS_3 = _job_3(_NEW_3, ("train", 100), weights=(_WEIGHTS,))
_ASKED_3 = asked(preprocessing="keep", init_modules={}, train="all")

_ROWS_3: Rows = _ROWS_2 | {
    "tasks": tasks([*_OLD_3, *_NEW_3], vocabulary=None),
    "runs": runs(_TRAINED_3, _WAITS_3, _TRAINED_3, _ASKED_3, log=artifact("log")),
    "versions": [version(_OLD_3, **_FITTED)],
    "scores": [*_ROWS_2["scores"], score(f"t_slice:{'edge' * 50}_ind", value=0.5)],
}

# 0004: models with tasks of their own, searches and verdicts. One search has an end of its first trial, and is at the
# second.

_SINCE_4: Row = {"kind": None, "target_scaling": None}
_OLD_4, _NEW_4 = ([spec | _SINCE_4 for spec in specs] for specs in (_OLD_3, _NEW_3))
_OWN = spec("own", slices=[], kind="multiclass", target_scaling=None)
_OUTLINE = {"name": "own", "kind": "multiclass", "labels": 2}
_ARCHITECTURE: Row = {
    "type": "shared_bottom",
    "inputs": ["x"],
    "layers": [4],
    "activation": "relu",
    "dropout": 0.0,
    "norm": None,
}
_TRAINED_4 = _job_3(_OLD_4, ("train", 100), ("test", 8))
_WAITS_4 = _job_3(_NEW_4, ("train", 100), weights=(_WEIGHTS,))
_TRIED = _job_3([_OWN], ("train", 100), ("test", 8))
_ASKED_4 = _ASKED_3 | {"verdict": False}

_COMPARED: Row = {
    "dataset": "d",
    "split": "test",
    "metric": "accuracy",
    "shared": 0.75,
    "single": 0.5,
    "n": 8,
    "gain": 0.25,
    "low": 0.1,
    "high": 0.4,
    "skipped": 0,
    "word": "gains",
}
_VERDICT = {
    "summary": "Sharing gains for 't'. There is no reason to split the tasks.",
    "tasks": [{"task": "t", "word": "gains", "hurt_by": [], "comparisons": [_COMPARED]}],
    "unjudged": {"t2": "it has no label in the splits 'test' and 'valid'"},
    "affinities": [{"tasks": ["t", "t2"], "value": 0.21}],
    "groups": [["t", "t2"]],
    "resamples": 1000,
    "confidence": 0.95,
}

_SEARCH = {
    "train": _ASKED_4,
    "space": {"trainer.lr": {"type": "float", "low": 0.001, "high": 0.1, "log": True, "step": None}},
    "objective": f"{OBJECTIVE}:min",
    "budget": {"runs": 2, "minutes": None},
    **{"parallel": 1, "pruner": "median", "sampler": "tpe", "seed": 0},
}
_TRIAL = _ASKED_4 | {"datasets": ["d@2"], "init_from": None}
_PINNED: Row = {
    "train": _TRIAL,
    "modules": ["trunk", "head"],
    "architecture": _ARCHITECTURE,
    "outlines": [_OUTLINE],
}
_STATE: Row = {
    "open": ["run_9"],
    "asked": 2,
    "succeeded": 1,
    "pruned": 0,
    "failed": 0,
    "cancelled": 0,
    "best": {"run": "run_8", "number": 0, "value": 0.6},
    "spent_s": 0.0,
    "since": NOW.isoformat(),
}
_TOLD = {"runs": 1, "n_runs": 2, "fraction": 0.5, "best": 0.6}
_OUTCOME = {"state": "succeeded", "value": 0.6, "epoch": None, "values": {"1": 0.7, "3": 0.6}}
_UNDEFINED = {"task": "own", "dataset": "d", "split": "test", "metric": "accuracy", "value": None, "n": 0}
_KEPT = {
    "weights": {"sha256": artifact("tried"), "numbers": 22, "bytes": 944},
    "scores": [_UNDEFINED | {"reason": "no labels"}],
    "metrics": {OBJECTIVE: 0.6},
}


def _trial(name: str, status: str, number: int, lr: float, found: Row, **values: Any) -> Row:
    request = _TRIAL | {"trial": {"number": number, "params": {"trainer.lr": lr}}}
    result = {"number": number, "point": {"trainer.lr": lr}, "unfit": False, "outcome": None} | found
    return run(name, status, _TRIED, request, model="arch", parent="run_7", result=result, **values)


_RUNS_4 = [
    *runs(_TRAINED_4, _WAITS_4, _TRAINED_4, _ASKED_4, log=artifact("log"), verdict=_VERDICT),
    # No worker has a search.
    run("run_7", "running", _TRIED | _PINNED, _SEARCH, kind="search", model="arch", fence=0)
    | {"started_at": NOW, "progress": _TOLD, "result": _STATE},
    _trial("run_8", "succeeded", 0, 0.01, {"outcome": _OUTCOME, "trained": _KEPT}, **ENDED),
    _trial("run_9", "running", 1, 0.1, {}, **HELD),
]

_ROWS_4: Rows = _ROWS_3 | {
    "tasks": tasks([*_OLD_4, *_NEW_4], vocabulary=None),
    "models": [row(name="m"), row(name="arch", architecture=_ARCHITECTURE)],
    "model_tasks": [
        *(link | {"registered": link["task"]} for link in _ROWS_3["model_tasks"]),
        {"model": "arch", "task": "own", "position": 0, "outline": _OUTLINE, "spec": _OWN}
        | {"report": report(vocabulary=None)},
    ],
    "runs": _RUNS_4,
    "run_events": events(_RUNS_4),
    "versions": [version(_OLD_4, **_FITTED)],
}

ROWS = {"0001": _ROWS_1, "0002": _ROWS_2, "0003": _ROWS_3, "0004": _ROWS_4}
"""Rows by table, by the revision of the service that wrote them."""


def _ended(run: Row) -> Row:
    """What a run of 0001 waited for, or was trained on, is gone."""
    return {} if "finished_at" in run else {"status": "cancelled", "worker": None, "finished_at": NOW}


def _pinned(run: Row) -> Row:
    """A run of 0001 says what it read in the form of today."""
    rows = {split["name"]: split["rows"] for split in _ROWS_1["splits"]}
    today: Row = {"version": 1, "labels": {}, "fields": [], "weights": None, "parts": []}
    splits = [ref | today | {"rows": rows.get(ref["split"], 0)} for ref in run["job"]["splits"]]
    return {"job": run["job"] | {"splits": splits, "preprocessing": ""}}


CHANGED: dict[str, dict[str, Row]] = {
    "0001": {run["id"]: _pinned(run) | _ended(run) for run in _RUNS_1},
    # It takes from the version that it starts from what both declare alike.
    "0002": {"run_4": {"job": _WAITS_2 | {"weights": [_WEIGHTS]}}},
    "0003": {},
    "0004": {},
}
"""Columns of runs that say something else at the newest revision, by the revision that wrote them and by run."""
