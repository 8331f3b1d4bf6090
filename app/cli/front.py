"""The server's front, which answers while the application behind it is loaded: torch takes seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from app.http.direct import DirectFirst
from app.http.errors import problem_response
from app.http.middleware import RequestMiddleware, Told
from app.logs import get_logger
from app.problems import NotReady

log = get_logger(__name__)

_LOOK_SECONDS = 0.1


class Front:
    """An ASGI application that becomes another one, which it loads in a thread once it is started itself.

    Until then ``GET /healthz`` says that the process is up, ``GET /readyz`` that it is not ready (503), and any other
    request waits; where the server is stopped meanwhile, it is answered that (503).

    Args:
        load: Imports and returns the application.
        give_up: Called when the application cannot be loaded or started, to have the server stop.
        is_stopping: Says whether the server was told to stop.
    """

    def __init__(
        self, load: Callable[[], DirectFirst], give_up: Callable[[], None], is_stopping: Callable[[], bool]
    ) -> None:
        self._load = load
        self._give_up = give_up
        self._is_stopping = is_stopping
        self._app: DirectFirst | None = None
        self._early = RequestMiddleware(self._answer_early, Told())
        self._is_settled = asyncio.Event()
        self._is_over = asyncio.Event()
        self.has_failed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if self._app is None and not _is_probe(scope):
            await self._settle()
        await (self._app or self._early)(scope, receive, send)

    async def _settle(self) -> None:
        """Wait until the application is there, or is not to be."""
        while not (self._is_settled.is_set() or self._is_stopping()):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_settled.wait(), _LOOK_SECONDS)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        behind = asyncio.create_task(self._run_behind())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._is_over.set()
        # A thread that is still within torch when the interpreter ends aborts the process.
        await behind
        await send({"type": "lifespan.shutdown.complete"})

    async def _run_behind(self) -> None:
        """Load the application and keep it started until the server stops."""
        async with AsyncExitStack() as started:
            try:
                app = await asyncio.to_thread(self._load)
                await started.enter_async_context(app.api.router.lifespan_context(app.api))
            except Exception:
                log.exception("the server cannot start")
                self.has_failed = True
                self._is_settled.set()
                self._give_up()
                return
            self._app = app
            self._is_settled.set()
            log.info("ready")
            await self._is_over.wait()

    async def _answer_early(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.has_failed:
            answer = problem_response(Request(scope), NotReady("the server cannot start: its log says why"))
        elif self._is_stopping():
            answer = problem_response(Request(scope), NotReady("the server is stopping"))
        elif scope["path"] == "/healthz":
            answer = JSONResponse({"status": "ok"})
        else:
            answer = problem_response(Request(scope), NotReady("the server is still loading"))
        await answer(scope, receive, send)


def _is_probe(scope: Scope) -> bool:
    return scope.get("method") == "GET" and scope["path"] in ("/healthz", "/readyz")
