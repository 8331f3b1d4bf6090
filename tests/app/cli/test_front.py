"""The front while the application behind it loads, through a real HTTP server."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager

import httpx
import uvicorn
from fastapi import FastAPI

from app.cli.front import Front
from app.http.direct import DirectFirst
from app.http.middleware import RequestMiddleware, Told


class Loading:
    """An application whose loading ends when the test says so."""

    def __init__(self, error: Exception | None = None) -> None:
        self.may_end = threading.Event()
        self.steps: list[str] = []
        self._error = error

    def load(self) -> DirectFirst:
        assert self.may_end.wait(30)
        if self._error:
            raise self._error

        @asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
            self.steps.append("opened")
            yield
            self.steps.append("closed")

        async def slow() -> None:
            await asyncio.sleep(30)

        app = FastAPI(lifespan=lifespan)
        app.add_middleware(RequestMiddleware, told=Told())
        app.add_api_route("/v1/slow", slow)
        app.add_api_route("/healthz", lambda: {"status": "of the application"})
        app.add_api_route("/readyz", lambda: {"status": "ready"})
        app.add_api_route("/v1/tasks", lambda: self.steps)
        return DirectFirst([], app)


class Served:
    """A front behind a server in a thread."""

    def __init__(self, load: Callable[[], DirectFirst], grace: int) -> None:
        self.front = Front(load, self.stop, lambda: self._server.should_exit)
        self._server = uvicorn.Server(
            uvicorn.Config(self.front, log_config=None, timeout_graceful_shutdown=grace)
        )
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],))
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=30, verify=False)

    def ended(self) -> bool:
        """Wait until the server is gone."""
        self._thread.join(30)
        self._listener.close()
        return not self._thread.is_alive()


@contextmanager
def served(loading: Loading, grace: int = 10) -> Iterator[Served]:
    server = Served(loading.load, grace)
    try:
        yield server
    finally:
        loading.may_end.set()
        server.stop()
        assert server.ended()


@contextmanager
def asked(server: Served, path: str) -> Iterator[Future[httpx.Response]]:
    """Have a request wait for its answer meanwhile, which is there afterwards."""
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(server.get, path)
        time.sleep(0.3)
        assert not waiting.done()
        yield waiting
        waiting.result(30)


def assert_not_ready(answer: httpx.Response, why: str) -> None:
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert why in answer.json()["detail"]


def test_it_is_up_but_not_ready_while_the_application_loads() -> None:
    loading = Loading()
    with served(loading) as server:
        up = server.get("/healthz")
        assert (up.status_code, up.json()) == (200, {"status": "ok"})
        not_ready = server.get("/readyz")
        assert_not_ready(not_ready, "loading")
        assert not_ready.json()["request_id"] == not_ready.headers["x-request-id"]


def test_a_request_waits_until_the_application_is_open() -> None:
    loading = Loading()
    with served(loading) as server:
        with asked(server, "/v1/tasks") as waiting:
            assert server.get("/healthz").status_code == 200
            assert not waiting.done()
            loading.may_end.set()
        assert waiting.result().json() == ["opened"]
        assert server.get("/readyz").json() == {"status": "ready"}
        assert server.get("/healthz").json() == {"status": "of the application"}
        assert loading.steps == ["opened"]
    assert loading.steps == ["opened", "closed"]


def test_a_server_that_is_stopped_while_it_loads_ends() -> None:
    loading = Loading()
    with served(loading) as server:
        assert server.get("/healthz").status_code == 200
        server.stop()
        loading.may_end.set()
        assert server.ended()
    assert not server.front.has_failed


def test_a_request_that_waits_when_the_server_is_stopped_is_asked_to_come_back() -> None:
    loading = Loading()
    with served(loading) as server:
        assert server.get("/healthz").status_code == 200
        with asked(server, "/v1/tasks") as waiting:
            server.stop()
    assert_not_ready(waiting.result(), "the server is stopping")


def test_a_request_that_takes_longer_than_the_server_may_is_asked_to_come_back() -> None:
    loading = Loading()
    loading.may_end.set()
    with served(loading, grace=1) as server:
        assert server.get("/v1/tasks").status_code == 200
        with asked(server, "/v1/slow") as waiting:
            server.stop()
    assert_not_ready(waiting.result(), "the server is stopping")


def test_an_application_that_cannot_be_loaded_stops_the_server() -> None:
    loading = Loading(ImportError("no module named 'nothing'"))
    with served(loading) as server:
        assert server.get("/healthz").status_code == 200
        assert not server.front.has_failed
        loading.may_end.set()
        assert server.ended()
        assert server.front.has_failed
