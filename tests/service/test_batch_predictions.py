"""Predictions of whole tables over HTTP: the same answers as row by row, in files, as runs."""

from __future__ import annotations

import io
import json
import os
import signal
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.service.client import Api, unique
from tests.service.conftest import Service, on_sqlite_alone
from tests.service.shapes import Shapes
from tests.service.tables import People, as_csv, people

N = 60
LONG = 300_000
PREDS: dict[str, Any] = {"return": ["preds"]}


@pytest.fixture(scope="module")
def world(service: Service) -> People:
    world = People(service.api)
    world.register(people(200))
    world.make_model("sick", "mood")
    service.api.train(world.model, [world.dataset], n_epochs=2)
    return world


@pytest.fixture(scope="module")
def upload(world: People) -> str:
    rows = [row | {"id": f"p{i}"} for i, row in enumerate(people(N, seed=5))]
    return world.upload(as_csv(rows), filename="new.csv")["id"]


def started(world: People, status: int = 202, **body: Any) -> dict[str, Any]:
    return world.api.post(f"/v1/models/{world.model}/predictions", body, status)


def result(api: Api, run: str) -> bytes:
    return api.call("GET", api.ended(run)["result"]["url"], 200).content


def one_by_one(world: People, upload: str, **asked: Any) -> dict[str, dict[str, Any]]:
    rows = world.api.get(f"/v1/uploads/{upload}/rows", limit=N)["records"]
    read = [{name: row[name] for name in ("age", "job", "smokes", "joined")} for row in rows]
    body = {"records": read, **asked}
    return world.api.post(f"/v1/models/{world.model}/predict", body, 200)["predictions"]


def test_an_upload_is_predicted_as_its_rows_are_one_by_one(world: People, upload: str) -> None:
    asked: dict[str, Any] = {"return": ["preds", "classes", "probs", "logits", "top_k:2", "operation:trunk"]}
    run = started(world, upload=upload, keep=["id"], **asked)
    assert (run["kind"], run["status"], run["model_version"]) == ("predict", "queued", 1)
    assert run["data"][0] | {"sha256": ""} == {
        "dataset": None,
        "version": None,
        "split": None,
        "upload": upload,
        "rows": N,
        "sha256": "",
    }
    ended = world.api.ended(run["id"])
    assert (ended["progress"]["rows"], ended["progress"]["fraction"]) == (N, 1.0)
    table = pq.read_table(io.BytesIO(result(world.api, run["id"])))
    assert table.column("row").to_pylist() == list(range(N))
    assert table.column("id").to_pylist() == [f"p{i}" for i in range(N)]
    expected = one_by_one(world, upload, **asked)
    for task, answer in expected.items():
        found = {name: table.column(f"{task}.{name}").to_pylist() for name in ("preds", "classes")}
        assert found == {name: answer[name] for name in found}
        for name in ("probs", "logits"):
            np.testing.assert_allclose(table.column(f"{task}.{name}").to_pylist(), answer[name], atol=1e-6)
        assert table.column(f"{task}.top_k.classes").to_pylist() == answer["top_k"]["classes"]
        trunk = table.column(f"{task}.operations.trunk").to_pylist()
        np.testing.assert_allclose(trunk, answer["operations"]["trunk"], atol=1e-5)
    names = json.loads(table.schema.metadata[b"class_names"])
    assert names == {task: answer["class_names"] for task, answer in expected.items()}


def test_json_lines_have_a_line_for_each_row(world: People, upload: str) -> None:
    run = started(world, upload="new.csv", format="jsonl", keep=["id", "age"], tasks=[world.task("mood")])
    ended = world.api.ended(run["id"])
    assert ended["result"]["media_type"] == "application/jsonl"
    lines = [json.loads(line) for line in result(world.api, run["id"]).splitlines()]
    expected = one_by_one(world, upload, tasks=[world.task("mood")])[world.task("mood")]
    given = world.api.get(f"/v1/uploads/{upload}/rows", limit=N)["records"]
    assert len(lines) == N
    for i, line in enumerate(lines):
        answer = line["predictions"][world.task("mood")]
        assert (line["row"], line["id"], line["age"]) == (i, f"p{i}", given[i]["age"])
        assert (answer["preds"], answer["classes"]) == (expected["preds"][i], expected["classes"][i])
        np.testing.assert_allclose(answer["probs"], expected["probs"][i], atol=1e-6)


def test_a_datasets_splits_come_one_after_the_other(world: People) -> None:
    run = started(world, dataset=f"{world.dataset}@1", version="latest", **PREDS)
    table = pq.read_table(io.BytesIO(result(world.api, run["id"])))
    splits = {split["split"]: split["rows"] for split in run["data"]}
    assert table.column("split").to_pylist() == [name for name, n in splits.items() for _ in range(n)]
    assert table.column("row").to_pylist() == [i for n in splits.values() for i in range(n)]
    test = started(world, dataset=world.dataset, split="test", **PREDS)
    alone = pq.read_table(io.BytesIO(result(world.api, test["id"])))
    task = f"{world.task('sick')}.preds"
    of_test = table.filter([split == "test" for split in table.column("split").to_pylist()])
    assert alone.column(task).to_pylist() == of_test.column(task).to_pylist()


def test_datasets_of_tensors_are_predicted_too(service: Service) -> None:
    shapes = Shapes(service.api)
    shapes.add("circle")
    service.api.post("/v1/models", {"name": shapes.model, "tasks": [shapes.task("circle")]})
    service.api.train(shapes.model, [shapes.dataset("circle")], n_epochs=1)
    body = {"dataset": shapes.dataset("circle"), "return": ["probs"]}
    run = service.api.post(f"/v1/models/{shapes.model}/predictions", body, 202)
    table = pq.read_table(io.BytesIO(result(service.api, run["id"])))
    inputs = shapes.split("circle", "train", 64)["X_dict"]
    asked = {"inputs": inputs, "return": ["probs"]}
    task = shapes.task("circle")
    answer = service.api.post(f"/v1/models/{shapes.model}/tasks/{task}/predict", asked, 200)
    np.testing.assert_allclose(table.column(f"{task}.probs").to_pylist(), answer["probs"], atol=1e-6)
    # The classes have no names, so there is nothing to answer but which row it is.
    body |= {"return": ["classes"]}
    run = service.api.post(f"/v1/models/{shapes.model}/predictions", body, 202)
    nothing = pq.read_table(io.BytesIO(result(service.api, run["id"])))
    assert (nothing.schema.names, nothing.num_rows) == (["row", "split"], 64)


@on_sqlite_alone
def test_what_cannot_be_predicted_is_refused_where_it_stands(world: People, upload: str) -> None:
    def pointers(**body: Any) -> list[str]:
        return [fault["pointer"] for fault in started(world, 422, **body)["errors"]]

    assert pointers() == [""]
    assert pointers(dataset=world.dataset, upload=upload) == [""]
    assert pointers(upload=upload, split="test") == [""]
    assert pointers(upload=unique("none")) == ["/upload"]
    assert pointers(dataset=unique("none")) == ["/dataset"]
    assert pointers(dataset=world.dataset, split="none") == ["/split"]
    assert pointers(upload=upload, tasks=[world.task("sick"), "none"]) == ["/tasks/1"]
    assert pointers(upload=upload, **{"return": ["operation:none"]}) == ["/return"]
    assert pointers(upload=upload, keep=["nobody", "id", "id"]) == ["/keep/0", "/keep/2"]
    other = world.upload(b"age,job,joined\n38,cook,2020-01-01\n")["id"]
    assert pointers(upload=other) == ["/upload"]
    wrong = world.upload(b"age,job,smokes,joined\nold,cook,true,2020-01-01\n")["id"]
    problem = started(world, 422, upload=wrong)
    assert "row 0 of upload" in problem["detail"]
    assert "'age'" in problem["detail"]
    assert started(world, 404, upload=upload, version=99)["status"] == 404


@on_sqlite_alone
def test_a_value_far_down_that_does_not_suit_fails_the_run_and_is_named(world: People) -> None:
    # Types are read off the first rows of a column of text.
    rows = [row | {"age": row["age"] if i != 5000 else "old"} for i, row in enumerate(people(5200, seed=3))]
    upload = world.upload(as_csv(rows))["id"]
    run = world.api.ended(started(world, upload=upload)["id"], "failed")
    assert f"row 5,000 of upload '{upload}', column 'age'" in run["error"]["detail"]
    assert run["result"] is None
    world.api.get(f"/v1/runs/{run['id']}/result", 404)


@on_sqlite_alone
def test_parts_of_a_result_are_downloaded(world: People, upload: str) -> None:
    run = started(world, upload=upload, format="jsonl")["id"]
    whole = result(world.api, run)
    path = f"/v1/runs/{run}/result"
    part = world.api.call("GET", path, 206, headers={"Range": "bytes=10-19"})
    assert part.content == whole[10:20]
    assert f"{run}.jsonl" in part.headers["content-disposition"]


@pytest.fixture(scope="module")
def long(world: People) -> str:
    row = b"38,cook,true,2020-01-01,a\n"
    return world.upload(b"age,job,smokes,joined,id\n" + row * LONG)["id"]


@on_sqlite_alone
def test_a_prediction_whose_process_is_killed_is_made_again(
    world: People, long: str, service: Service
) -> None:
    run = started(world, upload=long, format="jsonl")["id"]
    world.api.training(run)
    claimed = max(service.worker_of(run).claims(run), key=lambda line: line["attempt"])
    os.kill(claimed["pid"], signal.SIGKILL)
    ended = world.api.ended(run)
    assert [attempt["outcome"] for attempt in ended["attempts"]] == ["crashed", "succeeded"]
    lines = result(world.api, run).splitlines()
    assert len(lines) == LONG
    assert json.loads(lines[-1])["row"] == LONG - 1


@on_sqlite_alone
def test_a_prediction_is_cancelled_and_resumed(world: People, long: str) -> None:
    run = started(world, upload=long, format="jsonl")["id"]
    world.api.training(run)
    world.api.post(f"/v1/runs/{run}/cancel", None, 202)
    world.api.ended(run, "cancelled")
    limited = started(world, upload=long, limits={"seconds": 0.2})["id"]
    failed = world.api.ended(limited, "failed")
    assert "limit of 0.2 seconds" in failed["error"]["detail"]
    body = {"limits": {"seconds": 600}}
    world.api.post(f"/v1/runs/{limited}/resume", body, 202)
    ended = world.api.ended(limited)
    assert ended["attempt"] == 2
    assert pq.read_metadata(io.BytesIO(result(world.api, limited))).num_rows == LONG
