"""A backup is taken while the service runs, and put back into an empty one on the other database system."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from app.upkeep.backup import BackupError, back_up, put_back
from tests.conftest import Postgres
from tests.service.client import Api
from tests.service.conftest import Service, on_sqlite_alone
from tests.service.processes import ServerProcess, WorkerProcess, environment, run_command, until
from tests.service.shapes import ENDLESS, Shapes

LONG: dict[str, Any] = {"n_epochs": 300, "compile": "off", "log_manager_config": {"evaluation_freq": 100}}


class Restored:
    """An empty installation on PostgreSQL."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.env = environment(folder / "data", url, TASKLOOM_SNAPSHOT_SECONDS="0.2")
        self.processes: list[Any] = []

    def start(self) -> Api:
        """Start a server and a worker."""
        server = ServerProcess("--no-worker", env=self.env, log=self.folder / "server.log")
        self.processes = [server, WorkerProcess(env=self.env, log=self.folder / "worker.log")]
        return Api(server.url())


@pytest.fixture
def restored(postgres: Postgres, tmp_path: Path) -> Iterator[Restored]:
    restored = Restored(tmp_path, postgres.new_database())
    yield restored
    for process in restored.processes:
        process.stop()


def command(*arguments: str, env: dict[str, str], status: int = 0) -> str:
    done = run_command(*arguments, env=env)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def settings_of(env: dict[str, str]) -> Settings:
    return Settings(data_dir=Path(env["TASKLOOM_DATA_DIR"]), database_url=env["TASKLOOM_DATABASE_URL"])


@on_sqlite_alone
def test_a_backup_taken_under_load_serves_and_trains_on_elsewhere(
    service: Service, shapes: Shapes, restored: Restored
) -> None:
    api = shapes.make_noisy().api
    datasets = [shapes.dataset("circle"), shapes.dataset("square")]
    api.train(shapes.model, datasets, n_epochs=5)
    question = {"inputs": {"circle_data": [[0.1, 0.2]], "square_data": [[0.3, -0.8]]}, "version": 1}
    load = api.start(shapes.model, datasets, init_from=None, **ENDLESS)
    run = api.start(shapes.model, datasets, init_from=None, **LONG)
    until(lambda: api.run(run)["resumable_from"], "a snapshot")
    # It must not end before the backup does; the other goes on.
    process = list(service.worker_of(run).claims(run))[-1]["pid"]
    os.kill(process, signal.SIGSTOP)

    folder = restored.folder / "backup"
    said = command("backup", str(folder), env=service.env)
    assert "rows and" in said
    assert api.run(run)["status"] == api.training(load)["status"] == "running"
    # A backup that is there is brought up to date, and loses what is gone.
    back_up(settings_of(service.env), folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (
        len([path for path in (folder / "artifacts").glob("??/*") if path.is_file()]) == manifest["artifacts"]
    )

    os.kill(process, signal.SIGCONT)
    api.post(f"/v1/runs/{load}/cancel", status=202)
    assert "restored" in command("restore", str(folder), env=restored.env)
    other = restored.start()
    other.post(f"/v1/runs/{load}/cancel", status=202)
    predict = f"/v1/models/{shapes.model}/predict"
    assert other.post(predict, question, 200) == api.post(predict, question, 200)
    api.ended(run)
    ended = other.ended(run)
    assert [attempt["outcome"] for attempt in ended["attempts"]] == ["lost", "succeeded"]
    assert other.result(run) == api.result(run)
    # What comes next is numbered on.
    assert other.train(shapes.model, datasets, n_epochs=1) == ended["model_version"] + 1
    with pytest.raises(BackupError, match="has artifacts already"):
        put_back(settings_of(restored.env), folder)
