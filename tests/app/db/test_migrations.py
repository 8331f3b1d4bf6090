from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect

from app.db import migrations
from app.db.session import Database
from app.db.tables import Base


def test_the_migrations_make_exactly_the_tables(db: Database) -> None:
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_a_database_that_is_behind_says_what_to_do(empty_db: Database) -> None:
    behind = migrations.pending(empty_db.engine)
    assert behind is not None
    assert "taskloom db upgrade" in behind
    migrations.upgrade(empty_db.engine)
    assert migrations.pending(empty_db.engine) is None


def test_processes_that_migrate_at_once_take_turns(empty_db: Database) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: migrations.upgrade(empty_db.engine), range(4)))
    assert migrations.pending(empty_db.engine) is None
    assert {"runs", "scores"} <= set(inspect(empty_db.engine).get_table_names())
