"""What happens in a run, as numbered rows: the one record behind its metrics and its event stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.tables import Run, RunEvent

EventKind = Literal["status", "progress", "metrics", "log"]


@dataclass(frozen=True)
class Event:
    """Something to record of a run."""

    kind: EventKind
    data: dict[str, Any]


def append(session: Session, run: str, events: Sequence[Event]) -> None:
    """Record events of a run, numbered on from the last.

    The run's row is locked until the transaction ends, so that numbers become visible in their order.
    """
    if not events:
        return
    total = session.scalars(
        update(Run).where(Run.id == run).values(events=Run.events + len(events)).returning(Run.events)
    ).one()
    first = total - len(events) + 1
    session.add_all(
        RunEvent(run=run, seq=first + i, kind=event.kind, data=event.data) for i, event in enumerate(events)
    )


def after(
    session: Session, run: str, seq: int, kind: EventKind | None = None, limit: int = 1000
) -> list[RunEvent]:
    """Return a run's events after a number, in order."""
    statement = select(RunEvent).where(RunEvent.run == run, RunEvent.seq > seq)
    if kind:
        statement = statement.where(RunEvent.kind == kind)
    return list(session.scalars(statement.order_by(RunEvent.seq).limit(limit)))


@dataclass
class Known:
    """The last logged metrics of a run.

    Attributes:
        step: Their step; -1 without any.
        count: How many events there are of that step.
    """

    step: int = -1
    count: int = 0


def last_metrics(session: Session, run: str) -> Known:
    """Return up to where the metrics of a run are known."""
    logged = select(RunEvent.data).where(RunEvent.run == run, RunEvent.kind == "metrics")
    known = Known()
    for data in session.scalars(logged.order_by(RunEvent.seq.desc())):
        if known.count and data["step"] != known.step:
            break
        known = Known(data["step"], known.count + 1)
    return known


def all_of(session: Session, run: str, kind: EventKind) -> Iterator[RunEvent]:
    """Yield all events of one kind in order."""
    seq = 0
    while batch := after(session, run, seq, kind):
        yield from batch
        seq = batch[-1].seq
