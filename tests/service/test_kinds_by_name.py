"""Kinds of task on columns of a file: classes with names and an order, counts, relevances within groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.service.conftest import Services
from tests.service.tables import People

GRADES = ["poor", "fair", "good"]


@pytest.fixture
def world(services: Services) -> People:
    return People(services.start("sqlite").api)


def visitors(n: int) -> list[dict[str, Any]]:
    """Rows whose labels all rise with one number; some are missing."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for i in range(n):
        level = float(rng.normal())
        row = {
            "level": round(level, 4),
            "noise": round(float(rng.normal()), 4),
            "grade": GRADES[int(np.digitize(level, [-0.5, 0.5]))],
            "visits": round(np.exp(1 + level)) * 2,
            "score": round(10 + 2 * level, 3),
        }
        rows.append(row | {"grade": None} if i % 3 == 0 else row)
    return rows


def data(world: People, **labels: Any) -> dict[str, Any]:
    """What the dataset says of the rows."""
    return {
        "fields": {"person": {"columns": ["level", "noise"]}},
        "labels": {world.task(name): label for name, label in labels.items()},
    }


def start(world: People, status: int) -> dict[str, Any]:
    body = {"datasets": [world.dataset], "trainer": {"seed": 1, "n_epochs": 40, "lr": 0.02}}
    return world.api.post(f"/v1/models/{world.model}/runs", body, status)


def model_of(world: People, tasks: dict[str, tuple[Any, int]]) -> None:
    for name, (kind, n_outputs) in tasks.items():
        world.api.post("/v1/tasks", world.spec(name, kind=kind, n_classes=n_outputs))
    world.api.post("/v1/models", {"name": world.model, "tasks": [world.task(name) for name in tasks]})


def test_classes_in_order_come_back_by_name_beside_counts_and_quantiles(world: People) -> None:
    labels = {
        "grade": {"column": "grade", "classes": GRADES},
        "visits": {"column": "visits", "type": "number"},
        "score": "score",
    }
    world.register(visitors(400), **data(world, **labels))
    quantile = {"type": "quantile", "quantiles": [0.1, 0.9]}
    model_of(world, {"grade": ("ordinal", 2), "visits": ("count", 1), "score": (quantile, 2)})
    shown = world.api.get(f"/v1/tasks/{world.task('score')}")
    assert (shown["kind"], shown["loss"]["type"], shown["output"]["type"]) == (
        quantile,
        "pinball",
        "quantiles",
    )

    version = world.api.ended(start(world, 202)["id"])["model_version"]
    found = world.api.get(f"/v1/models/{world.model}/versions/{version}/scores")
    scores = {
        (key.split("/")[0], key.split("/")[3]): value for key, value in found.items() if "/test/" in key
    }
    assert scores[world.task("grade"), "cohen_kappa"] > 0.7
    assert scores[world.task("visits"), "poisson_deviance"] < 1
    assert scores[world.task("score"), "interval_coverage"] > 0.4

    records = [{"level": level, "noise": 0.0} for level in (-1.5, 0.0, 1.5)]
    body = {"records": records, "return": ["classes", "probs", "preds"]}
    answers = world.api.post(f"/v1/models/{world.model}/predict", body, 200)["predictions"]
    grade, visits, score = (answers[world.task(name)] for name in ("grade", "visits", "score"))
    assert grade["classes"] == GRADES == grade["class_names"]
    assert np.sum(grade["probs"], axis=1) == pytest.approx(1)
    assert "classes" not in visits
    assert visits["preds"] == sorted(visits["preds"])
    assert min(visits["preds"]) > 0
    assert np.shape(score["outputs"]) == (3, 2)
    assert all(low <= high for low, high in score["outputs"])


def test_a_dataset_that_does_not_suit_a_kind_is_refused_with_the_reason(world: People) -> None:
    world.register(visitors(40), **data(world, grade="grade", visits="visits"))
    model_of(world, {"grade": ("ordinal", 4), "visits": ("count", 1)})
    problem = start(world, 422)
    details = [error["detail"] for error in problem["errors"]]
    assert any("answers 5 classes, but its labels have 3" in detail for detail in details)
    assert any("the type of the labels is number" in detail for detail in details)


def test_a_wrong_kind_is_refused_where_it_stands(world: People) -> None:
    kind = {"type": "quantile", "quantiles": [0.9, "x"]}
    errors = world.api.post("/v1/tasks", world.spec("t", kind=kind), 422)["errors"]
    assert [error["pointer"] for error in errors] == ["/kind/quantiles"]
    errors = world.api.post(
        "/v1/tasks", world.spec("t", kind="ordinal", n_classes=3, output="sigmoidal"), 422
    )
    assert [error["pointer"] for error in errors["errors"]] == ["/output"]


def test_the_catalogue_tells_the_kinds(world: People) -> None:
    kinds = {entry["type"] for entry in world.api.get("/v1/modules")["kinds"]}
    assert {
        "binary",
        "multiclass",
        "multilabel",
        "ordinal",
        "regression",
        "quantile",
        "count",
        "ranking",
    } == kinds
