"""The worker: claims runs by lease, trains each in a child process, and outlives whatever happens there.

This process imports no torch. What does is forked from a server process that has imported it once, so that a small run
starts at once: each training, and the caretaker.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from types import FrameType

from sqlalchemy.orm import Session
from ulid import ULID

from app.db.session import DATABASE_AWAY, Database
from app.db.tables import Run
from app.logs import get_logger
from app.runs import lease
from app.runs.lease import Claim, LeaseLostError, Watch
from app.runs.limits import Allowance
from app.settings import Settings
from app.worker.caretaker import Caretaker
from app.worker.memory import memory_of, oom_kills

log = get_logger(__name__)

_STOP_SECONDS = 5.0
_OVERTIME_SECONDS = 2.0
_RETRY_SECONDS = 1.0
_NO_MEMORY = (
    "the machine ran out of memory and the system ended the training process: a smaller batch_size, or smaller layers,"
    " take less"
)


@dataclass
class _Child:
    """A training process and the claim it works for.

    Attributes:
        gpu: The GPU that it has to itself, if any.
        deadline: When it is killed, should it not have ended by itself.
        failure: Why its run fails, if it is killed for what it did.
        is_lost: Whether the run is over, or another worker's.
        is_told: Whether it was told to stop.
        allowance: What the run may take.
        oom_kills: How many processes the system had ended for want of memory before.
    """

    claim: Claim
    process: ForkServerProcess
    gpu: int | None
    allowance: Allowance
    oom_kills: int
    started: float = field(default_factory=time.monotonic)
    renewed: float = field(default_factory=time.monotonic)
    deadline: float | None = None
    failure: str | None = None
    is_lost: bool = False
    is_told: bool = False

    def tell(self, seconds: float) -> None:
        """Tell the process to stop, in so many seconds at most."""
        if not self.is_told:
            self.is_told = True
            self.deadline = time.monotonic() + seconds
            self.process.terminate()


class Supervisor:
    """Runs a worker until it is told to stop.

    Args:
        settings: Slots, lease and poll times.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.name = f"{socket.gethostname()}-{os.getpid()}-{str(ULID())[-6:]}"
        self._db = Database(settings.resolved_database_url)
        self._watch = Watch()
        self._children: list[_Child] = []
        # What runs take one of each: GPUs, or else places beside one another.
        self._free: list[int | None] = [*settings.worker_gpus] or [None] * settings.worker_slots
        self._is_stopping = False
        # Written to when it is to stop, so that no wait outlasts that.
        self._woken, self._wake = os.pipe()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["app.worker.warm"])

    def stop(self) -> None:
        """Have :meth:`run` give its runs back and return; safe in a signal handler and from other threads."""
        # No lock is taken: a second signal may arrive while the handler of the first is holding it.
        self._is_stopping = True
        os.write(self._wake, b"!")

    def run(self) -> None:
        """Claim and supervise runs until :meth:`stop`.

        Raises:
            RuntimeError: If what trainings need cannot be imported.
        """
        caretaker = Caretaker(self.settings, self._context)
        # A first run's lease may not last as long as the server process takes to import what it preloads.
        wait([*caretaker.news, self._woken])
        if not caretaker.listen():
            raise RuntimeError("what trainings need cannot be loaded: the trace above says why")
        if not self._is_stopping:
            log.info("worker started", worker=self.name, slots=len(self._free))
        while not self._is_stopping:
            try:
                self._step(caretaker)
            except DATABASE_AWAY as error:
                log.warning("database unavailable", error=str(error))
                wait([self._woken], timeout=_RETRY_SECONDS)
        self._drain()
        caretaker.stop()
        self._db.dispose()
        log.info("worker stopped", worker=self.name)

    def _step(self, caretaker: Caretaker) -> None:
        for child in list(self._children):
            if child.process.is_alive():
                self._attend(child)
            else:
                self._bury(child)
                caretaker.tell()
        self._hear_of_cancelled()
        caretaker.keep()
        while self._free and self._start_next():
            pass
        sentinels = [child.process.sentinel for child in self._children]
        wait([*sentinels, *caretaker.news, self._woken], timeout=self.settings.poll_seconds)

    def _start_next(self) -> bool:
        with self._db.write() as session:
            claim = lease.claim(
                session,
                self.name,
                self._watch,
                self.settings.lease_seconds,
                self.settings.max_attempts,
            )
            if claim is None:
                return False
            allowance = Allowance.of(session.get_one(Run, claim.run))
        gpu = self._free.pop()
        process = self._context.Process(target=_train, args=(self.settings, claim, gpu), name=claim.run)
        process.start()
        self._children.append(_Child(claim, process, gpu, allowance, oom_kills()))
        log.info("run claimed", run_id=claim.run, attempt=claim.attempt, pid=process.pid, gpu=gpu)
        return True

    def _attend(self, child: _Child) -> None:
        """Renew a child's lease when it is due; end a child that lost it, or takes more than its run may."""
        now = time.monotonic()
        if not child.is_lost and now - child.renewed > self.settings.lease_seconds / 4:
            try:
                with self._db.write() as session:
                    lease.renew(session, child.claim)
            except LeaseLostError:
                # A child that has just finished has no lease either, and ends by itself within the moment.
                child.is_lost = True
                child.tell(_STOP_SECONDS)
            else:
                child.renewed = now
        # Between steps it stops by itself in time: this one is loading, scoring, or in a step that takes long.
        late = child.allowance.failure(now - child.started - _OVERTIME_SECONDS)
        if reason := late or child.allowance.memory_failure(memory_of(child.process.pid)):
            child.failure = reason
            child.process.kill()
            child.process.join()
        if child.deadline is not None and now > child.deadline:
            log.warning("run does not stop, ending its process", run_id=child.claim.run)
            child.process.kill()
            child.process.join()

    def _hear_of_cancelled(self) -> None:
        waiting = [child for child in self._children if not child.is_told]
        if not waiting:
            return
        with self._db.read() as session:
            cancelled = lease.cancelled(session, [child.claim for child in waiting])
        for child in waiting:
            if child.claim.run in cancelled:
                child.tell(self.settings.cancel_grace_seconds)

    def _bury(self, child: _Child) -> None:
        """Settle the run of a child that ended, should that not have done so itself."""
        child.process.join()
        self._children.remove(child)
        try:
            with self._db.write() as session:
                self._settle(session, child)
        except LeaseLostError:
            log.info("run over", run_id=child.claim.run)
        except DATABASE_AWAY:
            self._children.append(child)
            raise
        self._free.append(child.gpu)
        child.process.close()

    def _settle(self, session: Session, child: _Child) -> None:
        claim, code = child.claim, child.process.exitcode
        if child.failure:
            lease.fail(session, claim, child.failure)
            log.warning("run failed", run_id=claim.run, reason=child.failure)
        elif child.is_told:
            lease.hand_back(session, claim)
            log.info("run handed back", run_id=claim.run)
        elif code == -signal.SIGKILL and oom_kills() > child.oom_kills:
            lease.fail(session, claim, _NO_MEMORY)
            log.error("training process died", run_id=claim.run, reason=_NO_MEMORY)
        else:
            reason = _cause_of_death(code)
            lease.crash(session, claim, reason, self.settings.max_attempts)
            log.error("training process died", run_id=claim.run, reason=reason)

    def _drain(self) -> None:
        """Have every child save where it stands, and give its run back."""
        for child in self._children:
            child.tell(self.settings.drain_seconds)
        # A child hands its run back itself; what is left is the runs of those that could not.
        for child in list(self._children):
            child.process.join(max(0.0, (child.deadline or 0.0) - time.monotonic()))
            if child.process.is_alive():
                child.process.kill()
            try:
                self._bury(child)
            except DATABASE_AWAY as error:
                log.warning(
                    "run not handed back, its lease will run out", run_id=child.claim.run, error=str(error)
                )


def run_worker(settings: Settings, *, stop_on_stdin_close: bool = False) -> None:
    """Run a worker in this process until SIGTERM or SIGINT.

    Args:
        settings: The worker's settings.
        stop_on_stdin_close: Whether to stop, too, when standard input ends: a server that starts its own worker
            holds the other end, so that the worker goes with it however it goes.
    """
    supervisor = Supervisor(settings)

    def stop(_number: int, _frame: FrameType | None) -> None:
        supervisor.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if stop_on_stdin_close:

        def watch() -> None:
            while os.read(0, 1024):
                pass
            supervisor.stop()

        threading.Thread(target=watch, daemon=True, name="stdin-watch").start()
    supervisor.run()


def _train(settings: Settings, claim: Claim, gpu: int | None) -> None:
    from app.worker.execution import execute  # noqa: PLC0415 - it imports torch, which the server process has

    execute(settings, claim, gpu)


def _cause_of_death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"the training process was killed by {signal.Signals(-exit_code).name}"
    return f"the training process ended with exit code {exit_code}, before the run was over"
