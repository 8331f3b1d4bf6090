"""A run's row as it travels over HTTP."""

from __future__ import annotations

from app.db.tables import Run
from app.runs.results import file_of
from app.runs.schemas import RunOut
from app.runs.snapshots import kept


def run_out(run: Run) -> RunOut:
    """Return a run as it travels over HTTP."""
    asked = run.request["train"] if run.kind == "search" else run.request
    file = file_of(run)
    return RunOut.model_validate(
        {
            "id": run.id,
            "kind": run.kind,
            "parent": run.parent,
            "model": run.model,
            "status": run.status,
            "datasets": asked.get("datasets", []),
            "data": [*run.job.get("splits", []), *run.job.get("rows", [])],
            "trainer": asked.get("trainer"),
            "init_from": run.job["init_from"],
            "init_modules": asked.get("init_modules", {}),
            "train": asked.get("train", "all") if run.kind in ("train", "search") else None,
            "log": f"/v1/runs/{run.id}/log" if run.log else None,
            "verdict": f"/v1/runs/{run.id}/verdict" if run.verdict else None,
            "calibration": f"/v1/runs/{run.id}/calibration"
            if run.kind == "calibrate" and run.result
            else None,
            "trial": run.request.get("trial"),
            "search": f"/v1/runs/{run.id}/search" if run.kind == "search" else None,
            "model_version": run.model_version,
            "result": {"url": f"/v1/runs/{run.id}/result", **file.model_dump()} if file else None,
            "progress": run.progress,
            "error": run.error,
            "priority": run.priority,
            "limits": asked.get("limits") or {},
            "resumable_from": kept(run).step if run.snapshots else None,
            "attempt": run.attempt,
            "attempts": run.attempts,
            "created_at": run.created_at,
            "started_at": run.started_at,
            "finished_at": run.finished_at,
        }
    )
