from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import select, text

from app.db.session import Database
from app.db.tables import LoggedRequest, Model, Run, Version, utc_now
from app.models import service as models
from app.request_log import service
from app.request_log.recording import MOST_BYTES, Answered, RequestLog
from tests.service.client import unique

ANSWERS: dict[str, Any] = {"t": {"preds": [1, 0]}}


def counted(name: str, model: str) -> float:
    return REGISTRY.get_sample_value(f"taskloom_{name}_requests_total", {"model": model}) or 0.0


class World:
    """A model of a name of its own with a version, and a log."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.model = unique("m")
        self.log = RequestLog(db, most_waiting=8)
        with db.write() as session:
            session.add(Model(name=self.model, tasks=[], aliases=[]))
            session.flush()
            over: dict[str, Any] = {"status": "succeeded", "request": {}, "job": {}, "finished_at": utc_now()}
            session.add(Run(id="run_1", model=self.model, kind="train", **over))
            session.flush()
            made = {"run": "run_1", "tasks": [], "fields": {}, "parameters": 1, "sha256": "", "bytes": 1}
            session.add(Version(model=self.model, number=1, **made))

    def answered(self, request_id: str, version: int = 1, **values: Any) -> Answered:
        content = {"inputs": {"x": [[0.5], [1.5]]}}
        about: dict[str, Any] = {"model": self.model, "version": version, "tasks": ("t",), "seconds": 0.001}
        about |= {"rows": 2, "kept": 2, "bytes": 100, "content": lambda _: (content, ANSWERS)}
        return Answered(request_id=request_id, **about | values)

    def take(self, *ids: str) -> None:
        for request_id in ids:
            self.log.take(self.answered(request_id))

    def logged(self) -> list[LoggedRequest]:
        with self.db.read() as session:
            return list(session.scalars(select(LoggedRequest).order_by(LoggedRequest.id)))

    def ids(self) -> list[str]:
        return [row.request_id for row in self.logged()]


@pytest.fixture
def world(db: Database) -> Iterator[World]:
    world = World(db)
    yield world
    world.log.close()


def is_sqlite(db: Database) -> bool:
    return db.engine.dialect.name == "sqlite"


@contextmanager
def away(db: Database) -> Iterator[None]:
    """Have a PostgreSQL database take no connections, and break off those that there are."""
    url = db.engine.url
    server = url.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)

    def allow(word: str) -> None:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS {word}'.encode())
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [url.database]
            )

    allow("false")
    try:
        yield
    finally:
        allow("true")


@contextmanager
def busy(db: Database) -> Iterator[None]:
    """Have nobody else write."""
    with db.write() as session:
        if not is_sqlite(db):
            session.execute(text("LOCK TABLE request_log"))
        else:
            session.execute(text("SELECT 1"))
        yield


def test_what_was_answered_is_there_in_the_order_of_time(world: World) -> None:
    before = datetime.now(UTC)
    world.take("one", "two", "three")
    assert world.log.flush()
    rows = world.logged()
    assert [row.request_id for row in rows] == ["one", "two", "three"]
    (row, *_) = rows
    assert (row.model, row.version, row.tasks, row.rows, row.logged_rows) == (world.model, 1, ["t"], 2, 2)
    assert (row.inputs, row.answers) == ({"inputs": {"x": [[0.5], [1.5]]}}, ANSWERS)
    assert before - timedelta(seconds=1) < row.created_at < datetime.now(UTC) + timedelta(seconds=1)
    assert counted("logged", world.model) == 3
    assert counted("unlogged", world.model) == 0


def test_what_there_is_no_room_for_is_dropped_and_counted(world: World) -> None:
    with busy(world.db):
        world.take(*(f"{i}" for i in range(20)))
        assert not world.log.flush(0.01)
        assert counted("unlogged", world.model) == 12
    assert world.log.flush()
    assert world.ids() == [f"{i}" for i in range(8)]
    large = 2**25
    with busy(world.db):
        for i in range(3):
            world.log.take(world.answered(f"large {i}", bytes=large))
        assert counted("unlogged", world.model) == 13
    assert world.log.flush()
    # What was written makes room.
    world.log.take(world.answered("later", bytes=large))
    assert world.log.flush()
    assert world.ids()[8:] == ["large 0", "large 1", "later"]
    assert counted("logged", world.model) == 11


def test_what_waits_is_written_when_the_log_is_closed_and_nothing_after(world: World) -> None:
    world.take("last")
    world.log.close()
    world.take("too late")
    assert world.ids() == ["last"]
    assert counted("unlogged", world.model) == 1


def test_what_comes_while_the_database_is_away_is_written_when_it_is_back(world: World) -> None:
    if is_sqlite(world.db):
        pytest.skip("SQLite is a file: it does not go away")
    with away(world.db):
        world.take("one", "two")
        assert not world.log.flush(0.1)
        world.take("three")
    assert world.log.flush(60)
    assert world.ids() == ["one", "two", "three"]
    with away(world.db):
        world.take("lost")
        # It does not wait for the database.
        world.log.close()
    assert counted("unlogged", world.model) == 1


@pytest.mark.parametrize("removed", [False, True])
def test_what_is_no_longer_there_is_not_logged(world: World, removed: bool) -> None:
    world.take("before")
    assert world.log.flush()
    if removed:
        with world.db.write() as session:
            models.remove(session, models.get(session, world.model))
    world.take("after")
    world.log.take(world.answered("never was", version=2))
    assert world.log.flush()
    assert world.ids() == ([] if removed else ["before", "after"])
    assert counted("unlogged", world.model) == (2 if removed else 1)


def test_rows_are_left_out_until_the_rest_is_small_enough(world: World) -> None:
    def content(of: Callable[[int], Any]) -> Callable[[int], tuple[dict[str, Any], dict[str, Any]]]:
        return lambda k: ({"inputs": {"x": of(k)}}, {"t": {"preds": np.zeros(k, np.int64)}})

    long = "é" * 1000
    for name, of in {
        "numbers": lambda k: np.full((k, 300), 0.123456789012345),
        "texts": lambda k: [long] * k,
        "one is too much": lambda k: ["x" * MOST_BYTES] * k,
        "no numbers": lambda k: np.full((k, 1), np.nan),
        "odd values": lambda k: ["\0\ud7ff" if i % 2 else datetime(2026, 1, 2) for i in range(k)],
    }.items():
        world.log.take(world.answered(name, rows=200, kept=100, content=content(of)))
    names = {"f" * 128 + str(i): [] for i in range(1000)}
    world.log.take(world.answered("names", content=lambda _: ({"inputs": names}, {})))
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    world.log.take(world.answered("deep", content=lambda _: ({"records": [{"odd": deep}]}, {})))
    assert world.log.flush()
    rows = {row.request_id: row for row in world.logged()}
    for name in ("numbers", "texts"):
        row = rows[name]
        assert 0 < row.logged_rows < 100
        assert len(row.inputs["inputs"]["x"]) == len(row.answers["t"]["preds"]) == row.logged_rows
    assert (rows["one is too much"].logged_rows, rows["one is too much"].inputs) == (0, {"inputs": {"x": []}})
    assert rows["no numbers"].inputs["inputs"]["x"] == [[None]] * 100
    assert rows["odd values"].inputs["inputs"]["x"][:2] == ["2026-01-02T00:00:00", "\0\ud7ff"]
    for name in ("names", "deep"):
        assert (rows[name].rows, rows[name].logged_rows) == (2, 0)
        assert rows[name].inputs == rows[name].answers == {}


def test_requests_are_found_and_removed_by_their_time(world: World) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    about: dict[str, Any] = {"model": world.model, "version": 1, "tasks": [], "seconds": 0.0, "rows": 1}
    about |= {"logged_rows": 0, "inputs": {}, "answers": {}}
    with world.db.write() as session:
        written = service.add(
            session,
            [
                about
                | {
                    "id": service.new_id(int(at.timestamp()) * 10**9),
                    "request_id": f"{hours}",
                    "created_at": at,
                }
                for hours in range(4)
                for at in [now - timedelta(hours=hours)]
            ],
        )
    assert len(written) == 4

    def found(since: datetime | None = None, until: datetime | None = None, version: int = 1) -> list[str]:
        with world.db.read() as session:
            statement = service.requests_of(world.model, version, since, until).order_by(LoggedRequest.id)
            return [row.request_id for row in session.scalars(statement)]

    assert found() == ["3", "2", "1", "0"]
    assert found(version=2) == []
    assert found(since=now - timedelta(hours=2)) == ["2", "1", "0"]
    assert found(until=now - timedelta(hours=2)) == ["3"]
    assert found(now - timedelta(hours=2), now) == ["2", "1"]
    assert found(datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)) == found()
    with world.db.write() as session:
        service.remove_before(session, now - timedelta(minutes=90))
    assert found() == ["1", "0"]
    with world.db.write() as session:
        service.remove_all(session, "another")
        service.remove_all(session, world.model)
    assert found() == []


def test_ids_sort_by_time() -> None:
    ids = [service.new_id(time.time_ns() + i) for i in range(100)]
    assert ids == sorted(ids)
    assert len({len(name) for name in ids}) == 1
