"""The Open Inference Protocol, spoken by a public client of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from tests.service.client import Api
from tests.service.conftest import on_sqlite_alone
from tests.service.test_predictions import World, pinned_to_one, rows_of, world

__all__ = ["pinned_to_one", "world"]


@pytest.fixture
def client(api: Api) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(api.url.removeprefix("http://")) as client:
        yield client


def tensor(
    rows: np.ndarray[Any, Any], *, binary: bool, name: str = "x", datatype: str = "FP32"
) -> triton.InferInput:
    made = triton.InferInput(name, list(rows.shape), datatype)
    made.set_data_from_numpy(rows, binary_data=binary)
    return made


def test_server_and_model_describe_themselves(
    pinned_to_one: World, client: triton.InferenceServerClient
) -> None:
    world = pinned_to_one
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(world.model)
    assert client.is_model_ready(world.model, "2")
    assert not client.is_model_ready(world.model, "99")
    assert not client.is_model_ready("nowhere")
    server = client.get_server_metadata()
    assert (server["name"], server["extensions"]) == ("taskloom", ["binary_tensor_data"])
    model = client.get_model_metadata(world.model)
    assert (model["name"], model["versions"], model["platform"]) == (world.model, ["1", "2"], "pytorch")
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 5]}]
    a, c = world.tasks["a"], world.tasks["c"]
    outputs = {output["name"]: (output["datatype"], output["shape"]) for output in model["outputs"]}
    assert outputs[f"{a}.probs"] == ("FP32", [-1, 4])
    assert outputs[f"{a}.preds"] == ("INT64", [-1])
    assert outputs[f"{c}.outputs"] == ("FP32", [-1, 1])
    assert client.get_model_metadata(world.model, "2")["versions"] == ["2"]


@pytest.mark.parametrize("binary", [False, True])
def test_what_is_asked_for_is_what_the_library_answers(
    pinned_to_one: World, client: triton.InferenceServerClient, binary: bool
) -> None:
    world, rows = pinned_to_one, rows_of(6)
    a, b = world.tasks["a"], world.tasks["b"]
    wanted = [f"{a}.probs", f"{b}.preds", f"{a}.operations.trunk", f"{b}.logits"]
    answer = client.infer(
        world.model,
        [tensor(rows, binary=binary)],
        outputs=[triton.InferRequestedOutput(name, binary_data=binary) for name in wanted],
        request_id="mine",
    )
    expected = world.expected(rows)
    assert np.array_equal(answer.as_numpy(f"{a}.probs"), expected[a]["probs"])
    assert np.array_equal(answer.as_numpy(f"{b}.preds"), expected[b]["preds"])
    assert np.array_equal(answer.as_numpy(f"{b}.logits"), expected[b]["logits"])
    assert answer.as_numpy(f"{a}.operations.trunk").shape == (6, 16)
    document = answer.get_response()
    assert [output["name"] for output in document["outputs"]] == wanted
    assert (document["model_name"], document["model_version"], document["id"]) == (world.model, "1", "mine")


def test_without_outputs_every_task_is_answered(
    pinned_to_one: World, client: triton.InferenceServerClient
) -> None:
    world, rows = pinned_to_one, rows_of(3)
    answer = client.infer(
        world.model, [tensor(rows.astype(np.float64), binary=True, datatype="FP64")], model_version="2"
    )
    for task, expected in world.expected(rows, version=2).items():
        probs = "outputs" if task == world.tasks["c"] else "probs"
        assert np.array_equal(answer.as_numpy(f"{task}.{probs}"), expected["probs"])
        assert np.array_equal(answer.as_numpy(f"{task}.preds"), expected["preds"])


def test_what_is_wrong_is_told_as_the_protocol_has_it(
    pinned_to_one: World, client: triton.InferenceServerClient
) -> None:
    world = pinned_to_one
    x = tensor(rows_of(2), binary=True)
    for model, inputs, outputs, says in (
        ("nowhere", [x], [], "there is no model 'nowhere'"),
        (world.model, [tensor(rows_of(2), binary=True, name="y")], [], "field 'x' is required"),
        (
            world.model,
            [x],
            [triton.InferRequestedOutput("nothing.probs")],
            "there is no output 'nothing.probs'",
        ),
        (world.model, [x], [triton.InferRequestedOutput(f"{world.tasks['c']}.probs")], "there is no output"),
        (
            world.model,
            [x],
            [triton.InferRequestedOutput(f"{world.tasks['a']}.probs", class_count=2)],
            "not known here",
        ),
    ):
        with pytest.raises(InferenceServerException, match=says):
            client.infer(model, inputs, outputs=outputs or None)


X = {"name": "x", "shape": [1, 5], "datatype": "FP32"}


@on_sqlite_alone
@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        (b"{", 400, None),
        (b"[]", 422, ""),
        ({"inputs": []}, 422, "/inputs"),
        ({"inputs": [X]}, 422, "/inputs/0"),
        ({"inputs": [X | {"data": [1, 2, 3]}]}, 422, "/inputs/0/data"),
        ({"inputs": [X | {"data": [[1, 2, 3, 4], 5]}]}, 422, "/inputs/0/data"),
        ({"inputs": [X | {"data": [1, 2, 3, 4, "5"]}]}, 422, "/inputs/0/data"),
        ({"inputs": [X | {"data": "12345"}]}, 422, "/inputs/0/data"),
        ({"inputs": [X | {"data": [1] * 5, "datatype": "BF16"}]}, 422, "/inputs/0/datatype"),
        ({"inputs": [X | {"data": [300] * 5, "datatype": "UINT8"}]}, 422, "/inputs/0/data"),
        ({"inputs": [X | {"data": [1] * 5}] * 2}, 422, "/inputs/1/name"),
        ({"inputs": [X | {"shape": [-1, 5], "data": [1] * 5}]}, 422, "/inputs/0/shape/0"),
        ({"inputs": [X | {"shape": [2**40, 2**40], "data": []}]}, 422, "/inputs/0/data"),
        (
            {"inputs": [X | {"parameters": {"binary_data_size": 20}}]},
            422,
            "/inputs/0/parameters/binary_data_size",
        ),
        ({"inputs": [X | {"datatype": "BYTES", "data": ["a"] * 5}]}, 422, "/inputs/0/shape"),
    ],
)
def test_bodies_that_are_wrong_are_refused(
    pinned_to_one: World, body: Any, status: int, pointer: str | None
) -> None:
    path = f"/v2/models/{pinned_to_one.model}/infer"
    sent = {"content": body} if isinstance(body, bytes) else {"json": body}
    problem = pinned_to_one.api.call("POST", path, status, **sent).json()
    assert problem["error"] == problem["detail"]
    if pointer is not None:
        assert problem["errors"][0]["pointer"] == pointer


@on_sqlite_alone
@pytest.mark.parametrize("length", ["7", "soon", "99999"])
def test_a_header_length_that_is_wrong_is_refused(pinned_to_one: World, length: str) -> None:
    path = f"/v2/models/{pinned_to_one.model}/infer"
    headers = {"Inference-Header-Content-Length": length}
    pinned_to_one.api.call("POST", path, (400, 422), content=b'{"inputs": []}', headers=headers)
