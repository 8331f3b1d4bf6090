"""Who may train a run: claims, heartbeats, reports and ends without a result, each fenced by the number of the claim.

A run is claimed by one update of its own row, which raises the row's fence. Every later write of the claimant asks for
that fence, so a worker that lost its lease finds no row to write to, even if it wakes up long after.

A lease is no time of day: the claimant counts heartbeats up in the row, and whoever sees the count stand still for as
long as a lease lasts, by a clock that nobody sets, takes the run over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from app.db.session import database_now
from app.db.tables import Run, RunEvent
from app.runs import events
from app.runs.events import Event
from app.runs.transitions import begin_attempt, end, end_attempt, requeue

HELD = ("running", "cancelling")

_FIRST_RETRY = timedelta(seconds=1)
_LONGEST_RETRY = timedelta(minutes=5)


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


class Watch:
    """How long a process has seen the workers of runs be silent; its own, too, which may not know what it claimed.

    Args:
        clock: A clock that nobody sets, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked = clock()
        self._seen: dict[str, tuple[tuple[int, int], float]] = {}

    def silent(self, session: Session, lease_seconds: float) -> dict[str, tuple[int, int]]:
        """Return the runs whose workers have been silent for a lease, each with its fence and heartbeats."""
        held = select(Run.id, Run.fence, Run.beats).where(Run.status.in_(HELD), Run.kind != "search")
        rows = session.execute(held).all()
        now = self._clock()
        # While this process could not look, as when the database was away, others could not give signs of life.
        blind = now - self._looked if now - self._looked > lease_seconds / 2 else 0.0
        before, self._looked, self._seen = self._seen, now, {}
        for run, fence, beats in rows:
            state = (fence, beats)
            known, since = before.get(run, (None, now))
            self._seen[run] = (state, since + blind if known == state else now)
        return {run: state for run, (state, since) in self._seen.items() if now - since >= lease_seconds}


def claim(
    session: Session, worker: str, watch: Watch, lease_seconds: float, max_attempts: int
) -> Claim | None:
    """Take the next run that waits, or whose worker has been silent for its lease.

    Runs of higher priority go first; then those of clients that have the fewest runs in training, and of these, those
    of the client that was not served for longest; then the oldest.

    Searches are nobody's: they take no worker, and go on with every look at their trials.
    A run that crashed or lost its worker ``max_attempts`` times, without getting further in between, fails; one that
    was being cancelled is cancelled.

    Returns:
        The claim, or None where there is nothing to do.
    """
    silent = watch.silent(session, lease_seconds)
    while True:
        now = database_now(session)
        waits = and_(
            Run.status == "queued",
            # A time far ahead was written by a clock that went wrong.
            or_(Run.not_before.is_(None), Run.not_before <= now, Run.not_before > now + 2 * _LONGEST_RETRY),
        )
        abandoned = and_(Run.status.in_(HELD), Run.id.in_(silent))
        run = session.scalars(
            select(Run)
            .where(or_(waits, abandoned), Run.kind != "search")
            .order_by(Run.priority.desc(), *_turn(), Run.id)
            .limit(1)
            .with_for_update(skip_locked=True, of=Run)
        ).first()
        if run is None:
            return None
        if run.status != "queued":
            if silent.pop(run.id) != (run.fence, run.beats):
                continue
            # The claimant of before finds no row any more, whatever becomes of the run.
            run.fence += 1
            if not _survives(session, run, "lost", f"its worker '{run.worker}' was lost", max_attempts):
                continue
        run.fence += 1
        begin_attempt(session, run, worker, now)
        session.flush()
        return Claim(run.id, run.fence, run.attempt)


def renew(session: Session, claim: Claim) -> str:
    """Give a sign of life, and return the run's status.

    Raises:
        LeaseLostError: If the run is no longer the claimant's.
    """
    return _write(session, claim, beats=Run.beats + 1)


def report(session: Session, claim: Claim, progress: dict[str, Any] | None, news: Sequence[Event]) -> str:
    """Record progress and events of a run, and return its status.

    Raises:
        LeaseLostError: If the run is no longer the claimant's; nothing is recorded.
    """
    status = _write(session, claim, **({"progress": progress} if progress else {"fence": claim.fence}))
    events.append(session, claim.run, news)
    return status


def n_reported(session: Session, claim: Claim) -> int:
    """Return how many events a run has that are its claimant's to report."""
    reported = select(func.count()).where(RunEvent.run == claim.run, RunEvent.kind != "status")
    return session.scalars(reported).one()


def held(session: Session, claim: Claim) -> Run:
    """Return the claimed run, locked until the transaction ends.

    Raises:
        LeaseLostError: If the run is no longer the claimant's.
    """
    run = session.scalars(select(Run).where(*_holds(claim)).with_for_update()).first()
    if run is None:
        raise LeaseLostError(claim.run)
    return run


def cancelled(session: Session, claims: Sequence[Claim]) -> set[str]:
    """Return those of some claimed runs that clients want to be stopped."""
    asked = select(Run.id).where(Run.id.in_([claim.run for claim in claims]), Run.status == "cancelling")
    return set(session.scalars(asked))


def hand_back(session: Session, claim: Claim) -> str:
    """Give a run up that was stopped: to the queue, as a worker that stops does, or for good if it was cancelled.

    Returns:
        The run's status.

    Raises:
        LeaseLostError: If the run is no longer the claimant's.
    """
    run = held(session, claim)
    run.fence += 1
    if run.status == "cancelling":
        end(session, run, "cancelled")
    else:
        end_attempt(run, database_now(session), "handed back")
        requeue(session, run)
    return run.status


def crash(session: Session, claim: Claim, reason: str, max_attempts: int) -> None:
    """Have a run tried again after a while whose training broke down; or fail it, if that is so again and again.

    Raises:
        LeaseLostError: If the run is no longer the claimant's.
    """
    run = held(session, claim)
    run.fence += 1
    if _survives(session, run, "crashed", reason, max_attempts):
        wait = min(_FIRST_RETRY * 2 ** (run.crashes - 1), _LONGEST_RETRY)
        requeue(session, run, database_now(session) + wait)


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


def _survives(session: Session, run: Run, how: Any, reason: str, max_attempts: int) -> bool:
    """Write down that an attempt came to nothing, and say whether there may be another; if not, end the run."""
    run.crashes += 1
    if run.status == "cancelling":
        end(session, run, "cancelled")
    elif run.crashes >= max_attempts:
        times = f"{run.crashes} times in a row" if run.crashes > 1 else "once"
        end_attempt(run, database_now(session), how, reason)
        end(session, run, "failed", f"it broke down {times}, the last time because {reason}")
    else:
        end_attempt(run, database_now(session), how, reason)
        return True
    return False


def _turn() -> tuple[Any, ...]:
    """Return by what clients take turns."""
    other = aliased(Run)
    of_client = select(func.count()).select_from(other).where(other.client == Run.client)
    served = select(func.max(other.claimed_at)).where(other.client == Run.client)
    return (
        of_client.where(other.status.in_(HELD)).correlate(Run).scalar_subquery(),
        served.correlate(Run).scalar_subquery().nulls_first(),
    )


def _write(session: Session, claim: Claim, **values: Any) -> str:
    status = session.scalars(
        update(Run).where(*_holds(claim)).values(**values).returning(Run.status)
    ).one_or_none()
    if status is None:
        raise LeaseLostError(claim.run)
    return status


def _holds(claim: Claim) -> tuple[Any, ...]:
    return Run.id == claim.run, Run.fence == claim.fence, Run.status.in_(HELD)
