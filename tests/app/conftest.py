"""A migrated database of either system, and an artifact store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

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


@pytest.fixture
def db(empty_db: Database) -> Database:
    migrations.upgrade(empty_db.engine)
    return empty_db


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")
