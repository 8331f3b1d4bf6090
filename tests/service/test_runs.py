"""What may happen to a run: cancelled, resumed, killed, diverged, repeated, followed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.service.client import Api, check_problem
from tests.service.conftest import Service
from tests.service.processes import until
from tests.service.shapes import ENDLESS, Shapes


def test_cancel_a_running_and_a_queued_run_and_resume(service: Service, shapes: Shapes) -> None:
    api = service.api
    shapes.make("circle")
    # One for each slot, so that a further run waits.
    endless = [api.start(shapes.model, [shapes.dataset("circle")], **ENDLESS) for _ in range(service.slots)]
    for run in endless:
        api.training(run)
    running = endless[-1]
    queued = api.start(shapes.model, [shapes.dataset("circle")], n_epochs=2)
    assert api.run(queued)["status"] == "queued"

    assert api.post(f"/v1/runs/{queued}/cancel", status=202)["status"] == "cancelled"
    assert "is over" in api.post(f"/v1/runs/{queued}/cancel", status=409)["detail"]
    assert "running" in api.post(f"/v1/runs/{running}/resume", status=409)["detail"]
    for run in endless:
        assert api.post(f"/v1/runs/{run}/cancel", status=202)["status"] in ("cancelling", "cancelled")
    (*_, cancelled) = (api.ended(run, "cancelled") for run in endless)
    assert cancelled["error"] is None
    assert cancelled["model_version"] is None
    assert cancelled["finished_at"]

    assert api.post(f"/v1/runs/{queued}/resume", status=202)["status"] == "queued"
    resumed = api.ended(queued)
    assert (resumed["model_version"], resumed["attempt"]) == (1, 1)
    statuses = [event["data"]["status"] for event in api.events(queued) if event["event"] == "status"]
    assert statuses == ["queued", "cancelled", "queued", "running", "succeeded"]
    assert "succeeded" in api.post(f"/v1/runs/{queued}/resume", status=409)["detail"]
    assert [run["id"] for run in api.get("/v1/runs", model=shapes.model)["items"]] == [queued, *endless[::-1]]
    stopped = api.get(f"/v1/runs?model={shapes.model}&status=cancelled")["items"]
    assert [run["id"] for run in stopped] == endless[::-1]


def test_the_same_seed_gives_the_same_weights(api: Api, shapes: Shapes) -> None:
    shapes.make("circle", "square")
    datasets = [shapes.dataset("circle"), shapes.dataset("square")]
    checksums = []
    for seed in (5, 5, 6):
        version = api.train(shapes.model, datasets, init_from=None, n_epochs=2, seed=seed)
        checksums.append(api.get(f"/v1/models/{shapes.model}/versions/{version}")["sha256"])
    assert checksums[0] == checksums[1] != checksums[2]


def test_a_loss_that_is_not_finite_fails_the_run_and_names_the_task(api: Api, shapes: Shapes) -> None:
    api.post("/v1/tasks", shapes.spec("circle", loss="mse", output="identity", metrics=["mse"]))
    X = {"circle_data": [[3e38, -3e38]] * 8}
    labels = {shapes.task("circle"): [[0.5, 0.5]] * 8}
    api.post(
        "/v1/datasets", {"name": shapes.dataset("circle"), "split": "train", "X_dict": X, "Y_dict": labels}
    )
    api.post("/v1/models", {"name": shapes.model, "tasks": [shapes.task("circle")]})
    failed = api.ended(api.start(shapes.model, [shapes.dataset("circle")]), "failed")
    assert f"loss of task '{shapes.task('circle')}' is" in failed["error"]["detail"]
    assert shapes.dataset("circle") in failed["error"]["detail"]
    assert api.get(f"/v1/models/{shapes.model}")["versions"] == []


def test_scoring_a_version_on_further_data(api: Api, shapes: Shapes) -> None:
    shapes.make("circle")
    api.train(shapes.model, [shapes.dataset("circle")], n_epochs=2)
    further = shapes.split("circle", "later", 50, seed=99) | {"name": shapes.dataset("further")}
    api.post("/v1/datasets", further)
    scores = f"/v1/models/{shapes.model}/versions/1/scores"
    before = api.get(scores)
    run = api.post(scores, {"datasets": [shapes.dataset("further")]}, 202)
    assert (run["kind"], run["trainer"], run["model_version"]) == ("score", None, 1)
    api.ended(run["id"])
    added = f"{shapes.task('circle')}/{shapes.dataset('further')}/later/accuracy"
    assert api.get(scores).keys() == before.keys() | {added}
    (row,) = api.get("/v1/scores", run=run["id"])["items"]
    assert (row["n"], row["version"], row["value"]) == (50, 1, api.get(scores)[added])
    assert api.get(f"/v1/models/{shapes.model}")["versions"] == [1]
    problem = api.post(scores, {"datasets": ["nowhere"]}, 422)
    assert problem["errors"][0]["pointer"] == "/datasets/0"


def test_the_event_stream_tells_everything_once_and_can_be_taken_up_again(api: Api, shapes: Shapes) -> None:
    shapes.make("circle", splits=("train", "valid"))
    run = api.start(shapes.model, [shapes.dataset("circle")], n_epochs=3)
    events = api.events(run)
    assert api.run(run)["status"] == "succeeded"
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    assert {event["event"] for event in events} == {"status", "progress", "metrics", "log"}
    assert [e["data"]["status"] for e in events if e["event"] == "status"] == [
        "queued",
        "running",
        "succeeded",
    ]
    assert events[-1]["data"]["model_version"] == 1
    assert [e["data"]["epoch"] for e in events if e["event"] == "metrics"] == [1, 2, 3]
    assert api.events(run) == events
    assert api.events(run, after=3) == events[3:]
    assert api.events(run, after=len(events)) == []


def test_a_dropped_event_stream_goes_on_where_it_was(api: Api, shapes: Shapes) -> None:
    shapes.make("circle")
    run = api.start(shapes.model, [shapes.dataset("circle")], **ENDLESS)
    seen: list[int] = []
    with api.http.stream("GET", f"/v1/runs/{run}/events") as response:
        for line in response.iter_lines():
            if line.startswith("id:"):
                seen.append(int(line.removeprefix("id:")))
            if len(seen) == 5:
                break
    api.post(f"/v1/runs/{run}/cancel", status=202)
    rest = api.events(run, after=seen[-1])
    assert [*seen, *(event["id"] for event in rest)] == list(range(1, len(rest) + 6))
    assert rest[-1]["data"]["status"] == "cancelled"


@pytest.mark.parametrize(
    ("labels", "labelled"),
    [([0, 1, None, 1, -1, 0, None, 1], 5), ([None] * 7 + [1], 1)],
    ids=["some", "one"],
)
def test_what_is_not_labelled_never_counts(
    api: Api, shapes: Shapes, labels: list[int | None], labelled: int
) -> None:
    shapes.make("square")
    api.post("/v1/tasks", shapes.spec("circle"))
    api.post(f"/v1/models/{shapes.model}/tasks", {"task": shapes.task("circle")})
    body = shapes.split("circle", "train", 8)
    body["Y_dict"] = {shapes.task("circle"): labels}
    dataset = api.post("/v1/datasets", body)
    described = dataset["splits"][0]["labels"][shapes.task("circle")]
    assert described["labelled"] == sum(described["counts"].values()) == labelled
    datasets = [shapes.dataset("circle"), shapes.dataset("square")]
    run = api.start(shapes.model, datasets, n_epochs=2)
    api.ended(run)
    rows = api.get("/v1/scores", run=run)["items"]
    assert {row["task"]: row["n"] for row in rows} == {
        shapes.task("circle"): labelled,
        shapes.task("square"): 64,
    }


def test_a_task_without_any_label_is_scored_as_null_with_a_reason(api: Api, shapes: Shapes) -> None:
    shapes.make("square")
    api.post("/v1/tasks", shapes.spec("circle"))
    api.post(f"/v1/models/{shapes.model}/tasks", {"task": shapes.task("circle")})
    body = shapes.split("circle", "train", 8)
    body["Y_dict"] = {shapes.task("circle"): [-1] * 8}
    api.post("/v1/datasets", body)
    run = api.start(shapes.model, [shapes.dataset("circle"), shapes.dataset("square")])
    api.ended(run)
    assert any("has no label" in e["data"].get("message", "") for e in api.events(run))
    rows = api.get("/v1/scores", run=run, task=shapes.task("circle"))["items"]
    for row in rows:
        assert (row["value"], row["n"]) == (None, 0)
        assert row["reason"]


def test_what_a_run_needs_is_checked_before_it_is_queued(api: Api, shapes: Shapes) -> None:
    shapes.make("circle")
    api.post("/v1/tasks", shapes.spec("square"))
    runs = f"/v1/models/{shapes.model}/runs"

    def refused(name: str, pointer: str = "/datasets/0", **changes: Any) -> str:
        problem = api.post(runs, {"datasets": [name]} | changes, 422)
        assert problem["errors"][0]["pointer"] == pointer, problem
        return problem["errors"][0]["detail"]

    assert "no dataset" in refused("nowhere")
    split = shapes.split("circle", "train", 8)
    split["Y_dict"] = {shapes.task("circle"): [0, 1, 2, 1, 0, 1, 0, 1]}
    api.post("/v1/datasets", split | {"name": shapes.dataset("range")})
    detail = refused(shapes.dataset("range"))
    assert shapes.task("circle") in detail
    assert "a label is 2" in detail
    api.post(
        "/v1/datasets",
        shapes.split("circle", "train", 8) | {"name": shapes.dataset("field"), "X_dict": {"other": [1] * 8}},
    )
    assert "lacks the field 'circle_data'" in refused(shapes.dataset("field"))
    wide = {"circle_data": [[1, 2, 3]] * 8}
    api.post(
        "/v1/datasets", shapes.split("circle", "train", 8) | {"name": shapes.dataset("wide"), "X_dict": wide}
    )
    assert "operation 'base_mlp'" in refused(shapes.dataset("wide"))
    unlabelled = shapes.split("square", "train", 8) | {"name": shapes.dataset("unlabelled")}
    api.post("/v1/datasets", unlabelled)
    assert "labels none of the tasks" in refused(shapes.dataset("unlabelled"))
    api.post("/v1/datasets", shapes.split("circle", "test", 8) | {"name": shapes.dataset("untrained")})
    assert "train split" in refused(shapes.dataset("untrained"), "/datasets")
    refused(shapes.dataset("circle"), "/init_from", init_from=7)
    refused(shapes.dataset("circle"), "/init_from", init_from="stable")
    assert api.get("/v1/runs", model=shapes.model)["items"] == []


def test_a_dataset_in_use_stays(api: Api, shapes: Shapes) -> None:
    shapes.make("circle")
    dataset = f"/v1/datasets/{shapes.dataset('circle')}"
    run = api.start(shapes.model, [shapes.dataset("circle")], **ENDLESS)
    assert run in check_problem(api.delete(dataset, 409))["detail"]
    assert run in check_problem(api.delete(f"{dataset}/train", 409))["detail"]
    assert run in check_problem(api.delete(f"/v1/models/{shapes.model}", 409))["detail"]
    api.post(f"/v1/runs/{run}/cancel", status=202)
    api.ended(run, "cancelled")
    api.delete(dataset)
    api.get(dataset, 404)


def test_a_run_is_pinned_to_what_was_there_when_it_was_asked_for(service: Service, shapes: Shapes) -> None:
    """A task that is taken off while the run waits or trains changes nothing of it."""
    api = shapes.make("circle", "square").api
    run = api.start(shapes.model, [shapes.dataset("circle"), shapes.dataset("square")], n_epochs=2)
    api.delete(f"/v1/models/{shapes.model}/tasks/{shapes.task('square')}")
    version = api.ended(run)["model_version"]
    described = api.get(f"/v1/models/{shapes.model}/versions/{version}")
    assert described["tasks"] == [shapes.task("circle"), shapes.task("square")]
    until(lambda: service.worker_of(run), "the worker's log")
