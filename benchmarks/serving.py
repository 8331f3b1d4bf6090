"""Predictions over HTTP: Taskloom beside a constant answer, a FastAPI app with pydantic, LitServe and others.

Each server is one process on one core (some start more, on the same core); the load comes from the other. All predict
with the same weights, which Taskloom trained, and are measured one after the other, round by round, so that what else
the machine does strikes all alike. Before it is measured, a server's answer is held against PyTorch's in this process.

``--memory N`` sends N predictions to Taskloom instead, and prints what memory its process holds meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from app.storage.artifacts import ArtifactStore
from benchmarks.contenders.serving import network

SERVER_CORE, LOAD_CORE = 0, 1
OURS, OTHERS = sys.executable, ".venv-bench-serve/bin/python"
FEATURES = 64
SIZES = {"trunk": [256, 256], "digits": [128, 64]}
"""Layers of each model's trunk."""
CLASSES = {"trunk": dict.fromkeys("abcde", 10), "digits": {"digit": 10, "is_odd": 2, "at_least_five": 2}}
"""Classes of each model's tasks; the first task is the one that all servers predict."""
_APP = "benchmarks.contenders.serving"
_JSON = {"Content-Type": "application/json"}
_READY_SECONDS = 120.0
_MANY = 8
"""More connections do not ask for many rows each: some servers would answer none of them within a measurement."""


@dataclass(frozen=True)
class Payload:
    """A request.

    Attributes:
        name: What it is called in the tables.
        rows: How many rows it asks for.
        form: ``json``, ``binary``, or ``all`` for all tasks of the model in JSON.
    """

    name: str
    rows: int
    form: str


PAYLOADS = {
    payload.name: payload
    for payload in (
        Payload("1 row, all tasks", 1, "all"),
        Payload("1 row, JSON", 1, "json"),
        Payload("256 rows, JSON", 256, "json"),
        Payload("256 rows, binary", 256, "binary"),
    )
}


@dataclass(frozen=True)
class Server:
    """A server that is measured.

    Attributes:
        name: What it is called in the tables.
        python: The interpreter of its environment.
        module: The module that has its ``app``, or that is run with a port.
        arguments: What follows the port.
        path: Where it predicts.
        wrap: The member of the body that the rows are in.
    """

    name: str
    python: str
    module: str
    arguments: tuple[str, ...] = ()
    path: str = "/predict"
    wrap: str = "inputs"

    def command(self, port: int) -> list[str]:
        """Return what starts it."""
        if self.module == "app.cli":
            return [self.python, "-m", "app.cli", "serve", "--no-worker", "--port", str(port)]
        if self.python == OURS:
            return [
                self.python,
                "-m",
                "uvicorn",
                f"{self.module}:app",
                "--port",
                str(port),
                "--no-access-log",
            ]
        return [self.python, "-m", self.module, str(port), *self.arguments]


SERVERS = [
    Server("taskloom", OURS, "app.cli"),
    Server("constant", OURS, f"{_APP}.constant"),
    Server("pydantic", OURS, f"{_APP}.with_pydantic"),
    Server("minimal", OURS, f"{_APP}.minimal"),
    Server("LitServe", OTHERS, f"{_APP}.litserve_app"),
    Server("LitServe, batching", OTHERS, f"{_APP}.litserve_app", ("--batching",)),
    Server("MLflow", OTHERS, f"{_APP}.mlflow_app", path="/invocations"),
    Server("BentoML", OTHERS, f"{_APP}.bentoml_app"),
    Server("Ray Serve", OTHERS, f"{_APP}.ray_app"),
]
GOALS = [
    ("1 row, JSON", 1, "pydantic", 1.6),
    ("1 row, JSON", 8, "pydantic", 1.9),
    ("1 row, JSON", 64, "pydantic", 1.9),
    ("1 row, JSON", 1, "LitServe", 4.5),
    ("1 row, JSON", 8, "LitServe", 4.5),
    ("256 rows, JSON", 1, "pydantic", 5.5),
    ("256 rows, JSON", 8, "pydantic", 5.5),
    ("256 rows, JSON", 1, "LitServe", 7.0),
    ("256 rows, JSON", 8, "LitServe", 7.0),
    ("256 rows, binary", 1, "pydantic", 12.0),
    ("256 rows, binary", 8, "pydantic", 12.0),
]
"""Payload, connections, whom it is held against, and how many times its rate Taskloom is to reach."""


class MeasurementError(Exception):
    """A server did not answer the load as it should."""


class WrongAnswerError(Exception):
    """A server answers something else than PyTorch."""


class World:
    """Two models that Taskloom trained over HTTP, and the rows that are predicted.

    Args:
        folder: For the data.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = np.random.default_rng(0).normal(size=(256, FEATURES)).astype(np.float32)
        self.env = os.environ | {
            "TASKLOOM_DATA_DIR": str(folder / "data"),
            "TASKLOOM_LOG_LEVEL": "warning",
            "OMP_NUM_THREADS": "1",
            # The other servers tell their makers nothing of these runs.
            "BENTOML_DO_NOT_TRACK": "True",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self.weights: dict[str, Path] = {}

    def train(self) -> None:
        """Train both models for one epoch."""
        port = free_port()
        command = [OURS, "-m", "app.cli", "serve", "--port", str(port)]
        with (
            process(command, self.env),
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http,
        ):
            until_ready(f"http://127.0.0.1:{port}/readyz")
            for model, tasks in CLASSES.items():
                self._train(http, model, tasks)

    def _train(self, http: httpx.Client, model: str, tasks: dict[str, int]) -> None:
        sizes = [FEATURES, *SIZES[model]]
        layers: list[dict[str, Any]] = []
        for n_in, n_out in pairwise(sizes):
            layers += [{"type": "Linear", "in_features": n_in, "out_features": n_out}, {"type": "ReLU"}]
        trunk = {"type": "Sequential", "layers": layers}
        for task, classes in tasks.items():
            head = {"type": "Linear", "in_features": sizes[-1], "out_features": classes}
            spec = {
                "name": task,
                "module_pool": {"trunk": trunk, f"head_{task}": head},
                "op_sequence": [
                    {"name": "trunk", "module_name": "trunk", "inputs": [["_input_", "x"]]},
                    {"name": "head", "module_name": f"head_{task}", "inputs": ["trunk"]},
                ],
            }
            http.post("/v1/tasks", json=spec).raise_for_status()
        labels = {task: [i % classes for i in range(len(self.rows))] for task, classes in tasks.items()}
        data = {"name": model, "split": "train", "X_dict": {"x": self.rows.tolist()}, "Y_dict": labels}
        http.post("/v1/datasets", json=data).raise_for_status()
        http.post("/v1/models", json={"name": model, "tasks": list(tasks)}).raise_for_status()
        asked = {"datasets": [model], "trainer": {"n_epochs": 1, "seed": 1}}
        run = http.post(f"/v1/models/{model}/runs", json=asked).raise_for_status().json()
        while run["status"] in ("queued", "running"):
            time.sleep(0.1)
            run = http.get(f"/v1/runs/{run['id']}").json()
        version = http.get(f"/v1/models/{model}/versions/{run['model_version']}").raise_for_status().json()
        self.weights[model] = ArtifactStore(self.folder / "data" / "artifacts").path(version["sha256"])

    def env_of(self, model: str) -> dict[str, str]:
        """Return the environment of servers of a model's first task."""
        return self.env | {
            "BENCH_WEIGHTS": str(self.weights[model]),
            "BENCH_TASK": next(iter(CLASSES[model])),
        }

    def request(
        self, server: Server, model: str, payload: Payload
    ) -> tuple[str, bytes, dict[str, str]] | None:
        """Return path, body and headers of a request; None where a server has no such request."""
        rows = self.rows[: payload.rows]
        task = next(iter(CLASSES[model]))
        if server.name != "taskloom":
            body = json.dumps({server.wrap: rows.tolist()}).encode()
            return (server.path, body, _JSON) if payload.form == "json" else None
        path = f"/v1/models/{model}/tasks/{task}/predict"
        if payload.form == "binary":
            shape = {"X-Tensor-Shape": f"{payload.rows},{FEATURES}", "X-Tensor-Dtype": "float32"}
            octets = "application/octet-stream"
            headers = {"Content-Type": octets, "Accept": octets} | shape
            return f"{path}?return=probs", rows.tobytes(), headers
        asked: dict[str, Any] = {"inputs": {"x": rows.tolist()}, "return": ["preds", "probs"]}
        if payload.form == "all":
            path, asked = f"/v1/models/{model}/predict", {"tasks": None} | asked
        return path, json.dumps(asked).encode(), _JSON

    def check(self, url: str, server: Server, model: str) -> None:
        """Raise an error if a server predicts other than PyTorch does here, for any payload that it has."""
        for payload in PAYLOADS.values():
            asked = self.request(server, model, payload)
            if asked is None:
                continue
            path, body, headers = asked
            answer = httpx.post(url + path, content=body, headers=headers, timeout=60)
            if payload.form == "binary" and answer.status_code == 415:
                continue
            answer.raise_for_status()
            if server.name == "constant":
                continue
            for task, probs in self._answered(answer, model, payload).items():
                if not np.allclose(probs, self._expected(model, task)[: payload.rows], atol=1e-5):
                    raise WrongAnswerError(f"it predicts something else for {payload.name}")

    def _answered(self, answer: httpx.Response, model: str, payload: Payload) -> dict[str, np.ndarray]:
        """Return the probabilities of an answer by task."""
        task = next(iter(CLASSES[model]))
        if payload.form == "binary":
            return {task: np.frombuffer(answer.content, "<f4").reshape(payload.rows, -1)}
        content = answer.json()
        if payload.form == "all":
            if content["predictions"].keys() != CLASSES[model].keys():
                raise WrongAnswerError("it predicts for other tasks")
            return {name: np.array(each["probs"]) for name, each in content["predictions"].items()}
        # MLflow wraps what a model returns.
        return {task: np.array(content.get("predictions", content)["probs"])}

    def _expected(self, model: str, task: str) -> np.ndarray:
        """Return the probabilities of all rows by PyTorch."""
        os.environ |= self.env_of(model)
        with torch.inference_mode():
            return torch.softmax(network.load(task)(torch.from_numpy(self.rows)), dim=1).numpy()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def process(
    command: list[str], env: dict[str, str], core: int | None = None
) -> Generator[subprocess.Popen[bytes]]:
    """Run a command, on one core if one is given, until the end of the block."""
    pinned = command if core is None else ["taskset", "-c", str(core), *command]
    with tempfile.TemporaryFile() as log:
        running = subprocess.Popen(pinned, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            yield running
        finally:
            running.terminate()
            with suppress(subprocess.TimeoutExpired):
                running.wait(20)
            # What it started may outlive it, and would take time from what is measured next.
            signal_session(running.pid, signal.SIGKILL)
            running.wait()


def signal_session(leader: int, number: signal.Signals) -> None:
    """Send a signal to all processes of a session; some servers start process groups of their own in it."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # After the name, which may hold anything: state, parent, group, session.
            session = int(stat.read_text().rpartition(")")[2].split()[3])
            if session == leader:
                os.kill(int(stat.parent.name), number)
        except (FileNotFoundError, ProcessLookupError):
            continue


def until_ready(url: str, running: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until a server has something at an address, and answers other than that it is not ready."""
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and (running is None or running.poll() is None):
        try:
            if httpx.get(url, timeout=5).status_code not in (404, 503):
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise TimeoutError(f"{url} did not get ready")


def measured(
    url: str, asked: tuple[str, bytes, dict[str, str]], connections: int, seconds: float
) -> dict[str, float]:
    """Load a server from the other core and return what the load saw."""
    path, body, headers = asked
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        command = [
            OURS,
            "-m",
            "benchmarks.load",
            url + path,
            "--body",
            file.name,
            "--connections",
            str(connections),
        ]
        command += ["--seconds", str(seconds), "--core", str(LOAD_CORE)]
        for name, value in headers.items():
            command += ["--header", f"{name}: {value}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MeasurementError(done.stderr.strip()[-500:])
    return json.loads(done.stdout)


Key = tuple[str, int, str]
"""Payload, connections and server."""

Rounds = dict[Key, list[dict[str, float]]]
"""What the load saw, round by round."""


def compare(
    world: World, model: str, servers: list[Server], arguments: argparse.Namespace, console: Console
) -> Rounds:
    """Measure all servers of a model, round by round."""
    found: Rounds = {}
    failed: set[Key] = set()
    with ExitStack() as stack:
        running: dict[Server, str] = {}
        pids: dict[Server, int] = {}
        for server in servers:
            if not Path(server.python).exists():
                console.print(f"{server.name} is left out: make bench-serve makes {server.python}")
                continue
            url = f"http://127.0.0.1:{free_port()}"
            command = server.command(int(url.rpartition(":")[2]))
            started = stack.enter_context(process(command, world.env_of(model), SERVER_CORE))
            try:
                until_ready(url + ("/readyz" if server.name == "taskloom" else server.path), started)
                world.check(url, server, model)
            except (TimeoutError, httpx.HTTPError, WrongAnswerError) as error:
                console.print(f"{server.name} is left out: {error}")
                continue
            running[server] = url
            pids[server] = started.pid
        # Ours goes on loading for a while after it is ready.
        time.sleep(arguments.settle)
        # Some servers compute while nobody asks them anything.
        for pid in pids.values():
            stack.callback(signal_session, pid, signal.SIGCONT)
            signal_session(pid, signal.SIGSTOP)
        for _ in range(arguments.rounds):
            # What is held against one another is measured close together: the machine's pace changes.
            for connections in arguments.connections:
                for payload in (PAYLOADS[name] for name in arguments.payloads):
                    if payload.rows > 1 and connections > _MANY:
                        continue
                    for server, url in running.items():
                        asked = world.request(server, model, payload)
                        key = (payload.name, connections, server.name)
                        if asked is None or key in failed:
                            continue
                        signal_session(pids[server], signal.SIGCONT)
                        try:
                            figures = measured(url, asked, connections, arguments.seconds)
                        except MeasurementError as error:
                            console.print(
                                f"{server.name}, {payload.name}, {connections} connections: {error}"
                            )
                            failed.add(key)
                            found.pop(key, None)
                        else:
                            found.setdefault(key, []).append(figures)
                        signal_session(pids[server], signal.SIGSTOP)
    return found


def ratio(found: Rounds, ours: Key, theirs: Key) -> float | None:
    """Return how many times another's rate one rate is, in the median of the rounds; None if one was not measured."""
    if ours not in found or theirs not in found:
        return None
    pairs = zip(found[ours], found[theirs], strict=True)
    return statistics.median(mine["requests_per_s"] / other["requests_per_s"] for mine, other in pairs)


def show(model: str, found: Rounds, console: Console) -> None:
    """Print what was measured of a model."""
    for payload, connections in dict.fromkeys((payload, n) for payload, n, _ in found):
        table = Table(title=f"{model}: {payload}, {connections} connections")
        for column in ("server", "requests/s", "p50 ms", "p99 ms", "times theirs"):
            table.add_column(column, justify="left" if column == "server" else "right")
        for key, rounds in found.items():
            if key[:2] == (payload, connections):
                row = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
                times = ratio(found, (payload, connections, "taskloom"), key)
                cells = [f"{row['requests_per_s']:,.0f}", f"{row['p50_ms']:.2f}", f"{row['p99_ms']:.2f}"]
                table.add_row(key[2], *cells, f"{times:.2f}" if times and key[2] != "taskloom" else "")
        console.print(table)


def judge(found: Rounds, console: Console) -> None:
    """Print each goal, and whether it was met."""

    def say(what: str, value: float | None, goal: float, *, at_most: bool = False) -> None:
        if value is not None:
            word = "met   " if (value <= goal if at_most else value >= goal) else "MISSED"
            console.print(f"{word}  {what}: {value:.2f} (goal {'≤' if at_most else '≥'} {goal})")

    for payload, connections, server, goal in GOALS:
        # Of LitServe, the better of its two settings; only we have a binary form.
        names = ["LitServe", "LitServe, batching"] if server == "LitServe" else [server]
        ours = (payload, connections, "taskloom")
        beside = [
            ratio(found, ours, (payload.replace("binary", "JSON"), connections, name)) for name in names
        ]
        known = [value for value in beside if value is not None]
        say(f"{payload}, {connections} connections, beside {server}", min(known, default=None), goal)
    for connections in (1, 8, 64):
        ours, one = ((payload, connections, "taskloom") for payload in ("1 row, all tasks", "1 row, JSON"))
        say(f"all tasks beside one, {connections} connections", ratio(found, ours, one), 0.85)
    if rounds := found.get(("1 row, JSON", 64, "taskloom")):
        spread = statistics.median(each["p99_ms"] / each["p50_ms"] for each in rounds)
        say("p99 beside p50, 64 connections", spread, 3.0, at_most=True)


def watch_memory(world: World, predictions: int, console: Console) -> None:
    """Send many predictions to Taskloom, and print what memory its process holds after each tenth of them."""
    server = next(server for server in SERVERS if server.name == "taskloom")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    asked = world.request(server, "trunk", PAYLOADS["1 row, JSON"])
    assert asked is not None
    with process(server.command(port), world.env_of("trunk"), SERVER_CORE) as running:
        until_ready(f"{url}/readyz", running)
        world.check(url, server, "trunk")
        time.sleep(5)
        rate = measured(url, asked, 64, 3)["requests_per_s"]
        done = 0
        while done <= predictions:
            resident = int(Path(f"/proc/{running.pid}/statm").read_text().split()[1]) * os.sysconf(
                "SC_PAGESIZE"
            )
            console.print(f"{done:>10,} predictions: {resident / 1e6:,.1f} MB resident")
            seconds = predictions / 10 / rate
            done += round(measured(url, asked, 64, seconds)["requests_per_s"] * seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description="Predictions over HTTP, beside other servers.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--settle", type=float, default=8.0, help="seconds before the first")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--payloads", nargs="+", default=list(PAYLOADS), choices=list(PAYLOADS))
    parser.add_argument("--models", nargs="+", default=list(CLASSES), choices=list(CLASSES))
    parser.add_argument("--servers", nargs="+", default=[server.name for server in SERVERS])
    parser.add_argument(
        "--memory", type=int, default=0, help="predictions to watch the memory over, and no more"
    )
    arguments = parser.parse_args()
    console = Console(width=110)
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        world.train()
        if arguments.memory:
            watch_memory(world, arguments.memory, console)
            return
        servers = [server for server in SERVERS if server.name in arguments.servers]
        for model in arguments.models:
            found = compare(world, model, servers, arguments, console)
            show(model, found, console)
            if model == "trunk":
                judge(found, console)


if __name__ == "__main__":
    main()
