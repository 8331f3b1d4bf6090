"""A load for an HTTP server: connections that are kept open, each sending the same request as soon as it is answered.

    python -m benchmarks.load http://127.0.0.1:8000/path --body body.json --connections 8 --seconds 3

prints one line of JSON: requests per second, and the latencies that half and 99 % of the requests did not exceed. An
answer other than 200 ends it with an error: a server that refuses is no faster for it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvloop

_END = b"\r\n\r\n"


@dataclass
class Tally:
    """What all connections have seen, from the end of the warm-up on."""

    since: float
    until: float
    latencies: list[float] = field(default_factory=list[float])
    answered: int = 0
    failed: str | None = None


class Connection(asyncio.Protocol):
    """One client: sends its request, waits for the whole answer, sends it again.

    Args:
        request: The bytes to send.
        tally: Where to count.
    """

    def __init__(self, request: bytes, tally: Tally) -> None:
        self._request, self._tally = request, tally
        self._received = b""
        self._sent = 0.0
        self.is_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        # uvloop's are transports by what they can do, not by descent.
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count an answer once it is whole, and send the next request."""
        self._received = self._received + data if self._received else data
        if not _is_whole(self._received):
            return
        now, tally = time.perf_counter(), self._tally
        if not self._received.startswith(b"HTTP/1.1 200"):
            tally.failed = self._received[:500].decode(errors="replace")
        self._received = b""
        if tally.since <= now <= tally.until:
            tally.latencies.append(now - self._sent)
            tally.answered += 1
        if now > tally.until or tally.failed:
            self._transport.close()
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so if the server closed it."""
        if time.perf_counter() < self._tally.until and not self._tally.failed:
            self._tally.failed = f"the server closed the connection: {exc}"
        if not self.is_over.done():
            self.is_over.set_result(None)


def _is_whole(received: bytes) -> bool:
    """Say whether an answer has come whole."""
    end = received.find(_END)
    if end < 0:
        return False
    headers = received[:end].lower()
    at = headers.find(b"\r\ncontent-length:")
    if at < 0:
        return _are_chunks_whole(received, end + len(_END))
    line = headers[at + 17 :].split(b"\r\n", 1)[0]
    return len(received) >= end + len(_END) + int(line)


def _are_chunks_whole(received: bytes, at: int) -> bool:
    """Say whether the chunks that begin at a place have come up to the last, the empty one."""
    while (line_end := received.find(b"\r\n", at)) >= 0:
        size = int(received[at:line_end].split(b";")[0], 16)
        at = line_end + 2 + size + 2
        if size == 0:
            return len(received) >= at
    return False


async def load(
    host: str, port: int, request: bytes, connections: int, warm_up: float, seconds: float
) -> Tally:
    """Load a server and return what was seen.

    Args:
        host: Its address.
        port: Its port.
        request: The bytes of a whole request.
        connections: How many clients there are.
        warm_up: Seconds that are not counted.
        seconds: Seconds that are.
    """
    begun = time.perf_counter() + warm_up
    tally = Tally(begun, begun + seconds)
    loop = asyncio.get_running_loop()
    opened = [
        await loop.create_connection(lambda: Connection(request, tally), host, port)
        for _ in range(connections)
    ]
    await asyncio.wait([protocol.is_over for _, protocol in opened], timeout=warm_up + seconds + 60)
    return tally


def request_bytes(url: str, body: bytes, headers: dict[str, str]) -> bytes:
    """Return the bytes of a ``POST`` request."""
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    lines = [f"POST {target} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + _END + body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("url")
    parser.add_argument("--body", type=Path, required=True)
    parser.add_argument("--header", action="append", default=[], help="Name: value")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--warm-up", type=float, default=0.5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--core", type=int, default=None, help="the CPU core to stay on")
    arguments = parser.parse_args()
    if arguments.core is not None:
        os.sched_setaffinity(0, {arguments.core})
    parts = urlsplit(arguments.url)
    headers = dict(header.split(": ", 1) for header in arguments.header)
    request = request_bytes(arguments.url, arguments.body.read_bytes(), headers)
    tally = uvloop.run(
        load(
            parts.hostname or "127.0.0.1",
            parts.port or 80,
            request,
            arguments.connections,
            arguments.warm_up,
            arguments.seconds,
        )
    )
    if tally.failed:
        sys.exit(f"a request was not answered as it should be: {tally.failed}")
    ordered = sorted(tally.latencies)
    print(
        json.dumps(
            {
                "requests_per_s": tally.answered / arguments.seconds,
                "p50_ms": 1000 * ordered[len(ordered) // 2],
                "p99_ms": 1000 * ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
            }
        )
    )


if __name__ == "__main__":
    main()
