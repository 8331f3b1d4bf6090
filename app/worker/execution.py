"""What a process does that a worker starts for one run: the run's own work, by its kind, to whatever end that comes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path

import structlog
import torch
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.cores import usable_cores
from app.db.session import Database
from app.logs import configure_logs, get_logger
from app.problems import Problem
from app.runs import lease, service
from app.runs.lease import Claim, LeaseLostError
from app.settings import Settings
from app.storage.artifacts import ArtifactStore, DamagedArtifactError
from app.worker.attempt import Attempt, write_end
from app.worker.calibrating import calibrate_version
from app.worker.exporting import export
from app.worker.predicting import predict
from app.worker.reporting import StopSignal
from app.worker.scoring import score
from app.worker.training import train
from mtl_core import TaskloomError, TrainingStoppedError

log = get_logger(__name__)

_WORK: dict[str, Callable[[Attempt], None]] = {
    "train": train,
    "score": score,
    "predict": predict,
    "calibrate": calibrate_version,
    "export": export,
}


def execute(settings: Settings, claim: Claim, gpu: int | None = None) -> None:
    """Do a claimed run to its end, whatever end that is; the entry point of a training process.

    Args:
        settings: The worker's settings.
        claim: The worker's hold on the run.
        gpu: The GPU that the run has to itself; default: whichever there are.
    """
    configure_logs(settings)
    # Ctrl-C reaches every process of the terminal; the worker decides what becomes of the run.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = StopSignal()
    _die_with_parent()
    _offer_to_oom_killer()
    if gpu is not None:
        # Torch looks for GPUs when it first needs one, which is later.
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    torch.set_num_threads(threads_of(settings))
    db = Database(settings.resolved_database_url)

    def end(write: Callable[[Session], object]) -> None:
        write_end(settings, db, write)

    with structlog.contextvars.bound_contextvars(run_id=claim.run):
        try:
            _attempt(settings, claim, db, stop)
        except LeaseLostError:
            log.warning("lease lost, stopping")
        except TrainingStoppedError:
            status = write_end(settings, db, lambda s: lease.hand_back(s, claim))
            log.info("run stopped", status=status)
        except (OSError, SQLAlchemyError) as error:
            # A full disk, or a database that is away: nothing that the run could do about.
            log.exception("run broke down")
            reason = _breakdown(error)
            end(lambda s: lease.crash(s, claim, reason, settings.max_attempts))
        except Exception as error:
            reason = _failure(error)
            log.warning("run failed", reason=reason, exc_info=not isinstance(error, _EXPLAINED))
            end(lambda s: lease.fail(s, claim, reason))
    db.dispose()


def _attempt(settings: Settings, claim: Claim, db: Database, stop: StopSignal) -> None:
    store = ArtifactStore(settings.artifacts_dir)
    with db.read() as session:
        run = service.get(session, claim.run)
        job = service.job_of(run)
    with store.scratch() as folder:
        _WORK[run.kind](Attempt(settings, claim, db, store, stop, run, job, folder))


def threads_of(settings: Settings) -> int:
    """Return how many CPU threads a training computes with.

    Trainings side by side that have several threads each wait for one another at every operation, which makes them many
    times slower than with one; so one thread is the default there, and every core where a training is alone.
    """
    alone = usable_cores() if settings.worker_slots == 1 else 1
    return settings.training_threads or alone


_EXPLAINED = (TaskloomError, Problem, DamagedArtifactError)
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def _failure(error: Exception) -> str:
    """Return why a run fails for its own fault, in words that its owner can act on."""
    if isinstance(error, _EXPLAINED):
        return str(error)
    text = str(error)
    if isinstance(error, MemoryError) or any(words in text.lower() for words in _NO_MEMORY):
        asked = text.splitlines()[0] if text else "it does not say for what"
        return f"out of memory: a smaller batch_size, or smaller layers, take less ({asked})"
    return f"{type(error).__name__}: {text}"


def _breakdown(error: OSError | SQLAlchemyError) -> str:
    """Return what broke down; which path or statement it was stays in the log, as clients read this."""
    if isinstance(error, OSError):
        return f"the worker's machine reports: {error.strerror or type(error).__name__}"
    return f"the worker could not use the database ({type(error).__name__})"


def _offer_to_oom_killer() -> None:
    """Have Linux, when memory runs out, end this process rather than the worker or the server."""
    setting = Path("/proc/self/oom_score_adj")
    if setting.exists():
        setting.write_text("800")


def _die_with_parent() -> None:
    """End this process as soon as the worker that started it is gone: nobody renews its lease any more."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
