"""A migrated database of either system, and an artifact store."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from sqlalchemy import make_url

from app.db import migrations
from app.db.session import Database
from app.storage.artifacts import ArtifactStore

# How long an example takes says more of the machine's other work than of the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture
def empty_db(new_database: Callable[[], str]) -> Iterator[Database]:
    db = Database(new_database())
    yield db
    db.dispose()


@pytest.fixture(scope="session")
def migrated(new_database: Callable[[], str]) -> str:
    """A database of the newest schema, to be copied: migrating takes longer than most tests."""
    url = new_database()
    db = Database(url)
    migrations.upgrade(db.engine)
    db.dispose()
    return url


@pytest.fixture
def db(migrated: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    of = make_url(migrated)
    assert of.database
    if of.get_backend_name() == "postgresql":
        url = request.getfixturevalue("postgres").new_database(like=of.database)
    else:
        url = f"sqlite:///{shutil.copy(of.database, tmp_path / 'taskloom.db')}"
    db = Database(url)
    yield db
    db.dispose()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")
