"""Predictions over HTTP: what is answered in which form, together with whom, by which version."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from app.storage.artifacts import ArtifactStore
from mtl_core import MultitaskClassifier, load_module_weights
from mtl_core.building.tasks import build_tasks
from mtl_core.specs import TaskSpec
from tests.service.client import Api, unique
from tests.service.conftest import Service, on_sqlite_alone
from tests.service.processes import ServerProcess, until
from tests.service.shapes import mlp

TENSOR, SAFETENSORS, ARROW = (
    "application/octet-stream",
    "application/vnd.safetensors",
    "application/vnd.apache.arrow.stream",
)
TASKS = ("a", "b", "c")


@dataclass
class World:
    """A model of three tasks of one trunk, two versions of it, and the same networks in this process."""

    api: Api
    service: Service
    model: str
    tasks: dict[str, str]
    networks: list[MultitaskClassifier]

    @property
    def path(self) -> str:
        return f"/v1/models/{self.model}"

    def expected(self, rows: NDArray[np.float32], version: int = 1) -> dict[str, dict[str, Any]]:
        """Return what the library answers."""
        return self.networks[version - 1].infer({"x": torch.from_numpy(rows)}, list(self.tasks.values()))

    def ask(self, rows: NDArray[np.float32], **body: Any) -> dict[str, Any]:
        return self.api.post(f"{self.path}/predict", {"inputs": {"x": rows.tolist()}} | body, 200)


def rows_of(n: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def world(service: Service) -> World:
    api, name = service.api, unique("p")
    tasks = {kind: f"{kind}-{name}" for kind in TASKS}
    for kind, task in tasks.items():
        head = {"type": "Linear", "in_features": 16, "out_features": 4 if kind != "c" else 1}
        api.post(
            "/v1/tasks",
            {
                "name": task,
                "module_pool": {"trunk": mlp(5, 16, 16), f"head_{kind}": head},
                "op_sequence": [
                    {"name": "trunk", "module_name": "trunk", "inputs": [["_input_", "x"]]},
                    {"name": "head", "module_name": f"head_{kind}", "inputs": ["trunk"]},
                ],
            }
            | ({"loss": "mse", "output": "identity", "metrics": ["mse"]} if kind == "c" else {}),
        )
    labels = {task: np.arange(64) % 4 if kind != "c" else rows_of(64)[:, :1] for kind, task in tasks.items()}
    api.post(
        "/v1/datasets",
        {
            "name": name,
            "split": "train",
            "X_dict": {"x": rows_of(64).tolist()},
            "Y_dict": {task: values.tolist() for task, values in labels.items()},
        },
    )
    api.post("/v1/models", {"name": name, "tasks": list(tasks.values())})
    for seed in (1, 2):
        api.train(name, [name], init_from=None, seed=seed, n_epochs=1)
    store = ArtifactStore(service.folder / "data" / "artifacts")
    networks: list[MultitaskClassifier] = []
    for version in (1, 2):
        specs = [api.get(f"/v1/models/{name}/tasks/{task}") for task in tasks.values()]
        built = build_tasks(
            [
                TaskSpec.model_validate({k: spec[k] for k in TaskSpec.model_fields if k in spec})
                for spec in specs
            ]
        )
        network = MultitaskClassifier(built, device=-1)
        sha256 = api.get(f"/v1/models/{name}/versions/{version}")["sha256"]
        load_module_weights(network, store.load_tensors(sha256))
        networks.append(network.eval())
    return World(api, service, name, tasks, networks)


@pytest.fixture
def pinned_to_one(world: World) -> World:
    """Have ``default`` stand for version 1."""
    world.api.call("PUT", f"{world.path}/aliases/default", (200, 201), json={"version": 1})
    return world


@pytest.mark.parametrize("n", [1, 7, 300])
def test_answers_are_the_librarys_to_the_last_bit(pinned_to_one: World, n: int) -> None:
    world, rows = pinned_to_one, rows_of(n, seed=n)
    answered = world.ask(rows, **{"return": ["preds", "probs", "logits"]})["predictions"]
    for task, expected in world.expected(rows).items():
        probs = "outputs" if task == world.tasks["c"] else "probs"
        for kind, key in (("preds", "preds"), ("probs", probs), ("logits", "logits")):
            assert np.array_equal(np.array(answered[task][key], expected[kind].numpy().dtype), expected[kind])


def test_one_task_is_answered_as_among_several(pinned_to_one: World) -> None:
    world, rows = pinned_to_one, rows_of(3)
    task = world.tasks["a"]
    alone = world.api.post(f"{world.path}/tasks/{task}/predict", {"inputs": {"x": rows.tolist()}}, 200)
    assert {key: alone[key] for key in ("preds", "probs")} == world.ask(rows)["predictions"][task]
    assert (alone["model"], alone["version"], alone["task"]) == (world.model, 1, task)


def test_the_likeliest_classes_and_outputs_of_operations(pinned_to_one: World) -> None:
    world, rows = pinned_to_one, rows_of(3)
    tasks = [world.tasks["a"], world.tasks["b"]]
    asked = ["top_k:2", "operation:trunk"]
    answered = world.ask(rows, tasks=tasks, **{"return": asked})["predictions"]
    network = world.networks[0]
    trunk = network({"x": torch.from_numpy(rows)}, tasks)["trunk"]
    for task in tasks:
        assert answered[task].keys() == {"top_k", "operations"}
        assert np.array_equal(np.array(answered[task]["operations"]["trunk"], np.float32), trunk.detach())
        top = world.expected(rows)[task]["probs"].topk(2)
        assert answered[task]["top_k"]["classes"] == top.indices.tolist()
        assert np.array_equal(np.array(answered[task]["top_k"]["probs"], np.float32), top.values)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [("operation:nowhere", "no operation 'nowhere'; there are ['head', 'trunk']"), ("top_k:2", "no top k")],
)
def test_what_a_task_does_not_have_is_refused(pinned_to_one: World, wanted: str, says: str) -> None:
    world = pinned_to_one
    body = {"inputs": {"x": rows_of(1).tolist()}, "return": [wanted]}
    problem = world.api.post(f"{world.path}/tasks/{world.tasks['c']}/predict", body, 422)
    assert problem["errors"][0]["pointer"] == "/return"
    assert says in problem["detail"]


def arrow_of(rows: NDArray[np.float32], **options: Any) -> bytes:
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(
        sink, pa.schema([("x", column.type)]), options=pa.ipc.IpcWriteOptions(**options)
    ) as to:
        to.write_batch(pa.record_batch({"x": column}))
    return sink.getvalue().to_pybytes()


def send(
    world: World, content: bytes, form: str, status: int = 200, query: str = "", **headers: str
) -> httpx.Response:
    path = f"{world.path}/tasks/{world.tasks['a']}/predict{query}"
    return world.api.call("POST", path, status, content=content, headers={"Content-Type": form} | headers)


def test_one_tensor_as_bytes(pinned_to_one: World) -> None:
    world, rows = pinned_to_one, rows_of(6)
    shape = {"X-Tensor-Shape": "6,5", "X-Tensor-Dtype": "float32"}
    answer = send(world, rows.tobytes(), TENSOR, query="?return=probs&version=1", **shape)
    expected = world.expected(rows)[world.tasks["a"]]["probs"].numpy()
    assert answer.headers["content-type"] == TENSOR
    assert answer.headers["x-tensor-name"] == f"{world.tasks['a']}.probs"
    assert (answer.headers["x-tensor-shape"], answer.headers["x-tensor-dtype"]) == ("6,4", "float32")
    assert answer.content == expected.tobytes()
    doubles = send(
        world,
        rows.astype(np.float64).tobytes(),
        TENSOR,
        query="?return=probs",
        **shape | {"X-Tensor-Dtype": "float64"},
    )
    assert doubles.content == expected.tobytes()
    as_json = send(world, rows.tobytes(), TENSOR, Accept="application/json", **shape).json()
    assert np.array_equal(np.array(as_json["probs"], np.float32), expected)


def test_safetensors_and_arrow(pinned_to_one: World) -> None:
    world, rows = pinned_to_one, rows_of(6)
    task = world.tasks["a"]
    expected = world.expected(rows)[task]
    answer = send(
        world, save_safetensors({"x": rows}), SAFETENSORS, query="?return=probs,preds,operation:trunk"
    )
    found = load_safetensors(answer.content)
    assert found.keys() == {f"{task}.probs", f"{task}.preds", f"{task}.operations.trunk"}
    assert np.array_equal(found[f"{task}.probs"], expected["probs"])
    table = pa.ipc.open_stream(send(world, arrow_of(rows), ARROW).content).read_all()
    assert np.array_equal(table[f"{task}.preds"].to_numpy(), expected["preds"])
    probs = table[f"{task}.probs"].combine_chunks().to_numpy_ndarray()
    assert np.array_equal(probs, expected["probs"])
    assert table.schema.metadata[b"version"] == b"1"


@pytest.mark.parametrize(
    ("content", "form", "headers", "status", "says"),
    [
        (rows_of(2).tobytes(), TENSOR, {}, 422, "a shape is sizes"),
        (rows_of(2).tobytes(), TENSOR, {"X-Tensor-Shape": "3,5"}, 422, "60 bytes; the body has 40"),
        (rows_of(2).tobytes(), TENSOR, {"X-Tensor-Shape": "-1,5"}, 422, "a shape is sizes"),
        (
            rows_of(2).tobytes(),
            TENSOR,
            {"X-Tensor-Shape": "5,2"},
            422,
            "shape [2]; the model was trained on [5]",
        ),
        (b"", TENSOR, {"X-Tensor-Shape": "0,5"}, 422, "no row"),
        (b"\x00\x00\xc0\x7f" * 5, TENSOR, {"X-Tensor-Shape": "1,5"}, 422, "no finite number"),
        (
            rows_of(1).tobytes(),
            TENSOR,
            {"X-Tensor-Shape": "1,5", "X-Tensor-Dtype": "object"},
            422,
            "none of float16",
        ),
        (rows_of(1).tobytes(), TENSOR, {"X-Tensor-Shape": "1,5", "X-Tensor-Name": "y"}, 422, "no such field"),
        (b"nothing of the kind", SAFETENSORS, {}, 400, "no safetensors"),
        (save_safetensors({"y": rows_of(1)}), SAFETENSORS, {}, 422, "field 'x' is required"),
        (b"nothing of the kind", ARROW, {}, 400, "no Arrow stream"),
        (arrow_of(rows_of(64), compression="zstd"), ARROW, {}, 400, "is compressed"),
        (arrow_of(rows_of(8))[:-64], ARROW, {}, 400, "no Arrow stream"),
        (b"x,y", "text/csv", {}, 415, "rows come as"),
        (save_safetensors({"x": rows_of(1)}), SAFETENSORS, {"Accept": "text/html"}, 406, "answers come as"),
        (save_safetensors({"x": rows_of(1)}), SAFETENSORS, {"Accept": TENSOR}, 406, "this has 2"),
    ],
)
def test_binary_bodies_that_are_wrong_are_refused(
    pinned_to_one: World, content: bytes, form: str, headers: dict[str, str], status: int, says: str
) -> None:
    problem = send(pinned_to_one, content, form, status, **headers).json()
    assert says in " ".join([problem["detail"], *(fault["detail"] for fault in problem.get("errors", []))])


def test_a_query_that_is_wrong_names_the_parameter(pinned_to_one: World) -> None:
    rows = save_safetensors({"x": rows_of(1)})
    problem = send(pinned_to_one, rows, SAFETENSORS, 422, query="?return=preds,gradients").json()
    assert problem["errors"][0]["parameter"].startswith("return")


def test_requests_that_come_together_are_computed_together(pinned_to_one: World) -> None:
    world = pinned_to_one
    bodies = [rows_of(1 + i % 3, seed=i) for i in range(48)]
    expected = [world.expected(rows) for rows in bodies]

    def ask(i: int) -> None:
        answered = world.ask(bodies[i])["predictions"]
        for task, wanted in expected[i].items():
            key = "outputs" if task == world.tasks["c"] else "probs"
            # Sums are rounded differently in batches of other sizes.
            assert np.allclose(np.array(answered[task][key]), wanted["probs"], atol=1e-6, rtol=1e-6)

    def passes() -> tuple[float, float]:
        lines = world.api.http.get("/metrics").text.splitlines()
        name = f'taskloom_requests_per_forward_pass_{{}}{{{{model="{world.model}"}}}} '
        count, total = (
            next(float(line.split()[-1]) for line in lines if line.startswith(name.format(what)))
            for what in ("count", "sum")
        )
        return count, total

    world.ask(bodies[0])
    before = passes()
    with ThreadPoolExecutor(16) as threads:
        for _ in range(4):
            list(threads.map(ask, range(len(bodies))))
    after = passes()
    assert after[1] - before[1] == 4 * len(bodies)
    assert after[0] - before[0] < after[1] - before[1]


def test_a_request_whose_time_is_over_is_not_answered(pinned_to_one: World) -> None:
    world, body = pinned_to_one, {"inputs": {"x": rows_of(1).tolist()}}
    late = world.api.call(
        "POST", f"{world.path}/predict", 504, json=body, headers={"X-Request-Timeout": "1e-9"}
    )
    assert "X-Request-Timeout" in late.json()["detail"]
    world.api.call("POST", f"{world.path}/predict", 200, json=body, headers={"X-Request-Timeout": "30"})
    for wrong in ("0", "-1", "soon", "nan"):
        refused = world.api.call(
            "POST", f"{world.path}/predict", 422, json=body, headers={"X-Request-Timeout": wrong}
        )
        assert refused.json()["errors"][0]["parameter"] == "X-Request-Timeout"


def test_moving_an_alias_under_load_fails_and_mixes_nothing(pinned_to_one: World) -> None:
    world, rows = pinned_to_one, rows_of(4)
    expected = [world.expected(rows, version) for version in (1, 2)]
    over, seen = threading.Event(), [0, 0]
    wrong: list[str] = []

    def keep_asking() -> None:
        with httpx.Client(base_url=world.api.url) as http:
            while not over.is_set():
                response = http.post(f"{world.path}/predict", json={"inputs": {"x": rows.tolist()}})
                answer = response.json()
                version = answer.get("version", 0)
                if response.status_code != 200 or not all(
                    np.allclose(np.array(answer["predictions"][task]["probs"]), wanted["probs"], atol=1e-6)
                    for task, wanted in expected[version - 1].items()
                    if task != world.tasks["c"]
                ):
                    wrong.append(response.text)
                seen[version - 1] += 1

    with ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(keep_asking) for _ in range(4)]
        try:
            for turn in range(12):
                version = 2 - turn % 2
                world.api.call("PUT", f"{world.path}/aliases/default", 200, json={"version": version})
                # Whoever has moved it finds it moved.
                assert world.ask(rows)["version"] == version
        finally:
            over.set()
        for each in asking:
            each.result()
    assert wrong == []
    assert min(seen) > 0


@pytest.fixture
def second_server(service: Service) -> Iterator[Api]:
    server = ServerProcess("--no-worker", env=service.env, log=service.folder / "second-server.log")
    try:
        yield Api(server.url())
    finally:
        server.stop()


def test_servers_beside_one_another_answer_alike(pinned_to_one: World, second_server: Api) -> None:
    world, rows = pinned_to_one, rows_of(4)
    body = {"inputs": {"x": rows.tolist()}, "return": ["probs"]}

    def predicted() -> dict[str, Any]:
        return second_server.post(f"{world.path}/predict", body, 200)

    assert predicted() == world.api.post(f"{world.path}/predict", body, 200)
    world.api.call("PUT", f"{world.path}/aliases/default", 200, json={"version": 2})
    # It was told by nobody, and looks by itself.
    until(lambda: predicted()["version"] == 2, "the other server to see the alias moved", 10)
    assert predicted() == world.api.post(f"{world.path}/predict", body, 200)


def test_a_model_says_how_it_is_served(pinned_to_one: World) -> None:
    world = pinned_to_one
    model = world.api.call("GET", world.path, 200)
    assert model.json()["serving"] == {
        "max_batch_rows": 256,
        "max_delay_ms": 0,
        "max_queue": 1024,
        "pinned": False,
        "log_share": 0,
    }
    serving = {
        "max_batch_rows": 1,
        "max_delay_ms": 1.5,
        "max_queue": 5,
        "pinned": True,
        "log_share": 0.5,
    }
    seen = {"If-Match": model.headers["etag"]}
    changed = world.api.call("PATCH", world.path, 200, json={"serving": serving}, headers=seen)
    assert changed.json()["serving"] == serving
    world.api.call("PATCH", world.path, 412, json={"serving": {}}, headers=seen)
    assert world.ask(rows_of(1))["version"] == 1
    assert (
        world.api.call("PATCH", world.path, 200, json={"serving": {}}).json()["serving"]
        == model.json()["serving"]
    )


@on_sqlite_alone
def test_numbers_that_are_not_plain_are_read_with_care(pinned_to_one: World) -> None:
    world, path = pinned_to_one, f"{pinned_to_one.path}/predict"
    expected = world.ask(np.array([[1, 0, 2, 0, 0]], np.float32))

    def ask(text: str, status: int = 200) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        return world.api.call("POST", path, status, content=text, headers=headers).json()

    for row in ("[true, false, 2, 0, 0]", "[1.0, 0e0, 2, -0, 0]", " [ 1 ,0, 2,0 ,0 ] "):
        assert ask(f'{{"inputs": {{"x": [{row}]}}}}') == expected
    assert ask('{"inputs": {"x": []}, "inputs": {"x": [[1, 0, 2, 0, 0]]}}') == expected
    for row, pointer in (
        ("[1, [], 2, 0, [0, 0]]", "/inputs/x/0/1"),
        ("[1, 0, 2, 0, [0]]", "/inputs/x/0/4"),
        ("[1, 0, 2, 0, null]", "/inputs/x/0/4"),
        ("[1, 0, 2, 0, 1e39]", "/inputs/x/0/4"),
    ):
        assert ask(f'{{"inputs": {{"x": [{row}]}}}}', 422)["errors"][0]["pointer"] == pointer
