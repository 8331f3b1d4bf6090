"""The caretaker, a worker's process for its chores, as the supervisor sees it."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext

from app.logs import get_logger
from app.settings import Settings

log = get_logger(__name__)

_RESTART_SECONDS = 1.0
_STOP_SECONDS = 5.0


class Caretaker:
    """A process that does chores; it ends with its supervisor, however that ends.

    Either side tells the other over a pipe that there is something new: the supervisor that a run is over, the
    caretaker that it brought a search on, so that runs may be waiting.

    Args:
        settings: The worker's settings.
        context: What forks the process.
    """

    def __init__(self, settings: Settings, context: ForkServerContext) -> None:
        self._settings = settings
        self._context = context
        self._start()

    def _start(self) -> None:
        self._connection, theirs = self._context.Pipe()
        self._process = self._context.Process(
            target=_take_care, args=(self._settings, theirs), name="caretaker"
        )
        self._process.start()
        log.info("caretaker started", pid=self._process.pid)
        # The one end left is the process's own: when it is gone, this side reads the end of the pipe.
        theirs.close()
        self._started = time.monotonic()
        self._is_lost = False

    @property
    def news(self) -> list[Connection]:
        """What becomes readable when there is something to :meth:`listen` to."""
        return [] if self._is_lost else [self._connection]

    def listen(self) -> bool:
        """Take in what the process told; say whether it lives."""
        try:
            while not self._is_lost and self._connection.poll():
                self._connection.recv_bytes()
        except (EOFError, OSError):
            self._is_lost = True
        return not self._is_lost

    def tell(self) -> None:
        """Tell the process that there is something to look at."""
        try:
            self._connection.send_bytes(b"!")
        except OSError:
            # It is gone; another looks at everything when it starts.
            return

    def keep(self) -> None:
        """Start the process again if it is gone, at most once a second."""
        if self.listen() or time.monotonic() - self._started < _RESTART_SECONDS:
            return
        self._process.join()
        log.error("caretaker died, starting another", exit_code=self._process.exitcode)
        self._connection.close()
        self._process.close()
        self._start()

    def stop(self) -> None:
        """Have the process end, and wait until it is gone."""
        self._connection.close()
        self._process.join(_STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _take_care(settings: Settings, supervisor: Connection) -> None:
    from app.worker.chores import do_chores  # noqa: PLC0415 - it imports torch, which the server process has

    do_chores(settings, supervisor)
