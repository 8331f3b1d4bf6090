"""The database: engine and transactions, the same on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, func, make_url, select
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session, sessionmaker

DATABASE_AWAY = (OperationalError, InterfaceError, PoolTimeoutError)
"""What is raised while the database does not answer, or breaks a connection off."""


class Database:
    """Opens transactions.

    Args:
        url: SQLAlchemy URL of SQLite or PostgreSQL.
        idle_seconds: How long PostgreSQL waits within a transaction for its next statement, before it gives the
            transaction up: of a process that is stopped, the locks would stay otherwise; default 30.
    """

    def __init__(self, url: str, idle_seconds: int = 30) -> None:
        self.engine = _engine(url, idle_seconds)
        self._readers = sessionmaker(self.engine)
        self._writers = sessionmaker(self.engine.execution_options(taskloom_writes=True))

    def session(self, *, writes: bool) -> Session:
        """Return a session whose transaction begins with its first statement.

        Args:
            writes: Whether it may write: SQLite then takes its one write lock at once, so that no transaction
                fails half-way for want of it.
        """
        return self._writers() if writes else self._readers()

    @contextmanager
    def read(self) -> Generator[Session]:
        """Open a session to read in."""
        with self.session(writes=False) as session:
            yield session

    @contextmanager
    def write(self) -> Generator[Session]:
        """Open a transaction; it commits at the end of the block, or rolls back if the block raises."""
        with self.session(writes=True) as session, session.begin():
            yield session

    @contextmanager
    def snapshot(self) -> Generator[Connection]:
        """Open a connection that sees the database as it is at its first statement, whatever others write."""
        level = {} if self.engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
        with self.engine.connect().execution_options(**level) as connection, connection.begin():
            if self.engine.dialect.name == "postgresql":
                # Between two statements a backup may do much else, and nobody waits for what only reads.
                connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            yield connection

    def dispose(self) -> None:
        """Close every connection."""
        self.engine.dispose()


class Pulse:
    """Tells cheaply whether anything may have been written to a database since it was last asked.

    It belongs to one thread at a time.

    Args:
        db: The database.
    """

    def __init__(self, db: Database) -> None:
        self._engine = db.engine
        self._connection: Connection | None = None
        self._statement = (
            "PRAGMA data_version"
            if db.engine.dialect.name == "sqlite"
            # Changes with every transaction that begins to write, and again with its end.
            else "SELECT pg_current_snapshot()::text"
        )

    def read(self) -> str:
        """Return what differs after each commit of another connection from what it was before.

        Raises:
            OperationalError: If the database does not answer.
        """
        if self._connection is None:
            self._connection = self._engine.connect()
        try:
            found = str(self._connection.exec_driver_sql(self._statement).scalar_one())
            self._connection.rollback()
        except DATABASE_AWAY:
            self._connection.invalidate()
            self.close()
            raise
        return found

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def database_now(session: Session) -> datetime:
    """Return the database's own time in UTC: the one clock that all processes share."""
    if session.get_bind().dialect.name == "sqlite":
        text = session.execute(select(func.strftime("%Y-%m-%dT%H:%M:%f", "now"))).scalar_one()
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    return session.execute(select(func.clock_timestamp())).scalar_one().astimezone(UTC)


def _engine(url: str, idle_seconds: int) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        engine = create_engine(parsed, pool_pre_ping=True, pool_size=10, max_overflow=30)

        @event.listens_for(engine, "connect")
        def _(connection: Any, _record: object) -> None:
            connection.execute(f"SET idle_in_transaction_session_timeout = '{idle_seconds}s'")
            connection.commit()

        event.listen(engine, "handle_error", _broken_off_when_idle)
        return engine
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        parsed, connect_args={"check_same_thread": False, "timeout": 30}, pool_size=10, max_overflow=30
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _broken_off_when_idle(context: ExceptionContext) -> None:
    # The driver takes it for a fault of the database, and not for the lost connection that it is.
    error = context.original_exception
    if getattr(error, "sqlstate", None) == "25P03":
        raise OperationalError(context.statement, None, error, connection_invalidated=True)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The driver would begin transactions by its own rules; we say BEGIN ourselves.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("taskloom_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
