"""The request log: what of which predictions is written, what it costs nobody, and how it is got rid of."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.docs.pages import ROOT, blocks, section
from tests.service.client import Api, unique
from tests.service.conftest import Services
from tests.service.processes import ServerProcess, environment, until
from tests.service.shapes import Shapes
from tests.service.tables import People, people

PAGE = ROOT / "docs" / "predictions.md"
INPUTS = {"circle_data": [[0.25, 0.5], [0.75, 0.75]]}


def set_share(api: Api, model: str, share: float) -> None:
    body = {"serving": {"log_share": share}}
    assert api.call("PATCH", f"/v1/models/{model}", 200, json=body).json()["serving"]["log_share"] == share


def logged(api: Api, model: str, n: int, **params: Any) -> list[dict[str, Any]]:
    """Return all that is logged, newest first, as soon as it is so much."""

    def found() -> list[dict[str, Any]]:
        return api.get(f"/v1/models/{model}/requests", **params)["items"]

    until(lambda: len(found()) >= n, f"{n} requests to be logged")
    return found()


@pytest.fixture
def world(shapes: Shapes) -> Shapes:
    """A trained model whose predictions are all logged."""
    shapes.make("circle", n=16)
    shapes.api.train(shapes.model, [shapes.dataset("circle")], n_epochs=1)
    set_share(shapes.api, shapes.model, 1)
    return shapes


def predict(world: Shapes, request_id: str, **body: Any) -> dict[str, Any]:
    headers = {"X-Request-ID": request_id}
    return world.api.post(f"/v1/models/{world.model}/predict", {"inputs": INPUTS} | body, 200, **headers)


def infer(world: Shapes, request_id: str) -> dict[str, Any]:
    tensor = {"name": "circle_data", "datatype": "FP32", "shape": [2, 2], "data": INPUTS["circle_data"]}
    body = {"id": "their own", "inputs": [tensor]}
    return world.api.post(f"/v2/models/{world.model}/infer", body, 200, **{"X-Request-ID": request_id})


def test_nothing_is_logged_unless_the_model_says_so(shapes: Shapes) -> None:
    shapes.make("circle", n=16)
    shapes.api.train(shapes.model, [shapes.dataset("circle")], n_epochs=1)
    for i in range(5):
        predict(shapes, f"off-{i}")
        infer(shapes, f"off-{i}")
    set_share(shapes.api, shapes.model, 1)
    predict(shapes, "on")
    set_share(shapes.api, shapes.model, 0)
    predict(shapes, "off again")
    assert [row["request_id"] for row in logged(shapes.api, shapes.model, 1)] == ["on"]
    for share in (-0.1, 1.1, True, "1", None):
        body = {"serving": {"log_share": share}}
        problem = shapes.api.call("PATCH", f"/v1/models/{shapes.model}", 422, json=body).json()
        assert problem["errors"][0]["pointer"] == "/serving/log_share"


def test_what_came_and_what_was_answered_is_logged(world: Shapes) -> None:
    api, task = world.api, world.task("circle")
    before = datetime.fromisoformat(api.get(f"/v1/models/{world.model}/versions/1")["created_at"])
    answer = predict(world, "asked-1")["predictions"][task]
    (row,) = logged(api, world.model, 1)
    assert (row["model"], row["version"], row["tasks"]) == (world.model, 1, [task])
    assert (row["request_id"], row["rows"], row["logged_rows"]) == ("asked-1", 2, 2)
    assert row["inputs"] == {"inputs": INPUTS}
    assert row["answers"] == {task: answer}
    assert row["seconds"] > 0
    assert datetime.fromisoformat(row["created_at"]) > before - timedelta(seconds=1)

    # What is logged can be asked again as it is.
    assert predict(world, "asked-2", **row["inputs"])["predictions"][task] == answer
    infer(world, "asked-3")
    wanted = ["logits", "operation:base_mlp", "top_k:1"]
    whole = predict(world, "asked-4", **{"return": wanted})["predictions"][task]
    rows = logged(api, world.model, 4)
    assert [row["request_id"] for row in rows] == ["asked-4", "asked-3", "asked-2", "asked-1"]
    assert rows[0]["answers"][task] == whole
    assert rows[1]["inputs"] == {"inputs": INPUTS}
    assert rows[1]["answers"][task] == {name: answer[name] for name in ("preds", "probs")}

    # Refused requests are no predictions.
    api.post(f"/v1/models/{world.model}/predict", {"inputs": {"circle_data": [[1]]}}, 422)
    predict(world, "asked-5")
    assert len(logged(api, world.model, 5)) == 5


def test_of_many_rows_the_first_are_logged(world: Shapes) -> None:
    rows = np.random.default_rng(0).normal(size=(1000, 2)).astype(np.float32)
    predict(world, "many", inputs={"circle_data": rows.tolist()})
    wide = {"return": ["operation:base_mlp", "probs"]}
    predict(world, "wide", inputs={"circle_data": rows.tolist()}, **wide)
    for row in logged(world.api, world.model, 2):
        assert (row["rows"], row["logged_rows"]) == (1000, 100)
        assert np.array_equal(np.array(row["inputs"]["inputs"]["circle_data"], np.float32), rows[:100])
        (answers,) = row["answers"].values()
        assert len(answers["probs"]) == 100
    assert world.api.http.get("/metrics").text.count("taskloom_logged_requests_total{") >= 1


def test_every_one_of_many_requests_at_once_is_logged(world: Shapes) -> None:
    ids = [unique("r") for _ in range(120)]
    with ThreadPoolExecutor(8) as threads:
        ways = (predict, infer)
        list(threads.map(lambda i: ways[i % 2](world, ids[i]), range(len(ids))))
    rows = logged(world.api, world.model, len(ids), limit=1000)
    assert sorted(row["request_id"] for row in rows) == sorted(ids)
    times = [row["created_at"] for row in rows]
    assert times == sorted(times, reverse=True)

    # In pages, of a version, within times.
    first = world.api.get(f"/v1/models/{world.model}/requests", limit=50)
    rest = world.api.get(f"/v1/models/{world.model}/requests", limit=1000, cursor=first["next_cursor"])
    assert first["items"] + rest["items"] == rows
    assert logged(world.api, world.model, 0, version=2) == []
    middle = times[60]
    later = logged(world.api, world.model, 0, since=middle, limit=1000)
    earlier = logged(world.api, world.model, 0, until=middle, limit=1000)
    assert later + earlier == rows
    assert later
    assert earlier
    for wrong in ({"since": "yesterday"}, {"until": "2026-01-02T03:04:05"}, {"version": 0}):
        world.api.get(f"/v1/models/{world.model}/requests", 422, **wrong)


def test_a_share_of_the_requests_is_logged(world: Shapes) -> None:
    set_share(world.api, world.model, 0.5)
    for i in range(100):
        predict(world, f"r-{i}")
    set_share(world.api, world.model, 1)
    predict(world, "last")
    until(lambda: logged(world.api, world.model, 1)[0]["request_id"] == "last", "the last to be logged")
    # Fewer or more come once in a million times.
    assert 25 <= len(logged(world.api, world.model, 1, limit=1000)) - 1 <= 75


def test_raw_rows_are_logged_as_they_came(services: Services) -> None:
    world = People(services.start("sqlite").api)
    world.register(people(60))
    world.make_model("sick")
    world.api.train(world.model, [world.dataset], n_epochs=1)
    set_share(world.api, world.model, 1)
    names = ("age", "job", "smokes", "joined")
    records = [{name: row[name] for name in names} for row in people(3)]
    columns = {name: [record[name] for record in records] for name in names}
    path = f"/v1/models/{world.model}/predict"
    answers = [world.api.post(path, body, 200) for body in ({"records": records}, {"columns": columns})]
    sink = pa.BufferOutputStream()
    table = pa.table(columns)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    headers = {"Content-Type": "application/vnd.apache.arrow.stream", "Accept": "application/json"}
    world.api.call("POST", path, 200, content=sink.getvalue().to_pybytes(), headers=headers)
    texts = [record["job"] or "" for record in records]
    tensors = [
        {"name": "age", "datatype": "INT64", "shape": [3], "data": [40, 50, 60]},
        {"name": "job", "datatype": "BYTES", "shape": [3], "data": texts},
        {"name": "smokes", "datatype": "BOOL", "shape": [3], "data": [True, False, True]},
        {"name": "joined", "datatype": "BYTES", "shape": [3], "data": columns["joined"]},
    ]
    world.api.post(f"/v2/models/{world.model}/infer", {"inputs": tensors}, 200)
    *_, of_tensors, of_arrow, of_columns, of_records = (None, *logged(world.api, world.model, 4))
    assert of_records["inputs"] == {"records": records}
    assert of_columns["inputs"] == of_arrow["inputs"] == {"columns": columns}
    assert of_tensors["inputs"]["columns"] == {
        **{"age": [40, 50, 60], "job": texts, "smokes": [True, False, True], "joined": columns["joined"]}
    }
    task = world.task("sick")
    told = {name: value for name, value in answers[0]["predictions"][task].items() if name != "class_names"}
    assert of_records["answers"] == {task: told}
    assert told["classes"]

    # As the page says, what came is compared with what the model was trained on.
    (program,) = [
        block.text for block in blocks(section(PAGE, "The request log")) if block.language == "python"
    ]
    world.api.delete(f"/v1/models/{world.model}/requests")
    world.api.post(path, {"records": records}, 200)
    logged(world.api, world.model, 1)
    program = program.replace("http://localhost:8000", world.api.url)
    program = program.replace("/models/census", f"/models/{world.model}")
    program = program.replace("/datasets/census", f"/datasets/{world.dataset}")
    told_by_it = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert 0 <= float(told_by_it.stdout) <= 1


def test_the_log_is_emptied_at_once_and_goes_with_its_model(world: Shapes) -> None:
    path = f"/v1/models/{world.model}/requests"
    for i in range(30):
        predict(world, f"r-{i}")
    # Some are not even written yet.
    world.api.delete(path)
    assert world.api.get(path)["items"] == []
    predict(world, "after")
    assert [row["request_id"] for row in logged(world.api, world.model, 1)] == ["after"]
    world.api.delete(f"/v1/models/{world.model}")
    world.api.get(path, 404)
    world.api.delete(path, 404)
    world.api.post("/v1/models", {"name": world.model, "tasks": [world.task("circle")]})
    assert world.api.get(path)["items"] == []


def test_a_server_that_stops_writes_what_it_has(tmp_path: Path) -> None:
    env = environment(tmp_path / "data")
    server = ServerProcess(env=env, log=tmp_path / "log-1")
    try:
        api = Api(server.url())
        shapes = Shapes(api).make("circle", n=8)
        api.train(shapes.model, [shapes.dataset("circle")], n_epochs=1)
        set_share(api, shapes.model, 1)
        ids = [f"r-{i}" for i in range(50)]
        for request_id in ids:
            predict(shapes, request_id)
        server.stop()
        server = ServerProcess("--no-worker", env=env, log=tmp_path / "log-2")
        rows = logged(Api(server.url()), shapes.model, len(ids))
        assert [row["request_id"] for row in rows] == ids[::-1]
    finally:
        server.stop()
