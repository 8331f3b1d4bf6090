"""Turns exceptions into problem+json: the one place where an error becomes an answer."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm.exc import StaleDataError
from starlette.exceptions import HTTPException

from app.db.session import DATABASE_AWAY
from app.logs import get_logger
from app.problems import PROBLEM_JSON, Conflict, Invalid, NotReady, Problem, problem_of_entries
from mtl_core.errors import ModuleConflictError, SpecError, TaskloomError

log = get_logger(__name__)

_OPEN_INFERENCE = "/v2/"
_HTTP_TITLES = {404: "Not found", 405: "Method not allowed"}
_RACED = (IntegrityError, StaleDataError)

HANDLED = (Problem, RequestValidationError, TaskloomError, HTTPException, *_RACED, *DATABASE_AWAY)
"""The exceptions that an endpoint may raise to be answered with a problem."""


def install_handlers(app: FastAPI) -> None:
    """Register a handler for every kind of exception that an endpoint may raise."""

    def handle(request: Request, error: Exception) -> Response:
        return problem_response(request, problem_of(error))

    for kind in HANDLED:
        app.add_exception_handler(kind, handle)


def problem_response(request: Request, problem: Problem) -> Response:
    """Return the answer that a problem stands for."""
    document = problem.body(request.url.path, request.scope["request_id"])
    if request.url.path.startswith(_OPEN_INFERENCE):
        # As that protocol calls it; a problem may have members of its own.
        document["error"] = problem.detail
    return JSONResponse(
        document,
        status_code=problem.status,
        headers=problem.headers,
        media_type=PROBLEM_JSON,
    )


def problem_of(error: Exception) -> Problem:
    """Return the problem that an exception stands for, one of :data:`HANDLED`."""
    match error:
        case Problem():
            problem = error
        case RequestValidationError():
            problem = problem_of_entries(error.errors(), error.body)
        case HTTPException():
            problem = _from_http(error)
        case SpecError(faults=faults):
            problem = Invalid(str(error), faults)
        case ModuleConflictError():
            problem = Conflict(str(error))
        case TaskloomError():
            problem = Invalid(str(error))
        case IntegrityError() | StaleDataError():
            problem = Conflict("other requests keep changing what this one builds on: try again")
        case _:
            log.error("database unavailable", error=str(error))
            problem = NotReady("the database does not answer")
    return problem


def _from_http(error: HTTPException) -> Problem:
    class FromStatus(Problem):
        status = error.status_code
        title = _HTTP_TITLES.get(error.status_code, "Request failed")

    return FromStatus(error.detail, headers=error.headers)
