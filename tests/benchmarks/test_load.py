"""The load of ``make bench-serve`` counts what a server answers, in whichever pieces it comes."""

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("uvloop")

OK = b"HTTP/1.1 200 OK\r\n"
SIZED = OK + b"Content-Length: 4\r\n\r\nabcd"
# The data of the first chunk looks like the end of all.
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n0\r\n\r\n\r\n2;a=b\r\nxy\r\n0\r\n\r\n"
REFUSED = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
BODY = b'{"inputs": [[1]]}'


@pytest.fixture(autouse=True)
def _root_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])


async def _loaded(answers: Sequence[Sequence[bytes]], connections: int = 2):
    """Load a server that gives these answers in turns, each in its pieces; return the tally and how many it gave."""
    from benchmarks import load

    request = load.request_bytes("http://x/predict?a=b", BODY, {"Content-Type": "application/json"})
    given = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal given
        for pieces in itertools.cycle(answers):
            try:
                assert await reader.readexactly(len(request)) == request
            except asyncio.IncompleteReadError:
                break
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            given += 1
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        tally = await load.load("127.0.0.1", port, request, connections, 0.0, 0.2)
    return tally, given


@pytest.mark.parametrize("answer", [SIZED, CHUNKED], ids=["sized", "chunked"])
def test_each_answer_is_counted_once(answer: bytes):
    one_by_one = [answer[i : i + 1] for i in range(len(answer))]
    tally, given = asyncio.run(_loaded([[answer], one_by_one]))
    assert tally.failed is None
    # Each connection's last answer may come after the time is up.
    assert 0 < given - 2 <= tally.answered == len(tally.latencies) <= given


def test_an_answer_is_whole_no_sooner_than_its_last_byte():
    from benchmarks import load

    for answer in (SIZED, CHUNKED):
        assert [load._is_whole(answer[:i]) for i in range(len(answer) + 1)] == [False] * len(answer) + [True]


def test_a_refusal_is_an_error():
    tally, _ = asyncio.run(_loaded([[SIZED], [SIZED], [REFUSED]]))
    assert tally.failed is not None
    assert tally.failed.startswith("HTTP/1.1 500")
