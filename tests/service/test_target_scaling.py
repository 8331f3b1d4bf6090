"""Values far from 0 and of any size: learnt on the scale of the training labels, answered and scored in their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.service.client import Api, unique
from tests.service.conftest import Services
from tests.service.tables import People

Rows = list[dict[str, Any]]


@pytest.fixture
def api(services: Services) -> Api:
    return services.start("sqlite").api


def houses(n: int, seed: int, price: float) -> Rows:
    """Rows whose price follows from their size; some have none, and those to test on are dearer."""
    rng = np.random.default_rng(seed)
    rows: Rows = []
    for i in range(n):
        size, part = float(rng.normal()), "test" if i % 4 == 0 else "train"
        cost = round(price + 20_000 * size + 5_000 * (part == "test"), 2)
        rows.append(
            {
                "size": round(size, 4),
                "part": part,
                "price": [None, -1.0, cost, cost, cost][int(rng.integers(5))],
            }
        )
    return rows


def scale_of(answer: dict[str, Any], i: int | None = None) -> tuple[float, float]:
    """Return by how much raw outputs are shifted and stretched, for one of several values where there are some."""
    raw, values = (np.asarray(answer[kind], dtype=np.float64) for kind in ("logits", "preds"))
    raw, values = (raw[:, i], values[:, i]) if i is not None else (raw[:, 0], values)
    std = (values[1] - values[0]) / (raw[1] - raw[0])
    return values[0] - std * raw[0], std


def test_the_scale_is_that_of_the_train_splits_and_answers_are_in_the_labels_units(api: Api) -> None:
    worlds, tables = [People(api), People(api)], [houses(200, 0, 90_000), houses(120, 1, 140_000)]
    task = worlds[0].task("price")
    for world, rows in zip(worlds, tables, strict=True):
        world.register(
            rows,
            fields={"house": {"columns": ["size"]}},
            labels={task: "price"},
            splits={"by_column": "part"},
        )
    spec = worlds[0].spec(
        "price", "house", 1, loss="mse", output="identity", metrics=["mae"], target_scaling="standard"
    )
    assert api.post("/v1/tasks", spec)["target_scaling"] == "standard"
    model = unique("houses")
    api.post("/v1/models", {"name": model, "tasks": [task]})
    datasets = [world.dataset for world in worlds]
    version = api.train(model, datasets, n_epochs=20, lr=0.02)

    scores = api.get(f"/v1/models/{model}/versions/{version}/scores")
    own = [scores[f"{task}/{dataset}/train/mae"] for dataset in datasets]
    # The two differ by 50,000 at one size, of which nothing tells them apart.
    assert 15_000 < np.mean(own) < 35_000
    body = {"records": [{"size": -1.0}, {"size": 2.0}], "return": ["logits", "preds"], "version": version}
    answer = api.post(f"/v1/models/{model}/tasks/{task}/predict", body, 200)
    given = [
        row["price"]
        for rows in tables
        for row in rows
        if row["part"] == "train" and row["price"] not in (None, -1.0)
    ]
    assert scale_of(answer) == pytest.approx((np.mean(given), np.std(given)), rel=1e-3)


def test_a_task_is_scaled_when_it_first_has_labels_and_each_value_by_itself(api: Api) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)).astype(np.float32)
    # Of integers, and on two scales; then of one number that many labels lack.
    pairs = np.stack([1_000 + 100 * x[:, 0], 7 + x[:, 1]], axis=1).round().astype(int)
    heights = (-500 + 3 * x[:, 2]).tolist()
    labels: dict[str, list[Any]] = {
        "pair": pairs.tolist(),
        "height": [None if i % 3 else height for i, height in enumerate(heights)],
    }
    tasks, datasets = {name: unique(name) for name in labels}, {name: unique(name) for name in labels}
    for name, values in labels.items():
        data = {"X_dict": {"x": x.round(4).tolist()}, "Y_dict": {tasks[name]: values}}
        api.post("/v1/datasets", {"name": datasets[name], "split": "train", **data})
    model = unique("scaled")
    outlines = [
        {"name": tasks["pair"], "kind": "regression", "labels": 2},
        {"name": tasks["height"], "kind": "regression"},
    ]
    trunk = {"type": "shared_bottom", "inputs": ["x"], "layers": [8]}
    api.post("/v1/models", {"name": model, "architecture": trunk, "tasks": outlines})

    def answers(version: int) -> dict[str, Any]:
        body = {"inputs": {"x": x[:2].tolist()}, "return": ["logits", "preds"], "version": version}
        found = api.post(f"/v1/models/{model}/predict", body, 200)["predictions"]
        return {name: found[task] for name, task in tasks.items()}

    first = answers(api.train(model, [datasets["pair"]], n_epochs=1))
    means, deviations = pairs.mean(axis=0), pairs.std(axis=0)
    for i in range(2):
        assert scale_of(first["pair"], i) == pytest.approx((means[i], deviations[i]), rel=1e-2)
    assert scale_of(first["height"]) == pytest.approx((0, 1), abs=1e-3)

    second = answers(api.train(model, [datasets["height"]], n_epochs=1))
    known = heights[::3]
    assert scale_of(second["height"]) == pytest.approx((np.mean(known), np.std(known)), rel=1e-2)
    assert scale_of(second["pair"], 0) == pytest.approx((means[0], deviations[0]), rel=1e-2)


@pytest.mark.parametrize("price", [3.4e38, 1e-40])
def test_labels_that_have_no_scale_to_speak_of_are_accepted(api: Api, price: float) -> None:
    task, dataset, model = unique("price"), unique("odd"), unique("odd")
    data = {"X_dict": {"x": [[0.0], [1.0], [2.0]]}, "Y_dict": {task: [price, price, price]}}
    api.post("/v1/datasets", {"name": dataset, "split": "train", **data})
    trunk = {"type": "shared_bottom", "inputs": ["x"], "layers": [2]}
    api.post(
        "/v1/models",
        {"name": model, "architecture": trunk, "tasks": [{"name": task, "kind": "regression"}]},
    )
    api.start(model, [dataset], n_epochs=1)


def test_classes_are_not_scaled(api: Api) -> None:
    spec = People(api).spec("t", target_scaling="standard")
    errors = api.post("/v1/tasks", spec, 422)["errors"]
    assert [error["pointer"] for error in errors] == ["/target_scaling"]
    scale = {"mean": [1.0], "std": [0.0]}
    errors = api.post("/v1/tasks", spec | {"target_scaling": scale}, 422)["errors"]
    assert all(error["pointer"].startswith("/target_scaling") for error in errors)
