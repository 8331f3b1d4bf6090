"""Databases of any revision: brought there, filled, and read as they are, whatever the tables of today look like."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from alembic import command
from sqlalchemy import Connection, MetaData, Table, select

from app.db import migrations
from app.db.session import Database
from tests.app.db.revisions import ROWS

Content = dict[str, dict[tuple[Any, ...], dict[str, Any]]]


def _tables(connection: Connection) -> dict[str, Table]:
    found = MetaData()
    found.reflect(connection)
    return {table.name: table for table in found.sorted_tables if table.name != "alembic_version"}


def content(db: Database) -> Content:
    """Return every row of every table, by its primary key."""

    def told(value: Any) -> Any:
        # SQLite keeps no time zones.
        return value.replace(tzinfo=UTC) if isinstance(value, datetime) and not value.tzinfo else value

    with db.engine.connect() as connection:
        found: Content = {}
        for name, table in _tables(connection).items():
            rows = [
                {key: told(value) for key, value in row.items()}
                for row in connection.execute(select(table)).mappings()
            ]
            keys = [column.name for column in table.primary_key]
            found[name] = {tuple(row[key] for key in keys): row for row in rows}
    return found


def fill(db: Database, revision: str) -> Content:
    """Migrate an empty database to a revision, and write what the service of that time would have."""
    config = migrations.alembic_config()
    with db.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        tables = _tables(connection)
        assert ROWS[revision].keys() == tables.keys()
        for name, table in tables.items():
            rows = ROWS[revision][name]
            # The database numbers scores itself.
            columns = {column.name for column in table.columns} - ({"id"} if name == "scores" else set())
            assert {column for row in rows for column in row} == columns, name
            for row in rows:
                connection.execute(table.insert(), row)
    return content(db)


def downgrade(db: Database, revision: str) -> None:
    """Undo migrations back to a revision."""
    config = migrations.alembic_config()
    with db.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)


def without(whole: Content, table: str, *columns: str) -> Content:
    """Return all rows, those of one table less some columns."""
    less = {key: {c: v for c, v in row.items() if c not in columns} for key, row in whole[table].items()}
    return whole | {table: less}
