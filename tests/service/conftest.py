"""The whole service for each database: one server and a worker as processes, for the whole session."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import pytest

from app.db import migrations
from app.db.session import Database
from tests.service.client import Api
from tests.service.processes import ServerProcess, WorkerProcess, environment
from tests.service.shapes import Shapes

DATABASES = ("sqlite", "postgresql")
SLOTS = 2
"""Trainings side by side in a worker."""


on_sqlite_alone = pytest.mark.parametrize("service", ["sqlite"], indirect=True)
"""For what takes long, and is nothing that the database has a part in."""


class Service:
    """A server and a worker on one database and one artifact folder; starting them takes seconds, as each further
    worker does.
    """

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self.env = environment(
            folder / "data", database_url, TASKLOOM_WORKER_SLOTS=str(SLOTS), TASKLOOM_SNAPSHOT_SECONDS="0.2"
        )
        db = Database(database_url)
        migrations.upgrade(db.engine)
        db.dispose()
        self.workers: list[WorkerProcess] = []
        self.server = ServerProcess("--no-worker", env=self.env, log=folder / "server.log")
        self.add_worker()

    @property
    def slots(self) -> int:
        """How many trainings run side by side."""
        return SLOTS * sum(worker.process.poll() is None for worker in self.workers)

    def add_worker(self) -> WorkerProcess:
        """Start another worker."""
        worker = WorkerProcess(env=self.env, log=self.folder / f"worker-{len(self.workers) + 1}.log")
        self.workers.append(worker)
        return worker

    @cached_property
    def api(self) -> Api:
        """The server's API; waits until it answers."""
        return Api(self.server.url())

    def worker_of(self, run: str) -> WorkerProcess:
        """Return the worker that claimed a run last."""
        claims = [
            (line["attempt"], line["timestamp"], worker)
            for worker in self.workers
            for line in worker.claims(run)
        ]
        return max(claims, key=lambda claim: claim[:2])[2]

    def stop(self) -> None:
        """Stop all processes."""
        for process in (*self.workers, self.server):
            process.ask_to_stop()
        for process in (*self.workers, self.server):
            process.stop()


class Services:
    """The services of a session, each started when it is first asked for."""

    def __init__(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
        self._request = request
        self._tmp_path_factory = tmp_path_factory
        self._started: dict[str, Service] = {}

    def start(self, database: str) -> Service:
        """Return the service of a database system."""
        if database not in self._started:
            folder = self._tmp_path_factory.mktemp(database)
            url = f"sqlite:///{folder / 'taskloom.db'}"
            if database == "postgresql":
                url = self._request.getfixturevalue("postgres").new_database()
            self._started[database] = Service(folder, url)
        return self._started[database]

    def stop(self) -> None:
        for service in self._started.values():
            service.stop()


@pytest.fixture(scope="session")
def services(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    services = Services(request, tmp_path_factory)
    try:
        yield services
    finally:
        services.stop()


@pytest.fixture(scope="session", params=DATABASES)
def service(request: pytest.FixtureRequest, services: Services) -> Service:
    service = services.start(request.param)
    assert service.api.get("/readyz")
    return service


@pytest.fixture
def two_workers(service: Service) -> Service:
    """Have two workers, ready to claim."""
    alive = [worker for worker in service.workers if worker.process.poll() is None]
    for worker in [*alive, *(service.add_worker() for _ in range(2 - len(alive)))]:
        worker.logged("worker started")
    return service


@pytest.fixture
def api(service: Service) -> Api:
    return service.api


@pytest.fixture
def shapes(api: Api) -> Iterator[Shapes]:
    """A world of its own names; what it still trains is cancelled, or the workers would be busy for ever."""
    shapes = Shapes(api)
    yield shapes
    for run in api.get("/v1/runs", model=shapes.model)["items"]:
        if run["status"] in ("queued", "running"):
            # It may end by itself just now.
            api.call("POST", f"/v1/runs/{run['id']}/cancel", (202, 409))
