"""Files that runs end with: kept with the run, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from pydantic import BaseModel
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.tables import Run
from app.runs import lease
from app.runs.lease import Claim
from app.runs.transitions import end

_KINDS = ("predict", "export")
"""Kinds of runs that end with a file."""


class ResultFile(BaseModel):
    """A file that a run ended with.

    Attributes:
        sha256: Its artifact.
        bytes: Its size.
        media_type: What it is.
        filename: What to call it where it is downloaded.
    """

    sha256: str
    bytes: int
    media_type: str
    filename: str


def file_of(run: Run) -> ResultFile | None:
    """Return the file that a run ended with; None where there is none, or none any more."""
    return ResultFile.model_validate(run.result) if run.kind in _KINDS and run.result else None


def finish_with_file(session: Session, claim: Claim, file: ResultFile) -> None:
    """End a run: its file and status appear together.

    Raises:
        LeaseLostError: If the run is no longer the claimant's; nothing is written.
    """
    run = lease.held(session, claim)
    run.result = file.model_dump()
    end(session, run, "succeeded")


def result_artifacts(session: Session) -> Iterator[str]:
    """Yield the artifacts of all files that runs ended with."""
    for run in session.scalars(select(Run).where(Run.kind.in_(_KINDS), Run.result.is_not(None))):
        if (file := file_of(run)) is not None:
            yield file.sha256


def forget_results(session: Session, before: datetime) -> None:
    """Forget the files of runs that were over before a moment."""
    old = (Run.kind.in_(_KINDS), Run.finished_at < before, Run.result.is_not(None))
    session.execute(update(Run).where(*old).values(result=None))
