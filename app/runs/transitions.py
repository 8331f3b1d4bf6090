"""How a run's status changes: each end of a run with its event, its time and its reason."""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy.orm import Session

from app.db.session import database_now
from app.db.tables import Run
from app.runs import events
from app.runs.events import Event

End = Literal["succeeded", "failed", "cancelled"]


def status_event(run: Run) -> Event:
    """Return the event that tells a run's status."""
    data: dict[str, Any] = {"status": run.status, "attempt": run.attempt}
    if run.error:
        data["error"] = run.error
    if run.model_version:
        data["model_version"] = run.model_version
    return Event("status", data)


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
    run.status = status
    run.worker = run.lease_until = None
    run.finished_at = database_now(session)
    if reason:
        run.error = {"type": "urn:taskloom:problem:run-failed", "title": "Run failed", "detail": reason}
    events.append(session, run.id, [status_event(run)])
