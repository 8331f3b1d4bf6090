"""Which artifacts rows refer to: what of the store is in use."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.datasets.parts import Part
from app.db.tables import Run, Split, Upload, Version
from app.runs.results import result_artifacts
from app.runs.service import job_of
from app.runs.snapshots import kept
from app.searches.service import kept_artifacts


def referenced_artifacts(session: Session) -> set[str]:
    """Return the names of all artifacts that must stay."""
    found = {
        *session.scalars(select(Upload.sha256)),
        *session.scalars(select(Upload.table)),
        *session.scalars(select(Version.sha256)),
        *session.scalars(select(Version.preprocessing)),
        *session.scalars(select(Run.log)),
    }
    for parts in session.scalars(select(Split.parts)):
        found.update(name for part in parts for name in Part.model_validate(part).artifacts)
    for run in session.scalars(select(Run).where(Run.finished_at.is_(None))):
        found.update(job_of(run).artifacts)
    for run in session.scalars(select(Run).where(Run.snapshots.is_not(None))):
        found.update([*kept(run).names, *job_of(run).artifacts])
    found.update(kept_artifacts(session))
    found.update(result_artifacts(session))
    return {name for name in found if name}
