"""A server of several processes: one port, one answer, one set of measures, and none of them is missed for long."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.service.client import Api
from tests.service.processes import ServerProcess, environment, is_alive, until
from tests.service.shapes import Shapes

PROCESSES = 2
REQUESTS = 60


def children(pid: int) -> list[int]:
    """Return the server processes that a process started."""
    listed = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for path in listed for child in path.read_text().split()]
    return [child for child in found if b"serve" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    server = ServerProcess(
        "--processes", str(PROCESSES), env=environment(tmp_path / "data"), log=tmp_path / "log"
    )
    yield server
    server.stop()


def test_processes_answer_as_one(server: ServerProcess) -> None:
    api = Api(server.url())
    until(lambda: len(server.lines("ready")) == PROCESSES, "both processes to be loaded")
    shapes = Shapes(api)
    shapes.add("circle")
    api.post("/v1/models", {"name": shapes.model, "tasks": [shapes.task("circle")]})
    api.train(shapes.model, [shapes.dataset("circle")], n_epochs=1)
    path = f"{api.url}/v1/models/{shapes.model}/tasks/{shapes.task('circle')}/predict"
    body = {"inputs": {"circle_data": [[0.1, 0.2]]}}

    def ask(_number: int) -> tuple[int, int, int]:
        # A connection of its own each time, which either of them may accept.
        answer = httpx.post(path, json=body, timeout=60)
        return answer.status_code, answer.json()["version"], answer.json()["preds"][0]

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(ask, range(REQUESTS)))) == 1
    measures = api.http.get("/metrics").text
    (counted,) = re.findall(rf'taskloom_predicted_rows_total{{model="{shapes.model}"}} ([0-9.]+)', measures)
    assert float(counted) == REQUESTS

    killed, left = children(server.pid)
    os.kill(killed, signal.SIGKILL)
    assert ask(0)[0] == 200
    until(lambda: len(children(server.pid)) == PROCESSES, "another process in its place")
    until(lambda: len(server.lines("ready")) == PROCESSES + 1, "it to be loaded")
    assert left in children(server.pid)
    with ThreadPoolExecutor(8) as threads:
        assert {status for status, *_ in threads.map(ask, range(REQUESTS))} == {200}

    running = children(server.pid)
    server.stop()
    assert server.process.returncode == 0
    assert not any(map(is_alive, running))


def test_processes_that_cannot_start_end_the_server(tmp_path: Path) -> None:
    # Torch cannot be imported where a file of its name stands first.
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "torch.py").write_text("raise ImportError('no torch here')")
    paths = [str(tmp_path / "modules"), os.environ.get("PYTHONPATH", "")]
    env = environment(tmp_path / "data") | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    server = ServerProcess("--processes", "2", "--no-worker", env=env, log=tmp_path / "log")
    try:
        until(lambda: server.process.poll() is not None, "the server to end")
        assert server.process.returncode == 3
    finally:
        server.stop()
