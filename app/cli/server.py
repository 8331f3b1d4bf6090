"""``taskloom serve``: the HTTP server, and the worker that goes with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType

import typer
import uvicorn

from app.cli.front import Front
from app.http.direct import DirectFirst
from app.imports import import_for_good
from app.logs import get_logger
from app.settings import Settings

log = get_logger(__name__)

_RESTART_SECONDS = 1.0
_STOP_SECONDS = 15.0
_CANNOT_START = 3


class KeptProcess:
    """A ``taskloom`` process beside this one, started again should it die.

    It stops when the pipe to it closes, which happens however this process ends.

    Args:
        arguments: The command.
        env: Variables that it has besides this process's own.
        listener: A socket that it shares.
        give_up: Called, in a thread, where it says that it cannot start; default: it is started again then, too.
    """

    def __init__(
        self,
        *arguments: str,
        env: Mapping[str, str] = MappingProxyType({}),
        listener: socket.socket | None = None,
        give_up: Callable[[], None] | None = None,
    ) -> None:
        self._command = [sys.executable, "-m", "app.cli", *arguments, "--stop-on-stdin-close"]
        self._env = os.environ | env
        self._shared = () if listener is None else (listener.fileno(),)
        self._give_up = give_up
        self._stopping = threading.Event()
        self._process = self._start()
        threading.Thread(target=self._keep, daemon=True, name=f"{arguments[0]}-keeper").start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdin=subprocess.PIPE, env=self._env, pass_fds=self._shared)

    def _keep(self) -> None:
        while True:
            code = self._process.wait()
            if self._give_up and code == _CANNOT_START:
                self._give_up()
                return
            if self._stopping.wait(_RESTART_SECONDS):
                return
            log.error(f"{self._command[3]} died, starting another", exit_code=code)
            self._process = self._start()

    def ask_to_stop(self) -> None:
        """Have the process come to its end: a worker gives its runs back, a server answers what it has begun."""
        self._stopping.set()
        assert self._process.stdin is not None
        self._process.stdin.close()

    def stop(self) -> None:
        """Have the process come to its end, and wait until it is gone."""
        self.ask_to_stop()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()


def run_servers(settings: Settings, *, with_worker: bool) -> None:
    """Serve until SIGTERM or SIGINT, with as many processes as the settings say that accept from one socket."""
    if settings.server_processes == 1:
        run_server(settings, with_worker=with_worker)
        return
    listener = _listen(settings)
    is_over, has_failed = threading.Event(), threading.Event()

    def give_up() -> None:
        has_failed.set()
        is_over.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: is_over.set())
    with tempfile.TemporaryDirectory(prefix="taskloom-measures-") as measures:
        command = ("serve", "--no-worker", "--listener-fd", str(listener.fileno()))
        # Each process counts for itself; whichever is asked adds up what all have counted.
        env = {"PROMETHEUS_MULTIPROC_DIR": measures}
        servers = [
            KeptProcess(*command, env=env, listener=listener, give_up=give_up)
            for _ in range(settings.server_processes)
        ]
        worker = KeptProcess("worker") if with_worker else None
        _log_address(settings, listener)
        is_over.wait()
        for server in servers:
            server.ask_to_stop()
        for server in servers:
            server.stop()
        if worker:
            worker.stop()
    if has_failed.is_set():
        raise typer.Exit(_CANNOT_START)


def run_server(
    settings: Settings,
    *,
    with_worker: bool,
    listener_fd: int | None = None,
    stop_on_stdin_close: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT; the worker stops after the last request is answered.

    Args:
        settings: The server's settings.
        with_worker: Whether a worker goes with it.
        listener_fd: A socket of the process that started this one; default: one of its own.
        stop_on_stdin_close: Whether to stop, too, when standard input ends.
    """
    listener = _listen(settings) if listener_fd is None else socket.socket(fileno=listener_fd)

    def load() -> DirectFirst:
        import_for_good("app.main")
        from app.main import create_app  # noqa: PLC0415 - it imports torch, which takes seconds

        return create_app(settings, is_stopping, in_flight)

    def give_up() -> None:
        server.should_exit = True

    def is_stopping() -> bool:
        return server.should_exit

    def in_flight() -> int:
        return len(server.server_state.tasks)

    front = Front(load, give_up, is_stopping)
    server = uvicorn.Server(
        uvicorn.Config(front, log_config=None, access_log=False, timeout_graceful_shutdown=10)
    )
    # A thread that computes would keep the requests' own from going on for 5 ms, as long as many predictions take.
    sys.setswitchinterval(0.0005)
    # uvicorn raises the signal that stopped it once more when it is done; it must not end us before the worker.
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    worker = KeptProcess("worker") if with_worker else None
    if stop_on_stdin_close:
        threading.Thread(
            target=_call_when_stdin_ends, args=(give_up,), daemon=True, name="stdin-watch"
        ).start()
    else:
        _log_address(settings, listener)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        log.info("interrupted")
    finally:
        if worker:
            worker.stop()
    if front.has_failed or not server.started:
        raise typer.Exit(_CANNOT_START)


def _call_when_stdin_ends(then: Callable[[], None]) -> None:
    while os.read(0, 1024):
        pass
    then()


def _log_address(settings: Settings, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    log.info(
        "serving",
        url=url,
        docs=f"{url}/docs",
        data=str(settings.data_dir),
        processes=settings.server_processes,
    )


def _listen(settings: Settings) -> socket.socket:
    try:
        return socket.create_server(
            (settings.host, settings.port),
            family=socket.AF_INET6 if ":" in settings.host else socket.AF_INET,
            backlog=2048,
        )
    except OSError as error:
        typer.echo(f"taskloom: cannot listen on {settings.host}:{settings.port}: {error}", err=True)
        raise typer.Exit(2) from None
