"""Snapshots of a run's trainings, in the artifact store, where any worker finds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from app.db.session import DATABASE_AWAY, Database
from app.db.tables import Run
from app.logs import get_logger
from app.runs.lease import Claim
from app.runs.snapshots import keep, kept
from app.storage.artifacts import ArtifactStore, DamagedArtifactError
from app.worker.reporting import TrainingReporter
from mtl_core import Snapshots

log = get_logger(__name__)

_AWAY = "the database does not answer"


class RunSnapshots:
    """Keeps snapshots of one training of a claimed run; once the claim is lost, it keeps none.

    Args:
        db: The database, whose row of the run refers to them.
        store: Where they are.
        claim: The worker's hold on the run.
        training: Which of the run's trainings.
        folder: For files on their way, of the store's scratch.
        reporter: Tells the database how the run goes: whatever was told of it up to a snapshot must be on record before
            that, as nobody tells it again who goes on from there.
    """

    def __init__(
        self,
        db: Database,
        store: ArtifactStore,
        claim: Claim,
        training: str,
        folder: Path,
        reporter: TrainingReporter,
    ) -> None:
        self._db = db
        self._store = store
        self._claim = claim
        self._training = training
        self._folder = folder
        self._reporter = reporter

    def add(self, write: Callable[[Path], None]) -> None:
        """Keep a snapshot as the newest of the training.

        Raises:
            OSError: If there is no room, or the database does not answer.
            LeaseLostError: If the run is another worker's by now.
        """
        if not self._reporter.flush():
            raise OSError(_AWAY)
        path = self._folder / "snapshot"
        try:
            write(path)
            artifact = self._store.put_file(path).sha256
        finally:
            path.unlink(missing_ok=True)
        try:
            with self._db.write() as session:
                replaced = keep(session, self._claim, self._training, artifact, self._reporter.step)
        except DATABASE_AWAY as error:
            # Nothing refers to it; whether or not that was written, the collector comes to the right conclusion.
            log.warning("could not keep a snapshot", error=str(error))
            raise OSError(_AWAY) from error
        for name in replaced:
            self._store.remove(name)

    def newest_first(self) -> Iterator[Path]:
        """Yield the snapshots that are intact."""
        with self._db.read() as session:
            names = kept(session.get_one(Run, self._claim.run)).artifacts.get(self._training, [])
        for name in names:
            try:
                yield self._store.path(name)
            except DamagedArtifactError as error:
                log.warning("snapshot passed over", reason=str(error))


def snapshots_of(
    db: Database,
    store: ArtifactStore,
    claim: Claim,
    folder: Path,
    reporter: TrainingReporter,
    every: float | None,
) -> Callable[[str], Snapshots]:
    """Return what gives each of a run's trainings, by its name, its snapshots."""
    return lambda training: Snapshots(RunSnapshots(db, store, claim, training, folder, reporter), every=every)
