"""Backups: a consistent copy of database and artifacts, taken while the service runs, and put back elsewhere.

A backup is a folder: ``taskloom.db``, the rows in an SQLite file whatever database they come from, and go to;
``artifacts``, the files that the rows refer to; and ``manifest.json``, which is written last.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ValidationError
from sqlalchemy import Connection, func, insert, select, text

from app.db import migrations
from app.db.session import Database, database_now
from app.db.tables import Base, Run
from app.runs.snapshots import kept, without
from app.settings import Settings
from app.storage.artifacts import ArtifactStore, DamagedArtifactError
from app.upkeep.references import referenced_artifacts
from mtl_core.files import move_durably, written_whole

_FORMAT = 1
_DATABASE, _ARTIFACTS, _MANIFEST = "taskloom.db", "artifacts", "manifest.json"
_ROWS_AT_ONCE = 500


class BackupError(migrations.UnsuitableDatabaseError):
    """There is no backup to be made, or put back; the message says why."""


class Manifest(BaseModel):
    """What a backup consists of."""

    format: int = _FORMAT
    taskloom: str
    """Release that made it."""
    created_at: str
    sha256: str
    """Of the database."""
    rows: int
    artifacts: int
    bytes: int
    """Of the artifacts."""


@dataclass(frozen=True)
class _Copied:
    artifacts: int
    bytes: int


def back_up(settings: Settings, folder: Path) -> Manifest:
    """Copy database and artifacts as they are at one moment; the service may go on meanwhile.

    Args:
        settings: Where they are.
        folder: Where to; made if need be. A backup that is there is brought up to date.

    Raises:
        BackupError: If the folder holds something else, the database is not at the newest revision, or an artifact is
            damaged; a backup that was there stays as it was.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / _MANIFEST).is_file():
        raise BackupError(f"'{folder}' is not empty, and holds no backup: name another folder")
    db, store = Database(settings.resolved_database_url), ArtifactStore(settings.artifacts_dir)
    try:
        if behind := migrations.pending(db.engine):
            raise BackupError(behind)
        folder.mkdir(parents=True, exist_ok=True)
        # What rows refer to that are deleted from now on must not go before it is copied.
        with store.spared(), tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as scratch:
            path = Path(scratch) / _DATABASE
            with _emptied(path) as copy:
                rows = _copy_rows(db, copy)
                created_at, copied = _copy_artifacts(copy, store, folder / _ARTIFACTS)
            manifest = Manifest(
                taskloom=version("taskloom"),
                created_at=created_at,
                sha256=_sha256(path),
                rows=rows,
                artifacts=copied.artifacts,
                bytes=copied.bytes,
            )
            # In between, the manifest does not fit the database, which restoring finds out.
            move_durably(path, folder / _DATABASE)
        with written_whole(folder / _MANIFEST) as scratch_file:
            scratch_file.write_text(manifest.model_dump_json(indent=2) + "\n")
        return manifest
    finally:
        db.dispose()


def put_back(settings: Settings, folder: Path) -> Manifest:
    """Fill an empty database and artifact folder from a backup, of this release or an earlier one.

    Runs that were in training go on from their last snapshots, as if their workers had been lost.

    Raises:
        BackupError: If there is no backup or it is damaged, or the database or the artifact folder is not empty;
            nothing is changed then.
    """
    manifest = _manifest(folder)
    if _sha256(folder / _DATABASE) != manifest.sha256:
        raise BackupError(f"'{folder / _DATABASE}' is damaged, or was still being written")
    db, store = Database(settings.resolved_database_url), ArtifactStore(settings.artifacts_dir)
    try:
        if any(store.names()):
            raise BackupError(f"'{store.root}' has artifacts already: restore into an empty data folder")
        migrations.upgrade(db.engine)
        if rows := _count_rows(db):
            raise BackupError(f"the database has {rows:,} rows already: restore into an empty one")
        saved = ArtifactStore(folder / _ARTIFACTS)
        with tempfile.TemporaryDirectory(dir=settings.data_dir, prefix=".restoring-") as scratch:
            path = Path(scratch) / _DATABASE
            shutil.copyfile(folder / _DATABASE, path)
            copy = Database(f"sqlite:///{path}")
            try:
                # It may be of an earlier release.
                migrations.upgrade(copy.engine)
                with copy.read() as session:
                    names = referenced_artifacts(session)
                for name in names:
                    # All of them before the first is copied.
                    saved.path(name)
                _copy_files(names, saved, store)
                _copy_rows(copy, db)
            finally:
                copy.dispose()
        return manifest
    except DamagedArtifactError as error:
        raise BackupError(f"the backup is damaged: {error}") from error
    finally:
        db.dispose()


def _manifest(folder: Path) -> Manifest:
    try:
        manifest = Manifest.model_validate(json.loads((folder / _MANIFEST).read_text()))
    except FileNotFoundError:
        raise BackupError(f"'{folder}' holds no backup: there is no {_MANIFEST}") from None
    except (ValidationError, json.JSONDecodeError) as error:
        raise BackupError(f"'{folder / _MANIFEST}' is damaged: {error}") from error
    if manifest.format != _FORMAT:
        raise BackupError(f"the backup has format {manifest.format}, which this release does not read")
    return manifest


@contextmanager
def _emptied(path: Path) -> Generator[Database]:
    """Give a fresh database in one file."""
    copy = Database(f"sqlite:///{path}")
    try:
        migrations.upgrade(copy.engine)
        yield copy
        with copy.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            # What stands in the write-ahead log goes into the file.
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        copy.dispose()


def _copy_rows(source: Database, target: Database) -> int:
    """Copy all rows as they are at one moment, and return how many there are."""
    total = 0
    with source.snapshot() as rows_of, target.engine.execution_options(taskloom_writes=True).begin() as into:
        for table in Base.metadata.sorted_tables:
            # A run's parent is older than it is, and ids sort by time.
            wanted = select(table).order_by(*table.primary_key.columns)
            found = rows_of.execution_options(yield_per=_ROWS_AT_ONCE).execute(wanted)
            for part in found.mappings().partitions(_ROWS_AT_ONCE):
                into.execute(insert(table), [dict(row) for row in part])
                total += len(part)
        _go_on_numbering(into)
    return total


def _go_on_numbering(connection: Connection) -> None:
    """Have PostgreSQL number further rows on from those that were copied."""
    if connection.dialect.name == "postgresql":
        connection.execute(
            text(
                "SELECT setval(pg_get_serial_sequence('scores', 'id'),"
                " COALESCE((SELECT MAX(id) FROM scores), 1), EXISTS (SELECT FROM scores))"
            )
        )


def _copy_artifacts(copy: Database, store: ArtifactStore, folder: Path) -> tuple[str, _Copied]:
    """Copy what the copied rows refer to, and remove what a backup of before has beside it."""
    saved = ArtifactStore(folder)
    with copy.write() as session:
        for run in session.scalars(select(Run).where(Run.snapshots.is_not(None))):
            run.snapshots = without(run, _missed(kept(run).names, store, saved))
    with copy.write() as session:
        names = referenced_artifacts(session)
        created_at = database_now(session).isoformat()
    try:
        copied = _copy_files(names, store, saved)
    except DamagedArtifactError as error:
        raise BackupError(f"a backup would not be complete: {error}") from error
    for name in saved.names():
        if name not in names:
            saved.remove(name)
    return created_at, copied


def _missed(snapshots: list[str], store: ArtifactStore, saved: ArtifactStore) -> list[str]:
    """Copy snapshots, and return those that are gone by now: a training replaces them all the time."""
    gone: list[str] = []
    for name in snapshots:
        try:
            _copy_files({name}, store, saved)
        except (DamagedArtifactError, FileNotFoundError):
            gone.append(name)
    return gone


def _copy_files(names: set[str], source: ArtifactStore, target: ArtifactStore) -> _Copied:
    size = 0
    with target.scratch() as scratch:
        for name in sorted(names):
            if not target.has(name):
                path = scratch / name
                shutil.copyfile(source.path(name), path)
                target.put_file(path)
            size += target.path(name, verify=False).stat().st_size
    return _Copied(len(names), size)


def _count_rows(db: Database) -> int:
    with db.read() as session:
        counts = (session.scalar(select(func.count()).select_from(t)) for t in Base.metadata.sorted_tables)
        return sum(count or 0 for count in counts)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""
