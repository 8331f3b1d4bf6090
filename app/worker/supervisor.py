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

from sqlalchemy.exc import OperationalError
from ulid import ULID

from app.db.session import Database
from app.logs import get_logger
from app.runs import lease
from app.runs.lease import Claim, LeaseLostError
from app.settings import Settings
from app.worker.caretaker import Caretaker

log = get_logger(__name__)

_STOP_SECONDS = 5.0


@dataclass
class _Child:
    """A training process and the claim it works for."""

    claim: Claim
    process: ForkServerProcess
    renewed: float = field(default_factory=time.monotonic)
    is_lost: bool = False  # the run is over, or another worker's
    deadline: float | None = None  # when the process is ended, should it not have ended by itself


class Supervisor:
    """Runs a worker until it is told to stop.

    Args:
        settings: Slots, lease and poll times.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.name = f"{socket.gethostname()}-{os.getpid()}-{str(ULID())[-6:]}"
        self._db = Database(settings.resolved_database_url)
        self._children: list[_Child] = []
        self._stopping = threading.Event()
        # Written to when it is to stop, so that no wait outlasts that.
        self._woken, self._wake = os.pipe()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["app.worker.warm"])

    def stop(self) -> None:
        """Have :meth:`run` give its runs back and return; safe in a signal handler and from other threads."""
        self._stopping.set()
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
        if not self._stopping.is_set():
            log.info("worker started", worker=self.name, slots=self.settings.worker_slots)
        while not self._stopping.is_set():
            try:
                self._step(caretaker)
            except OperationalError as error:
                log.warning("database unavailable", error=str(error))
                self._stopping.wait(1.0)
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
        caretaker.keep()
        while len(self._children) < self.settings.worker_slots and self._start_next():
            pass
        sentinels = [child.process.sentinel for child in self._children]
        wait([*sentinels, *caretaker.news, self._woken], timeout=self.settings.poll_seconds)

    def _start_next(self) -> bool:
        with self._db.write() as session:
            claim = lease.claim(session, self.name, self.settings.lease_seconds, self.settings.max_attempts)
        if claim is None:
            return False
        process = self._context.Process(target=_train, args=(self.settings, claim), name=claim.run)
        process.start()
        self._children.append(_Child(claim, process))
        log.info("run claimed", run_id=claim.run, attempt=claim.attempt, pid=process.pid)
        return True

    def _attend(self, child: _Child) -> None:
        """Renew a child's lease when it is due; end a child that lost it, or that does not heed a cancel, in time."""
        now = time.monotonic()
        if not child.is_lost and now - child.renewed > self.settings.lease_seconds / 4:
            try:
                with self._db.write() as session:
                    status = lease.renew(session, child.claim, self.settings.lease_seconds)
            except LeaseLostError:
                # A child that has just finished has no lease either, and ends by itself within the moment.
                child.is_lost = True
                child.deadline = now + _STOP_SECONDS
            else:
                child.renewed = now
                if status == "cancelling" and child.deadline is None:
                    child.deadline = now + self.settings.cancel_grace_seconds
        if child.deadline is not None and now > child.deadline:
            log.warning("run does not stop, ending its process", run_id=child.claim.run)
            _kill(child.process)

    def _bury(self, child: _Child) -> None:
        """Fail the run of a child that died before it could say how the run ended."""
        child.process.join()
        self._children.remove(child)
        try:
            with self._db.write() as session:
                reason = _cause_of_death(child.process.exitcode)
                lease.fail(session, child.claim, reason)
            log.error("training process died", run_id=child.claim.run, reason=reason)
        except LeaseLostError:
            log.info("run over", run_id=child.claim.run)
        except OperationalError:
            self._children.append(child)
            raise
        child.process.close()

    def _drain(self) -> None:
        for child in self._children:
            _kill(child.process)
        for child in self._children:
            try:
                with self._db.write() as session:
                    lease.hand_back(session, child.claim)
                log.info("run handed back", run_id=child.claim.run)
            except LeaseLostError:
                log.info("run over", run_id=child.claim.run)
            except OperationalError as error:
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


def _train(settings: Settings, claim: Claim) -> None:
    from app.worker.training import execute  # noqa: PLC0415 - it imports torch, which the server process has

    execute(settings, claim)


def _kill(process: ForkServerProcess) -> None:
    process.terminate()
    process.join(_STOP_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()


def _cause_of_death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        hint = ": as the system does when memory runs out" if name == "SIGKILL" else ""
        return f"the training process was killed by {name}{hint}"
    return f"the training process ended with exit code {exit_code}, before the run was over"
