"""How the process of a run tells the database how that goes, and hears from it and its worker whether to stop."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from sqlalchemy.orm import Session

from app.db.session import DATABASE_AWAY, Database
from app.db.tables import Run
from app.logs import get_logger
from app.runs import events, lease
from app.runs.events import Event
from app.runs.lease import Claim
from app.runs.limits import Allowance
from app.runs.service import finite_or_none
from app.settings import Settings
from mtl_core import FitListener, Progress, TaskloomError, TrainingStoppedError

log = get_logger(__name__)


class StopSignal:
    """Whether this process was told by SIGTERM to stop; outside :meth:`heeded` it then ends at once."""

    def __init__(self) -> None:
        self.is_set = False
        self._is_heeded = False
        signal.signal(signal.SIGTERM, self._take)

    @contextmanager
    def heeded(self) -> Generator[None]:
        """Leave it to the block to stop when it is told."""
        self._is_heeded = True
        try:
            yield
        finally:
            self._is_heeded = False

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        self.is_set = True
        if not self._is_heeded:
            # What is not written by now will be done again.
            os._exit(128 + signal.SIGTERM)


class Reporter:
    """Tells the database how a run goes, every so often, and hears whether to stop.

    Args:
        settings: How often.
        claim: The worker's hold on the run.
        db: The database.
        run: The run, as it was when this attempt began.
        stop: Whether the worker says to stop.

    Attributes:
        failure: Why the run is to fail, if that is why it stops.
    """

    def __init__(self, settings: Settings, claim: Claim, db: Database, run: Run, stop: StopSignal) -> None:
        self._every = settings.report_seconds
        self._claim = claim
        self._db = db
        self._stop = stop
        self._allowance = Allowance.of(run)
        self._began = time.monotonic()
        self._news: list[Event] = []
        self._reported = time.monotonic()
        self._is_over = self._is_cancelled = False
        self.failure: str | None = None
        with db.read() as session:
            self._n_reported = lease.n_reported(session, claim)
        self._in_doubt: list[Event] = []

    def on_log(self, message: str) -> None:
        """Take in a message."""
        log.info(message)
        self._news.append(Event("log", {"message": message}))

    def wants_stop(self) -> bool:
        """Say whether the worker or a client wants the run to stop, or it has reached a limit."""
        self.failure = self._allowance.failure(time.monotonic() - self._began, self._steps_taken())
        return self._stop.is_set or self._is_cancelled or self.failure is not None

    def flush_if_due(self) -> None:
        """Report if it is time."""
        if time.monotonic() - self._reported >= self._every:
            self.flush()

    def flush(self) -> bool:
        """Report what is new, and say whether the database took it.

        Raises:
            LeaseLostError: If another worker has the run.
        """
        self._reported = time.monotonic()
        progress = self._progress_now()
        try:
            with self._db.write() as session:
                if self._in_doubt:
                    self._settle_doubt(session)
                news = [*self._news, *([Event("progress", self._told(progress))] if progress else [])]
                self._in_doubt = news
                status = lease.report(session, self._claim, progress, news)
        except DATABASE_AWAY as error:
            # The news is kept for the next time; if the database stays away, the lease runs out.
            log.warning("could not report progress", error=str(error))
            return False
        self._n_reported += len(news)
        self._news.clear()
        self._in_doubt = []
        if progress is not None:
            self._on_told()
        self._is_cancelled = status == "cancelling"
        return True

    def finish(self) -> None:
        """Report for the last time: the work may have ended before it was expected to."""
        self._is_over = True
        self.flush()

    def _settle_doubt(self, session: Session) -> None:
        """Find out whether a report that was not confirmed was recorded all the same."""
        n_recorded = lease.n_reported(session, self._claim) - self._n_reported
        if n_recorded:
            self._n_reported += n_recorded
            self._news = [event for event in self._news if event not in self._in_doubt]
            self._on_told()

    def _progress_now(self) -> dict[str, Any] | None:
        """Return how far the work has come; None as long as there is nothing to say."""
        return None

    def _steps_taken(self) -> int:
        """Return the batches of all trainings so far."""
        return 0

    def _told(self, progress: dict[str, Any]) -> dict[str, Any]:
        """Return what the next event says of the progress."""
        return progress

    def _on_told(self) -> None:
        """Hear that progress was recorded."""


class TrainingReporter(Reporter, FitListener):
    """Tells how a training goes.

    What an earlier attempt reported of the same steps is not reported again: it is the same, to the bit.

    Args:
        settings: As for :class:`Reporter`, and so the others.

    Attributes:
        step: The step of all trainings together that the run stands after.
    """

    def __init__(self, settings: Settings, claim: Claim, db: Database, run: Run, stop: StopSignal) -> None:
        super().__init__(settings, claim, db, run, stop)
        self._progress: Progress | None = None
        # The pace counts from the first batch on, which takes many times as long as those after it.
        self._first: tuple[float, Progress] | None = None
        self._is_declared = claim.attempt == 1
        self.step = 0
        with db.read() as session:
            self._known = events.last_metrics(session, claim.run)

    def on_batch(self, progress: Progress) -> None:
        """Hear that a batch was trained on, and report if it is time."""
        self._progress = progress
        self.step = progress.step
        self._first = self._first or (time.monotonic(), progress)
        self.flush_if_due()

    def on_metrics(self, progress: Progress, metrics: dict[str, float]) -> None:
        """Take in what was logged, unless it is known."""
        at = self._known.step
        if progress.step < at or (progress.step == at and self._known.count > 0):
            self._known.count -= progress.step == at
            return
        data = {"attempt": self._claim.attempt, "epoch": progress.epoch, "step": progress.step}
        self._news.append(Event("metrics", data | {"metrics": finite_or_none(metrics)}))

    def _steps_taken(self) -> int:
        return self.step

    def _told(self, progress: dict[str, Any]) -> dict[str, Any]:
        """Say in the first report of a further attempt where it took the run up: that may be behind the last report."""
        if self._is_declared or self._first is None:
            return progress
        return progress | {"resumed_from": self._first[1].step - 1}

    def _on_told(self) -> None:
        self._is_declared = True

    def _progress_now(self) -> dict[str, Any] | None:
        if self._progress is None or self._first is None:
            return None
        now, (began, first) = self._progress, self._first
        seconds, steps = self._reported - began, now.step - first.step
        return {
            "epoch": now.epoch,
            "n_epochs": now.n_epochs,
            "step": now.step,
            "n_steps": now.n_steps,
            "fraction": now.step / now.n_steps,
            "examples_per_s": round((now.points - first.points) / seconds, 1) if steps else None,
            "eta_s": self._eta(now, seconds / steps) if steps else None,
        }

    def _eta(self, now: Progress, step_seconds: float) -> float:
        return 0.0 if self._is_over else round((now.n_steps - now.step) * step_seconds, 2)


class RowsReporter(Reporter):
    """Tells how many rows of a table are done.

    Args:
        settings: As for :class:`Reporter`, and so the others.
        n_rows: How many there are.
    """

    def __init__(
        self, settings: Settings, claim: Claim, db: Database, run: Run, stop: StopSignal, n_rows: int
    ) -> None:
        super().__init__(settings, claim, db, run, stop)
        self._rows, self._n_rows = 0, n_rows

    def on_rows(self, rows: int) -> None:
        """Hear that so many further rows are done, and report if it is time.

        Raises:
            TrainingStoppedError: If the run is to stop.
            TaskloomError: If it has reached a limit.
        """
        self._rows += rows
        self.flush_if_due()
        if self.wants_stop():
            self.flush()
            raise TaskloomError(self.failure) if self.failure else TrainingStoppedError

    def _progress_now(self) -> dict[str, Any] | None:
        if not self._rows:
            return None
        seconds = self._reported - self._began
        pace = self._rows / max(seconds, 1e-9)
        return {
            "rows": self._rows,
            "n_rows": self._n_rows,
            "fraction": self._rows / self._n_rows,
            "rows_per_s": round(pace, 1),
            "eta_s": round((self._n_rows - self._rows) / pace, 2),
        }
