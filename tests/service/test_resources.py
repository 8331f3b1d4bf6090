"""Tasks, datasets, models and versions as resources: conflicts, tags, pages, aliases, removal, idempotency."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.service.client import Api, check_problem, unique
from tests.service.shapes import Shapes, mlp


def test_the_same_content_again_is_the_same_resource_and_other_content_a_conflict(
    api: Api, shapes: Shapes
) -> None:
    shapes.make("circle", "square")
    first = api.call("POST", "/v1/tasks", 200, json=shapes.spec("circle"))
    assert first.headers["location"] == f"/v1/tasks/{shapes.task('circle')}"
    # Defaults written out make no other task.
    written_out = shapes.spec(
        "circle", loss={"type": "cross_entropy"}, output="softmax", metrics=["accuracy"]
    )
    assert api.post("/v1/tasks", written_out, 200)["created_at"] == first.json()["created_at"]
    assert (
        "another spec"
        in api.post("/v1/tasks", shapes.spec("circle", loss="mse", output="identity"), 409)["detail"]
    )

    api.post("/v1/datasets", shapes.split("circle", "train", 64), 200)
    assert (
        "other content"
        in api.post("/v1/datasets", shapes.split("circle", "train", 64, seed=8), 409)["detail"]
    )
    three_wide = shapes.split("circle", "valid", 2) | {"X_dict": {"circle_data": [[1, 2, 3], [4, 5, 6]]}}
    assert api.post("/v1/datasets", three_wide, 422)["errors"][0]["pointer"] == "/X_dict/circle_data"

    tasks = [shapes.task("circle"), shapes.task("square")]
    api.post("/v1/models", {"name": shapes.model, "tasks": tasks}, 200)
    assert "other tasks" in api.post("/v1/models", {"name": shapes.model, "tasks": tasks[:1]}, 409)["detail"]


def test_tasks_that_declare_a_module_differently_cannot_be_one_model(api: Api, shapes: Shapes) -> None:
    shapes.make("circle")
    spec = shapes.spec("square")
    spec["module_pool"]["base_mlp"] = mlp(2, 16, 4)
    api.post("/v1/tasks", spec)
    tasks = [shapes.task("circle"), shapes.task("square")]
    for problem in (
        api.post("/v1/models", {"name": unique("both"), "tasks": tasks}, 409),
        api.post(f"/v1/models/{shapes.model}/tasks", {"task": shapes.task("square")}, 409),
    ):
        assert all(f"'{name}'" in problem["detail"] for name in ["base_mlp", *tasks])
    assert api.get(f"/v1/models/{shapes.model}")["tasks"] == tasks[:1]


def test_a_task_in_use_stays(api: Api, shapes: Shapes) -> None:
    shapes.make("circle", "square")
    task = f"/v1/tasks/{shapes.task('circle')}"
    assert shapes.model in check_problem(api.delete(task, 409))["detail"]
    api.delete(f"/v1/models/{shapes.model}/tasks/{shapes.task('circle')}")
    api.delete(task)
    api.get(task, 404)


def test_removing_a_model_and_a_dataset(api: Api, shapes: Shapes) -> None:
    shapes.make("circle", splits=("train", "test"))
    run = api.start(shapes.model, [shapes.dataset("circle")])
    api.ended(run)
    dataset = f"/v1/datasets/{shapes.dataset('circle')}"
    api.delete(f"{dataset}/test")
    assert [split["split"] for split in api.get(dataset)["splits"]] == ["train"]
    api.delete(f"{dataset}/train")
    api.get(dataset, 404)
    # The version keeps its scores and predicts on.
    assert len(api.get(f"/v1/models/{shapes.model}/versions/1/scores")) == 2
    inputs = {"inputs": {"circle_data": [[0, 0]]}}
    api.post(f"/v1/models/{shapes.model}/predict", inputs, 200)

    api.delete(f"/v1/models/{shapes.model}")
    api.get(f"/v1/models/{shapes.model}", 404)
    api.get(f"/v1/runs/{run}", 404)
    assert api.get("/v1/scores", model=shapes.model)["items"] == []
    api.post(f"/v1/models/{shapes.model}/predict", inputs, 404)
    # A model of the same name begins anew.
    api.post("/v1/datasets", shapes.split("circle", "train", 64))
    api.post("/v1/models", {"name": shapes.model, "tasks": [shapes.task("circle")]})
    api.post(f"/v1/models/{shapes.model}/predict", inputs, 404)
    assert api.train(shapes.model, [shapes.dataset("circle")], seed=9) == 1
    api.post(f"/v1/models/{shapes.model}/predict", inputs, 200)


def test_aliases_default_and_roll_back(api: Api, shapes: Shapes) -> None:
    shapes.make("circle")
    model = f"/v1/models/{shapes.model}"
    for seed in (1, 2):
        api.train(shapes.model, [shapes.dataset("circle")], init_from=None, seed=seed)

    def predicts(version: str | int | None = None) -> int:
        body: dict[str, Any] = {"inputs": {"circle_data": [[0, 0]]}}
        return api.post(f"{model}/predict", body | ({"version": version} if version else {}), 200)["version"]

    assert [predicts(), predicts("default"), predicts("latest"), predicts(1)] == [2, 2, 2, 1]
    assert sorted(api.get(f"{model}/versions/2")["aliases"]) == ["default", "latest"]
    api.call("PUT", f"{model}/aliases/default", 201, json={"version": 1})
    assert [predicts(), predicts("latest")] == [1, 2]
    assert api.get(model)["default_version"] == 1
    assert api.call("PUT", f"{model}/aliases/stable", 201, json={"version": 2}).json()["version"] == 2
    assert predicts("stable") == 2
    moved = api.call("PUT", f"{model}/aliases/stable", 200, json={"version": 1}).json()
    assert (moved["version"], sorted(moved["aliases"])) == (1, ["default", "stable"])
    assert predicts("stable") == 1
    assert api.get(model)["aliases"] == {"default": 1, "stable": 1}
    assert api.get(f"{model}/versions/stable/scores") == api.get(f"{model}/versions/1/scores")
    run = api.start(shapes.model, [shapes.dataset("circle")], init_from="stable")
    assert api.ended(run)["init_from"] == 1
    assert [predicts(), predicts("latest")] == [1, 3]
    api.delete(f"{model}/aliases/default")
    api.delete(f"{model}/aliases/stable")
    assert predicts() == 3
    api.post(f"{model}/predict", {"inputs": {"circle_data": [[0, 0]]}, "version": "stable"}, 404)


def test_entity_tags(api: Api, shapes: Shapes) -> None:
    shapes.make("circle", "square")
    model = f"/v1/models/{shapes.model}"
    for path in (model, f"/v1/tasks/{shapes.task('circle')}", f"/v1/datasets/{shapes.dataset('circle')}"):
        tag = api.call("GET", path, 200).headers["etag"]
        not_modified = api.call("GET", path, 304, headers={"If-None-Match": f'"other", {tag}'})
        assert not_modified.content == b""
        assert not_modified.headers["etag"] == tag
        api.call("GET", path, 200, headers={"If-None-Match": '"other"'})
        problem = check_problem(api.delete(path, 412, **{"If-Match": '"other"'}))
        assert tag in problem["detail"]

    tag = api.call("GET", model, 200).headers["etag"]
    api.delete(f"{model}/tasks/{shapes.task('square')}", 204, **{"If-Match": tag})
    # The model has changed, so the tag is stale.
    api.call("GET", model, 200, headers={"If-None-Match": tag})
    api.delete(model, 412, **{"If-Match": tag})
    tag = api.call("GET", model, 200).headers["etag"]
    api.delete(model, 204, **{"If-Match": f'"other", {tag}'})
    api.delete(f"/v1/datasets/{shapes.dataset('circle')}", 204, **{"If-Match": "*"})


def test_pages_by_cursor(api: Api, shapes: Shapes) -> None:
    prefix = unique("page")
    names = [f"{prefix}-{i}" for i in range(5)]
    for name in reversed(names):
        api.post("/v1/tasks", shapes.spec("circle") | {"name": name})

    def pages(path: str, limit: int, cursor: str | None = None) -> list[list[Any]]:
        found: list[list[Any]] = []
        while True:
            page = api.get(path, limit=limit, **({"cursor": cursor} if cursor else {}))
            assert len(page["items"]) <= limit
            found.append(page["items"])
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    listed = pages("/v1/tasks", 3)
    everything = [item["name"] for page in listed for item in page]
    assert everything == sorted(everything)
    assert [name for name in everything if name.startswith(prefix)] == names
    assert all(len(page) == 3 for page in listed[:-1])

    # What is added or removed meanwhile shifts nothing.
    start = everything.index(names[0]) + 2
    page = api.get("/v1/tasks", limit=start)
    assert page["items"][-1]["name"] == names[1]
    api.delete(f"/v1/tasks/{names[0]}")
    api.post("/v1/tasks", shapes.spec("circle") | {"name": f"{names[2]}-later"})
    following = api.get("/v1/tasks", limit=2, cursor=page["next_cursor"])["items"]
    assert [item["name"] for item in following] == [names[2], f"{names[2]}-later"]

    shapes.make("circle", n=4)
    runs = [api.start(shapes.model, [shapes.dataset("circle")], n_epochs=1) for _ in range(3)]
    first = api.get("/v1/runs", model=shapes.model, limit=2)
    second = api.get("/v1/runs", model=shapes.model, limit=2, cursor=first["next_cursor"])
    assert [r["id"] for r in (*first["items"], *second["items"])] == runs[::-1]
    assert second["next_cursor"] is None
    for run in runs:
        api.ended(run)
    versions = pages(f"/v1/models/{shapes.model}/versions", 2)
    assert [[v["version"] for v in page] for page in versions] == [[3, 2], [1]]
    one_by_one = api.get("/v1/scores", model=shapes.model, limit=1)
    rest = api.get("/v1/scores", model=shapes.model, cursor=one_by_one["next_cursor"])["items"]
    assert [row["version"] for row in (*one_by_one["items"], *rest)] == [1, 2, 3]


def test_rows_of_a_split(api: Api, shapes: Shapes) -> None:
    body = shapes.split("circle", "train", 10)
    body["Y_dict"][shapes.task("circle")][3] = None
    api.post("/v1/datasets", body)
    path = f"/v1/datasets/{shapes.dataset('circle')}/train/rows"
    page = api.get(path, offset=2, limit=3)
    assert (page["offset"], page["rows"]) == (2, 10)
    assert page["Y_dict"][shapes.task("circle")][1] == -1
    assert page["X_dict"]["circle_data"][0] == pytest.approx(body["X_dict"]["circle_data"][2])
    assert api.get(path, offset=9)["X_dict"]["circle_data"] == [
        pytest.approx(body["X_dict"]["circle_data"][9])
    ]
    assert api.get(path, offset=10)["X_dict"]["circle_data"] == []
    assert api.get(path, offset=2**40)["Y_dict"][shapes.task("circle")] == []


def test_an_idempotency_key_answers_again(api: Api, shapes: Shapes) -> None:
    shapes.make("circle", n=4)
    runs = f"/v1/models/{shapes.model}/runs"
    body = {"datasets": [shapes.dataset("circle")]}
    headers = {"Idempotency-Key": unique("key")}
    first = api.call("POST", runs, 202, json=body, headers=headers)
    again = api.call("POST", runs, 202, json=body, headers=headers)
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"] == f"/v1/runs/{first.json()['id']}"
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    problem = check_problem(api.call("POST", runs, 422, json=body | {"init_from": None}, headers=headers))
    assert problem["errors"][0]["parameter"] == "Idempotency-Key"
    # The key belongs to its path, and a request that failed does not use it up.
    scores = f"/v1/models/{shapes.model}/versions/1/scores"
    api.ended(first.json()["id"])
    api.call("POST", scores, 422, json={"datasets": ["nowhere"]}, headers=headers)
    scoring = api.call("POST", scores, 202, json=body, headers=headers).json()
    assert len(api.get("/v1/runs", model=shapes.model)["items"]) == 2
    api.ended(scoring["id"])


def test_racing_requests_of_one_idempotency_key_start_one_run(api: Api, shapes: Shapes) -> None:
    shapes.make("circle", n=4)
    headers = {"Idempotency-Key": unique("key")}

    def post(_: int) -> Any:
        body = {"datasets": [shapes.dataset("circle")]}
        return api.call("POST", f"/v1/models/{shapes.model}/runs", 202, json=body, headers=headers).json()[
            "id"
        ]

    with ThreadPoolExecutor(8) as threads:
        ids = set(threads.map(post, range(16)))
    assert len(ids) == 1
    assert [run["id"] for run in api.get("/v1/runs", model=shapes.model)["items"]] == list(ids)
    api.ended(ids.pop())


def test_racing_requests_that_create_one_thing_create_it_once(api: Api, shapes: Shapes) -> None:
    def post_task(_: int) -> int:
        return api.call("POST", "/v1/tasks", (200, 201), json=shapes.spec("circle")).status_code

    def post_split(i: int) -> int:
        split = shapes.split("circle", f"part{i % 4}", 8)
        return api.call("POST", "/v1/datasets", (200, 201), json=split).status_code

    def put_on(i: int) -> int:
        body = {"task": f"{shapes.task('other')}-{i % 3}"}
        return api.call("POST", f"/v1/models/{shapes.model}/tasks", (200, 201), json=body).status_code

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(post_task, range(12))) == [200] * 11 + [201]
        assert sorted(threads.map(post_split, range(12))) == [200] * 8 + [201] * 4
        api.post("/v1/models", {"name": shapes.model, "tasks": [shapes.task("circle")]})
        for i in range(3):
            api.post("/v1/tasks", shapes.spec("circle") | {"name": f"{shapes.task('other')}-{i}"})
        assert sorted(threads.map(put_on, range(9))) == [200] * 6 + [201] * 3
    assert len(api.get(f"/v1/datasets/{shapes.dataset('circle')}")["splits"]) == 4
    assert len(set(api.get(f"/v1/models/{shapes.model}")["tasks"])) == 4


def test_the_catalogue_says_what_specs_may_be_made_of(api: Api) -> None:
    catalogue = api.get("/v1/modules")
    by_type = {entry["type"]: entry for entry in catalogue["modules"]}
    assert by_type["Linear"]["arguments"]["required"] == ["in_features", "out_features"]
    assert {"Sequential", "Conv2d", "LSTM", "Embedding", "Concat", "Residual"} <= by_type.keys()
    assert "cross_entropy" in [entry["type"] for entry in catalogue["losses"]]
    assert "lr" in catalogue["trainer"]["properties"]


def test_a_request_id_is_the_clients_or_a_new_one_and_in_the_problem_and_the_log(service: Any) -> None:
    api: Api = service.api
    mine = unique("req")
    response = api.http.get("/v1/tasks/nowhere", headers={"X-Request-ID": mine})
    assert check_problem(response)["request_id"] == response.headers["x-request-id"] == mine
    line = service.server.logged("request", request_id=mine)
    assert (line["method"], line["path"], line["status"]) == ("GET", "/v1/tasks/nowhere", 404)
    made = [
        api.http.get("/healthz", headers={"X-Request-ID": bad})
        for bad in ("a b", "x" * 65, "\u00e9".encode())
    ]
    ids = {response.headers["x-request-id"] for response in made}
    assert len(ids) == 3
    assert all(request_id.startswith("req_") for request_id in ids)


def test_measures_and_pages_that_the_server_brings_itself(api: Api) -> None:
    measures = api.call("GET", "/metrics", 200)
    assert measures.headers["content-type"].startswith("text/plain")
    assert 'taskloom_http_requests_total{method="GET",route="/v1/tasks/{task}"' in measures.text or (
        "taskloom_http_requests_total" in measures.text
    )
    assert api.call("GET", "/", 307).headers["location"] == "/docs"
    page = api.call("GET", "/docs", 200).text
    assert "cdn" not in page
    for link in [part.split('"')[0] for part in page.split('src="')[1:] + page.split('href="')[1:]]:
        assert link.startswith("/"), link
        assert api.call("GET", link, 200).content
