"""One request, one transaction: the route class of every endpoint under ``/v1``.

A request's database session begins with its first statement and commits when the endpoint has answered, together with
the answer to its ``Idempotency-Key`` where it has one; any exception rolls all of it back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app.db.session import Database
from app.db.tables import IdempotentAnswer
from app.http.receiving import receive_file
from app.http.resources import resources_of
from app.problems import Invalid, TooLarge, UnsupportedMediaType

_KEPT_HEADERS = ("location", "content-type")
_MAX_KEY = 255
_TRIES = 3

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class _ReadRequest(Request):
    """A request whose body was read, up to the size that is allowed; NaN and Infinity are no JSON numbers in it."""

    def __init__(self, request: Request, content: bytes) -> None:
        super().__init__(request.scope, request.receive)
        self._content = content

    async def body(self) -> bytes:
        return self._content

    async def json(self) -> Any:
        return orjson.loads(self._content)


class Endpoint(APIRoute):
    """A route that answers within one transaction."""

    def get_route_handler(self) -> Handler:
        """Wrap FastAPI's own handler."""
        answer = super().get_route_handler()

        async def handle(request: Request) -> Response:
            _check_media_type(request)
            read = _ReadRequest(request, await read_body(request))
            if request.method in ("GET", "HEAD"):
                return _tagged(request, await _within(read, answer, writes=False))
            if request.method == "POST" and "idempotency-key" in request.headers:
                return await _idempotent(read, answer, hashlib.sha256(await read.body()).hexdigest())
            return await _retried(read, answer)

        return handle


class FileEndpoint(APIRoute):
    """A route whose body is a file: it lies on disk, as ``request.state.received``, when the transaction begins."""

    def get_route_handler(self) -> Handler:
        """Wrap FastAPI's own handler."""
        answer = super().get_route_handler()

        async def handle(request: Request) -> Response:
            media_type = _media_type(request)
            if media_type.startswith("multipart/"):
                raise UnsupportedMediaType(
                    f"send the file's bytes themselves as the body, not as {media_type}"
                )
            resources = resources_of(request)
            with resources.store.scratch() as folder:
                received = await receive_file(request, folder / "body", resources.settings.max_upload_bytes)
                request.state.received = received
                read = _ReadRequest(request, b"")
                if "idempotency-key" in request.headers:
                    asked = f"{received.sha256}?{request.url.query}"
                    return await _idempotent(read, answer, hashlib.sha256(asked.encode()).hexdigest())
                return await _retried(read, answer)

        return handle


def entity_tag(representation: Any) -> str:
    """Return the ETag of a resource's JSON representation."""
    return f'"{hashlib.sha256(orjson.dumps(representation, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]}"'


def tag_matches(tag: str, header: str) -> bool:
    """Say whether an ``If-Match`` or ``If-None-Match`` header names a tag, or any by ``*``."""
    wanted = [candidate.strip().removeprefix("W/") for candidate in header.split(",")]
    return tag in wanted or "*" in wanted


def _check_media_type(request: Request) -> None:
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    media_type = _media_type(request)
    if has_body and not is_json(media_type):
        raise UnsupportedMediaType(
            f"send the body as JSON with 'Content-Type: application/json', not {media_type or 'without a type'!r}"
        )


def is_json(media_type: str) -> bool:
    """Say whether a body of a media type is JSON."""
    return media_type == "application/json" or media_type.endswith("+json")


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request) -> bytes:
    """Return a request's body.

    Raises:
        TooLarge: If it has more bytes than are allowed; before any is read where it says so itself.
        Overloaded: If too much of other requests' bodies is on its way.
    """
    resources = resources_of(request)
    limit, taken = resources.settings.max_body_bytes, 0
    declared = request.headers.get("content-length", "0")
    # A body that says it is too large is refused before any of it is read.
    if not declared.isdecimal() or int(declared) <= limit:
        pieces: list[bytes] = []
        size = 0
        try:
            while size <= limit:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                piece = message.get("body", b"")
                pieces.append(piece)
                size += len(piece)
                if size <= limit and not message.get("more_body", False):
                    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
                resources.intake.take(len(piece))
                taken += len(piece)
        finally:
            resources.intake.give_back(taken)
    raise TooLarge(f"a body has at most {limit:,} bytes")


def _tagged(request: Request, response: Response) -> Response:
    if response.status_code != 200 or response.headers.get("content-type") != "application/json":
        return response
    tag = entity_tag(orjson.loads(response.body))
    if tag_matches(tag, request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers={"ETag": tag})
    response.headers["ETag"] = tag
    return response


async def _within(
    request: Request,
    answer: Handler,
    *,
    writes: bool,
    before_commit: Callable[[Session, Response], None] | None = None,
) -> Response:
    session = resources_of(request).db.session(writes=writes)
    request.state.session = session
    try:
        response = await answer(request)
        if before_commit:
            await run_in_threadpool(before_commit, session, response)
        await run_in_threadpool(session.commit)
    finally:
        await run_in_threadpool(session.close)
    return response


async def _retried(
    request: Request, answer: Handler, before_commit: Callable[[Session, Response], None] | None = None
) -> Response:
    """Answer; begin again where another request has just made or removed the same row, to find it so this time."""
    for tries_left in reversed(range(_TRIES)):
        try:
            return await _within(request, answer, writes=True, before_commit=before_commit)
        except (IntegrityError, StaleDataError):
            if not tries_left:
                raise
    raise AssertionError("unreachable")


async def _idempotent(request: Request, answer: Handler, request_hash: str) -> Response:
    key = request.headers["idempotency-key"]
    if not 0 < len(key) <= _MAX_KEY:
        detail = f"an idempotency key has 1 to {_MAX_KEY} characters"
        raise Invalid(detail, [{"parameter": "Idempotency-Key", "detail": detail}])
    key_hash = hashlib.sha256(f"{request.url.path}\0{key}".encode()).hexdigest()

    async def replay_or_answer(request: Request) -> Response:
        # Looked up on every try: where two requests with one key race, the loser finds the winner's answer.
        earlier = await run_in_threadpool(_earlier_answer, resources_of(request).db, key_hash, request_hash)
        return earlier or await answer(request)

    def record(session: Session, response: Response) -> None:
        if "idempotent-replayed" in response.headers:
            return
        headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
        session.add(
            IdempotentAnswer(
                key=key_hash,
                request=request_hash,
                status=response.status_code,
                headers=headers,
                body=bytes(response.body).decode(),
            )
        )

    return await _retried(request, replay_or_answer, record)


def _earlier_answer(db: Database, key_hash: str, request_hash: str) -> Response | None:
    with db.read() as session:
        earlier = session.get(IdempotentAnswer, key_hash)
    if earlier is None:
        return None
    if earlier.request != request_hash:
        detail = "this idempotency key was used with another body"
        raise Invalid(detail, [{"parameter": "Idempotency-Key", "detail": detail}])
    return Response(
        earlier.body,
        status_code=earlier.status,
        headers=earlier.headers | {"Idempotent-Replayed": "true"},
    )
