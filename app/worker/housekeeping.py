"""Removes what nobody needs any more: artifacts that no row refers to, and old answers to idempotency keys."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, select

from app.db.session import Database, database_now
from app.db.tables import IdempotentAnswer, Run, Split, Version
from app.logs import get_logger
from app.runs.service import job_of
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
        referenced = {*session.scalars(select(Split.sha256)), *session.scalars(select(Version.sha256))}
        for run in session.scalars(select(Run).where(Run.finished_at.is_(None))):
            referenced |= {ref.sha256 for ref in job_of(run).splits}
    removed = store.collect(referenced, ARTIFACT_GRACE_SECONDS)
    if removed:
        log.info("artifacts collected", count=len(removed))
