"""Bodies on their way: how much memory they may take together; files, written to disk and hashed as they come."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app.problems import Invalid, MalformedBody, Overloaded, TooLarge

_PIECE = 2**20
_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/=]*):")


class Intake:
    """Counts what is in memory of bodies that are still on their way, of all requests of an event loop together.

    Args:
        most: How many bytes there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._bytes = 0

    def take(self, n: int) -> None:
        """Count a further piece of a body that is not there as a whole yet.

        Raises:
            Overloaded: If that is too much with what others have sent.
        """
        if self._bytes + n > self._most:
            raise Overloaded("too many large bodies are on their way: try again in a moment")
        self._bytes += n

    def give_back(self, n: int) -> None:
        """Count so many bytes no longer."""
        self._bytes -= n


@dataclass(frozen=True)
class ReceivedFile:
    """A request's body on disk.

    Attributes:
        path: Where it lies until the request is answered; files beside it are removed with it.
        sha256: Of its bytes.
        bytes: How many.
    """

    path: Path
    sha256: str
    bytes: int


async def receive_file(request: Request, path: Path, max_bytes: int) -> ReceivedFile:
    """Write a request's body to a file.

    Args:
        request: Whose body was not read yet.
        path: The new file.
        max_bytes: Bytes that the body may have.

    Raises:
        TooLarge: If it has more; before any is read where it says so itself.
        MalformedBody: If the client went away before all of it had come.
        Invalid: If it is empty, or not what its ``Content-Digest`` says.
    """
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise TooLarge(f"a file has at most {max_bytes:,} bytes")
    wanted = _wanted_digest(request)
    digest = hashlib.sha256()
    total = 0
    with path.open("wb", buffering=0) as file:

        def keep(piece: bytes) -> None:
            digest.update(piece)
            file.write(piece)

        async for piece in _pieces(request):
            total += len(piece)
            if total > max_bytes:
                raise TooLarge(f"a file has at most {max_bytes:,} bytes")
            await run_in_threadpool(keep, piece)
    if not total:
        raise Invalid.at("", "the body is empty: send the file's bytes as the body")
    if wanted not in (None, digest.digest()):
        raise _bad_digest("the body is not what its Content-Digest says: it was altered on its way")
    return ReceivedFile(path, digest.hexdigest(), total)


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """Yield the body in pieces worth a thread's while."""
    piece = bytearray()
    try:
        async for chunk in request.stream():
            piece += chunk
            if len(piece) >= _PIECE:
                yield bytes(piece)
                piece.clear()
    except ClientDisconnect:
        raise MalformedBody("the connection ended before the whole body had come") from None
    if piece:
        yield bytes(piece)


def _wanted_digest(request: Request) -> bytes | None:
    header = request.headers.get("content-digest")
    found = _DIGEST.search(header) if header else None
    if found is None:
        # RFC 9530 lets a server pass over algorithms that it does not know.
        return None
    try:
        return base64.b64decode(found[1], validate=True)
    except binascii.Error:
        raise _bad_digest("this is no SHA-256 in base64") from None


def _bad_digest(detail: str) -> Invalid:
    return Invalid(detail, [{"parameter": "Content-Digest", "detail": detail}])
