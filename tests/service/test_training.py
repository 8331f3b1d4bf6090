"""How a run may be told to train: what to watch, what to leave alone, where to start, which slices matter."""

from __future__ import annotations

import io
import json
import zipfile
from importlib.util import find_spec
from typing import Any

import pytest

from tests.service.client import Api, check_problem
from tests.service.conftest import Services
from tests.service.shapes import Shapes, points
from tests.service.tables import People, people

SPLITS = ("train", "valid")


@pytest.fixture
def api(services: Services) -> Api:
    """One service is enough: what is tried here happens beside the database."""
    return services.start("sqlite").api


def start(shapes: Shapes, *kinds: str, trainer: dict[str, Any] | None = None, **body: Any) -> str:
    body = {
        "datasets": [shapes.dataset(kind) for kind in kinds],
        "trainer": {"seed": 1} | (trainer or {}),
    } | body
    return shapes.api.post(f"/v1/models/{shapes.model}/runs", body, 202)["id"]


def logits(shapes: Shapes, kind: str, version: int) -> list[list[float]]:
    inputs = {f"{kind}_data": points(kind, 50, seed=99)[0]}
    body = {"inputs": inputs, "return": ["logits"], "version": version}
    return shapes.api.post(f"/v1/models/{shapes.model}/tasks/{shapes.task(kind)}/predict", body, 200)[
        "logits"
    ]


def logged(shapes: Shapes, run: str) -> list[str]:
    return [event["data"]["message"] for event in shapes.api.events(run) if event["event"] == "log"]


def test_settings_of_all_kinds_together(shapes: Shapes) -> None:
    shapes.make("circle", "square", splits=SPLITS)
    trainer: dict[str, Any] = {
        "n_epochs": 12,
        "optimizer": "adamw",
        "l2": 0.01,
        "lr_scheduler": "cosine",
        "lr_scheduler_config": {"warmup_percentage": 0.1, "min_lr": 0.0001},
        "accumulate_batches": 2,
        "ema_decay": 0.9,
        "class_prior_bias": True,
        "module_lrs": {"base_mlp": 0.001},
        "non_finite": "skip",
        "early_stopping": True,
        "early_stopping_config": {"metric": "*/*/valid/loss:min", "patience": 2, "per_task": True},
        "checkpointing": True,
        "checkpointer_config": {
            "checkpoint_metric": ["*/*/valid/accuracy:max"],
            "checkpoint_task_metrics": ["model/all/train/loss:min"],
        },
        "logging": True,
        "log_writer": "json",
        "log_manager_config": {"counter_unit": "batches", "evaluation_freq": 2},
    }
    run = start(shapes, "circle", "square", trainer=trainer)
    ended = shapes.api.ended(run)
    for name in ("accumulate_batches", "ema_decay", "module_lrs", "non_finite"):
        assert ended["trainer"][name] == trainer[name]

    series = shapes.api.get(f"/v1/runs/{run}/metrics")["series"]
    task = f"{shapes.task('circle')}/{shapes.dataset('circle')}"
    assert {f"{task}/train/loss", f"{task}/valid/loss", f"{task}/valid/accuracy"} <= series.keys()
    assert {f"model/all/{what}" for what in ("train/loss", "train/lr", "valid/loss")} <= series.keys()

    assert ended["log"] == f"/v1/runs/{run}/log"
    answer = shapes.api.call("GET", ended["log"], 200)
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as files:
        (name,) = [name for name in files.namelist() if name.endswith("log.json")]
        log = json.loads(files.read(name))
    assert [value for _, value in log["model/all/train/loss"]] == [
        point["value"] for point in series["model/all/train/loss"]
    ]


def test_a_log_for_tensorboard(shapes: Shapes) -> None:
    shapes.make("circle")
    run = start(shapes, "circle", trainer={"logging": True, "log_writer": "tensorboard"})
    answer = shapes.api.call("GET", shapes.api.ended(run)["log"], 200)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as files:
        assert any("tfevents" in name for name in files.namelist())
    silent = start(shapes, "circle")
    assert shapes.api.ended(silent)["log"] is None
    assert "without logging" in shapes.api.get(f"/v1/runs/{silent}/log", 404)["detail"]


def test_a_task_put_on_and_taken_off_changes_no_bit_of_the_others(shapes: Shapes) -> None:
    shapes.make("circle", splits=SPLITS)
    first = shapes.api.train(shapes.model, [shapes.dataset("circle")], n_epochs=3)
    before = logits(shapes, "circle", first)

    shapes.add("square", splits=SPLITS)
    shapes.api.post(f"/v1/models/{shapes.model}/tasks", {"task": shapes.task("square")})
    run = start(shapes, "circle", "square", trainer={"n_epochs": 3}, train="new")
    second = shapes.api.ended(run)["model_version"]
    assert logits(shapes, "circle", second) == before
    trained = logits(shapes, "square", second)
    assert any("stay as they are: ['base_mlp', 'circle_head_module']" in line for line in logged(shapes, run))
    untrained = start(shapes, "square", init_from=first, trainer={"lr": 1e-30}, train="new")
    assert logits(shapes, "square", shapes.api.ended(untrained)["model_version"]) != trained

    shapes.api.delete(f"/v1/models/{shapes.model}/tasks/{shapes.task('circle')}")
    run = start(shapes, "square", init_from=second, trainer={"frozen_modules": ["base_mlp"], "lr": 1e-30})
    third = shapes.api.ended(run)["model_version"]
    assert logits(shapes, "square", third) == trained


def test_modules_come_from_any_version_of_any_model(shapes: Shapes) -> None:
    shapes.make("circle")
    version = shapes.api.train(shapes.model, [shapes.dataset("circle")], n_epochs=2)
    donor = shapes.model
    other = Shapes(shapes.api)
    other.add("circle")
    spec = other.spec("square")
    spec["module_pool"]["trunk"] = spec["module_pool"].pop("base_mlp")
    spec["op_sequence"][0]["module_name"] = "trunk"
    other.api.post("/v1/tasks", spec)
    other.api.post("/v1/datasets", other.split("square", "train", 64))
    other.api.post("/v1/models", {"name": other.model, "tasks": [other.task("square")]})
    source = {"model": donor, "version": version, "module": "base_mlp"}
    run = start(other, "square", init_modules={"trunk": source}, train="new")
    other.api.ended(run)
    assert any(
        f"version {version} of model '{donor}': modules ['base_mlp as trunk']" in e
        for e in logged(other, run)
    )

    def refused(pointer: str, **body: Any) -> str:
        body = {"datasets": [other.dataset("square")]} | body
        problem = check_problem(other.api.call("POST", f"/v1/models/{other.model}/runs", 422, json=body))
        assert problem["errors"][0]["pointer"] == pointer
        return problem["detail"]

    assert "no module 'nose'" in refused("/init_modules/nose", init_modules={"nose": {}})
    assert "no version" in refused("/init_modules/trunk/version", init_modules={"trunk": {"version": 99}})
    wrong = source | {"module": "circle_head_module"}
    assert "built differently" in refused("/init_modules/trunk", init_modules={"trunk": wrong})
    assert "nothing" in refused("/train", train="new")


def test_settings_that_name_what_is_not_there_are_refused(shapes: Shapes) -> None:
    shapes.make("circle", splits=SPLITS)

    def refused(pointer: str, **trainer: Any) -> str:
        body = {"datasets": [shapes.dataset("circle")], "trainer": trainer}
        problem = check_problem(shapes.api.call("POST", f"/v1/models/{shapes.model}/runs", 422, json=body))
        assert problem["errors"][0]["pointer"] == f"/trainer/{pointer}", problem
        return problem["errors"][0]["detail"]

    assert "no module 'trunk'" in refused("frozen_modules/0", frozen_modules=["trunk"])
    assert "no module 'trunk'" in refused("module_lrs/trunk", module_lrs={"trunk": 0.1})
    stranger = {"type": "fixed", "weights": {"nobody": 2.0}}
    assert shapes.task("circle") in refused("balancing/weights/nobody", balancing=stranger)
    if find_spec("ecos") is None:
        assert "taskloom[nash]" in refused("balancing", balancing="nash_mtl")
    everything = ["base_mlp", "circle_head_module"]
    assert "nothing" in refused("frozen_modules", frozen_modules=everything)
    typo = f"{shapes.task('circle')}/{shapes.dataset('circle')}/valid/acuracy:max"
    known = f"{shapes.task('circle')}/{shapes.dataset('circle')}/valid/accuracy"
    watched = {"early_stopping_config": {"metric": typo}}
    assert known in refused("early_stopping_config/metric", early_stopping=True, **watched)
    alone = {"early_stopping_config": {"metric": "model/all/valid/loss:min", "per_task": True}}
    assert shapes.task("circle") in refused("early_stopping_config/metric", early_stopping=True, **alone)
    watched = {"checkpointer_config": {"checkpoint_metric": typo}}
    assert known in refused("checkpointer_config/checkpoint_metric", checkpointing=True, **watched)
    place = {"checkpointer_config": {"checkpoint_dir": "/etc"}}
    assert "where" in refused("checkpointer_config/checkpoint_dir", checkpointing=True, **place)
    assert "where" in refused("log_writer_config/log_dir", log_writer_config={"log_dir": "/etc"})


def test_slices_of_a_table(services: Services) -> None:
    world = People(services.start("sqlite").api)
    world.register(people(300), splits={"train": 0.6, "valid": 0.2, "test": 0.2})
    old = {"name": "old", "where": {"field": "age", "op": ">", "value": 60}}
    nurses = {
        "name": "smoking-nurses",
        "where": {"and": [{"field": "job", "op": "==", "value": "nurse"}, {"mask": "smokes"}]},
    }
    world.make_model("sick", slices=[old, nurses])
    run = world.api.start(world.model, [world.dataset], n_epochs=3, class_prior_bias=True)
    version = world.api.ended(run)["model_version"]

    scores = world.api.get(f"/v1/models/{world.model}/versions/{version}/scores")
    task = world.task("sick")
    assert {key.split("/")[0].removeprefix(task) for key in scores} == {
        *("", "_slice:old", "_slice:old_ind", "_slice:old_pred", "_slice:base_ind", "_slice:base_pred"),
        *(f"_slice:smoking-nurses{end}" for end in ("", "_ind", "_pred")),
    }
    listed = world.api.get("/v1/scores", model=world.model, task=f"{task}_slice:old", split="test")["items"]
    whole = world.api.get("/v1/scores", model=world.model, task=task, split="test")["items"]
    assert 0 < listed[0]["n"] < whole[0]["n"]

    graph = world.api.get(f"/v1/models/{world.model}")["graph"]
    combined = [node for node in graph["nodes"] if node["module"] == f"{task}_master_combiner"]
    assert [source["node"] is not None for source in combined[0]["inputs"]] == [True] * len(
        graph["nodes"][:-2]
    )
    records = [{name: row[name] for name in ("age", "job", "smokes", "joined")} for row in people(5)]
    answer = world.api.post(f"/v1/models/{world.model}/predict", {"records": records}, 200)
    assert list(answer["predictions"]) == [task]

    # The trained slices go on from where they were.
    run = world.api.start(world.model, [world.dataset], n_epochs=1)
    world.api.ended(run)
    messages = [event["data"]["message"] for event in world.api.events(run) if event["event"] == "log"]
    assert any("new: []" in message for message in messages)
    scoring = world.api.post(
        f"/v1/models/{world.model}/versions/{version}/scores", {"datasets": [world.dataset]}, 202
    )
    world.api.ended(scoring["id"])


def test_labels_are_scored_along_another_tasks_path(shapes: Shapes) -> None:
    shapes.make("circle", "square")
    both = [shapes.dataset("circle"), shapes.dataset("square")]
    version = shapes.api.train(shapes.model, both, n_epochs=2)
    scores = f"/v1/models/{shapes.model}/versions/{version}/scores"
    name, round_ = f"other-{shapes.suffix}", f"round-{shapes.suffix}"
    split = shapes.split("circle", "test", 32, seed=9)
    labels = split["Y_dict"][shapes.task("circle")]
    split |= {"name": name, "Y_dict": {round_: labels, shapes.task("circle"): labels}}
    shapes.api.post("/v1/datasets", split)

    remap: dict[str, str | None] = {round_: shapes.task("circle"), shapes.task("circle"): None}
    run = shapes.api.post(scores, {"datasets": [name], "remap_labels": remap}, 202)["id"]
    shapes.api.ended(run)
    (score,) = shapes.api.get("/v1/scores", run=run)["items"]
    assert (score["task"], score["dataset"], score["n"]) == (round_, name, 32)
    plain = shapes.api.post(scores, {"datasets": [name]}, 202)["id"]
    shapes.api.ended(plain)
    (own,) = shapes.api.get("/v1/scores", run=plain)["items"]
    assert (own["task"], own["value"]) == (shapes.task("circle"), score["value"])

    def refused(**remap_labels: Any) -> tuple[str, str]:
        body = {"datasets": [name], "remap_labels": remap_labels}
        problem = check_problem(shapes.api.call("POST", scores, 422, json=body))
        return problem["errors"][0]["pointer"], problem["detail"]

    assert refused(**{round_: "nobody"})[0] == f"/remap_labels/{round_}"
    pointer, detail = refused(nothing=shapes.task("circle"))
    assert (pointer, "has labels 'nothing'" in detail) == ("/remap_labels/nothing", True)


def test_slices_that_no_column_tells_are_refused(services: Services) -> None:
    world = People(services.start("sqlite").api)
    world.register(people(60))

    def refused(**where: Any) -> str:
        other = People(world.api)
        spec = world.spec("sick", slices=[{"name": "s", "where": where}])
        other.api.call("DELETE", f"/v1/tasks/{world.task('sick')}", (204, 404))
        other.api.post("/v1/tasks", spec)
        other.api.post("/v1/models", {"name": other.model, "tasks": [world.task("sick")]})
        body = {"datasets": [world.dataset]}
        problem = check_problem(other.api.call("POST", f"/v1/models/{other.model}/runs", 422, json=body))
        other.api.delete(f"/v1/models/{other.model}")
        assert problem["errors"][0]["pointer"] == "/datasets/0"
        return problem["detail"]

    assert "'height'" in refused(field="height", op=">", value=1)
    assert "text" in refused(field="job", op=">", value=1)
    assert "number" in refused(field="age", op="==", value="old")
