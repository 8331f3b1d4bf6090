"""The rules for the request log: ids that sort by time, rows that go with their version or their age."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, delete, insert, select, tuple_
from sqlalchemy.orm import Session

from app.db.tables import LoggedRequest, Version

_LAST = 16**16 - 1


def new_id(nanoseconds: int) -> str:
    """Return the id of a request that was answered at a time, counted from 1970 on."""
    return f"{_id_at(nanoseconds)}{random.getrandbits(32):08x}"


def add(session: Session, rows: Sequence[dict[str, Any]]) -> set[str]:
    """Write rows of requests; those of versions that were removed meanwhile are left out.

    Returns:
        The ids of those that were written.
    """
    wanted = {(row["model"], row["version"]) for row in rows}
    # Whoever removes one of them waits until these are written, and removes them, too.
    held = (
        select(Version.model, Version.number)
        .where(tuple_(Version.model, Version.number).in_(sorted(wanted)))
        .with_for_update(read=True, key_share=True)
    )
    there = {(model, number) for model, number in session.execute(held)}
    kept = [row for row in rows if (row["model"], row["version"]) in there]
    if kept:
        session.execute(insert(LoggedRequest), kept)
    return {row["id"] for row in kept}


def requests_of(
    model: str, version: int | None, since: datetime | None, until: datetime | None
) -> Select[LoggedRequest]:
    """Return the statement of a model's logged requests.

    Args:
        model: Its name.
        version: Only of this version; None for all.
        since: Only those answered then or later; None for no bound.
        until: Only those answered before; None for no bound.
    """
    statement = select(LoggedRequest).where(LoggedRequest.model == model)
    if version is not None:
        statement = statement.where(LoggedRequest.version == version)
    if since is not None:
        statement = statement.where(LoggedRequest.id >= _first_at(since))
    if until is not None:
        statement = statement.where(LoggedRequest.id < _first_at(until))
    return statement


def remove_all(session: Session, model: str) -> None:
    """Remove a model's logged requests."""
    session.execute(delete(LoggedRequest).where(LoggedRequest.model == model))


def remove_before(session: Session, moment: datetime) -> None:
    """Remove what was answered before a moment."""
    session.execute(delete(LoggedRequest).where(LoggedRequest.id < _first_at(moment)))


def _first_at(moment: datetime) -> str:
    """Return what no id of that moment or later sorts before."""
    return _id_at(min(_LAST, max(0, round(moment.timestamp() * 1e6) * 1000)))


def _id_at(nanoseconds: int) -> str:
    return f"log_{nanoseconds:016x}"
