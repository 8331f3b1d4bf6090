"""The seed's tutorial over HTTP: two tasks share a trunk, a third is put on the trained model."""

from __future__ import annotations

from tests.service.client import Api
from tests.service.processes import until
from tests.service.shapes import SPLITS, Shapes

TRAINER = {"n_epochs": 30, "lr": 0.02}
CORNERS = [[0.0, 0.0], [0.95, 0.95]]


def test_the_tutorial(api: Api, shapes: Shapes) -> None:  # noqa: PLR0915 - one story
    shapes.make("circle", "square", n=600, splits=tuple(SPLITS))
    circle, square, inverse = (shapes.task(kind) for kind in ("circle", "square", "inv_circle"))
    circle_data, square_data = shapes.dataset("circle"), shapes.dataset("square")
    model = f"/v1/models/{shapes.model}"

    # The trunk is one module, and two nodes of the graph: the tasks feed it different fields.
    described = api.get(model)
    assert [(m["name"], m["parameters"], m["used_by"]) for m in described["modules"]] == [
        ("base_mlp", 60, [circle, square]),
        ("circle_head_module", 10, [circle]),
        ("square_head_module", 10, [square]),
    ]
    assert [node["module"] for node in described["graph"]["nodes"]].count("base_mlp") == 2
    assert described["versions"] == []
    assert described["default_version"] is None
    api.post(f"{model}/tasks/{circle}/predict", {"inputs": {"circle_data": CORNERS}}, 404)

    run = api.start(shapes.model, [circle_data, square_data], **TRAINER)
    progress = api.training(run)["progress"]
    assert 0 < progress["step"] <= progress["n_steps"] == 30 * 2 * 19
    assert progress["n_epochs"] == 30
    key = f"{circle}/{circle_data}/train/loss"
    seen = until(
        lambda: api.get(f"/v1/runs/{run}/metrics")["series"].get(key), "metrics while the run trains"
    )
    assert seen[0]["value"] is not None
    done = api.ended(run)
    assert (done["model_version"], done["attempt"], done["error"]) == (1, 1, None)
    assert done["progress"]["fraction"] == 1.0
    assert done["started_at"] <= done["finished_at"]
    series = api.get(f"/v1/runs/{run}/metrics")["series"]
    assert [point["epoch"] for point in series[key]] == list(range(1, 31))
    assert {
        f"{circle}/{circle_data}/valid/accuracy",
        f"{square}/{square_data}/valid/accuracy",
    } <= series.keys()

    flat = api.get(f"{model}/versions/1/scores")
    wanted = {
        f"{shapes.task(kind)}/{shapes.dataset(kind)}/{split}/accuracy"
        for kind in ("circle", "square")
        for split in SPLITS
    }
    assert flat.keys() == wanted
    assert min(flat.values()) >= 0.9
    rows = api.get("/v1/scores", model=shapes.model)["items"]
    assert {f"{r['task']}/{r['dataset']}/{r['split']}/{r['metric']}": r["value"] for r in rows} == flat
    assert {(r["version"], r["run"], r["n"]) for r in rows} == {(1, run, 600)}
    narrowed = api.get("/v1/scores", run=run, task=circle, split="test", metric="accuracy")["items"]
    assert [row["dataset"] for row in narrowed] == [circle_data]

    one = api.post(f"{model}/tasks/{circle}/predict", {"inputs": {"circle_data": CORNERS}}, 200)
    assert (one["model"], one["version"], one["task"], one["preds"]) == (shapes.model, 1, circle, [1, 0])
    assert all(abs(sum(row) - 1) < 1e-5 for row in one["probs"])
    both = {"inputs": {"circle_data": CORNERS, "square_data": CORNERS}}
    several = api.post(f"{model}/predict", both | {"return": ["preds", "probs", "logits"]}, 200)
    assert several["predictions"].keys() == {circle, square}
    assert several["predictions"][circle]["probs"] == one["probs"]
    assert several["predictions"][square]["preds"] == [1, 0]
    assert several["predictions"][square].keys() == {"preds", "probs", "logits"}
    named = api.post(f"{model}/predict", both | {"tasks": [square], "return": ["preds"]}, 200)
    assert named["predictions"] == {square: {"preds": [1, 0]}}

    shapes.add("inv_circle", n=600, splits=tuple(SPLITS))
    api.post(f"{model}/tasks", {"task": inverse})
    api.post(f"{model}/tasks", {"task": inverse}, 200)
    assert api.get(model)["tasks"] == [circle, square, inverse]
    assert len(api.get(model)["modules"]) == 4
    # The version that is there knows nothing of the new task.
    api.post(f"{model}/tasks/{inverse}/predict", {"inputs": {"inv_circle_data": CORNERS}}, 404)
    run = api.start(shapes.model, [circle_data, square_data, shapes.dataset("inv_circle")], **TRAINER)
    assert api.ended(run)["init_from"] == 1
    logged = [event["data"]["message"] for event in api.events(run) if event["event"] == "log"]
    assert any("base_mlp" in line and "new: ['inv_circle_head_module']" in line for line in logged)
    flat = api.get(f"{model}/versions/latest/scores")
    assert len(flat) == 9
    assert min(flat.values()) >= 0.9
    answer = api.post(f"{model}/tasks/{inverse}/predict", {"inputs": {"inv_circle_data": CORNERS}}, 200)
    assert answer["preds"] == [0, 1]

    api.delete(f"{model}/tasks/{square}")
    assert api.get(model)["tasks"] == [circle, inverse]
    assert "square_head_module" not in [module["name"] for module in api.get(model)["modules"]]
    # Versions keep the task that was taken off; a version trained from now on is without it.
    api.post(f"{model}/tasks/{square}/predict", {"inputs": {"square_data": CORNERS}}, 200)
    version = api.train(shapes.model, [circle_data, shapes.dataset("inv_circle")], n_epochs=1)
    assert api.get(f"{model}/versions/{version}")["tasks"] == [circle, inverse]
    api.post(f"{model}/tasks/{square}/predict", {"inputs": {"square_data": CORNERS}}, 404)
    api.post(f"{model}/tasks/{square}/predict", {"inputs": {"square_data": CORNERS}, "version": 2}, 200)
    assert [v["version"] for v in api.get(f"{model}/versions")["items"]] == [3, 2, 1]
