"""Models in the short form: made over HTTP, trained on partial labels, changed task by task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.service.client import Api, unique
from tests.service.conftest import Services

MMOE = {"type": "mmoe", "inputs": ["x"], "experts": 2, "expert_layers": [8]}
ADAPTERS = {"type": "adapters", "inputs": ["x"], "layers": [8], "bottleneck": 2}
INCOME = {"name": "income", "kind": "binary"}
SCHOOLING = {"name": "schooling", "kind": "ordinal", "labels": 4, "head": [6]}
HOURS = {"name": "hours", "kind": "regression"}
X = np.random.default_rng(3).normal(size=(60, 3)).round(3)


@pytest.fixture
def api(services: Services) -> Api:
    """One service is enough: what is tried here happens beside the database."""
    return services.start("sqlite").api


@pytest.fixture(scope="module")
def dataset(services: Services) -> str:
    """Rows of which each lacks the label of one of three tasks."""
    labels: dict[str, list[Any]] = {
        "income": (X[:, 0] > 0).astype(int).tolist(),
        "schooling": np.digitize(X[:, 1], [-0.7, 0.0, 0.7]).tolist(),
        "hours": (40 + 5 * X[:, 2]).round(1).tolist(),
    }
    for i, (task, values) in enumerate(labels.items()):
        values[i::3] = [None if task == "hours" else -1] * len(values[i::3])
    name = unique("rows")
    body = {"name": name, "split": "train", "X_dict": {"x": X.tolist()}, "Y_dict": labels}
    services.start("sqlite").api.post("/v1/datasets", body)
    return name


def make(api: Api, architecture: dict[str, Any], *tasks: dict[str, Any]) -> str:
    name = unique("short")
    made = api.post("/v1/models", {"name": name, "architecture": architecture, "tasks": list(tasks)})
    assert made["tasks"] == [task["name"] for task in tasks]
    return name


def logits(api: Api, model: str, task: str) -> Any:
    body = {"inputs": {"x": X[:5].tolist()}, "return": ["logits"]}
    return api.post(f"/v1/models/{model}/tasks/{task}/predict", body, 200)["logits"]


def faults(api: Api, path: str, body: dict[str, Any]) -> list[str]:
    return [error["pointer"] for error in api.post(path, body, 422)["errors"]]


def test_an_architecture_becomes_specs_that_are_trained_and_predict(api: Api, dataset: str) -> None:
    model = make(api, MMOE, INCOME, SCHOOLING, HOURS)
    shown = api.get(f"/v1/models/{model}")
    assert shown["architecture"].items() >= MMOE.items()
    assert shown["architecture"]["activation"] == "relu"
    assert {module["name"] for module in shown["modules"]} >= {"experts", "gate_income", "head_schooling"}

    listed = api.get(f"/v1/models/{model}/tasks")["items"]
    assert [task["name"] for task in listed] == ["hours", "income", "schooling"]
    spec = api.get(f"/v1/models/{model}/tasks/schooling")
    assert spec == listed[2]
    assert spec["outline"].items() >= SCHOOLING.items()
    assert not spec["registered"]
    assert [operation["name"] for operation in spec["op_sequence"]] == [
        *("experts", "gate_schooling", "head_schooling"),
    ]
    assert spec["input_fields"] == {"x": {"shape": None, "dtype": "float32"}}
    api.get("/v1/tasks/schooling", 404)

    version = api.train(model, [dataset], n_epochs=2)
    scores = api.get(f"/v1/models/{model}/versions/{version}")["scores"]
    assert {key.split("/")[0] for key in scores} == {"income", "schooling", "hours"}
    body = {"inputs": {"x": X[:5].tolist()}}
    for task in ("income", "schooling", "hours"):
        assert len(api.post(f"/v1/models/{model}/tasks/{task}/predict", body, 200)["preds"]) == 5


def test_what_is_written_out_can_be_registered_as_it_is(api: Api) -> None:
    model = make(api, MMOE, INCOME)
    shown = api.get(f"/v1/models/{model}/tasks/income")
    beside = ("registered", "outline", "parameters", "input_fields", "output_shape")
    spec = {key: value for key, value in shown.items() if key not in beside} | {"name": unique("income")}
    api.post("/v1/tasks", spec)
    other = unique("named")
    api.post("/v1/models", {"name": other, "tasks": [spec["name"]]})
    found = api.get(f"/v1/models/{other}/tasks/{spec['name']}")
    assert found["registered"]
    assert found["outline"] is None
    assert found["module_pool"] == shown["module_pool"]


def test_another_model_has_other_tasks_of_the_same_names(api: Api, dataset: str) -> None:
    model, other = make(api, ADAPTERS, INCOME, SCHOOLING), make(api, MMOE, INCOME)
    pools = [api.get(f"/v1/models/{name}/tasks/income")["module_pool"].keys() for name in (model, other)]
    assert pools[0] & pools[1] == {"head_income"}
    # The same labels as the first test's are for this model's tasks.
    api.train(model, [dataset], n_epochs=1)
    before = logits(api, model, "income")

    # Tasks come and go, and the others keep their weights.
    assert api.post(f"/v1/models/{model}/tasks", HOURS)["tasks"] == ["income", "schooling", "hours"]
    api.post(f"/v1/models/{model}/tasks", HOURS | {"kind": {"type": "regression"}}, 200)
    api.delete(f"/v1/models/{model}/tasks/schooling")
    assert api.get(f"/v1/models/{model}")["tasks"] == ["income", "hours"]
    api.get(f"/v1/models/{model}/tasks/schooling", 404)
    body = {"datasets": [dataset], "trainer": {"seed": 1, "n_epochs": 1}, "train": "new"}
    ended = api.ended(api.post(f"/v1/models/{model}/runs", body, 202)["id"])
    assert api.get(f"/v1/models/{model}/versions/latest")["tasks"] == ["income", "hours"], ended
    assert logits(api, model, "income") == before
    assert len(logits(api, model, "hours")) == 5


def test_what_mixes_all_tasks_is_written_out_anew(api: Api) -> None:
    model = make(api, {"type": "cross_stitch", "inputs": ["x"], "layers": [4]}, INCOME, SCHOOLING)

    def of_income() -> dict[str, Any]:
        return api.get(f"/v1/models/{model}/tasks/income")["module_pool"]

    two = of_income()
    api.post(f"/v1/models/{model}/tasks", HOURS)
    three = of_income()
    assert three.keys() - two.keys() == {"tower1_hours"}
    assert three["stitch1"] == two["stitch1"] | {"n_tasks": 3}
    api.delete(f"/v1/models/{model}/tasks/hours")
    assert of_income() == two


def test_the_same_short_form_again_is_the_same_model(api: Api) -> None:
    model = make(api, MMOE, INCOME, SCHOOLING)
    body = {"name": model, "architecture": MMOE | {"dropout": 0, "norm": None}, "tasks": [INCOME, SCHOOLING]}
    api.post("/v1/models", body, 200)
    for other in (
        body | {"architecture": MMOE | {"experts": 3}},
        body | {"tasks": [SCHOOLING, INCOME]},
        body | {"tasks": [INCOME, SCHOOLING | {"labels": 5}]},
    ):
        assert "exists" in api.post("/v1/models", other, 409)["detail"]


def test_names_and_outlines_do_not_mix(api: Api) -> None:
    task = {"module_pool": {"h": {"type": "Linear", "in_features": 3, "out_features": 2}}}
    task |= {"name": unique("t"), "op_sequence": [{"module_name": "h", "inputs": [["_input_", "x"]]}]}
    api.post("/v1/tasks", task)
    mixed = [INCOME, task["name"]]
    assert faults(api, "/v1/models", {"name": "m", "architecture": MMOE, "tasks": mixed}) == ["/tasks/1"]
    assert faults(api, "/v1/models", {"name": "m", "tasks": mixed}) == ["/tasks/0"]
    own, named = make(api, MMOE, INCOME), unique("named")
    api.post("/v1/models", {"name": named, "tasks": [task["name"]]})
    assert "outline" in api.post(f"/v1/models/{own}/tasks", {"task": task["name"]}, 409)["detail"]
    assert "by its name" in api.post(f"/v1/models/{named}/tasks", INCOME, 409)["detail"]


def test_faults_point_into_the_short_form(api: Api) -> None:
    def create(architecture: dict[str, Any], *tasks: Any) -> list[str]:
        return faults(api, "/v1/models", {"name": "m", "architecture": architecture, "tasks": list(tasks)})

    assert create(MMOE | {"experts": 0}, INCOME) == ["/architecture/experts"]
    assert create(MMOE | {"layers": [3]}, INCOME) == ["/architecture/layers"]
    assert create({"type": "nonsense"}, INCOME) == ["/architecture/type"]
    assert create({"experts": 4}, INCOME) == ["/architecture/type"]
    typo = {"name": "m", "architecture": MMOE | {"type": "mmmoe"}, "tasks": [INCOME]}
    assert "did you mean mmoe?" in api.post("/v1/models", typo, 422)["detail"]
    assert create(MMOE, INCOME, INCOME) == ["/tasks/1/name"]
    assert create(MMOE, INCOME, 3) == ["/tasks/1"]
    assert create(MMOE, INCOME, {"name": "m", "kind": "multiclass"}) == ["/tasks/1/labels"]
    assert create(MMOE, INCOME | {"kind": {"type": "binary", "nonsense": 1}}) == ["/tasks/0/kind/nonsense"]
    assert create(MMOE, SCHOOLING, INCOME | {"metrics": ["nonsense"]}) == ["/tasks/1/metrics/0"]
    # More than this service takes, which only checking the specs tells.
    assert create({"type": "shared_bottom", "layers": [65_536] * 3}, INCOME) == ["/architecture"]

    model = make(api, MMOE, INCOME)
    path = f"/v1/models/{model}/tasks"
    assert faults(api, path, SCHOOLING | {"labels": None}) == ["/labels"]
    assert faults(api, path, SCHOOLING | {"loss": "nonsense"}) == ["/loss"]
    assert faults(api, path, {"name": "b"}) == ["/kind"]
    assert "another task" in api.post(path, INCOME | {"head": [4]}, 409)["detail"]
    assert "only one" in api.delete(f"{path}/income", 409).json()["detail"]
