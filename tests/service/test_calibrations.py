"""Calibrations over HTTP: another version, as right as before and no surer than that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.service.client import Api, unique
from tests.service.conftest import Service, on_sqlite_alone
from tests.service.shapes import mlp

N = 300


class Overconfident:
    """A model of three tasks that learnt noise by heart, so that it is surer than it is right."""

    def __init__(self, api: Api) -> None:
        self.api, self.name = api, unique("sure")
        self.tasks = {kind: f"{kind}-{self.name}" for kind in ("classes", "tags", "value")}
        rng = np.random.default_rng(0)
        for kind, task in self.tasks.items():
            head = {
                "type": "Linear",
                "in_features": 64,
                "out_features": {"classes": 3, "tags": 2, "value": 1}[kind],
            }
            api.post(
                "/v1/tasks",
                {
                    "name": task,
                    "kind": {"classes": "multiclass", "tags": "multilabel", "value": "regression"}[kind],
                    "module_pool": {"trunk": mlp(8, 64), f"head_{kind}": head},
                    "op_sequence": [
                        {"name": "trunk", "module_name": "trunk", "inputs": [["_input_", "x"]]},
                        {"name": "head", "module_name": f"head_{kind}", "inputs": ["trunk"]},
                    ],
                },
            )
        for split in ("train", "valid", "test"):
            x = rng.normal(size=(N, 8)).astype(np.float32)
            classes = np.where(
                rng.random(N) < 0.5, np.digitize(x[:, 0], [-0.5, 0.5]), rng.integers(3, size=N)
            )
            tags = (x[:, 1:3] + rng.normal(size=(N, 2)) > 0).astype(int)
            api.post(
                "/v1/datasets",
                {
                    "name": self.name,
                    "split": split,
                    "X_dict": {"x": x.tolist()},
                    "Y_dict": {
                        self.tasks["classes"]: classes.tolist(),
                        self.tasks["tags"]: tags.tolist(),
                        self.tasks["value"]: x[:, 3:4].tolist(),
                    },
                },
            )
        self.x = x
        api.post("/v1/models", {"name": self.name, "tasks": list(self.tasks.values())})
        api.train(self.name, [self.name], n_epochs=60, lr=0.01)

    def started(self, status: int = 202, version: int | str = 1, **body: Any) -> dict[str, Any]:
        return self.api.post(f"/v1/models/{self.name}/versions/{version}/calibrations", body, status)

    def answers(self, version: int) -> dict[str, Any]:
        body = {"inputs": {"x": self.x.tolist()}, "version": version, "return": ["preds", "probs", "logits"]}
        return self.api.post(f"/v1/models/{self.name}/predict", body, 200)["predictions"]

    def scores(self, version: int) -> dict[str, float]:
        return self.api.get(f"/v1/models/{self.name}/versions/{version}/scores")


@pytest.fixture(scope="module")
def world(service: Service) -> Overconfident:
    return Overconfident(service.api)


def test_a_calibrated_version_is_as_right_and_less_sure(world: Overconfident) -> None:
    run = world.started()
    assert (run["kind"], run["init_from"], run["model_version"]) == ("calibrate", 1, None)
    ended = world.api.ended(run["id"])
    made = world.api.get(ended["calibration"])
    version = made["version"]
    assert (made["from_version"], made["split"], version) == (1, "valid", ended["model_version"])
    classes, tags, value = world.tasks.values()
    assert made["tasks"].keys() == {classes, tags}
    assert "softmax" in made["left_out"][value]
    for task in (classes, tags):
        found = made["tasks"][task]
        assert found["temperatures"][0] > 1.2
        assert found["after"]["log_loss"] < found["before"]["log_loss"]
        assert found["after"]["calibration_error"] < found["before"]["calibration_error"] / 2
    # Scores of both versions, on data that the temperatures were not fitted to, too.
    old, new = world.scores(1), world.scores(version)
    for split in ("valid", "test"):
        key = f"{classes}/{world.name}/{split}/calibration_error"
        assert new[key] < old[key]
        assert f"{classes}/{world.name}/{split}/classwise_calibration_error" in new
        assert (
            new[f"{classes}/{world.name}/{split}/accuracy"] == old[f"{classes}/{world.name}/{split}/accuracy"]
        )
    card = world.api.get(f"/v1/models/{world.name}/versions/{version}/card")
    assert card["calibration"] == made
    assert {part["split"]: part["used"] for part in card["data"]}["valid"] == "calibrated on"
    headers = {"Accept": "text/html"}
    path = f"/v1/models/{world.name}/versions/{version}/card"
    page = world.api.call("GET", path, 200, headers=headers).text
    assert "How sure its probabilities are" in page
    before, after = world.answers(1), world.answers(version)
    for task in (classes, tags):
        assert after[task]["preds"] == before[task]["preds"]
        logits = np.array(before[task]["logits"]) / made["tasks"][task]["temperatures"]
        np.testing.assert_allclose(after[task]["logits"], logits, rtol=1e-4, atol=1e-5)
    assert after[value] == before[value]


def test_each_class_may_have_a_temperature_and_a_calibration_is_replaced(world: Overconfident) -> None:
    classes = world.tasks["classes"]
    first = world.api.ended(world.started(tasks=[classes])["id"])["model_version"]
    again = world.started(version=first, tasks=[classes], per_class=True, split="test")
    ended = world.api.ended(again["id"])
    made = world.api.get(ended["calibration"])
    assert (made["from_version"], made["split"]) == (first, "test")
    assert len(made["tasks"][classes]["temperatures"]) == 3
    specs = world.api.get(f"/v1/models/{world.name}/versions/{ended['model_version']}")
    assert specs["parameters"] == world.api.get(f"/v1/models/{world.name}/versions/{first}")["parameters"] + 2
    # Trained further, the model is what it was made as, and calibrated anew after that.
    trained = world.api.train(world.name, [world.name], init_from=ended["model_version"], n_epochs=1)
    assert world.answers(trained).keys() == set(world.tasks.values())


@on_sqlite_alone
def test_what_cannot_be_calibrated_is_refused(world: Overconfident) -> None:
    def pointer(**body: Any) -> str:
        return world.started(422, **body)["errors"][0]["pointer"]

    assert pointer(tasks=["none"]) == "/tasks/0"
    assert pointer(tasks=[world.tasks["classes"], world.tasks["value"]]) == "/tasks/1"
    assert pointer(split="none") == "/split"
    assert pointer(datasets=["none"]) == "/datasets/0"
    assert pointer(per_class="yes") == "/per_class"
    world.started(404, version=99)
    run = world.api.get("/v1/runs", model=world.name)["items"][-1]["id"]
    world.api.get(f"/v1/runs/{run}/calibration", 404)
