"""Problems: what can go wrong with a request, raised where the rule is, answered as RFC 9457 problem+json.

A problem class fixes status, title and type; whoever raises it gives the detail and, for a body that breaks rules, one
fault with a JSON Pointer (RFC 6901) for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from mtl_core.errors import Fault

PROBLEM_JSON = "application/problem+json"


class FaultOut(BaseModel):
    """One thing wrong with a request."""

    model_config = ConfigDict(extra="allow")

    detail: str
    pointer: str | None = Field(None, description="JSON Pointer into the body.")
    parameter: str | None = Field(None, description="The query, path or header parameter at fault.")


class ProblemOut(BaseModel):
    """An error as RFC 9457 describes it."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: list[FaultOut] | None = None


class Problem(Exception):  # noqa: N818 - RFC 9457 calls it so
    """A request that cannot be served, with the answer that says so."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str,
        errors: Iterable[Fault | Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors: list[dict[str, str]] = [
            {"pointer": error.pointer, "detail": error.detail} if isinstance(error, Fault) else dict(error)
            for error in errors
        ]
        self.headers = dict(headers or {})

    def body(self, instance: str, request_id: str) -> dict[str, Any]:
        """Return the problem+json document."""
        document: dict[str, Any] = {
            "type": f"urn:taskloom:problem:{self.title.lower().replace(' ', '-')}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
            "request_id": request_id,
        }
        return document | ({"errors": self.errors} if self.errors else {})


class MalformedBody(Problem):
    """The body is not JSON."""

    status, title = 400, "Malformed body"


class NotFound(Problem):
    """There is no such resource."""

    status, title = 404, "Not found"


class Conflict(Problem):
    """The resource's state forbids it."""

    status, title = 409, "Conflict"


class PreconditionFailed(Problem):
    """The resource is no longer what the client's ``If-Match`` says."""

    status, title = 412, "Precondition failed"


class TooLarge(Problem):
    """The body is larger than this server takes."""

    status, title = 413, "Body too large"


class UnsupportedMediaType(Problem):
    """The body is of a type that this endpoint does not read."""

    status, title = 415, "Unsupported media type"


class Invalid(Problem):
    """The request is well-formed but breaks a rule."""

    status, title = 422, "Invalid request"

    @classmethod
    def at(cls, pointer: str, detail: str) -> Invalid:
        """Return the problem for a single fault of the body."""
        return cls(detail, [Fault(pointer, detail)])


class QueueFull(Problem):
    """The client has as much waiting as it may have."""

    status, title = 429, "Queue full"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Retry-After": "10"})


class NotReady(Problem):
    """The service cannot answer now, but will."""

    status, title = 503, "Not ready"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Retry-After": "2"})


def missing(kind: str, name: object) -> NotFound:
    """Return the problem of a resource that is not there."""
    return NotFound(f"there is no {kind} '{name}'")


_DESCRIPTIONS = {
    problem.status: problem.title
    for problem in (
        *(MalformedBody, NotFound, Conflict, PreconditionFailed, TooLarge, UnsupportedMediaType),
        *(Invalid, QueueFull, NotReady, Problem),
    )
}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI ``responses`` of an operation that may answer with these statuses.

    Any operation may answer 500 and, while the database is away, 503.
    """
    return {
        status: {
            "description": _DESCRIPTIONS[status],
            "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/ProblemOut"}}},
        }
        for status in (*statuses, 500, 503)
    }
