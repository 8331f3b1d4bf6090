"""One attempt at a run, as every kind of run is given it: what is to be done, with what, and how its end is written."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sqlalchemy.orm import Session

from app.db.session import DATABASE_AWAY, Database
from app.db.tables import Run, Version
from app.logs import get_logger
from app.runs.job import Job
from app.runs.lease import Claim, LeaseLostError
from app.runs.results import ResultFile, finish_with_file
from app.settings import Settings
from app.storage.artifacts import ArtifactStore
from app.storage.encoders import SentenceEncoders
from app.worker.reporting import StopSignal

log = get_logger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Attempt:
    """One attempt at a run.

    Attributes:
        settings: The worker's settings.
        claim: The worker's hold on the run.
        db: The database.
        store: The artifacts.
        stop: Whether the worker says to stop.
        run: The run, as it was when the attempt began.
        job: What it is to do.
        folder: Where files may go on their way; it is gone afterwards.
    """

    settings: Settings
    claim: Claim
    db: Database
    store: ArtifactStore
    stop: StopSignal
    run: Run
    job: Job
    folder: Path

    @property
    def encoders(self) -> SentenceEncoders:
        """Sentence encoders for columns of text."""
        return SentenceEncoders(self.settings.sentence_encoders)

    def version(self) -> Version:
        """Return the version that the run works with."""
        with self.db.read() as session:
            return session.get_one(Version, (self.run.model, self.run.model_version))

    def end_with_file(self, path: Path, media_type: str, filename: str) -> None:
        """Store a file of :attr:`folder`, and end the run with it.

        Args:
            path: Where it is; it is gone from there afterwards.
            media_type: What it is.
            filename: What to call it where it is downloaded.
        """
        stored = self.store.put_file(path)
        file = ResultFile(sha256=stored.sha256, bytes=stored.bytes, media_type=media_type, filename=filename)
        self.end(lambda session: finish_with_file(session, self.claim, file))

    def end(self, write: Callable[[Session], T]) -> T | None:
        """Write the run's end, as :func:`write_end`."""
        return write_end(self.settings, self.db, write)


def write_end(settings: Settings, db: Database, write: Callable[[Session], T]) -> T | None:
    """Write a run's end; while the database is away, try again as long as a lease lasts.

    Returns:
        What ``write`` answers; None where the run is another worker's by now, and nothing was written.
    """
    deadline = time.monotonic() + settings.lease_seconds
    while True:
        try:
            with db.write() as session:
                return write(session)
        except LeaseLostError:
            log.warning("lease lost, nothing written")
            return None
        except DATABASE_AWAY as error:
            if time.monotonic() > deadline:
                raise
            log.warning("database unavailable, trying again", error=str(error))
            time.sleep(0.5)
