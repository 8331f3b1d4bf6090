"""Removes what nobody needs any more: artifacts that no row refers to, old answers to idempotency keys and old logged
requests.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, update

from app.db.session import Database, database_now
from app.db.tables import IdempotentAnswer, Run
from app.logs import get_logger
from app.request_log.service import remove_before
from app.storage.artifacts import ArtifactStore
from app.upkeep.references import referenced_artifacts

log = get_logger(__name__)

ARTIFACT_GRACE_SECONDS = 3600.0
ANSWER_LIFE = timedelta(hours=24)


def clean(db: Database, store: ArtifactStore, snapshot_life: timedelta, request_life: timedelta) -> None:
    """Collect garbage.

    Args:
        db: The database.
        store: The artifacts.
        snapshot_life: How long snapshots of runs are kept that are over.
        request_life: How long logged requests are kept.

    An artifact is written before the row that refers to it, so young files are spared.
    """
    with db.write() as session:
        now = database_now(session)
        session.execute(delete(IdempotentAnswer).where(IdempotentAnswer.created_at < now - ANSWER_LIFE))
        forgotten = Run.finished_at < now - snapshot_life
        session.execute(update(Run).where(forgotten, Run.snapshots.is_not(None)).values(snapshots=None))
    with db.write() as session:
        remove_before(session, database_now(session) - request_life)
    with db.read() as session:
        referenced = referenced_artifacts(session)
    removed = store.collect(referenced, ARTIFACT_GRACE_SECONDS)
    if removed:
        log.info("artifacts collected", count=len(removed))
