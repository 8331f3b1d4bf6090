"""Brings a database to the newest schema, or says whether it is there."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

import migrations
from app.db.session import Database
from app.settings import Settings


class UnsuitableDatabaseError(RuntimeError):
    """The database is not what a command needs; the message says what is."""


class SchemaOutOfDateError(UnsuitableDatabaseError):
    """The database is not at the revision that this release needs."""


def prepare(settings: Settings) -> None:
    """Migrate the embedded database, making it if need be; check any other.

    Raises:
        SchemaOutOfDateError: If a database that is not ours to migrate is behind.
    """
    db = Database(settings.resolved_database_url)
    try:
        if settings.is_embedded:
            upgrade(db.engine)
        elif behind := pending(db.engine):
            raise SchemaOutOfDateError(behind)
    finally:
        db.dispose()


def upgrade(engine: Engine) -> None:
    """Migrate to the newest revision; processes that do so at once take turns."""
    config = alembic_config()
    with (
        engine.connect().execution_options(taskloom_writes=True) as connection,
        _rows_kept(connection),
        connection.begin(),
    ):
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7355608)")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextmanager
def _rows_kept(connection: Connection) -> Generator[None]:
    """Have SQLite keep the rows that refer to a table which is made anew: to drop the old one would delete them."""
    if connection.dialect.name != "sqlite":
        yield
        return
    # Within a transaction SQLite does not listen.
    driver: Any = connection.connection.dbapi_connection
    driver.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        driver.execute("PRAGMA foreign_keys=ON")


def pending(engine: Engine) -> str | None:
    """Say what stands between the database and the newest revision; None where nothing does."""
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current == head:
        return None
    return f"the database is at revision {current}, this release needs {head}: run `taskloom db upgrade`"


def alembic_config() -> Config:
    """Return what Alembic needs to find the migrations."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return config
