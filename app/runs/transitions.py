"""How a run's status changes, each change with its event, and what becomes of each attempt at it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from sqlalchemy.orm import Session

from app.db.session import database_now
from app.db.tables import Run
from app.runs import events
from app.runs.events import Event

End = Literal["succeeded", "failed", "cancelled"]
Outcome = Literal[End, "crashed", "lost", "handed back"]


def status_event(run: Run) -> Event:
    """Return the event that tells a run's status."""
    data: dict[str, Any] = {"status": run.status, "attempt": run.attempt}
    if run.status == "queued" and run.not_before:
        data["not_before"] = run.not_before.isoformat()
    if run.error:
        data["error"] = run.error
    if run.model_version:
        data["model_version"] = run.model_version
    return Event("status", data)


def begin_attempt(session: Session, run: Run, worker: str, now: datetime) -> None:
    """Give a run to a worker."""
    run.status = "running"
    run.worker, run.claimed_at = worker, now
    run.attempt += 1
    run.started_at = run.started_at or now
    run.progress = run.not_before = None
    attempt = {"number": run.attempt, "worker": worker, "started_at": now.isoformat()}
    run.attempts = [*run.attempts, attempt | {"ended_at": None, "outcome": None, "reason": None}]
    events.append(session, run.id, [status_event(run)])


def end_attempt(run: Run, now: datetime, outcome: Outcome, reason: str | None = None) -> None:
    """Write down what became of the attempt that is going on, if one is."""
    run.worker = None
    if run.attempts and run.attempts[-1]["outcome"] is None:
        ended = run.attempts[-1] | {"ended_at": now.isoformat(), "outcome": outcome, "reason": reason}
        run.attempts = [*run.attempts[:-1], ended]


def requeue(session: Session, run: Run, not_before: datetime | None = None) -> None:
    """Have a run wait for a worker, from some time on."""
    run.status = "queued"
    run.not_before = not_before
    events.append(session, run.id, [status_event(run)])


def stop(session: Session, run: Run) -> None:
    """Stop a run that is not over: at once while it waits, else as soon as its worker hears of it."""
    if run.status == "queued":
        end(session, run, "cancelled")
    elif run.status == "running":
        run.status = "cancelling"
        events.append(session, run.id, [status_event(run)])


def end(session: Session, run: Run, status: End, reason: str | None = None) -> None:
    """Put a run into a final status.

    Args:
        session: The transaction.
        run: The run, which the caller holds.
        status: How it ended.
        reason: Why it failed.
    """
    now = database_now(session)
    end_attempt(run, now, status, reason)
    run.status = status
    run.not_before = None
    run.finished_at = now
    if reason:
        run.error = {"type": "urn:taskloom:problem:run-failed", "title": "Run failed", "detail": reason}
    events.append(session, run.id, [status_event(run)])
