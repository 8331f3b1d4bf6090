"""Routes that are answered straight away, from the request as it came: no more stands before them than must."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from app.http.errors import HANDLED, problem_of, problem_response
from app.http.middleware import account, answer_to, request_id_of
from app.problems import Invalid

UNREAD: Any = None
"""The default of what a direct route's function declares only to have it documented."""


class DirectRoute(APIRoute):
    """A route whose function is called with the request and the path's parameters, by name, and returns a response.

    All else that it declares is read by the function itself, from the request.
    """


class DirectFirst:
    """Answers requests to direct routes, and passes all others to FastAPI, whose way to a route takes longer than most
    predictions do.

    What was answered without a problem is logged at the level ``debug`` only.

    Args:
        routes: Among which the direct routes are; their paths are whole.
        api: What answers all other requests.

    Attributes:
        api: The same.
    """

    def __init__(self, routes: Sequence[BaseRoute], api: FastAPI) -> None:
        self.api = api
        self._routes = [(route.path_regex, route) for route in routes if isinstance(route, DirectRoute)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            path, method = scope["path"], scope["method"]
            for pattern, route in self._routes:
                match = pattern.match(path)
                if match is not None and method in route.methods:
                    scope["app"], scope["route"] = self.api, route
                    await _answer(route, match.groupdict(), scope, receive, send)
                    return
        await self.api(scope, receive, send)


async def _answer(
    route: DirectRoute, parameters: dict[str, str], scope: Scope, receive: Receive, send: Send
) -> None:
    started = time.perf_counter()
    request_id = request_id_of(scope)
    request = Request(scope, receive)
    response: Response
    try:
        response = await route.endpoint(request, **parameters)
    except HANDLED as error:
        response = problem_response(request, problem_of(error))
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - it is logged, and answered
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            response = answer_to(error, scope)
    response.raw_headers.append((b"x-request-id", request_id.encode()))
    await response(scope, receive, send)
    level = logging.DEBUG if response.status_code < 400 else logging.INFO
    account(scope, response.status_code, time.perf_counter() - started, level)


def header_of(request: Request, name: bytes) -> str | None:
    """Return a header by its name in lower case; Starlette's own way takes several times as long."""
    for key, value in request.scope["headers"]:
        if key == name:
            return value.decode("latin-1")
    return None


def deadline_of(request: Request) -> float | None:
    """Return when the client no longer waits, by the event loop's clock; None where ``X-Request-Timeout`` does not say.

    Raises:
        Invalid: If it is no number of seconds.
    """
    given = header_of(request, b"x-request-timeout")
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        detail = "a timeout is a number of seconds above 0"
        raise Invalid(detail, [{"parameter": "X-Request-Timeout", "detail": detail}])
    return asyncio.get_running_loop().time() + seconds
