"""A training that also says what sharing gains or loses for each task."""

from __future__ import annotations

from typing import Any

import pytest

from tests.service.client import Api, check_problem
from tests.service.conftest import Services
from tests.service.processes import until
from tests.service.shapes import Shapes

SPLITS = ("train", "valid", "test")


@pytest.fixture
def api(services: Services) -> Api:
    """One service is enough: what is tried here happens beside the database."""
    return services.start("sqlite").api


def start(shapes: Shapes, *kinds: str, trainer: dict[str, Any] | None = None, **body: Any) -> str:
    body = {
        "datasets": [shapes.dataset(kind) for kind in kinds],
        "trainer": {"seed": 1, "batch_scheduler": "joint"} | (trainer or {}),
    } | body
    return shapes.api.post(f"/v1/models/{shapes.model}/runs", body, 202)["id"]


def test_a_verdict_comes_with_the_version(shapes: Shapes) -> None:
    shapes.make("circle", "square", splits=SPLITS)
    trainer: dict[str, Any] = {
        "n_epochs": 2,
        "checkpointing": True,
        "checkpointer_config": {"checkpoint_metric": f"{shapes.task('circle')}/*/valid/accuracy:max"},
        "early_stopping": True,
        "logging": True,
        "log_writer": "json",
    }
    run = start(shapes, "circle", "square", trainer=trainer, verdict={"resamples": 200, "confidence": 0.9})
    ended = shapes.api.ended(run)
    assert ended["verdict"] == f"/v1/runs/{run}/verdict"
    # Two batches of 32 an epoch, in the shared model and in each of two twins.
    assert (ended["progress"]["step"], ended["progress"]["n_steps"]) == (12, 12)

    verdict = shapes.api.get(ended["verdict"])
    assert (verdict["run"], verdict["resamples"], verdict["confidence"]) == (run, 200, 0.9)
    circle, square = shapes.task("circle"), shapes.task("square")
    assert [judged["task"] for judged in verdict["tasks"]] == [circle, square]
    assert verdict["unjudged"] == {}
    assert [pair["tasks"] for pair in verdict["affinities"]] == [sorted([circle, square])]
    assert sorted(name for group in verdict["groups"] for name in group) == sorted([circle, square])
    assert circle in verdict["summary"]
    (row,) = verdict["tasks"][0]["comparisons"]
    assert (row["split"], row["metric"], row["n"]) == ("test", "accuracy", 64)
    assert row["low"] <= row["gain"] <= row["high"]

    scores = shapes.api.get(f"/v1/models/{shapes.model}/versions/latest/scores")
    key = f"{circle}/{shapes.dataset('circle')}/test/accuracy"
    assert scores[key] == row["shared"]
    assert scores[f"{key}:single"] == row["single"]
    assert scores[f"{key}:gain"] == row["gain"] == pytest.approx(scores[key] - scores[f"{key}:single"])
    assert scores[f"{key}:gain_low"] == row["low"]
    assert scores[f"{key}:gain_high"] == row["high"]
    gains = shapes.api.get("/v1/scores", model=shapes.model, metric="accuracy:gain")["items"]
    assert {gain["task"] for gain in gains} == {circle, square}

    series = shapes.api.get(f"/v1/runs/{run}/metrics")["series"]
    assert f"{circle}/{shapes.dataset('circle')}/valid/twin:accuracy" in series
    steps = [e["data"]["step"] for e in shapes.api.events(run) if e["event"] in ("metrics", "progress")]
    assert steps == sorted(steps)
    logged = [e["data"]["message"] for e in shapes.api.events(run) if e["event"] == "log"]
    assert any(line.startswith(f"twin of task '{square}': ") for line in logged)


def test_a_run_without_a_verdict_says_so(shapes: Shapes) -> None:
    shapes.make("circle", "square", splits=SPLITS)
    plain = start(shapes, "circle", "square")
    assert shapes.api.ended(plain)["verdict"] is None
    assert 'with "verdict": true' in shapes.api.get(f"/v1/runs/{plain}/verdict", 404)["detail"]


def test_a_run_is_cancelled_while_a_twin_trains(shapes: Shapes) -> None:
    shapes.make("circle", "square", n=8, splits=("train", "test"))
    # The shared model stops at once by a metric that the first twin does not have, and which goes on for hours.
    watched = {"metric": f"{shapes.task('square')}/*/train/loss:min", "patience": 1, "min_delta": 100.0}
    trainer: dict[str, Any] = {
        "n_epochs": 100_000,
        "early_stopping": True,
        "early_stopping_config": watched,
        "log_manager_config": {"evaluation_freq": 20},
    }
    run = start(shapes, "circle", "square", trainer=trainer, verdict=True)

    def twin_trains() -> bool:
        assert shapes.api.training(run)
        series = shapes.api.get(f"/v1/runs/{run}/metrics")["series"]
        return any("/twin:" in key for key in series)

    until(twin_trains, "a twin to train")
    assert "has to succeed" in shapes.api.get(f"/v1/runs/{run}/verdict", 404)["detail"]
    assert shapes.api.run(run)["progress"]["fraction"] > 0.3
    shapes.api.post(f"/v1/runs/{run}/cancel", status=202)
    ended = shapes.api.ended(run, "cancelled")
    assert ended["model_version"] is None
    assert ended["verdict"] is None


def test_where_there_is_nothing_to_compare_a_verdict_is_refused(shapes: Shapes) -> None:
    shapes.make("circle", "square")
    path = f"/v1/models/{shapes.model}/runs"
    both = [shapes.dataset("circle"), shapes.dataset("square")]
    for datasets, words in ((both[:1], "compares tasks"), (both, "'test' or 'valid'")):
        body = {"datasets": datasets, "verdict": True}
        problem = check_problem(shapes.api.call("POST", path, 422, json=body))
        assert problem["errors"][0]["pointer"] == "/verdict"
        assert words in problem["detail"]
    search = {
        "train": {"datasets": both, "verdict": True, "trainer": {"valid_split": "train"}},
        "space": {"trainer.lr": {"type": "float", "low": 0.001, "high": 0.1}},
        "objective": "*/*/train/accuracy:max",
        "budget": {"runs": 1},
    }
    problem = check_problem(shapes.api.call("POST", f"/v1/models/{shapes.model}/searches", 422, json=search))
    assert problem["errors"][0]["pointer"] == "/train/verdict"
