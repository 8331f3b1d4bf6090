"""A service under fire: processes killed and stopped, databases away, while runs train and clients ask."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg

from app.db import migrations
from app.db.session import Database
from tests.conftest import Postgres
from tests.service.client import OVER, Api, check_problem, parse_events
from tests.service.processes import TaskloomProcess, WorkerProcess, environment, is_alive, until
from tests.service.shapes import Shapes

SETTINGS = {
    "TASKLOOM_SNAPSHOT_SECONDS": "0.2",
    # Faults come faster here than any run gets on: none is to fail for that.
    "TASKLOOM_MAX_ATTEMPTS": "100",
    "TASKLOOM_LEASE_SECONDS": "3",
    "TASKLOOM_WORKER_SLOTS": "2",
}
_LONGEST = 300.0
IS_FULL = os.environ.get("TASKLOOM_FAULTS") == "full"

# Trainings of some seconds that keep different things from step to step; the sample has two of them.
TRAINERS: list[dict[str, Any]] = [
    {"n_epochs": 300, "compile": "off"},
    {"n_epochs": 300, "balancing": "uncertainty", "batch_scheduler": "joint"},
    {"n_epochs": 300, "optimizer": "sgd", "ema_decay": 0.99, "lr_scheduler": "cosine"},
    {"n_epochs": 300, "balancing": "dwa", "optimizer": "adamw", "accumulate_batches": 3},
    {
        "n_epochs": 300,
        "checkpointing": True,
        "checkpointer_config": {"checkpoint_metric": "model/all/valid/loss:min"},
        "lr_scheduler": "plateau",
    },
][: None if IS_FULL else 2]


class SteadyApi(Api):
    """A client that asks again where it gets no answer, or is told to come back later; it takes no other 5xx."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.told_to_wait = 0

    def call(self, method: str, path: str, status: int | tuple[int, ...], **options: Any) -> httpx.Response:
        """Send a request until it is answered."""
        if method == "POST":
            # The answer may be lost of a request that was served.
            options["headers"] = {"Idempotency-Key": uuid4().hex} | options.get("headers", {})
        deadline = time.monotonic() + _LONGEST
        while time.monotonic() < deadline:
            try:
                response = self.http.request(method, path, **options)
            except httpx.TransportError:
                time.sleep(0.1)
                continue
            if response.status_code != 503:
                wanted = (status,) if isinstance(status, int) else status
                assert response.status_code in wanted, (
                    f"{method} {path}: {response.status_code} {response.text}"
                )
                return response
            assert int(response.headers["retry-after"]) > 0
            check_problem(response)
            self.told_to_wait += 1
            time.sleep(0.1)
        raise AssertionError(f"{method} {path} is not answered")

    def follow(self, run: str) -> list[dict[str, Any]]:
        """Follow a run's events to its end, taking the stream up again wherever it breaks off."""
        seen: list[dict[str, Any]] = []
        while True:
            after = {"Last-Event-ID": str(seen[-1]["id"])} if seen else {}
            text = ""
            with (
                contextlib.suppress(httpx.TransportError),
                self.http.stream("GET", f"/v1/runs/{run}/events", headers=after) as response,
            ):
                if response.status_code == 200:
                    for part in response.iter_text():
                        text += part
            # What is half told when the connection breaks is told again.
            seen += parse_events(text[: text.rfind("\n\n") + 2])
            if seen and seen[-1]["event"] == "status" and seen[-1]["data"]["status"] in OVER:
                return seen
            time.sleep(0.05)


@dataclass
class Summary:
    """What happened, and what came of it.

    Attributes:
        faults: How many there were of each kind.
        runs: Runs that were accepted.
        lost: Those that did not succeed.
        doubled: Those with more or less than one version, or a score that is there twice.
        different: Those whose weights, metrics or scores are not those of the undisturbed run, to the bit.
        broken_streams: Those whose events were not told once each, in order.
        predictions: Predictions that were answered.
        wrong: Those whose answer was wrong.
        told_to_wait: Requests that were answered 503, with the time to wait.
    """

    faults: Counter[str] = field(default_factory=Counter[str])
    runs: int = 0
    lost: int = 0
    doubled: int = 0
    different: int = 0
    broken_streams: int = 0
    predictions: int = 0
    wrong: int = 0
    told_to_wait: int = 0

    def add(self, other: Summary) -> None:
        """Count another's events in."""
        self.faults.update(other.faults)
        for name in vars(other).keys() - {"faults"}:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def check(self) -> None:
        """Fail unless nothing was lost, doubled, different or wrong."""
        assert (self.lost, self.doubled, self.different) == (0, 0, 0), self
        assert (self.broken_streams, self.wrong) == (0, 0), self

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(self.faults.items()))
        return "\n".join(
            [
                f"faults injected  {self.faults.total()} ({kinds})",
                f"runs             {self.runs}",
                f"lost             {self.lost}",
                f"doubled          {self.doubled}",
                f"not identical    {self.different}",
                f"broken streams   {self.broken_streams}",
                f"predictions      {self.predictions}, wrong {self.wrong}",
                f"told to wait     {self.told_to_wait}",
            ]
        )


class Fleet:
    """A server on a port of its own and some workers, each replaced when it is gone, and a model to be trained.

    Args:
        folder: For their data and logs.
        database_url: Their database.
        n_workers: How many workers.
        **settings: Of all processes.
    """

    def __init__(self, folder: Path, database_url: str, n_workers: int = 2, **settings: str) -> None:
        self.folder = folder
        self.database_url = database_url
        self.env = environment(folder / "data", database_url, **SETTINGS | settings)
        db = Database(database_url)
        migrations.upgrade(db.engine)
        db.dispose()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.api = SteadyApi(f"http://127.0.0.1:{self.port}")
        self._logs = 0
        self.server = self._new_server()
        self.workers = [self._new_worker(self.env) for _ in range(n_workers)]
        self.gone: list[WorkerProcess] = []
        self._whole: dict[int, dict[str, Any]] = {}
        self.api.get("/readyz")

    def _new_server(self) -> TaskloomProcess:
        return TaskloomProcess(
            "serve", "--port", str(self.port), "--no-worker", env=self.env, log=self._log("server")
        )

    def _new_worker(self, env: dict[str, str]) -> WorkerProcess:
        return WorkerProcess(env=env, log=self._log("worker"))

    def _log(self, kind: str) -> Path:
        self._logs += 1
        return self.folder / f"{kind}-{self._logs}.log"

    def ready(self) -> None:
        """Wait until all workers can claim."""
        for worker in self.workers:
            worker.logged("worker started")

    @cached_property
    def shapes(self) -> Shapes:
        """What is trained."""
        return Shapes(self.api).make_noisy()

    def start(self, number: int) -> str:
        """Start a training of some kind."""
        body = {
            "datasets": [self.shapes.dataset(kind) for kind in ("circle", "square")],
            "trainer": {"seed": 3, "lr": 0.003, "log_manager_config": {"evaluation_freq": 50}}
            | TRAINERS[number],
            "init_from": None,
        }
        return self.api.post(f"/v1/models/{self.shapes.model}/runs", body, 202)["id"]

    def whole(self, number: int) -> dict[str, Any]:
        """Return what a training of some kind comes to that is left alone; the first that asks has it trained."""
        if number not in self._whole:
            run = self.start(number)
            assert self.api.ended(run)["attempt"] == 1
            self._whole[number] = self.api.result(run)
        return self._whole[number]

    @property
    def artifacts(self) -> Path:
        return self.folder / "data" / "artifacts"

    def children(self) -> list[int]:
        """Return the training processes that live."""
        pids = [line["pid"] for worker in self.workers for line in list(worker.claims())[-4:]]
        return [pid for pid in pids if is_alive(pid)]

    def kill_child(self) -> bool:
        """Kill a training process; say whether there was one."""
        alive = self.children()
        if alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(random.choice(alive), signal.SIGKILL)
        return bool(alive)

    def kill_worker(self) -> bool:
        """Kill a worker, and start another."""
        return self._replace(random.choice(self.workers), WorkerProcess.kill)

    def stop_worker(self) -> bool:
        """Stop a worker as an operator would, and start another."""
        return self._replace(random.choice(self.workers), WorkerProcess.stop)

    def stop_worker_for(self, **env: str) -> WorkerProcess:
        """Stop a worker, and start another that has more in its environment."""
        self._replace(self.workers[-1], WorkerProcess.stop, **env)
        return self.workers[-1]

    def kill_server(self) -> bool:
        """Kill the server, and start another."""
        self.server.kill()
        self.server = self._new_server()
        return True

    def stop_server(self) -> bool:
        """Stop the server as an operator would, and start another."""
        self.server.stop()
        self.server = self._new_server()
        return True

    def hold_database(self) -> bool:
        """Have nobody else write to SQLite for a moment."""
        path = self.database_url.removeprefix("sqlite:///")
        with contextlib.closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(1.0)
            connection.execute("ROLLBACK")
        return True

    def cut_connections(self) -> bool:
        """Break off all connections to PostgreSQL, in the middle of whatever they do."""
        url = self.database_url.replace("+psycopg", "")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        return True

    def _replace(self, worker: WorkerProcess, end: Callable[[WorkerProcess], None], **env: str) -> bool:
        end(worker)
        self.gone.append(worker)
        self.workers[self.workers.index(worker)] = self._new_worker(self.env | env)
        return True

    def claims(self) -> Counter[str]:
        """Return how often each run was claimed."""
        return Counter(line["run_id"] for worker in [*self.workers, *self.gone] for line in worker.claims())

    def stop(self) -> None:
        """Stop all processes."""
        for process in (*self.workers, self.server):
            process.ask_to_stop()
        for process in (*self.workers, self.server):
            process.stop()


class Storm:
    """Runs under fire on a fleet, each to be compared with one that was left alone.

    Args:
        fleet: The service.
        seed: Of what happens when.
    """

    def __init__(self, fleet: Fleet, seed: int = 0) -> None:
        random.seed(seed)
        self.fleet = fleet
        self.api = fleet.api
        self.summary = Summary()
        self._over = threading.Event()
        self._failures: list[Exception] = []

    def rage(
        self,
        n_runs: int,
        n_faults: int,
        kinds: dict[Callable[[], bool], int],
        pause: tuple[float, float] = (0.1, 0.8),
    ) -> None:
        """Train runs while faults happen and predictions are asked for, and see what came of it.

        Args:
            n_runs: How many runs, at least.
            n_faults: How many faults, at least; runs go on being started until then.
            kinds: What may happen, each with its weight; says whether it did.
            pause: Seconds from one to the next, at least and at most.
        """
        for number in range(len(TRAINERS)):
            self.fleet.whole(number)
        before = len(self._versions())
        self.api.told_to_wait = 0
        asking = [
            threading.Thread(target=self._guarded, args=(self._ask, number))
            for number in range(4 if IS_FULL else 1)
        ]
        followers: dict[str, threading.Thread] = {}
        told: dict[str, list[dict[str, Any]]] = {}
        numbers: dict[str, int] = {}
        for thread in asking:
            thread.start()
        started = threading.Thread(
            target=self._guarded, args=(self._start_all, n_runs, n_faults, numbers, followers, told)
        )
        started.start()
        while started.is_alive():
            time.sleep(random.uniform(*pause))
            [happen] = random.choices(list(kinds), list(kinds.values()))
            if happen():
                self.summary.faults[happen.__name__.replace("_", " ")] += 1
        started.join()
        for run in numbers:
            until(lambda run=run: self.api.run(run)["status"] in OVER, f"run {run} to be over", _LONGEST)
        for thread in followers.values():
            thread.join(60)
        self._over.set()
        for thread in asking:
            thread.join()
        self._judge(numbers, told, before)
        self.summary.told_to_wait = self.api.told_to_wait
        if self._failures:
            raise self._failures[0]

    def _guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except Exception as error:  # noqa: BLE001 - it is raised at the end
            self._failures.append(error)

    def _start_all(
        self,
        n_runs: int,
        n_faults: int,
        numbers: dict[str, int],
        followers: dict[str, threading.Thread],
        told: dict[str, list[dict[str, Any]]],
    ) -> None:
        def follow(run: str) -> None:
            told[run] = self.api.follow(run)

        while len(numbers) < n_runs or self.summary.faults.total() < n_faults:
            if sum(run not in told for run in numbers) < min(6, n_runs):
                number = len(numbers) % len(TRAINERS)
                run = self.fleet.start(number)
                numbers[run] = number
                followers[run] = threading.Thread(target=self._guarded, args=(follow, run))
                followers[run].start()
            time.sleep(0.05)

    def _ask(self, number: int) -> None:
        """Ask for predictions of the first version, over and over, and compare each with the first answer."""
        chance = random.Random(number)
        path = f"/v1/models/{self.fleet.shapes.model}/predict"
        inputs = [
            {
                f"{kind}_data": [[chance.uniform(-1, 1), chance.uniform(-1, 1)] for _ in range(3)]
                for kind in ("circle", "square")
            }
            for _ in range(20)
        ]
        bodies = [{"inputs": of, "version": 1 + i % len(TRAINERS)} for i, of in enumerate(inputs)]
        wanted = [self.api.post(path, body, 200)["predictions"] for body in bodies]
        while not self._over.is_set():
            i = chance.randrange(len(bodies))
            # Not kept for idempotency: each is computed.
            try:
                response = self.api.http.post(path, json=bodies[i])
            except httpx.TransportError:
                time.sleep(0.05)
                continue
            if response.status_code == 503:
                assert int(response.headers["retry-after"]) > 0
                self.api.told_to_wait += 1
                time.sleep(0.05)
                continue
            assert response.status_code == 200, response.text
            self.summary.predictions += 1
            if response.json()["predictions"] != wanted[i]:
                self.summary.wrong += 1

    def _versions(self) -> list[int]:
        return self.api.get(f"/v1/models/{self.fleet.shapes.model}")["versions"]

    def _judge(self, numbers: dict[str, int], told: dict[str, list[dict[str, Any]]], before: int) -> None:
        versions: Counter[int] = Counter()
        for run, number in numbers.items():
            ended = self.api.run(run)
            self.summary.runs += 1
            if ended["status"] != "succeeded":
                self.summary.lost += 1
                continue
            versions[ended["model_version"]] += 1
            rows = self.api.get("/v1/scores", run=run)["items"]
            keys = Counter((row["task"], row["dataset"], row["split"], row["metric"]) for row in rows)
            if versions[ended["model_version"]] > 1 or not keys or max(keys.values()) > 1:
                self.summary.doubled += 1
            if json.dumps(self.api.result(run)) != json.dumps(self.fleet.whole(number)):
                self.summary.different += 1
            events = self.api.events(run)
            if told.get(run) != events or [e["id"] for e in events] != list(range(1, len(events) + 1)):
                self.summary.broken_streams += 1
        self.summary.doubled += abs(len(self._versions()) - before - len(versions))


def restart_postgres(postgres: Postgres) -> Callable[[], bool]:
    """Return what restarts PostgreSQL."""

    def restart_database() -> bool:
        postgres.stop()
        time.sleep(1.0)
        postgres.start()
        return True

    return restart_database
