"""``taskloom serve``: the HTTP server, and the worker that goes with it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading

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


class EmbeddedWorker:
    """A worker process beside the server, started again should it die.

    It stops when the pipe to it closes, which happens however this process ends.
    """

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._process = self._start()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="worker-keeper")
        self._thread.start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "app.cli", "worker", "--stop-on-stdin-close"]
        return subprocess.Popen(command, stdin=subprocess.PIPE)

    def _keep(self) -> None:
        while True:
            code = self._process.wait()
            if self._stopping.wait(_RESTART_SECONDS):
                return
            log.error("worker died, starting another", exit_code=code)
            self._process = self._start()

    def stop(self) -> None:
        """Have the worker give its runs back, and wait until it is gone."""
        self._stopping.set()
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()


def run_server(settings: Settings, *, with_worker: bool) -> None:
    """Serve until SIGTERM or SIGINT; the worker stops after the last request is answered."""
    listener = _listen(settings)
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

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
    worker = EmbeddedWorker() if with_worker else None
    log.info("serving", url=url, docs=f"{url}/docs", data=str(settings.data_dir))
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        log.info("interrupted")
    finally:
        if worker:
            worker.stop()
    if front.has_failed or not server.started:
        raise typer.Exit(3)


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
