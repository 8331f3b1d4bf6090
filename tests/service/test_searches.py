"""Searches: many trainings with other settings, the best of which becomes a version."""

from __future__ import annotations

from typing import Any

import pytest

from tests.service.client import Api
from tests.service.conftest import Services
from tests.service.processes import until
from tests.service.shapes import ENDLESS, Shapes

LR = {"type": "float", "low": 1e-3, "high": 0.1, "log": True}
SLOW: dict[str, Any] = {"log_manager_config": ENDLESS["log_manager_config"]}


@pytest.fixture
def api(services: Services) -> Api:
    """One service is enough: the database's part is tested beside it, on both."""
    return services.start("sqlite").api


@pytest.fixture
def made(shapes: Shapes) -> Shapes:
    return shapes.make("circle", n=32, splits=("train", "valid"))


def body(shapes: Shapes, space: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "train": {
            "datasets": [shapes.dataset("circle")],
            "trainer": {"n_epochs": 2} | changes.pop("trainer", {}),
        },
        "space": space,
        "objective": "*/*/valid/loss:min",
        "budget": {"runs": 4},
    } | changes


def start(shapes: Shapes, space: dict[str, Any], **changes: Any) -> str:
    path = f"/v1/models/{shapes.model}/searches"
    return shapes.api.post(path, body(shapes, space, **changes), 202)["id"]


def found(shapes: Shapes, run: str) -> dict[str, Any]:
    return shapes.api.get(f"/v1/runs/{run}/search")


def test_the_best_of_a_search_becomes_a_version(made: Shapes) -> None:
    api = made.api
    # One of the two learning rates moves no weight.
    space = {
        "trainer.lr": {"type": "choice", "choices": [1e-30, 0.05]},
        "trainer.batch_size": {"type": "int", "low": 4, "high": 8},
    }
    run = start(made, space, budget={"runs": 5}, trainer={"n_epochs": 6})
    asked = api.run(run)
    assert (asked["kind"], asked["parent"], asked["search"]) == ("search", None, f"/v1/runs/{run}/search")
    assert asked["datasets"] == [made.dataset("circle")]
    assert api.delete(f"/v1/models/{made.model}", 409)
    ended = api.ended(run)
    assert ended["model_version"] == 1
    assert ended["progress"]["runs"] == ended["progress"]["n_runs"] == 5
    assert ended["progress"]["fraction"] == 1

    search = found(made, run)
    assert [trial["number"] for trial in search["trials"]] == list(range(5))
    best = search["best"]
    assert best["params"]["trainer.lr"] == 0.05
    assert best["value"] == min(t["value"] for t in search["trials"] if t["status"] == "succeeded")
    assert ended["progress"]["best"] == best["value"]
    values = {trial["params"]["trainer.lr"]: trial["value"] for trial in search["trials"]}
    assert values[0.05] < values[1e-30]

    version = api.get(f"/v1/models/{made.model}/versions/1")
    assert version["run"] == best["run"]
    assert version["scores"].keys() >= {f"{made.task('circle')}/{made.dataset('circle')}/valid/accuracy"}
    assert api.get("/v1/scores", run=best["run"])["items"]
    assert api.get(f"/v1/models/{made.model}")["versions"] == [1]
    task = f"/v1/models/{made.model}/tasks/{made.task('circle')}/predict"
    assert api.post(task, {"inputs": {"circle_data": [[0.0, 0.0]]}}, 200)["preds"]

    children = api.get("/v1/runs", parent=run)["items"]
    assert {child["id"] for child in children} == {trial["run"] for trial in search["trials"]}
    child = next(child for child in children if child["id"] == best["run"])
    assert (child["kind"], child["parent"], child["model_version"]) == ("train", run, 1)
    assert child["trial"] == {"number": best["number"], "params": best["params"]}
    assert {name: child["trainer"][name] for name in ("lr", "batch_size")} == {
        "lr": 0.05,
        "batch_size": best["params"]["trainer.batch_size"],
    }
    assert [c["model_version"] for c in children if c is not child] == [None] * 4
    assert "resume that instead" in api.post(f"/v1/runs/{child['id']}/resume", status=409)["detail"]
    assert "is no search" in api.get(f"/v1/runs/{child['id']}/search", 404)["detail"]

    events = api.events(run)
    assert [e["data"]["status"] for e in events if e["event"] == "status"] == [
        "queued",
        "running",
        "succeeded",
    ]
    assert [e["data"]["runs"] for e in events if e["event"] == "progress"][-1] == 5
    assert len([e for e in events if e["event"] == "log" and e["data"]["message"].startswith("trial ")]) == 5
    assert events[-1]["data"]["model_version"] == 1


def test_a_search_is_cancelled_with_its_trials_and_goes_on_with_them(made: Shapes) -> None:
    api = made.api
    endless = {"type": "choice", "choices": [ENDLESS["n_epochs"]]}
    run = start(made, {"trainer.n_epochs": endless}, budget={"runs": 2}, parallel=2, trainer=SLOW)
    until(lambda: len(found(made, run)["trials"]) == 2, "both trials")
    trials = [trial["run"] for trial in found(made, run)["trials"]]
    api.training(trials[0])
    assert api.post(f"/v1/runs/{run}/cancel", status=202)["status"] == "cancelling"
    cancelled = api.ended(run, "cancelled")
    assert cancelled["model_version"] is None
    assert {api.run(trial)["status"] for trial in trials} == {"cancelled"}
    assert found(made, run)["best"] is None

    api.post(f"/v1/runs/{run}/resume", status=202)
    until(lambda: api.run(trials[0])["status"] == "running", "the trial to be resumed")
    assert [trial["run"] for trial in found(made, run)["trials"]] == trials
    assert api.run(run)["status"] == "running"
    api.post(f"/v1/runs/{run}/cancel", status=202)
    api.ended(run, "cancelled")


def test_sizes_of_an_architecture_are_searched(api: Api, shapes: Shapes) -> None:
    data = shapes.split("circle", "train", 32)
    for split in ("train", "valid"):
        api.post("/v1/datasets", data | {"split": split})
    architecture = {"type": "shared_bottom", "inputs": ["circle_data"], "layers": [4]}
    task = {"name": shapes.task("circle"), "kind": "binary"}
    api.post("/v1/models", {"name": shapes.model, "architecture": architecture, "tasks": [task]})
    space = {"architecture.layers": {"type": "choice", "choices": [[2], [8, 8]]}}
    run = start(shapes, space, budget={"runs": 3}, sampler="random", seed=1)
    number = api.ended(run)["model_version"]
    best, trials = found(shapes, run)["best"], found(shapes, run)["trials"]
    assert {len(trial["params"]["architecture.layers"]) for trial in trials} == {1, 2}
    version = api.get(f"/v1/models/{shapes.model}/versions/{number}")
    assert version["parameters"] == {1: 9, 2: 105}[len(best["params"]["architecture.layers"])]

    def pointers(space: dict[str, Any]) -> list[str]:
        problem = api.post(f"/v1/models/{shapes.model}/searches", body(shapes, space), 422)
        return [error["pointer"] for error in problem["errors"]]

    negative = {"architecture.layers": {"type": "choice", "choices": [[2], [-1]]}}
    assert pointers(negative) == ["/space/architecture.layers/choices/1"]
    assert pointers({"architecture.depth": LR}) == ["/space/architecture.depth"]


def test_what_cannot_be_searched_is_refused_where_it_stands(made: Shapes) -> None:
    def pointers(space: dict[str, Any], **changes: Any) -> list[str]:
        path = f"/v1/models/{made.model}/searches"
        return [e["pointer"] for e in made.api.post(path, body(made, space, **changes), 422)["errors"]]

    lr = {"trainer.lr": LR}
    fine = {"type": "choice", "choices": [1]}
    assert pointers({"trainer.lr": LR | {"low": -1.0, "log": False}}) == ["/space/trainer.lr/low"]
    assert pointers({"trainer.lr": LR | {"low": 0.2}}) == ["/space/trainer.lr"]
    assert pointers({"trainer.batch_size": LR | {"low": 1, "high": 8}}) == ["/space/trainer.batch_size"]
    assert pointers({"trainer.optimizer": {"type": "choice", "choices": ["adam", "eve"]}}) == [
        "/space/trainer.optimizer/choices/1"
    ]
    assert pointers({"trainer.module_lrs.nothing": fine}) == ["/space/trainer.module_lrs.nothing/choices/0"]
    assert pointers({"trainer.log_writer_config.log_dir": fine}) == [
        "/space/trainer.log_writer_config.log_dir/choices/0"
    ]
    nowhere = ("trainer.lrr", "trainer.optimizer_config.adam_config.nothing", "architecture.layers")
    for key in ("lr", "trainer.", "trainer.valid_split", *nowhere):
        assert pointers({key: fine}) == [f"/space/{key}"]
    assert pointers({"trainer.lr": LR, "trainer.lr.low": fine}) == ["/space/trainer.lr.low"]
    unknown = {"type": "choice", "choices": ["sum", {"type": "fixed", "weights": {"nobody": 2.0}}]}
    assert pointers({"trainer.balancing": unknown}) == ["/space/trainer.balancing/choices/1"]
    assert pointers(lr, objective="*/*/valid/nothing:max") == ["/objective"]
    assert pointers(lr, objective="*/*/train/loss:min") == ["/objective"]
    assert pointers(lr, budget={}) == ["/budget"]
    assert pointers(lr, train={"datasets": ["nowhere"]}) == ["/train/datasets/0"]
    judged = {"datasets": [made.dataset("circle")], "verdict": True}
    assert pointers(lr, train=judged) == ["/train/verdict"]
    many = {f"trainer.module_lrs.m{i}": {"type": "choice", "choices": list(range(1, 257))} for i in range(5)}
    assert pointers(many) == ["/space"]
