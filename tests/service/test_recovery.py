"""Runs that are broken off, by whatever, and go on where they stood."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from tests.service.client import Api, unique
from tests.service.conftest import Service, on_sqlite_alone
from tests.service.processes import until
from tests.service.shapes import ENDLESS, Shapes

# Some seconds of training that draws random numbers for every batch, evaluated now and then.
LONG: dict[str, Any] = {
    "n_epochs": 500,
    "seed": 3,
    "lr": 0.003,
    "compile": "off",
    "log_manager_config": {"evaluation_freq": 100},
}


@pytest.fixture(scope="module")
def noisy(service: Service) -> Shapes:
    """Two tasks on a trunk with dropout and running statistics, some of their labels missing."""
    return Shapes(service.api).make_noisy()


@pytest.fixture(scope="module")
def whole(noisy: Shapes) -> dict[str, Any]:
    """What a run comes to that is left alone."""
    run = start(noisy)
    noisy.api.ended(run)
    return noisy.api.result(run)


def start(shapes: Shapes, **changes: Any) -> str:
    body = {
        "datasets": [shapes.dataset("circle"), shapes.dataset("square")],
        "trainer": LONG | changes.pop("trainer", {}),
        "init_from": None,
    }
    return shapes.api.post(f"/v1/models/{shapes.model}/runs", body | changes, 202)["id"]


def snapshot(api: Api, run: str, after: int = 0) -> int:
    """Wait until a run can be resumed from a step behind another, and return it."""

    def step() -> int | None:
        answer = api.run(run)
        assert answer["status"] == "running", answer
        return answer["resumable_from"] if (answer["resumable_from"] or 0) > after else None

    found = until(step, f"a snapshot of {run}")
    assert found is not None
    return found


def training_process(service: Service, run: str) -> int:
    return list(service.worker_of(run).claims(run))[-1]["pid"]


def outcomes(api: Api, run: str) -> list[str | None]:
    return [attempt["outcome"] for attempt in api.run(run)["attempts"]]


def check_progress(api: Api, run: str) -> list[int]:
    """Check that progress never goes back but where that is declared, and return where runs were taken up."""
    step, resumed = 0, []
    for event in api.events(run):
        if event["event"] == "progress":
            if "resumed_from" in event["data"]:
                step = event["data"]["resumed_from"]
                resumed.append(step)
            assert event["data"]["step"] >= step
            step = event["data"]["step"]
    return resumed


def test_a_run_whose_process_is_killed_ends_to_the_bit_as_one_that_is_left_alone(
    service: Service, noisy: Shapes, whole: dict[str, Any]
) -> None:
    api = service.api
    run = start(noisy)
    step = 0
    for _ in range(2):
        until(lambda: api.run(run)["status"] == "running", f"run {run} to be started")
        step = snapshot(api, run, after=step)
        os.kill(training_process(service, run), signal.SIGKILL)
        until(lambda: api.run(run)["status"] == "queued", f"run {run} to wait")
    ended = api.ended(run)
    assert outcomes(api, run) == ["crashed", "crashed", "succeeded"]
    assert ended["attempts"][0]["reason"] == "the training process was killed by SIGKILL"
    assert ended["resumable_from"] is None
    assert api.result(run) == whole
    resumed = check_progress(api, run)
    assert len(resumed) == 2
    assert resumed[1] >= step
    statuses = [e["data"]["status"] for e in api.events(run) if e["event"] == "status"]
    assert statuses == [*["queued", "running"] * 3, "succeeded"]


def test_a_cancelled_run_stops_at_once_and_is_resumed_where_it_stood(
    service: Service, noisy: Shapes, whole: dict[str, Any]
) -> None:
    api = service.api
    run = start(
        noisy, trainer={"logging": True, "log_writer": "json", "log_writer_config": {"run_name": "log"}}
    )
    api.training(run)
    began = time.monotonic()
    api.post(f"/v1/runs/{run}/cancel", status=202)
    stopped = api.ended(run, "cancelled")
    # It has two seconds; what this machine does beside that is another matter.
    assert time.monotonic() - began < 5
    assert stopped["resumable_from"] > 0
    assert api.post(f"/v1/runs/{run}/resume", status=202)["status"] == "queued"
    ended = api.ended(run)
    assert outcomes(api, run) == ["cancelled", "succeeded"]
    assert check_progress(api, run) == [stopped["resumable_from"]]
    assert ended["log"]
    assert api.result(run) == whole


@on_sqlite_alone
def test_a_run_without_a_seed_has_one_for_all_of_its_attempts(service: Service, noisy: Shapes) -> None:
    api = service.api
    run = start(noisy, trainer={"seed": None, "n_epochs": 300})
    api.training(run)
    os.kill(training_process(service, run), signal.SIGKILL)
    api.ended(run)
    series = api.result(run)["series"]["model/all/train/loss"]
    assert [point["epoch"] for point in series] == [100, 200, 300]


@on_sqlite_alone
def test_a_verdict_is_taken_up_in_the_training_that_it_stood_in(service: Service, noisy: Shapes) -> None:
    api = service.api
    short = {"n_epochs": 250, "log_manager_config": {"evaluation_freq": 100}}
    asked = {"trainer": short, "verdict": {"resamples": 100}}
    run = start(noisy, **asked)
    # The shared model's training is over, and a task alone has been trained for a while.
    steps = 250 * 4
    until(lambda: (api.run(run)["resumable_from"] or 0) > steps + 50, "a snapshot of a task alone")
    os.kill(training_process(service, run), signal.SIGKILL)
    api.ended(run)
    assert outcomes(api, run) == ["crashed", "succeeded"]
    (resumed,) = check_progress(api, run)
    assert resumed > steps
    whole = start(noisy, **asked)
    api.ended(whole)
    assert api.result(run) == api.result(whole)
    ours, theirs = (api.get(f"/v1/runs/{of}/verdict") | {"run": ""} for of in (run, whole))
    assert ours == theirs


@on_sqlite_alone
def test_a_run_fails_at_its_limit_of_steps_and_goes_on_with_a_higher_one(
    service: Service, noisy: Shapes, whole: dict[str, Any]
) -> None:
    api = service.api
    run = start(noisy, limits={"steps": 700})
    failed = api.ended(run, "failed")
    assert failed["error"]["detail"] == (
        "it was stopped at its limit of 700 steps: resume it with a higher one, and it goes on from there"
    )
    assert failed["resumable_from"] == 700
    refused = api.post(f"/v1/runs/{run}/resume", status=409)
    assert "at its limit of 700 steps: give it higher limits" in refused["detail"]
    resumed = api.post(f"/v1/runs/{run}/resume", {"limits": {"steps": 10**6}}, 202)
    assert resumed["limits"]["steps"] == 10**6
    api.ended(run)
    assert api.result(run) == whole


@on_sqlite_alone
def test_a_run_fails_at_its_limit_of_time(service: Service, noisy: Shapes) -> None:
    run = start(noisy, trainer={"n_epochs": 100_000}, limits={"seconds": 1.5})
    failed = service.api.ended(run, "failed")
    assert "at its limit of 1.5 seconds" in failed["error"]["detail"]
    assert failed["resumable_from"] > 0
    assert "1.5 seconds" in service.api.post(f"/v1/runs/{run}/resume", status=409)["detail"]


@on_sqlite_alone
def test_a_run_fails_at_its_limit_of_memory(service: Service, shapes: Shapes) -> None:
    api = shapes.make("circle").api
    body = {"datasets": [shapes.dataset("circle")], "trainer": ENDLESS, "limits": {"memory_mib": 64}}
    run = api.post(f"/v1/models/{shapes.model}/runs", body, 202)["id"]
    failed = api.ended(run, "failed")
    assert "more than its limit of 64 MiB" in failed["error"]["detail"]
    assert outcomes(api, run) == ["failed"]


@pytest.mark.parametrize(
    ("limits", "pointer"),
    [
        ({"seconds": 0}, "/limits/seconds"),
        ({"steps": 1.5}, "/limits/steps"),
        ({"memory_mib": 1}, "/limits/memory_mib"),
        ({"hours": 1}, "/limits/hours"),
    ],
)
def test_limits_that_are_none_are_refused(api: Api, shapes: Shapes, limits: Any, pointer: str) -> None:
    shapes.make("circle")
    body = {"datasets": [shapes.dataset("circle")], "limits": limits}
    refused = api.post(f"/v1/models/{shapes.model}/runs", body, 422)
    assert [error["pointer"] for error in refused["errors"]] == [pointer]


def test_a_run_of_higher_priority_overtakes_and_clients_take_turns(service: Service, shapes: Shapes) -> None:
    api = shapes.make("circle", n=8).api
    body = {"datasets": [shapes.dataset("circle")], "trainer": {"n_epochs": 1}}

    def queue(client: str, priority: int = 0) -> str:
        path = f"/v1/models/{shapes.model}/runs"
        header = {"X-Taskloom-Client": client}
        return api.post(path, body | {"priority": priority}, 202, **header)["id"]

    blocking = [api.start(shapes.model, [shapes.dataset("circle")], **ENDLESS) for _ in range(service.slots)]
    for run in blocking:
        api.training(run)
    greedy, modest = unique("greedy"), unique("modest")
    waiting = [queue(greedy) for _ in range(4)] + [queue(modest)]
    urgent = queue(greedy, priority=10)
    for run in blocking:
        api.post(f"/v1/runs/{run}/cancel", status=202)
    started = {run: api.ended(run)["started_at"] for run in [*waiting, urgent]}
    order = sorted(started, key=lambda run: started[run])
    assert order[0] == urgent
    # The greedy client is served by now, or has a run in training: the modest one is next.
    assert order.index(waiting[4]) <= service.slots
