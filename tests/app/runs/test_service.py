from __future__ import annotations

import pytest

from app.db.session import Database
from app.db.tables import Model, Run
from app.problems import QueueFull
from app.runs import service
from app.runs.job import Job


def add(db: Database, client: str, status: str, parent: str | None = None, n: int = 1) -> None:
    with db.write() as session:
        if session.get(Model, "m") is None:
            session.add(Model(name="m"))
            session.flush()
        for _ in range(n):
            run = service.enqueue(
                session,
                "train",
                "m",
                {},
                Job(preprocessing="fitted"),
                client=client,
                priority=0,
                parent=parent,
            )
            run.status = status


def test_a_client_with_many_runs_waiting_is_asked_to_come_back(db: Database) -> None:
    add(db, "busy", "queued", n=2)
    add(db, "busy", "running", n=5)
    add(db, "busy", "succeeded", n=5)
    add(db, "other", "queued", n=5)
    with db.read() as session:
        parent = session.query(Run.id).filter_by(status="running").first()
    assert parent is not None
    add(db, "busy", "queued", parent=parent[0], n=5)
    with db.read() as session:
        service.check_queue(session, "busy", most=3)
        service.check_queue(session, "third", most=1)
    add(db, "busy", "queued")
    with db.read() as session, pytest.raises(QueueFull, match="3 of your runs wait already") as refused:
        service.check_queue(session, "busy", most=3)
    assert (refused.value.status, int(refused.value.headers["Retry-After"]) > 0) == (429, True)
