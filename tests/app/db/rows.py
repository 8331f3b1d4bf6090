"""Rows as the service wrote them at one revision or another; what is null is left out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

Row = dict[str, Any]
Rows = dict[str, list[Row]]

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ENDED: Row = {"started_at": NOW, "finished_at": NOW}
HELD: Row = {"worker": "gone", "lease_until": NOW, "started_at": NOW}

LABELLED = ("t", "t2", "t3", "own")
_LABEL: Row = {"type": "index", "class_names": None, "missing": [], "positive": None}
_PROGRESS: Row = {"epoch": 3, "n_epochs": 3, "step": 9, "n_steps": 9, "fraction": 1.0} | {
    "examples_per_s": 21500.0,
    "eta_s": 0.0,
}
_TRAINER: Row = {"n_epochs": 3, "lr": 0.02, "seed": 1, "batch_size": 32}
_ERROR: Row = {"type": "urn:taskloom:problem:run-failed", "title": "Run failed", "detail": "it diverged"}


def artifact(what: str) -> str:
    """Return what stands for an artifact's checksum."""
    return f"{what:0>64}"


def row(**values: Any) -> Row:
    return {"created_at": NOW} | values


# Tasks and models


def spec(name: str, classes: int = 2, **since: Any) -> Row:
    """A task on a trunk that all share; its head is called ``head``, whatever its size."""
    pool: Row = {
        "trunk": {"type": "Linear", "in_features": 2, "out_features": 4},
        "head": {"type": "Linear", "in_features": 4, "out_features": classes},
    }
    operations: list[Row] = [
        {"name": "trunk", "module_name": "trunk", "inputs": [["_input_", "x"]]},
        {"name": "head", "module_name": "head", "inputs": ["trunk"]},
    ]
    trained: Row = {"loss": "cross_entropy", "output": "softmax", "metrics": ["accuracy"], "inputs": None}
    return {"name": name, "module_pool": pool, "op_sequence": operations} | trained | since


def report(**since: Any) -> Row:
    field: Row = {"shape": [2], "dtype": "float32", "declared": False} | since
    parameters = {"trunk": 12, "head": 10}
    return {"parameters": parameters, "fields": {"x": field}, "output_shape": [2], "activations": 6}


def tasks(specs: Sequence[Row], **since: Any) -> list[Row]:
    return [row(name=spec["name"], spec=spec, report=report(**since)) for spec in specs]


def version(specs: Sequence[Row], **since: Any) -> Row:
    """The first version of model ``m``, which its first run made."""
    fields: Row = {"x": {"shape": [2], "dtype": "float32"}}
    made: Row = row(model="m", number=1, run="run_1", tasks=specs, fields=fields, parameters=22)
    return made | {"sha256": artifact("weights"), "bytes": 944} | since


def score(task: str, **values: Any) -> Row:
    where: Row = row(model="m", version=1, run="run_1", dataset="d", split="test", metric="accuracy", n=8)
    return where | {"task": task} | values


# Datasets: files of encoded tensors at 0001, rows of tables since


def tensors(name: str, rows: int) -> Row:
    label: Row = {"dtype": "int64", "shape": [], "labelled": rows, "counts": {"0": 3, "1": rows - 3}}
    label |= {"min": 0, "max": 1}
    fields: Row = {"x": {"dtype": "float32", "shape": [2]}}
    labels: Row = dict.fromkeys(LABELLED, label)
    split: Row = row(dataset="d", name=name, rows=rows, fields=fields, labels=labels)
    return split | {"sha256": artifact(name), "bytes": 12960}


def tensors_ref(name: str, *labelled: str) -> Row:
    return {"dataset": "d", "split": name, "sha256": artifact(name), "tasks": [*labelled]}


def dataset_version(number: int, **values: Any) -> Row:
    return row(dataset="d", number=number, sha256=artifact(f"d@{number}"), warnings=[]) | values


def split(version: int, name: str, position: int, rows: int) -> Row:
    column: Row = {"name": "x", "missing": [], "type": "tensor", "scale": "none"}
    field: Row = {"columns": [column], "dtype": "float32", "shape": [2], "vocabulary": None}
    read: Row = {"type": "index", "missing": [], "classes": None, "positive": None}
    found: Row = {"dtype": "int64", "shape": [], "class_names": None, "labelled": rows}
    found |= {"counts": {"0": 3, "1": rows - 3}, "lowest": 0, "highest": 1}
    labels: Row = {
        task: found | {"column": task, "spec": read | {"column": task}, "codec": _LABEL | {"column": task}}
        for task in LABELLED
    }
    statistics: Row = {"rows": rows, "missing": 0, "mean": 0.0, "deviation": 0.5, "min": -1.0, "max": 1.0}
    at: Row = row(
        dataset="d", version=version, name=name, position=position, sha256=artifact(name), rows=rows
    )
    means: Row = {"fields": {"x": field}, "labels": labels, "weights": {"column": "w"}}
    return at | means | {"columns": {"x": statistics}, "overlap": [], "parts": [part(name, rows)]}


def split_ref(name: str, rows: int, *labelled: str, **since: Any) -> Row:
    labels: Row = {
        task: {"codec": _LABEL | {"column": task}, "dtype": "int64", "shape": []} for task in labelled
    }
    read: Row = {"version": 2, "rows": rows, "labels": labels, "fields": ["x"], "weights": "w"}
    return tensors_ref(name, *labelled) | read | {"parts": [part(name, rows)]} | since


def part(split: str, rows: int) -> Row:
    names: Row = {
        "table": artifact("table"),
        "assignment": artifact("dealt"),
        "summary": artifact(f"of-{split}"),
    }
    return names | {"number": 0, "rows": rows}


def upload() -> Row:
    read: Row = {"options": {"format": "csv"}, "read_as": {"format": "csv", "delimiter": ","}}
    names: Row = {"sha256": artifact("file"), "options_key": artifact("options"), "table": artifact("table")}
    found: Row = {
        "columns": [{"name": "x", "dtype": "float", "shape": [2], "nulls": 0}],
        "preview": [{"x": [0.5, -0.5], "t": 1}],
        "warnings": ["row 7 was empty"],
    }
    return row(id="upl_1", filename="d.csv", bytes=4242, rows=108) | read | names | found


# Runs


def asked(**since: Any) -> Row:
    return {"datasets": ["d"], "trainer": _TRAINER, "init_from": "latest"} | since


def job(specs: Sequence[Row], splits: Sequence[Row], init_from: int | None = None, **since: Any) -> Row:
    fields: Row = {"x": {"shape": [2], "dtype": "float32"}}
    return {"tasks": specs, "splits": splits, "fields": fields, "init_from": init_from} | since


def run(name: str, status: str, job: Row, request: Row, **values: Any) -> Row:
    counts: Row = {"attempt": 1, "fence": 1, "events": 1}
    written: Row = row(id=name, status=status, kind="train", model="m", job=job, request=request)
    return written | counts | values


def runs(trained: Row, waits: Row, scored: Row, request: Row, **of_first: Any) -> list[Row]:
    """Runs of model ``m``, one of each status, and a scoring.

    Args:
        trained: The job of those that train, or trained.
        waits: The job of the one that waits.
        scored: The job of the scoring.
        request: What was asked for.
        of_first: Further columns of the first, which made a version.
    """
    again = trained | {"init_from": 1}
    return [
        run("run_1", "succeeded", trained, request, progress=_PROGRESS, model_version=1)
        | {"events": 5, **ENDED, **of_first},
        run("run_2", "failed", again, request, error=_ERROR, **ENDED),
        run("run_3", "running", trained, request, **HELD),
        run("run_4", "queued", waits, request, attempt=0, fence=0),
        run("run_5", "cancelling", trained, request, **HELD),
        run("run_6", "succeeded", scored, {"datasets": ["d"]}, kind="score", model_version=1, **ENDED),
    ]


def events(runs: Sequence[Row]) -> list[Row]:
    """Tell of each run that it waits, and of the first all that there is to tell."""
    metrics: Row = {"t/d/train/loss": 0.7, "t/d/valid/accuracy": None}
    told: Row = {
        "status": {"status": "running", "attempt": 1},
        "log": {"message": "training on cpu: tasks ['t'], 2 modules"},
        "metrics": {"attempt": 1, "epoch": 1, "step": 3, "metrics": metrics},
        "progress": _PROGRESS,
    }
    waits: Row = {"status": "queued", "attempt": 0}
    return [
        *(row(run=run["id"], seq=1, kind="status", data=waits) for run in runs),
        *(
            row(run="run_1", seq=seq, kind=kind, data=data)
            for seq, (kind, data) in enumerate(told.items(), 2)
        ),
    ]
