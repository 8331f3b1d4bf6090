"""What surrounds every request: its id, its log line, its measures, and the answer when something breaks."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from dataclasses import dataclass
from functools import cache

import structlog
from prometheus_client import Counter, Histogram
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.errors import problem_response
from app.logs import get_logger
from app.problems import NotReady, Problem

log = get_logger(__name__)
_levels = logging.getLogger(__name__)

_REQUESTS = Counter("taskloom_http_requests_total", "Requests answered.", ["method", "route", "status"])
_SECONDS = Histogram("taskloom_http_request_seconds", "Time to answer a request.", ["method", "route"])
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.-]{1,64}")


@dataclass
class Told:
    """How often this process has told clients something of what the database holds."""

    times: int = 0


class RequestMiddleware:
    """Gives each request an id (the client's ``X-Request-ID``, or a new one), logs and measures it.

    An exception that nothing else answered becomes a 500 without a stack trace; the log has the trace, and the same id.
    What a server that stops has not answered in time becomes a 503.

    Args:
        app: The application.
        told: Counts what clients are told.
    """

    def __init__(self, app: ASGIApp, told: Told) -> None:
        self.app = app
        self._told = told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        started, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            if status < 500:
                self._told.times += 1
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, send_with_id)
            except (Exception, asyncio.CancelledError) as error:
                answer = answer_to(error, scope)
                if status:
                    raise
                await answer(scope, receive, send_with_id)
            account(scope, status, time.perf_counter() - started)


def request_id_of(scope: Scope) -> str:
    """Return a request's id, which its scope has from then on: the client's, if that can be logged, or a new one."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    scope["request_id"] = given.decode() if _REQUEST_ID.fullmatch(given) else _new_id()
    return scope["request_id"]


def _new_id() -> str:
    """Return an id that sorts by time; a ULID takes several times as long to make, a tenth of a prediction."""
    return f"req_{time.time_ns() // 1_000_000:012x}{random.getrandbits(64):016x}"


def answer_to(error: BaseException, scope: Scope) -> Response:
    """Return the answer to a request that broke down, or whose answer a server that stops did not wait for."""
    if isinstance(error, asyncio.CancelledError):
        late = NotReady("the server is stopping, and could not wait for this any longer")
        return problem_response(Request(scope), late)
    log.exception("request failed", exc_info=error, method=scope["method"], path=scope["path"])
    broken = Problem(f"{type(error).__name__}: the log has more under this request id")
    return problem_response(Request(scope), broken)


def account(scope: Scope, status: int, seconds: float, level: int = logging.INFO) -> None:
    """Measure a request that was answered, and log it at a level."""
    route = getattr(scope.get("route"), "path", "unmatched")
    requests, times = _measures(scope["method"], route, status)
    requests.inc()
    times.observe(seconds)
    # Making the line takes as long as much of a prediction.
    if _levels.isEnabledFor(level):
        log.log(
            level,
            "request",
            request_id=scope["request_id"],
            method=scope["method"],
            path=scope["path"],
            status=status,
            ms=round(seconds * 1000, 2),
        )


@cache
def _measures(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    return _REQUESTS.labels(method, route, status), _SECONDS.labels(method, route)
