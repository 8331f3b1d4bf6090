"""What an operator meets: starting, refusing to start, migrating, a database that goes away, crashes of processes."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.conftest import Postgres
from tests.service.client import Api, check_problem
from tests.service.processes import ServerProcess, environment, is_alive, run_command, until
from tests.service.shapes import ENDLESS, Shapes


@pytest.fixture
def other_postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.remove()


def test_an_address_that_others_reach_is_refused_unless_told_so(tmp_path: Path) -> None:
    refused = run_command("serve", "--host", "0.0.0.0", "--port", "0", env=environment(tmp_path / "data"))
    assert refused.returncode == 2
    assert "TASKLOOM_ALLOW_OPEN" in refused.stderr


def test_a_database_is_migrated_on_demand_and_may_go_away_for_a_while(
    tmp_path: Path, other_postgres: Postgres
) -> None:
    env = environment(tmp_path / "data", other_postgres.new_database())
    refused = run_command("serve", "--port", "0", env=env)
    assert refused.returncode == 2, refused.stderr
    assert "taskloom db upgrade" in refused.stderr
    upgraded = run_command("db", "upgrade", env=env)
    assert upgraded.returncode == 0
    assert "newest revision" in upgraded.stdout

    # Told so, a server listens on every address.
    env["TASKLOOM_ALLOW_OPEN"] = "true"
    server = ServerProcess("--host", "0.0.0.0", env=env, log=tmp_path / "log")
    try:
        api = Api(server.url().replace("0.0.0.0", "127.0.0.1"))
        assert api.get("/readyz")["database"] == "postgresql"
        shapes = Shapes(api).make("circle", n=8)
        assert api.train(shapes.model, [shapes.dataset("circle")]) == 1
        api.call("PATCH", f"/v1/models/{shapes.model}", 200, json={"serving": {"log_share": 1}})

        def predict(request_id: str) -> None:
            body = {"inputs": {"circle_data": [[0.1, 0.2]]}}
            api.post(f"/v1/models/{shapes.model}/predict", body, 200, **{"X-Request-ID": request_id})

        predict("before")
        other_postgres.stop()
        for i in range(10):
            predict(f"away-{i}")
        answer = api.call("GET", "/readyz", 503)
        assert answer.headers["retry-after"]
        assert api.get("/healthz") == {"status": "ok"}
        problem = check_problem(api.call("GET", "/v1/tasks", 503))
        assert "OperationalError" not in problem["detail"]
        check_problem(api.call("POST", "/v1/tasks", 503, json=shapes.spec("square")))
        check_problem(
            api.call("POST", "/v1/tasks", 503, json=shapes.spec("square"), headers={"Idempotency-Key": "k"})
        )
        server.logged("database unavailable")

        other_postgres.start()
        until(lambda: _status(f"{api.url}/readyz") == 200, "the server to be ready again")
        api.post("/v1/tasks", shapes.spec("square"), **{"Idempotency-Key": "k"})
        # The worker has found the database again, too.
        assert api.train(shapes.model, [shapes.dataset("circle")]) == 2

        def logged() -> list[str]:
            return [row["request_id"] for row in api.get(f"/v1/models/{shapes.model}/requests")["items"]]

        until(lambda: len(logged()) == 11, "the requests to be logged")
        assert logged() == [f"away-{i}" for i in reversed(range(10))] + ["before"]
    finally:
        server.stop()


def test_a_server_is_up_before_torch_is_loaded_and_says_why_it_cannot_be(tmp_path: Path) -> None:
    env = _with_broken_torch(
        tmp_path,
        f"""
import pathlib, time
while not pathlib.Path({str(tmp_path / "go on")!r}).exists():
    time.sleep(0.01)
""",
    )
    server = ServerProcess("--no-worker", env=env, log=tmp_path / "log")
    try:
        url = server.logged("serving")["url"]
        assert _status(f"{url}/healthz") == 200
        check_problem(httpx.get(f"{url}/readyz", timeout=10, verify=False))
        (tmp_path / "go on").touch()
        server.process.wait(30)
    finally:
        server.stop()
    assert server.process.returncode == 3
    assert "torch is broken" in server.lines("the server cannot start")[0]["exception"]


def test_a_worker_that_cannot_load_torch_ends(tmp_path: Path) -> None:
    ended = run_command("worker", env=_with_broken_torch(tmp_path))
    assert ended.returncode == 1
    assert "torch is broken" in ended.stderr
    assert "worker started" not in ended.stderr


def test_crashes_of_the_worker_and_of_the_server_lose_nothing(tmp_path: Path) -> None:
    env = environment(tmp_path / "data")
    server = ServerProcess(env=env, log=tmp_path / "log-1")
    try:
        api = Api(server.url())
        shapes = Shapes(api).make("circle")
        assert api.train(shapes.model, [shapes.dataset("circle")]) == 1
        first = server.logged("worker started")
        first_pid = _pid(first)
        os.kill(first_pid, signal.SIGKILL)
        assert server.logged("worker died, starting another")["exit_code"] == -signal.SIGKILL
        run = api.start(shapes.model, [shapes.dataset("circle")], **ENDLESS)
        api.training(run)
        second = server.lines("worker started")[-1]
        claim = server.logged("run claimed", run_id=run)
        assert second["worker"] != first["worker"]

        before = {path: api.get(path) for path in _everything(shapes)}
        server.kill()
        until(lambda: not is_alive(_pid(second)), "the worker to go with its server")
        until(lambda: not is_alive(claim["pid"]), "the training to go with its worker")

        server = ServerProcess(env=env, log=tmp_path / "log-2")
        api = Api(server.url())
        assert {path: api.get(path) for path in _everything(shapes)} == before
        inputs = {"inputs": {"circle_data": [[0, 0]]}}
        assert api.post(f"/v1/models/{shapes.model}/predict", inputs, 200)["version"] == 1
        # The run that trained goes on, if only to be cancelled.
        api.training(run)
        api.post(f"/v1/runs/{run}/cancel", status=202)
        api.ended(run, "cancelled")
    finally:
        server.stop()
    assert server.process.returncode == 0
    third = server.lines("worker started")[-1]
    assert not is_alive(_pid(third))
    assert server.lines("worker stopped")


def test_bodies_that_only_ever_begin_take_no_more_than_their_memory(tmp_path: Path) -> None:
    limits = {"TASKLOOM_MAX_BODY_MIB": "1", "TASKLOOM_MAX_INTAKE_MIB": "1"}
    env = environment(tmp_path / "data", None, **limits)
    server = ServerProcess("--no-worker", env=env, log=tmp_path / "server.log")
    try:
        url = server.url()
        head = ["POST /v1/tasks HTTP/1.1", "Host: a", "Content-Type: application/json"]
        half = "\r\n".join([*head, f"Content-Length: {2**20}", "", ""]).encode() + b" " * 700_000

        def sent() -> socket.socket:
            connection = socket.create_connection(
                (urlsplit(url).hostname or "", urlsplit(url).port or 0), timeout=30
            )
            connection.sendall(half)
            return connection

        with sent(), sent() as second:
            answer = second.recv(2**16)
            assert b" 503 " in answer
            assert b"retry-after" in answer.lower()
            # What comes in one piece is answered meanwhile.
            assert Api(url).post("/v1/tasks", {}, 422)
        until(lambda: _is_taken(url, b" " * 700_000), "room for another body")
    finally:
        server.stop()


def _is_taken(url: str, padding: bytes) -> bool:
    headers = {"Content-Type": "application/json"}
    return (
        httpx.post(f"{url}/v1/tasks", content=padding + b"{}", headers=headers, timeout=30).status_code == 422
    )


def test_a_server_that_is_stopped_answers_what_was_begun_and_ends_streams(tmp_path: Path) -> None:
    server = ServerProcess("--no-worker", env=environment(tmp_path / "data"), log=tmp_path / "server.log")
    api = Api(server.url())
    shapes = Shapes(api).make("circle", n=8)
    run = api.start(shapes.model, [shapes.dataset("circle")])
    text = json.dumps(shapes.split("circle", "later", 50)).encode()

    def body() -> Iterator[bytes]:
        yield text[:100]
        server.ask_to_stop()
        server.logged("Shutting down")
        yield text[100:]

    with api.http.stream("GET", f"/v1/runs/{run}/events") as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: status"
        begun = Api(api.url).http.post(
            "/v1/datasets", content=body(), headers={"Content-Type": "application/json"}
        )
        assert begun.status_code == 201
        # Nobody trains the run, whose stream would go on for ever.
        assert "queued" in "".join(lines)
    server.process.wait(30)
    assert server.process.returncode == 0


def test_the_log_is_json_line_by_line_and_carries_no_stack_trace_of_a_clients_fault(service: Any) -> None:
    service.api.get("/v1/tasks/nowhere", 404)
    lines = service.server.lines()
    text = [line for line in service.server.log.read_text().split("\n")[:-1] if line]
    assert len(lines) == len(text)
    assert all({"event", "level", "timestamp", "logger"} <= line.keys() for line in lines)
    assert all("request_id" in line for line in lines if line["event"] == "request")


def _with_broken_torch(folder: Path, first: str = "") -> dict[str, str]:
    """Return the environment of a process that finds a torch that cannot be imported."""
    (folder / "modules").mkdir()
    (folder / "modules" / "torch.py").write_text(f"{first}\nraise ImportError('torch is broken')\n")
    return environment(folder / "data") | {"PYTHONPATH": str(folder / "modules")}


def _status(url: str) -> int:
    try:
        return httpx.get(url, timeout=10, verify=False).status_code
    except httpx.TransportError:
        return 0


def _pid(started: dict[str, Any]) -> int:
    """Return the process id that a worker's name holds."""
    return int(started["worker"].split("-")[-2])


def _everything(shapes: Shapes) -> list[str]:
    model = f"/v1/models/{shapes.model}"
    return [
        f"/v1/tasks/{shapes.task('circle')}",
        f"/v1/datasets/{shapes.dataset('circle')}",
        f"/v1/datasets/{shapes.dataset('circle')}/train/rows",
        model,
        f"{model}/versions",
        f"{model}/versions/1",
        f"/v1/scores?model={shapes.model}",
    ]
