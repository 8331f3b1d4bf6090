"""Who may train a run: claims, heartbeats, reports and ends without a result, each fenced by the number of the claim.

A run is claimed by one update of its own row, which raises the row's fence. Every later write of the claimant asks for
that fence, so a worker that lost its lease finds no row to write to, even if it wakes up long after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import and_, or_, select, update
from sqlalchemy.orm import Session

from app.db.session import database_now
from app.db.tables import Run
from app.runs import events
from app.runs.events import Event
from app.runs.transitions import end, status_event

HELD = ("running", "cancelling")


class LeaseLostError(Exception):
    """The run is no longer this claimant's."""


@dataclass(frozen=True)
class Claim:
    """A worker's hold on a run.

    Attributes:
        run: The run's id.
        fence: Number of the claim.
        attempt: How often the run was started, this time included.
    """

    run: str
    fence: int
    attempt: int


def claim(session: Session, worker: str, lease_seconds: float, max_attempts: int) -> Claim | None:
    """Take the oldest run that waits, or whose worker has been silent for its lease.

    Searches are nobody's: they take no worker, and go on with every look at their trials.
    A run that lost its worker ``max_attempts`` times fails; one that was being cancelled is cancelled.

    Returns:
        The claim, or None where there is nothing to do.
    """
    while True:
        now = database_now(session)
        abandoned = and_(Run.status.in_(HELD), Run.lease_until < now)
        run = session.scalars(
            select(Run)
            .where(or_(Run.status == "queued", abandoned), Run.kind != "search")
            .order_by(Run.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        ).first()
        if run is None:
            return None
        run.fence += 1
        if run.status == "cancelling":
            end(session, run, "cancelled")
        elif run.attempt >= max_attempts:
            end(
                session, run, "failed", f"its worker was lost {run.attempt} times, last of all '{run.worker}'"
            )
        else:
            break
    run.status = "running"
    run.worker = worker
    run.lease_until = now + timedelta(seconds=lease_seconds)
    run.attempt += 1
    run.started_at = run.started_at or now
    run.progress = None
    events.append(session, run.id, [status_event(run)])
    session.flush()
    return Claim(run.id, run.fence, run.attempt)


def renew(session: Session, claim: Claim, lease_seconds: float) -> str:
    """Extend a lease and return the run's status.

    Raises:
        LeaseLostError: If the run is no longer the claimant's.
    """
    until = database_now(session) + timedelta(seconds=lease_seconds)
    return _write(session, claim, lease_until=until)


def report(session: Session, claim: Claim, progress: dict[str, Any] | None, news: Sequence[Event]) -> str:
    """Record progress and events of a run, and return its status.

    Raises:
        LeaseLostError: If the run is no longer the claimant's; nothing is recorded.
    """
    status = _write(session, claim, **({"progress": progress} if progress else {"fence": claim.fence}))
    events.append(session, claim.run, news)
    return status


def held(session: Session, claim: Claim) -> Run:
    """Return the claimed run, locked until the transaction ends.

    Raises:
        LeaseLostError: If the run is no longer the claimant's.
    """
    run = session.scalars(select(Run).where(*_holds(claim)).with_for_update()).first()
    if run is None:
        raise LeaseLostError(claim.run)
    return run


def hand_back(session: Session, claim: Claim) -> None:
    """Give a run back to the queue, as a worker that stops does; the attempt does not count.

    Raises:
        LeaseLostError: If the run is no longer the claimant's.
    """
    run = held(session, claim)
    run.fence += 1
    if run.status == "cancelling":
        end(session, run, "cancelled")
        return
    run.status = "queued"
    run.attempt -= 1
    run.worker = run.lease_until = None
    events.append(session, run.id, [status_event(run)])


def fail(session: Session, claim: Claim, reason: str) -> None:
    """End a run that failed, or that was being cancelled when it did.

    Raises:
        LeaseLostError: If the run is no longer the claimant's.
    """
    run = held(session, claim)
    if run.status == "cancelling":
        end(session, run, "cancelled")
    else:
        end(session, run, "failed", reason)


def stop_cancelled(session: Session, claim: Claim) -> None:
    """End a run that was stopped because it was cancelled.

    Raises:
        LeaseLostError: If the run is no longer the claimant's.
    """
    end(session, held(session, claim), "cancelled")


def _write(session: Session, claim: Claim, **values: Any) -> str:
    status = session.scalars(
        update(Run).where(*_holds(claim)).values(**values).returning(Run.status)
    ).one_or_none()
    if status is None:
        raise LeaseLostError(claim.run)
    return status


def _holds(claim: Claim) -> tuple[Any, ...]:
    return Run.id == claim.run, Run.fence == claim.fence, Run.status.in_(HELD)
