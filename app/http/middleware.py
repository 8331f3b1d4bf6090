"""What surrounds every request: its id, its log line, its measures, and the answer when something breaks."""

from __future__ import annotations

import asyncio
import re
import time

import structlog
from prometheus_client import Counter, Histogram
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from ulid import ULID

from app.http.errors import problem_response
from app.logs import get_logger
from app.problems import NotReady, Problem

log = get_logger(__name__)

_REQUESTS = Counter("taskloom_http_requests_total", "Requests answered.", ["method", "route", "status"])
_SECONDS = Histogram("taskloom_http_request_seconds", "Time to answer a request.", ["method", "route"])
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class RequestMiddleware:
    """Gives each request an id (the client's ``X-Request-ID``, or a new one), logs and measures it.

    An exception that nothing else answered becomes a 500 without a stack trace; the log has the trace, and the same id.
    What a server that stops has not answered in time becomes a 503.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        given = request.headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{ULID()}"
        scope["request_id"] = request_id
        started, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, send_with_id)
            except asyncio.CancelledError:
                if status:
                    raise
                late = NotReady("the server is stopping, and could not wait for this any longer")
                await problem_response(request, late)(scope, receive, send_with_id)
            except Exception as error:
                log.exception("request failed", method=scope["method"], path=scope["path"])
                if status:
                    raise
                broken = Problem(f"{type(error).__name__}: the log has more under this request id")
                await problem_response(request, broken)(scope, receive, send_with_id)
            self._account(scope, status, time.perf_counter() - started)

    def _account(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        _REQUESTS.labels(scope["method"], route, status).inc()
        _SECONDS.labels(scope["method"], route).observe(seconds)
        log.info(
            "request",
            method=scope["method"],
            path=scope["path"],
            status=status,
            ms=round(seconds * 1000, 2),
        )
