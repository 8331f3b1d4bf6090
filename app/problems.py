"""Problems: what can go wrong with a request, raised where the rule is, answered as RFC 9457 problem+json.

A problem class fixes status, title and type; whoever raises it gives the detail and, for a body that breaks rules, one
fault with a JSON Pointer (RFC 6901) for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mtl_core.errors import Fault, pointer_to, suggestion

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


class NotAcceptable(Problem):
    """The answer has no form that the client accepts."""

    status, title = 406, "Not acceptable"


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


class Overloaded(Problem):
    """More is asked for at once than the service can do."""

    status, title = 503, "Overloaded"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Retry-After": "1"})


class DeadlineExceeded(Problem):
    """The time that the client gave has passed."""

    status, title = 504, "Deadline exceeded"


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
        *(
            MalformedBody,
            NotFound,
            NotAcceptable,
            Conflict,
            PreconditionFailed,
            TooLarge,
            UnsupportedMediaType,
        ),
        *(Invalid, QueueFull, NotReady, DeadlineExceeded, Problem),
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


_REQUIRED = "is required"
_MESSAGES = {"missing": _REQUIRED, "extra_forbidden": "is not known here"}


def problem_of_entries(entries: Iterable[Any], body: Any) -> Problem:
    """Return the problem that pydantic's entries of what is wrong with a request stand for.

    Args:
        entries: Their locations start with the part of the request: ``"body"``, ``"query"`` and so on.
        body: What was read from JSON.
    """
    faults: dict[tuple[str, str], list[str]] = {}
    for entry in cast("Iterable[Mapping[str, Any]]", entries):
        where, *location = entry["loc"]
        if entry["type"] == "json_invalid":
            return MalformedBody(f"the body is not JSON: {entry['ctx']['error']}")
        message = _MESSAGES.get(entry["type"]) or str(entry["msg"]).removeprefix("Value error, ")
        told_apart_by = str(entry.get("ctx", {}).get("discriminator", ""))
        if told_apart_by.startswith("'"):
            location.append(told_apart_by.strip("'"))
            message = _tag_fault(entry["ctx"])
        if where == "body":
            place = ("pointer", _pointer(location, body, is_missing=message == _REQUIRED))
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


def problem_of_validation(error: ValidationError, part: str, said: Any) -> Problem:
    """Return the problem of a part of a request that is not what its model says.

    Args:
        error: What pydantic raised.
        part: ``"body"``, ``"query"`` and so on.
        said: What was read from that part.
    """
    entries = [{**entry, "loc": (part, *entry["loc"])} for entry in error.errors()]
    return problem_of_entries(entries, said)


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
