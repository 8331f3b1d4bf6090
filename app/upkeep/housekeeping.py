"""Removes what nobody needs any more: artifacts that no row refers to, old answers to idempotency keys and old logged
requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, update

from app.db.session import Database, database_now
from app.db.tables import IdempotentAnswer, Run
from app.logs import get_logger
from app.request_log.service import remove_before
from app.runs.results import forget_results
from app.storage.artifacts import ArtifactStore
from app.upkeep.references import referenced_artifacts

log = get_logger(__name__)

ARTIFACT_GRACE_SECONDS = 3600.0
ANSWER_LIFE = timedelta(hours=24)


@dataclass(frozen=True)
class Lives:
    """How long is kept what is not kept for good.

    Attributes:
        snapshots: Snapshots of runs that are over.
        results: Files that runs ended with.
        requests: Logged requests.
    """

    snapshots: timedelta
    results: timedelta
    requests: timedelta


def clean(db: Database, store: ArtifactStore, lives: Lives) -> None:
    """Collect garbage.

    Args:
        db: The database.
        store: The artifacts.
        lives: How long what is kept for a while.

    An artifact is written before the row that refers to it, so young files are spared.
    """
    with db.write() as session:
        now = database_now(session)
        session.execute(delete(IdempotentAnswer).where(IdempotentAnswer.created_at < now - ANSWER_LIFE))
        forget_results(session, now - lives.results)
        forgotten = Run.finished_at < now - lives.snapshots
        session.execute(update(Run).where(forgotten, Run.snapshots.is_not(None)).values(snapshots=None))
    with db.write() as session:
        remove_before(session, database_now(session) - lives.requests)
    with db.read() as session:
        referenced = referenced_artifacts(session)
    removed = store.collect(referenced, ARTIFACT_GRACE_SECONDS)
    if removed:
        log.info("artifacts collected", count=len(removed))
