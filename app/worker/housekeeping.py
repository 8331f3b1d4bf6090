"""Removes what nobody needs any more: artifacts that no row refers to, and old answers to idempotency keys."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, select

from app.datasets.parts import Part
from app.db.session import Database, database_now
from app.db.tables import IdempotentAnswer, Run, Split, Upload, Version
from app.logs import get_logger
from app.runs.service import job_of
from app.searches.service import kept_artifacts
from app.storage.artifacts import ArtifactStore

log = get_logger(__name__)

ARTIFACT_GRACE_SECONDS = 3600.0
ANSWER_LIFE = timedelta(hours=24)


def clean(db: Database, store: ArtifactStore) -> None:
    """Collect garbage.

    An artifact is written before the row that refers to it, so young files are spared.
    """
    with db.write() as session:
        session.execute(
            delete(IdempotentAnswer).where(IdempotentAnswer.created_at < database_now(session) - ANSWER_LIFE)
        )
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
        referenced.update(kept_artifacts(session))
    removed = store.collect({name for name in referenced if name}, ARTIFACT_GRACE_SECONDS)
    if removed:
        log.info("artifacts collected", count=len(removed))
