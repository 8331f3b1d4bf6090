from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from app.db.session import DATABASE_AWAY, Database, database_now
from app.db.tables import Alias, Dataset, Task
from tests.conftest import Postgres


def test_a_transaction_commits_whole_or_not_at_all(db: Database) -> None:
    with db.write() as session:
        session.add(Dataset(name="kept"))

    def fail_half_way() -> None:
        with db.write() as session:
            session.add(Dataset(name="lost"))
            session.flush()
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        fail_half_way()
    with db.read() as session:
        assert session.get(Dataset, "kept")
        assert session.get(Dataset, "lost") is None


def test_times_come_back_in_utc_whatever_zone_they_had(db: Database) -> None:
    there = datetime(2026, 3, 29, 2, 30, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    with db.write() as session:
        session.add(Task(name="t", spec={}, report={}, created_at=there))
    with db.read() as session:
        task = session.get_one(Task, "t")
        assert task.created_at == there
        assert task.created_at.tzinfo == UTC


def test_the_database_clock_is_the_time_now(db: Database) -> None:
    with db.read() as session:
        now = database_now(session)
        assert abs(now - datetime.now(UTC)) < timedelta(minutes=1)
        assert database_now(session) >= now


def test_references_are_held_by_the_database_itself(db: Database) -> None:
    def add_orphan() -> None:
        with db.write() as session:
            session.add(Alias(model="nowhere", name="best", version=1))

    with pytest.raises(IntegrityError):
        add_orphan()


def test_postgresql_does_not_wait_for_who_stopped_within_a_transaction(
    postgres: Postgres,
) -> None:
    url = postgres.new_database()
    sleeper, other = Database(url, idle_seconds=1), Database(url)
    with other.write() as session:
        session.execute(text("CREATE TABLE t (n int)"))
        session.execute(text("INSERT INTO t VALUES (0)"))

    def sleep_within() -> None:
        with sleeper.write() as session:
            session.execute(text("UPDATE t SET n = 1"))
            # Waits until the sleeper's lock is gone, while the sleeper waits for it.
            with other.write() as meanwhile:
                meanwhile.execute(text("UPDATE t SET n = 2"))

    with pytest.raises(DATABASE_AWAY):
        sleep_within()
    with sleeper.read() as session:
        assert session.execute(text("SELECT n FROM t")).scalar_one() == 2
    with sleeper.snapshot() as connection:
        shown = connection.execute(text("SHOW idle_in_transaction_session_timeout")).scalar_one()
        assert shown == "0"
    sleeper.dispose()
    other.dispose()


def test_sqlite_keeps_readers_and_writers_apart(db: Database) -> None:
    if db.engine.dialect.name != "sqlite":
        pytest.skip("a matter of SQLite alone")
    with db.read() as session:
        assert session.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
        assert session.execute(text("PRAGMA foreign_keys")).scalar_one() == 1
