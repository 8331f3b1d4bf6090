from __future__ import annotations

from pathlib import Path

import pytest

from app.db import migrations
from app.db.session import Database
from app.db.tables import LoggedRequest, Model, Run, Score, Version, utc_now
from app.settings import Settings
from app.storage.artifacts import ArtifactStore
from app.upkeep.backup import BackupError, back_up, put_back


@pytest.fixture
def settings(db: Database, tmp_path: Path) -> Settings:
    """An installation with a trained version, and a run that has snapshots, of which one is gone."""
    url = db.engine.url.render_as_string(hide_password=False)
    settings = Settings(data_dir=tmp_path / "data", database_url=url)
    store = ArtifactStore(settings.artifacts_dir)
    weights, fitted, snapshot = (store.put(content) for content in (b"weights", b"fitted", b"snapshot"))
    job = {"tasks": [], "splits": [], "fields": {}, "preprocessing": fitted}
    with db.write() as session:
        session.add(Model(name="m"))
        session.flush()
        common = {"model": "m", "kind": "train", "request": {}, "job": job}
        session.add(Run(id="run_1", status="succeeded", **common))
        session.add(
            Run(
                id="run_2",
                status="running",
                snapshots={"step": 9, "artifacts": {"shared": ["0" * 64, snapshot]}},
                **common,
            )
        )
        session.flush()
        made = {"tasks": [], "fields": {}, "parameters": 1, "bytes": 1, "preprocessing": fitted}
        session.add(Version(model="m", number=1, run="run_1", sha256=weights, **made))
        session.flush()
        score = {"task": "t", "dataset": "d", "split": "test", "metric": "accuracy", "value": 0.5, "n": 8}
        session.add(Score(model="m", version=1, run="run_1", **score))
        logged = {"tasks": ["t"], "request_id": "r", "seconds": 0.1, "rows": 1, "logged_rows": 1}
        logged |= {"inputs": {"records": [{"age": 38}]}, "answers": {"t": {"preds": [1]}}}
        session.add(LoggedRequest(id="log_1", model="m", version=1, created_at=utc_now(), **logged))
    return settings


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """An installation without a row, on either database system."""
    url = f"sqlite:///{tmp_path / 'new' / 'taskloom.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").new_database()
    return Settings(data_dir=tmp_path / "new", database_url=url)


def test_everything_is_there_again_but_the_snapshots_that_were_replaced(
    settings: Settings, empty: Settings, tmp_path: Path
) -> None:
    made = back_up(settings, tmp_path / "backup")
    # A model, two runs, a version, a score, a logged request.
    assert (made.rows, made.artifacts) == (6, 3)
    assert put_back(empty, tmp_path / "backup") == made
    db = Database(empty.resolved_database_url)
    with db.read() as session:
        run = session.get_one(Run, "run_2")
        assert run.snapshots is not None
        (kept,) = run.snapshots["artifacts"]["shared"]
        version = session.get_one(Version, ("m", 1))
        assert session.get_one(LoggedRequest, "log_1").inputs == {"records": [{"age": 38}]}
    with db.write() as session:
        # The database numbers on.
        score = {"task": "t", "dataset": "d", "split": "valid", "metric": "accuracy", "value": 0.5, "n": 8}
        session.add(Score(model="m", version=1, run="run_1", **score))
    store = ArtifactStore(empty.artifacts_dir)
    assert store.path(kept).read_bytes() == b"snapshot"
    assert store.path(version.sha256).read_bytes() == b"weights"
    db.dispose()


def test_what_is_not_empty_is_not_overwritten(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "letters"
    folder.mkdir()
    (folder / "letter.txt").write_text("mine")
    with pytest.raises(BackupError, match="is not empty, and holds no backup"):
        back_up(settings, folder)
    assert [path.name for path in folder.iterdir()] == ["letter.txt"]
    back_up(settings, tmp_path / "backup")
    with pytest.raises(BackupError, match="has artifacts already"):
        put_back(settings, tmp_path / "backup")
    other = settings.model_copy(update={"data_dir": tmp_path / "other"})
    with pytest.raises(BackupError, match="has 6 rows already"):
        put_back(other, tmp_path / "backup")


@pytest.mark.parametrize("what", ["artifact", "database", "manifest"])
def test_a_damaged_backup_is_refused_and_changes_nothing(
    settings: Settings, empty: Settings, tmp_path: Path, what: str
) -> None:
    folder = tmp_path / "backup"
    with pytest.raises(BackupError, match="holds no backup"):
        put_back(empty, folder)
    back_up(settings, folder)
    *_, artifact = (path for path in sorted((folder / "artifacts").glob("??/*")) if path.is_file())
    path = {"artifact": artifact, "database": folder / "taskloom.db", "manifest": folder / "manifest.json"}[
        what
    ]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BackupError, match="damaged"):
        put_back(empty, folder)
    path.write_bytes(content)
    assert put_back(empty, folder).rows == 6


def test_a_backup_that_is_incomplete_is_not_made(settings: Settings, tmp_path: Path) -> None:
    first = back_up(settings, tmp_path / "backup")
    store = ArtifactStore(settings.artifacts_dir)
    store.remove(next(name for name in store.names() if store.path(name).read_bytes() == b"weights"))
    with pytest.raises(BackupError, match="would not be complete"):
        back_up(settings, tmp_path / "another")
    # The one from before has it still.
    assert back_up(settings, tmp_path / "backup").artifacts == first.artifacts


def test_a_database_of_another_revision_is_not_backed_up(empty_db: Database, tmp_path: Path) -> None:
    url = empty_db.engine.url.render_as_string(hide_password=False)
    settings = Settings(data_dir=tmp_path / "data", database_url=url)
    with pytest.raises(BackupError, match="taskloom db upgrade"):
        back_up(settings, tmp_path / "backup")
    migrations.upgrade(empty_db.engine)
    assert back_up(settings, tmp_path / "backup").rows == 0
