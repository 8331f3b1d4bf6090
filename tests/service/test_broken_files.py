"""A file that cannot be read is answered with what is wrong where, and nothing of it stays."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.app.uploads.broken_files import Broken, broken_files
from tests.service.client import Api, check_problem
from tests.service.processes import ServerProcess, environment, is_alive

# Each is read by a process of its own; that the fault in each is found is held where files are read.
FILES = [file for i, file in enumerate(broken_files()) if i % 5 == 0 or file.breaks_down]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of its own: nobody else puts anything into its store."""
    folder = tmp_path_factory.mktemp("broken")
    server = ServerProcess("--no-worker", env=environment(folder / "data"), log=folder / "log")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def fresh(server: ServerProcess) -> Api:
    return Api(server.url())


def stored(server: ServerProcess) -> list[str]:
    artifacts = server.log.parent / "data" / "artifacts"
    return sorted(str(path.relative_to(artifacts)) for path in artifacts.rglob("*") if path.is_file())


@pytest.mark.parametrize("file", FILES, ids=[file.filename for file in FILES])
def test_a_broken_file_is_answered_with_a_problem(server: ServerProcess, fresh: Api, file: Broken) -> None:
    started = time.monotonic()
    response = fresh.http.post(
        "/v1/uploads", params={"filename": file.filename} | file.query, content=file.data()
    )
    assert response.status_code == 422, response.text[:2000]
    problem = check_problem(response)
    assert time.monotonic() - started < 30
    assert len(response.content) < 10_000
    detail, fault = problem["detail"], problem["errors"][0]
    assert file.filename in detail
    assert file.says in detail, detail
    if file.row is not None:
        assert f"line {file.row:,}" in detail, detail
        assert fault["row"] == file.row
    if file.column is not None:
        assert f"column {file.column!r}" in detail, detail
        assert fault["column"] == file.column
    assert stored(server) == []


def test_afterwards_the_server_is_well(server: ServerProcess, fresh: Api) -> None:
    assert is_alive(server.pid)
    assert server.lines("request failed") == []
    assert fresh.get("/readyz")["status"] == "ready"
    assert fresh.get("/v1/uploads") == {"items": [], "next_cursor": None}
