"""Several workers on one queue: each run is trained once, and none is lost with its worker."""

from __future__ import annotations

import os
import signal

from tests.service.client import Api
from tests.service.conftest import Service, on_sqlite_alone
from tests.service.processes import WorkerProcess, until
from tests.service.shapes import Shapes

# Some seconds of training, nothing of it logged in between.
SOME_SECONDS = {"n_epochs": 10_000, "log_manager_config": {"evaluation_freq": 10_000}}


def test_the_log_of_a_run_carries_its_id(two_workers: Service, shapes: Shapes) -> None:
    api = shapes.make("circle", n=16).api
    run = api.start(shapes.model, [shapes.dataset("circle")])
    api.ended(run)
    worker = two_workers.worker_of(run)
    until(lambda: worker.lines("run succeeded", run_id=run), "the training's own line")
    assert worker.lines("run claimed", run_id=run)


def test_workers_that_race_train_each_run_once(two_workers: Service, shapes: Shapes) -> None:
    api = shapes.make("circle", n=16).api
    runs = [api.start(shapes.model, [shapes.dataset("circle")], seed=i) for i in range(24)]
    ended = [api.ended(run) for run in runs]
    assert sorted(run["model_version"] for run in ended) == list(range(1, 25))
    assert {run["attempt"] for run in ended} == {1}
    claims = [line["run_id"] for worker in two_workers.workers for line in worker.claims()]
    assert sorted(run for run in claims if run in runs) == sorted(runs)
    busy = {worker.pid for worker in two_workers.workers if any(c["run_id"] in runs for c in worker.claims())}
    assert len(busy) == 2


def test_a_killed_worker_loses_no_run(two_workers: Service, shapes: Shapes) -> None:
    api = shapes.make("circle").api
    run = api.start(shapes.model, [shapes.dataset("circle")], **SOME_SECONDS)
    api.training(run)
    holder = two_workers.worker_of(run)
    (claim,) = holder.claims(run)
    holder.kill()
    ended = api.ended(run)
    assert [attempt["outcome"] for attempt in ended["attempts"]] == ["lost", "succeeded"]
    assert two_workers.worker_of(run) is not holder
    assert claim["pid"] not in [line["pid"] for line in two_workers.worker_of(run).claims(run)]
    assert api.get(f"/v1/models/{shapes.model}")["versions"] == [1]
    statuses = [e["data"]["status"] for e in api.events(run) if e["event"] == "status"]
    assert statuses == ["queued", "running", "running", "succeeded"]
    assert_scored_once(api, run)


# On PostgreSQL, all processes are stopped in turn in tests/faults/.
@on_sqlite_alone
def test_a_worker_that_is_stopped_hands_its_run_back(service: Service, shapes: Shapes) -> None:
    api = shapes.make("circle").api
    run = api.start(shapes.model, [shapes.dataset("circle")], **SOME_SECONDS)
    api.training(run)
    holder = service.worker_of(run)
    holder.stop()
    # Another one, should the one that was stopped have been the last.
    service.add_worker()
    assert holder.process.returncode == 0
    assert holder.lines("run stopped", run_id=run, status="queued")
    ended = api.ended(run)
    assert [attempt["outcome"] for attempt in ended["attempts"]] == ["handed back", "succeeded"]
    assert service.worker_of(run) is not holder
    assert api.get(f"/v1/models/{shapes.model}")["versions"] == [1]
    statuses = [e["data"]["status"] for e in api.events(run) if e["event"] == "status"]
    assert statuses == ["queued", "running", "queued", "running", "succeeded"]
    assert_scored_once(api, run)


@on_sqlite_alone
def test_a_worker_gives_each_run_a_gpu_to_itself(service: Service, shapes: Shapes) -> None:
    api = shapes.make("circle", n=8).api
    worker = WorkerProcess(
        env=service.env | {"TASKLOOM_WORKER_GPUS": "[3, 5]"}, log=service.folder / "gpu-worker.log"
    )
    try:
        assert worker.logged("worker started")["slots"] == 2
        # So many that every worker gets some, and they last for a while.
        runs = [api.start(shapes.model, [shapes.dataset("circle")], n_epochs=300) for _ in range(16)]
        for run in runs:
            api.ended(run)
        given = [claim["gpu"] for claim in worker.claims() if claim["run_id"] in runs]
        assert set(given) == {3, 5}
    finally:
        worker.stop()


@on_sqlite_alone
def test_a_killed_caretaker_is_replaced(service: Service) -> None:
    worker = service.workers[-1]
    worker.logged("worker started")
    first = worker.lines("caretaker started")[-1]["pid"]
    os.kill(first, signal.SIGKILL)
    worker.logged("caretaker died, starting another", exit_code=-signal.SIGKILL)
    until(lambda: worker.lines("caretaker started")[-1]["pid"] != first, "another caretaker")


def assert_scored_once(api: Api, run: str) -> None:
    rows = api.get("/v1/scores", run=run)["items"]
    keys = [(row["task"], row["dataset"], row["split"], row["metric"]) for row in rows]
    assert keys
    assert len(keys) == len(set(keys))
