"""Turns exceptions into problem+json: the one place where an error becomes an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm.exc import StaleDataError
from starlette.exceptions import HTTPException

from app.db.session import DATABASE_AWAY
from app.logs import get_logger
from app.problems import PROBLEM_JSON, Conflict, Invalid, MalformedBody, NotReady, Problem
from mtl_core.errors import ModuleConflictError, SpecError, TaskloomError, pointer_to, suggestion

log = get_logger(__name__)

_HTTP_TITLES = {404: "Not found", 405: "Method not allowed"}


_REQUIRED = "is required"
_MESSAGES = {"missing": _REQUIRED, "extra_forbidden": "is not known here"}
_RACED = (IntegrityError, StaleDataError)


def install_handlers(app: FastAPI) -> None:
    """Register a handler for every kind of exception that an endpoint may raise."""

    def handle(request: Request, error: Exception) -> Response:
        return problem_response(request, _problem_of(error))

    for kind in (Problem, RequestValidationError, TaskloomError, HTTPException, *_RACED, *DATABASE_AWAY):
        app.add_exception_handler(kind, handle)


def problem_response(request: Request, problem: Problem) -> Response:
    """Return the answer that a problem stands for."""
    return JSONResponse(
        problem.body(request.url.path, request.scope["request_id"]),
        status_code=problem.status,
        headers=problem.headers,
        media_type=PROBLEM_JSON,
    )


def _problem_of(error: Exception) -> Problem:
    match error:
        case Problem():
            problem = error
        case RequestValidationError():
            problem = _from_validation(error)
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


def _from_validation(error: RequestValidationError) -> Problem:
    faults: dict[tuple[str, str], list[str]] = {}
    for entry in cast("list[dict[str, Any]]", error.errors()):
        where, *location = entry["loc"]
        if entry["type"] == "json_invalid":
            return MalformedBody(f"the body is not JSON: {entry['ctx']['error']}")
        message = _MESSAGES.get(entry["type"]) or str(entry["msg"]).removeprefix("Value error, ")
        told_apart_by = str(entry.get("ctx", {}).get("discriminator", ""))
        if told_apart_by.startswith("'"):
            location.append(told_apart_by.strip("'"))
            message = _tag_fault(entry["ctx"])
        if where == "body":
            place = ("pointer", _pointer(location, error.body, is_missing=message == _REQUIRED))
        else:
            place = ("parameter", ".".join(map(str, location)))
        faults.setdefault(place, []).append(message)
    errors = [
        {kind: name, "detail": "; or ".join(dict.fromkeys(messages))}
        for (kind, name), messages in faults.items()
    ]
    _, first = next(iter(faults))
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Invalid(f"{first or 'the body'}: {errors[0]['detail']}{more}", errors)


def _tag_fault(told: Mapping[str, Any]) -> str:
    """Say what is wrong with the member, such as ``type``, that tells the members of a union apart."""
    if "tag" not in told:
        return _REQUIRED
    tag, known = str(told["tag"])[:64], [name.strip(" '") for name in told["expected_tags"].split(",")]
    return f"{tag!r} is not known here; {suggestion(tag, known)}"


def _pointer(location: Sequence[str | int], body: Any, *, is_missing: bool) -> str:
    """Keep of pydantic's location what is a place in the body: it also names members of unions and the like."""
    parts: list[str | int] = []
    for part in location:
        if isinstance(body, dict) and part in body:
            body = cast("dict[Any, Any]", body)[part]
        elif isinstance(body, list) and isinstance(part, int) and part < len(cast("list[Any]", body)):
            body = cast("list[Any]", body)[part]
        else:
            continue
        parts.append(part)
    return pointer_to(*parts, *location[-1:]) if is_missing else pointer_to(*parts)
