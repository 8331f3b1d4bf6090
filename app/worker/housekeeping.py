"""Removes what nobody needs any more: artifacts that no row refers to, and old answers to idempotency keys."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, select, update

from app.datasets.parts import Part
from app.db.session import Database, database_now
from app.db.tables import IdempotentAnswer, Run, Split, Upload, Version
from app.logs import get_logger
from app.runs.service import job_of
from app.runs.snapshots import kept
from app.searches.service import kept_artifacts
from app.storage.artifacts import ArtifactStore

log = get_logger(__name__)

ARTIFACT_GRACE_SECONDS = 3600.0
ANSWER_LIFE = timedelta(hours=24)


def clean(db: Database, store: ArtifactStore, snapshot_life: timedelta) -> None:
    """Collect garbage.

    Args:
        db: The database.
        store: The artifacts.
        snapshot_life: How long snapshots of runs are kept that are over.

    An artifact is written before the row that refers to it, so young files are spared.
    """
    with db.write() as session:
        now = database_now(session)
        session.execute(delete(IdempotentAnswer).where(IdempotentAnswer.created_at < now - ANSWER_LIFE))
        forgotten = Run.finished_at < now - snapshot_life
        session.execute(update(Run).where(forgotten, Run.snapshots.is_not(None)).values(snapshots=None))
    with db.read() as session:
        referenced = {
            *session.scalars(select(Upload.sha256)),
            *session.scalars(select(Upload.table)),
            *session.scalars(select(Version.sha256)),
            *session.scalars(select(Version.preprocessing)),
            *session.scalars(select(Run.log)),
        }
        for parts in session.scalars(select(Split.parts)):
            referenced.update(name for part in parts for name in Part.model_validate(part).artifacts)
        for run in session.scalars(select(Run).where(Run.finished_at.is_(None))):
            referenced.update(job_of(run).artifacts)
        for run in session.scalars(select(Run).where(Run.snapshots.is_not(None))):
            referenced.update([*kept(run).names, *job_of(run).artifacts])
        referenced.update(kept_artifacts(session))
    removed = store.collect({name for name in referenced if name}, ARTIFACT_GRACE_SECONDS)
    if removed:
        log.info("artifacts collected", count=len(removed))
