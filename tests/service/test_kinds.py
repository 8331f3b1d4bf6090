"""Tasks of several kinds on one trunk, from several data sets, with half the labels missing: from specs to answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.service.client import Api, unique
from tests.service.conftest import Services

# Task → its kind, and how many classes it has where that must be said.
KINDS: dict[str, dict[str, Any]] = {
    "won": {"kind": "binary"},
    "colour": {"kind": "multiclass", "labels": 3},
    "grade": {"kind": "ordinal", "labels": 4},
    "price": {"kind": "regression"},
    "visits": {"kind": "count"},
}
# Which of them each data set labels.
DATASETS = {"first": ["won", "colour"], "second": ["grade", "price"], "third": ["price", "visits", "won"]}


@pytest.fixture
def api(services: Services) -> Api:
    return services.start("sqlite").api


def truth(x: np.ndarray) -> dict[str, np.ndarray]:
    """What follows from four numbers, for every task."""
    level = x[:, 0] + 0.5 * x[:, 1]
    return {
        "won": (level > 0).astype(int),
        "colour": np.digitize(x[:, 2], [-0.5, 0.5]),
        "grade": np.digitize(level, [-1, 0, 1]),
        "price": 50_000 + 10_000 * level,
        "visits": np.round(np.exp(1 + 0.5 * level)).astype(int),
    }


def split(rng: np.random.Generator, tasks: list[str], n: int) -> dict[str, Any]:
    """A split whose tasks have about half of their labels each."""
    x = rng.normal(size=(n, 4)).astype(np.float32)
    labels: dict[str, list[Any]] = {}
    for task in tasks:
        given = rng.random(n) < 0.5
        is_float = task == "price"
        missing = None if is_float else -1
        labels[task] = [
            value if there else missing for value, there in zip(truth(x)[task].tolist(), given, strict=True)
        ]
    return {"X_dict": {"x": x.round(4).tolist()}, "Y_dict": labels}


def test_five_kinds_on_one_trunk(api: Api) -> None:
    rng = np.random.default_rng(0)
    model, names = unique("mixed"), {name: unique(name) for name in DATASETS}
    for name, tasks in DATASETS.items():
        for part, n in (("train", 400), ("test", 200)):
            api.post("/v1/datasets", {"name": names[name], "split": part, **split(rng, tasks, n)})
    architecture = {"type": "shared_bottom", "inputs": ["x"], "layers": [32, 16]}
    outlines = [{"name": name, **kind} for name, kind in KINDS.items()]
    made = api.post("/v1/models", {"name": model, "architecture": architecture, "tasks": outlines})
    assert made["tasks"] == list(KINDS)

    trainer = {
        "seed": 1,
        "n_epochs": 30,
        "lr": 0.01,
        "batch_scheduler": "joint",
        "balancing": {"type": "upgrad"},
        "diagnosis": True,
        "diagnosis_config": {"times": 3},
    }
    run = api.post(f"/v1/models/{model}/runs", {"datasets": list(names.values()), "trainer": trainer}, 202)
    ended = api.ended(run["id"])
    scores = api.get(f"/v1/models/{model}/versions/{ended['model_version']}/scores")
    test = {
        key.split("/")[0] + "/" + key.split("/")[3]: value for key, value in scores.items() if "/test/" in key
    }
    assert test["won/accuracy"] > 0.85
    assert test["colour/accuracy"] > 0.8
    assert test["grade/accuracy"] > 0.7
    # In the label's own units, whose standard deviation is 11,000.
    assert test["price/mae"] < 3_000
    assert test["visits/mae"] < 1

    series = api.get(f"/v1/runs/{run['id']}/metrics")["series"]
    compared = [key for key in series if key.startswith("price/all/train/gradient_cosine:")]
    assert "price/all/train/gradient_cosine:visits@trunk" in compared
    assert all(len(series[key]) == 3 for key in compared)

    rows = np.array([[1.5, 0.0, 0.0, 0.0], [-1.5, 0.0, 1.0, 0.0]])
    body = {"inputs": {"x": rows.tolist()}, "return": ["preds", "probs"]}
    predictions = api.post(f"/v1/models/{model}/predict", body, 200)["predictions"]
    known = truth(rows)
    for name in ("won", "colour", "grade"):
        assert predictions[name]["preds"] == known[name].tolist()
    assert predictions["price"]["preds"] == pytest.approx(known["price"], rel=0.1)
    assert predictions["visits"]["preds"] == pytest.approx(known["visits"], abs=1.5)
    assert np.sum(predictions["grade"]["probs"], axis=1) == pytest.approx(1)

    # A training that goes on from a version keeps the scale of its heads, unless it is to be fitted anew.
    dear, data = unique("dear"), split(rng, ["price"], 50)
    data["Y_dict"]["price"] = [value and value + 1e6 for value in data["Y_dict"]["price"]]
    api.post("/v1/datasets", {"name": dear, "split": "train", **data})

    def prices(preprocessing: str) -> list[Any]:
        still = {
            "trainer": {"lr": 1e-30},
            "init_from": ended["model_version"],
            "preprocessing": preprocessing,
        }
        run = api.post(f"/v1/models/{model}/runs", {"datasets": [dear], **still}, 202)
        version = api.ended(run["id"])["model_version"]
        answer = api.post(f"/v1/models/{model}/predict", body | {"version": version}, 200)
        return answer["predictions"]["price"]["preds"]

    assert prices("keep") == predictions["price"]["preds"]
    assert np.min(prices("refit")) > 1e6
